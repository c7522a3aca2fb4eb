"""Vocabularies, rows of ids, subsets, and the listing that tells text from images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raybench import data as data_sets
from raybench.data import load, load_text, names
from raybench.data.text import (
    END_ID,
    PADDING_ID,
    SPECIALS,
    START_ID,
    UNKNOWN_ID,
    UNKNOWN_MARK,
    Pairs,
    Vocabulary,
    detokenize,
    fingerprint,
)
from raybench.errors import DataError
from raybench.models import transformer

SENTENCES = [["b", "a", "c", "b"], ["a", "b", "ä", "Z"], ["c", "Z", "once"]]


def test_the_vocabulary_is_by_frequency_then_alphabet_after_the_specials() -> None:
    # The order of torchtext's build_vocab_from_iterator: ties by code point, so capitals come first.
    assert Vocabulary.of(SENTENCES, 1).words == (*SPECIALS, "b", "Z", "a", "c", "once", "ä")
    assert Vocabulary.of(SENTENCES, 2).words == (*SPECIALS, "b", "Z", "a", "c")
    assert len(Vocabulary.of(SENTENCES, 2)) == 8


def test_the_specials_have_the_ids_the_model_knows() -> None:
    assert (START_ID, END_ID, PADDING_ID) == (transformer.START_ID, transformer.END_ID, transformer.PADDING_ID)
    assert [SPECIALS[i] for i in (START_ID, END_ID, PADDING_ID, UNKNOWN_ID)] == ["<s>", "</s>", "<blank>", "<unk>"]
    assert Vocabulary.of([["<unk>", "a", "<unk>"]], 1).words == (*SPECIALS, "a")


def test_rows_are_marked_padded_and_cut() -> None:
    rows = Vocabulary.of(SENTENCES, 2).encode([["b", "once", "a"], [], ["a"] * 9], length=6)
    assert rows.dtype == np.int32
    assert rows.tolist() == [[0, 4, 3, 6, 1, 2], [0, 1, 2, 2, 2, 2], [0, 6, 6, 6, 6, 6]]


def test_decoding_gives_the_words_back() -> None:
    vocabulary = Vocabulary.of(SENTENCES, 1)
    for row, sentence in zip(vocabulary.encode(SENTENCES, 9), SENTENCES, strict=True):
        assert vocabulary.decode(row) == sentence
    assert Vocabulary.of(SENTENCES, 2).decode([0, 4, 3, 2, 6, 1, 5, 5]) == ["b", UNKNOWN_MARK, "a"]
    assert Vocabulary.of(SENTENCES, 2).decode([4, 5]) == ["b", "Z"]


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        ("Come here , now !", "Come here, now!"),
        ("She is n't his ; it 's theirs .", "She isn't his; it's theirs."),
        ("a long - sleeved shirt and a black / white dog", "a long-sleeved shirt and a black/white dog"),
        ('a sign that says " Stop " and ( maybe ) more', 'a sign that says "Stop" and (maybe) more'),
        ("the girls ' room", "the girls' room"),
        ("they can not .", "they cannot."),
        ("", ""),
    ],
)
def test_detokenizing(tokens: str, sentence: str) -> None:
    assert detokenize(tokens.split()) == sentence


def test_training_subsets_are_nested_and_the_same_each_time() -> None:
    data = load_text("copy_task")
    everything = data.training_pairs("all")
    assert sorted(everything.references) == sorted(data.train.references)
    assert everything.references != data.train.references
    for size in (1, 7, 1999):
        subset = data.training_pairs(size)
        assert subset.references == everything.references[:size]
        assert np.array_equal(subset.source, everything.source[:size])
        words = [data.target_vocabulary.decode(row) for row in subset.target]
        assert [" ".join(each) for each in words] == list(subset.references)


@pytest.mark.parametrize("size", [0, -3, 2001])
def test_more_pairs_than_there_are(size: int) -> None:
    with pytest.raises(
        DataError, match=rf'train_size = {size} must be 1 to 2000 sentence pairs \(copy_task\), or "all"'
    ):
        load_text("copy_task").training_pairs(size)


def test_the_fingerprint_is_of_everything_that_decides_numbers() -> None:
    vocabulary = Vocabulary.of(SENTENCES, 1)
    rows = vocabulary.encode(SENTENCES, 6)
    pairs = Pairs(rows, rows, ("one", "two", "three"))
    other_rows = rows.copy()
    other_rows[1, 1] += 1
    changed = [
        ((vocabulary, Vocabulary.of(SENTENCES, 2)), [pairs]),
        ((vocabulary, vocabulary), [replace(pairs, source=other_rows)]),
        ((vocabulary, vocabulary), [replace(pairs, target=other_rows)]),
        ((vocabulary, vocabulary), [replace(pairs, references=("one", "two", "tree"))]),
        ((vocabulary, vocabulary), [pairs, pairs]),
        ((vocabulary, vocabulary), [pairs]),
    ]
    found = [fingerprint(*each) for each in changed]
    assert len(set(found)) == len(found)
    assert fingerprint((vocabulary, vocabulary), [replace(pairs, source=rows.copy())]) == found[-1]


def test_listing_tells_text_from_images(capsys: pytest.CaptureFixture[str]) -> None:
    from raybench.commands.list import main

    assert names("text") == ("copy_task", "multi30k")
    assert {"digits", "cifar10", "cifar100"} <= set(names("image"))
    assert set(names()) == {*names("text"), *names("image")}
    assert (data_sets.kind_of("multi30k"), data_sets.kind_of("digits")) == ("text", "image")
    main(["datasets"])
    printed = capsys.readouterr().out.splitlines()
    assert {"copy_task  (sentence pairs)", "multi30k  (sentence pairs)", "digits"} <= set(printed)


def test_the_wrong_kind_of_data_set_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"copy_task holds sentence pairs, not images; data sets of images: .*digits"):
        load("copy_task")
    with pytest.raises(DataError, match=r"digits holds images, not sentence pairs; .*: copy_task, multi30k"):
        load_text("digits", tmp_path)
    with pytest.raises(DataError, match='unknown data set "multi30"; did you mean multi30k'):
        load_text("multi30")
    with pytest.raises(DataError, match='unknown data set "digit"; did you mean digits'):
        data_sets.kind_of("digit")
