"""Copying: a random sequence of symbols is to be said again. Made when used; it needs no file and no tokenizer.

The first example of The Annotated Transformer, with sequences of differing length, so that padding and the end of a
sentence have to be learned as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from raybench.data import hashing
from raybench.data.text import PARTS, Sentences, TextSource

SYMBOLS = "abcdefghijklmnop"
SHORTEST, LONGEST = 4, 10
"""Symbols of a sequence."""
SIZES = {"train": 2000, "val": 200, "test": 200}
TERMS = "copy_task is made by raybench (Apache-2.0) from no data at all."


def load_pairs(data_root: Path | None) -> TextSource:  # noqa: ARG001  (nothing to look for)
    """The embedded sequences, the same everywhere."""
    return TextSource("copy_task", files=(), length=LONGEST + 2, min_frequency=1, read=_read)


def _read() -> tuple[Mapping[str, Sentences], str]:
    count = sum(SIZES.values())
    lengths = SHORTEST + hashing.bits(np.arange(count), hashing.key("copy_task", "length")) % (LONGEST - SHORTEST + 1)
    drawn = hashing.bits(np.arange(count * LONGEST), hashing.key("copy_task", "symbol")) % len(SYMBOLS)
    sequences = [
        [SYMBOLS[symbol] for symbol in row[:length]]
        for row, length in zip(drawn.reshape(count, LONGEST), lengths, strict=True)
    ]
    parts, start = {}, 0
    for part in PARTS:
        own = sequences[start : start + SIZES[part]]
        parts[part] = Sentences(own, own, [" ".join(sequence) for sequence in own])
        start += SIZES[part]
    return parts, "embedded"
