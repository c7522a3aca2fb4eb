from __future__ import annotations

from collections import Counter

import numpy as np

from raybench.data import load_text
from raybench.data.copy_task import LONGEST, SHORTEST, SYMBOLS
from raybench.data.text import SPECIALS


def test_each_sequence_is_its_own_translation() -> None:
    data = load_text("copy_task")
    assert (len(data.train), len(data.val), len(data.test), data.variant) == (2000, 200, 200, "embedded")
    assert data.source_vocabulary == data.target_vocabulary
    assert sorted(data.source_vocabulary.words[len(SPECIALS) :]) == list(SYMBOLS)
    for pairs in (data.train, data.val, data.test):
        assert pairs.source.shape == (len(pairs), LONGEST + 2)
        assert np.array_equal(pairs.source, pairs.target)
        words = [" ".join(data.target_vocabulary.decode(row)) for row in pairs.target]
        assert words == list(pairs.references)


def test_lengths_and_symbols_are_evenly_spread() -> None:
    references = load_text("copy_task").train.references
    lengths = Counter(len(reference.split()) for reference in references)
    assert set(lengths) == set(range(SHORTEST, LONGEST + 1))
    # 2,000 in 7 lengths: 286 each, standard error 16. About 14,000 symbols of 16 kinds: 875 each, standard error 29.
    assert all(abs(count - 2000 / 7) < 5 * 16 for count in lengths.values())
    symbols = Counter(symbol for reference in references for symbol in reference.split())
    assert all(abs(count - sum(symbols.values()) / 16) < 5 * 29 for count in symbols.values())


def test_no_sequence_of_validation_or_test_is_in_training() -> None:
    data = load_text("copy_task")
    assert not set(data.train.references) & {*data.val.references, *data.test.references}


def test_the_sequences_never_change() -> None:
    # Golden: others make other trials of everyone's stored rows.
    assert load_text("copy_task").fingerprint == "c6cd12fb973c"
