"""Multi30k: 29,000 + 1,014 + 1,000 captions of photos in English, with their German translations; German to English.

Source: Elliott et al. 2016, "Multi30K: Multilingual English-German Image Descriptions"; tokens, vocabularies and the
length of rows as in The Annotated Transformer, with spaCy's rule-based tokenizers, which need no model.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from raybench.data.fetching import fetch
from raybench.data.text import PARTS, Sentences, TextSource
from raybench.errors import DataError

SOURCE, TARGET = "de", "en"
FILES = {"train": "train", "val": "val", "test": "test_2016_flickr"}
"""Part -> its files, without language."""
LENGTH = 72
"""Tokens of a row; the longest sentence has 46 with its two marks, so none is cut."""
MIN_FREQUENCY = 2
OFFICIAL = "f7335c4d6d8b04840c9f2e5295f49d2a11784a3ba5b80690d7478935d4d88e6f"
"""SHA-256 over the text of the six files, in the order in which they are looked for."""
ORIGIN = "data/task1/raw of the GitHub repository multi30k/dataset"
TERMS = (
    "multi30k/dataset states no licence with its files; they translate captions of Flickr30k, whose photos stay under "
    "Flickr's terms. Cite Elliott et al. 2016."
)
ADDRESS = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/"


def load_pairs(data_root: Path | None) -> TextSource:
    """Found in `multi30k` below the data root, or in the root itself. Raises DataError that names what is missing."""
    root = data_root or Path("data")
    folders = (root / "multi30k", root)
    names = _names()
    found = {name: folder / name for folder in reversed(folders) for name in names if (folder / name).is_file()}
    if missing := [name for name in names if name not in found]:
        raise DataError(
            f"multi30k: {', '.join(missing)} not found; looked in {' and '.join(map(str, folders))}. They are in "
            f"{ORIGIN}: fetch them (raybench data get multi30k), or put all six into {folders[0]}. Without them, the "
            "embedded copy_task needs no file"
        )
    files = tuple(found[name] for name in names)
    return TextSource("multi30k", files, LENGTH, MIN_FREQUENCY, read=partial(_read, files))


def fetch_files(data_root: Path) -> None:
    """Fetch what is missing of the six files into `multi30k` below the data root. Raises DataError where that fails."""
    folder = data_root / "multi30k"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _names():
            if not (folder / name).is_file() and not (data_root / name).is_file():
                fetch(ADDRESS + name, folder / name)
    except OSError as error:
        raise DataError(
            f"multi30k: the download failed ({error}); with a browser the six files are had from {ORIGIN}; put them "
            f"into {folder}"
        ) from error


def _names() -> list[str]:
    return [f"{FILES[part]}.{language}.gz" for part in PARTS for language in (SOURCE, TARGET)]


def _read(files: tuple[Path, ...]) -> tuple[Mapping[str, Sentences], str]:
    digest = hashlib.sha256()
    lines = {path: _lines(path, digest.update) for path in files}
    pairs = tuple(zip(files[::2], files[1::2], strict=True))
    for source, target in pairs:
        if len(lines[source]) != len(lines[target]):
            raise DataError(
                f"{source} has {len(lines[source])} lines and {target} has {len(lines[target])}, but line n of one "
                f"translates line n of the other; fetch both again, from {ORIGIN}"
            )
    cut_source, cut_target = tokenizer(SOURCE), tokenizer(TARGET)
    parts = {
        part: Sentences(
            [cut_source(line) for line in lines[source]], [cut_target(line) for line in lines[target]], lines[target]
        )
        for part, (source, target) in zip(PARTS, pairs, strict=True)
    }
    return parts, "official" if digest.hexdigest() == OFFICIAL else "unverified"


def _lines(path: Path, digest: Callable[[bytes], None]) -> list[str]:
    """The sentences of a file; only a line feed ends one, since other separators occur inside sentences."""
    try:
        with gzip.open(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be decompressed: {error}; fetch it again, from {ORIGIN}") from error
    digest(content)
    lines = []
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n"), 1):
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, line {number}: not UTF-8 ({error}); fetch it again, from {ORIGIN}") from error
        if not line.strip():
            raise DataError(f"{path}, line {number} is empty; each line is a sentence. Fetch it again, from {ORIGIN}")
    return lines


def tokenizer(language: str) -> Callable[[str], list[str]]:
    """spaCy's rules for a language (`de`, `en`): a sentence -> its tokens. Raises DataError where spaCy is missing."""
    try:
        import spacy
    except ImportError as error:
        raise DataError(f'multi30k needs the tokenizers of spaCy ({error}): pip install "raybench[text]"') from error
    rules = spacy.blank(language).tokenizer
    return lambda sentence: [token.text for token in rules(sentence)]
