"""Multi30k: the real files, and small ones in their format, whole and damaged."""

from __future__ import annotations

import builtins
import gzip
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybench.data import load_text, multi30k
from raybench.data.multi30k import FILES, LENGTH
from raybench.data.text import END_ID, PADDING_ID, SPECIALS, START_ID, detokenize
from raybench.errors import DataError
from raybench.training.translation import bleu

GERMAN = ["Ein Hund läuft.", "Zwei Hunde laufen schnell.", "Ein Kind\u2028lacht.", "Ein Hund lacht."]
ENGLISH = ["A dog isn't here.", "Two dogs run fast.", "A child laughs.", "A dog laughs."]
PARTS = {"train": slice(0, 2), "val": slice(2, 3), "test": slice(3, 4)}


@pytest.fixture
def spacy() -> None:
    pytest.importorskip("spacy")


def write(root: Path) -> Path:
    root.mkdir(exist_ok=True)
    for part, rows in PARTS.items():
        for language, sentences in (("de", GERMAN), ("en", ENGLISH)):
            text = "".join(f"{sentence}\n" for sentence in sentences[rows])
            (root / f"{FILES[part]}.{language}.gz").write_bytes(gzip.compress(text.encode()))
    return root


@pytest.mark.usefixtures("spacy")
@pytest.mark.parametrize("folder", ["multi30k", "."])
def test_small_files_in_the_format_of_the_real_ones(tmp_path: Path, folder: str) -> None:
    write(tmp_path / folder)
    data = load_text("multi30k", tmp_path)
    assert (len(data.train), len(data.val), len(data.test), data.variant) == (2, 1, 1, "unverified")
    assert data.train.source.shape == data.train.target.shape == (2, LENGTH)
    # By frequency over all three parts, at least twice; U+2028 separates lines elsewhere, here only a line feed does.
    assert data.source_vocabulary.words == (*SPECIALS, ".", "Ein", "Hund", "lacht")
    assert data.target_vocabulary.words == (*SPECIALS, ".", "A", "dog", "laughs")
    assert data.train.target[0, :9].tolist() == [START_ID, 5, 6, 3, 3, 3, 4, END_ID, PADDING_ID]  # is, n't, here
    assert data.target_vocabulary.decode(data.test.target[0]) == ["A", "dog", "laughs", "."]
    assert [data.train.references, data.val.references, data.test.references] == [
        tuple(ENGLISH[:2]),
        tuple(ENGLISH[2:3]),
        tuple(ENGLISH[3:]),
    ]


@pytest.mark.usefixtures("spacy")
def test_other_sentences_have_another_fingerprint(tmp_path: Path) -> None:
    one = load_text("multi30k", write(tmp_path / "one"))
    assert load_text("multi30k", write(tmp_path / "same")).fingerprint == one.fingerprint
    changed = write(tmp_path / "two")
    (changed / "val.en.gz").write_bytes(gzip.compress(b"A child laughs!\n"))
    assert load_text("multi30k", changed).fingerprint != one.fingerprint


def test_missing_files_are_all_named_with_where_they_were_looked_for(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "val.de.gz").unlink()
    (tmp_path / "train.en.gz").unlink()
    with pytest.raises(DataError) as caught:
        load_text("multi30k", tmp_path)
    text = str(caught.value)
    assert text.startswith("multi30k: train.en.gz, val.de.gz not found; looked in ")
    assert f"{tmp_path / 'multi30k'} and {tmp_path}" in text
    assert "data/task1/raw of the GitHub repository multi30k/dataset" in text
    assert "copy_task" in text


def cut(content: bytes) -> bytes:
    return content[:-12]


def flip(content: bytes) -> bytes:
    return content[:14] + bytes([content[14] ^ 255]) + content[15:]


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (cut, r"val\.en\.gz cannot be decompressed"),
    "flip": (flip, r"val\.en\.gz cannot be decompressed"),
    "html": (lambda _: b"<html>404</html>", r"val\.en\.gz cannot be decompressed"),
    "latin": (lambda _: gzip.compress("A ni\xf1o.\n".encode("latin-1")), r"val\.en\.gz, line 1: not UTF-8"),
    "longer": (lambda _: gzip.compress(b"One.\nTwo.\n"), r"val\.de\.gz has 1 lines and .*val\.en\.gz has 2"),
    "blank": (lambda _: gzip.compress(b"One.\n\nTwo.\n"), r"val\.en\.gz, line 2 is empty"),
    "empty": (lambda _: gzip.compress(b""), r"val\.en\.gz, line 1 is empty"),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_files_are_named_by_file_and_line(tmp_path: Path, how: str) -> None:
    damage, message = DAMAGES[how]
    path = write(tmp_path) / "val.en.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=message):
        load_text("multi30k", tmp_path)


def test_without_spacy_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refusing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "spacy":
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    write(tmp_path)
    monkeypatch.setattr(builtins, "__import__", refusing)
    with pytest.raises(
        DataError, match=r'multi30k needs the tokenizers of spaCy \(.*\): pip install "raybench\[text\]"'
    ):
        load_text("multi30k", tmp_path)


@pytest.mark.usefixtures("spacy")
def test_the_real_data(data_root: Path) -> None:
    if not any((data_root / folder / "train.de.gz").is_file() for folder in ("multi30k", ".")):
        pytest.skip("the files of Multi30k are not in RAYBENCH_DATA")
    data = load_text("multi30k", data_root)
    # Shared facts, section 5: sizes with the tokenizers of spaCy 3.8 (the published run, an older one: 8317 and 6384).
    assert (len(data.source_vocabulary), len(data.target_vocabulary)) == (8316, 6384)
    assert (len(data.train), len(data.val), len(data.test), data.variant) == (29_000, 1_014, 1_000, "official")
    assert math.ceil(len(data.train) / 32) == 907
    for pairs in (data.train, data.val, data.test):
        for rows in (pairs.source, pairs.target):
            assert rows.shape == (len(pairs), LENGTH)
            assert ((rows == END_ID).sum(axis=1) == 1).all()  # nothing is cut
            assert np.array_equal(rows == PADDING_ID, (np.cumsum(rows == END_ID, axis=1) - (rows == END_ID)) == 1)
    tokens = multi30k.tokenizer("en")
    rejoined = [detokenize(tokens(sentence)) for sentence in data.test.references]
    assert sum(one == two for one, two in zip(rejoined, data.test.references, strict=True)) >= 998
    # What a perfect translation could reach: the metric sees nothing of the tokenizer.
    assert bleu(rejoined, data.test.references) == pytest.approx(100, abs=0.005)
