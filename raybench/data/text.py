"""Sentence pairs as rows of ids: vocabularies, padding, and what a text data set is."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from raybench.data.splits import balanced_order
from raybench.errors import DataError

SPECIALS = ("<s>", "</s>", "<blank>", "<unk>")
START_ID, END_ID, PADDING_ID, UNKNOWN_ID = range(len(SPECIALS))
PARTS = ("train", "val", "test")
UNKNOWN_MARK = "⁇"
"""Stands for a word outside the vocabulary in a translation: one token to a metric, and never one of a reference."""

Rows = npt.NDArray[np.int32]
Tokens = Sequence[str]


@dataclass(frozen=True)
class Vocabulary:
    """Words by their id; the specials come first."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, sentences: Iterable[Tokens], min_frequency: int) -> Vocabulary:
        """The words that occur at least so often, most frequent first, ties in the order of their code points.

        A word that is spelled like a special is that special.
        """
        counts = Counter(word for sentence in sentences for word in sentence if word not in SPECIALS)
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls(SPECIALS + tuple(word for word, count in ranked if count >= min_frequency))

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def ids(self) -> Mapping[str, int]:
        """Id of each word."""
        return {word: index for index, word in enumerate(self.words)}

    def encode(self, sentences: Sequence[Tokens], length: int) -> Rows:
        """Sentences as rows (N, length): `<s>`, the words, `</s>`, and `<blank>` after that.

        A longer sentence is cut, and then has no `</s>`, as in The Annotated Transformer.
        """
        rows = np.full((len(sentences), length), PADDING_ID, dtype=np.int32)
        for row, sentence in zip(rows, sentences, strict=True):
            ids = [START_ID, *(self.ids.get(word, UNKNOWN_ID) for word in sentence), END_ID][:length]
            row[: len(ids)] = ids
        return rows

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The words up to the first `</s>`, without specials; `UNKNOWN_MARK` where a word is unknown."""
        words = []
        for index in ids:
            if index == END_ID:
                break
            if index == UNKNOWN_ID:
                words.append(UNKNOWN_MARK)
            elif index >= len(SPECIALS):
                words.append(self.words[index])
        return words


@dataclass(frozen=True, eq=False)
class Sentences:
    """One part of a data set as it is read: tokens of both languages, and the target sentences as written."""

    source: Sequence[Tokens]
    target: Sequence[Tokens]
    references: Sequence[str]


@dataclass(frozen=True, eq=False)
class TextSource:
    """Where a text data set was found. Finding is quick; `read` reads and tokenizes all of it, which takes seconds."""

    name: str
    files: tuple[Path, ...]
    """The files whose content decides the data; none for embedded data."""
    length: int
    """Of every row of ids, specials included."""
    min_frequency: int
    """Of a word of the vocabulary, over all parts."""
    read: Callable[[], tuple[Mapping[str, Sentences], str]]
    """Each of `PARTS`, and the variant."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Sentence pairs: row n of `source` is translated by row n of `target`."""

    source: Rows
    """int32 (N, length)."""
    target: Rows
    references: tuple[str, ...]
    """N target sentences as written, which BLEU compares with."""

    def __len__(self) -> int:
        return len(self.references)

    def take(self, indices: npt.NDArray[np.int64]) -> Pairs:
        """The pairs at these indices (n,), in this order."""
        return Pairs(self.source[indices], self.target[indices], tuple(self.references[i] for i in indices))


@dataclass(frozen=True, eq=False)
class TextData:
    """A data set of sentence pairs. Validation is a part of its own, never cut from training."""

    name: str
    source_vocabulary: Vocabulary
    target_vocabulary: Vocabulary
    train: Pairs
    val: Pairs
    test: Pairs
    variant: str
    """`official`, `embedded` or `unverified`, as for images."""
    fingerprint: str
    """First 12 hex digits of the SHA-256 of vocabularies, rows and references, train then val then test."""

    def training_pairs(self, train_size: int | Literal["all"]) -> Pairs:
        """The first `train_size` training pairs of a fixed random order: smaller subsets lie within larger ones.

        Raises DataError when there are not as many.
        """
        available = len(self.train)
        if train_size != "all" and not 1 <= train_size <= available:
            raise DataError(
                f'train_size = {train_size} must be 1 to {available} sentence pairs ({self.name}), or "all"'
            )
        wanted = available if train_size == "all" else train_size
        return self.train.take(balanced_order(np.zeros(available, dtype=np.int64))[:wanted])


def encode(source: TextSource) -> TextData:
    """Read a source and write its sentences as ids; the vocabularies are those of all its parts together.

    Raises DataError when the source cannot be read.
    """
    parts, variant = source.read()
    sources = Vocabulary.of((s for part in PARTS for s in parts[part].source), source.min_frequency)
    targets = Vocabulary.of((s for part in PARTS for s in parts[part].target), source.min_frequency)
    train, val, test = (
        Pairs(
            sources.encode(parts[part].source, source.length),
            targets.encode(parts[part].target, source.length),
            tuple(parts[part].references),
        )
        for part in PARTS
    )
    digest = fingerprint((sources, targets), (train, val, test))
    return TextData(source.name, sources, targets, train, val, test, variant, digest)


def fingerprint(vocabularies: Iterable[Vocabulary], parts: Iterable[Pairs]) -> str:
    """First 12 hex digits of the SHA-256 over words, rows and references, in the order given."""
    digest = hashlib.sha256()

    def add(texts: Sequence[str]) -> None:
        digest.update("\0".join((str(len(texts)), *texts, "\n")).encode())

    for vocabulary in vocabularies:
        add(vocabulary.words)
    for pairs in parts:
        for rows in (pairs.source, pairs.target):
            little_endian: npt.NDArray[Any] = rows.astype("<i4", copy=False)
            digest.update(f"{rows.shape}\n".encode())
            digest.update(np.ascontiguousarray(little_endian).data)
        add(pairs.references)
    return digest.hexdigest()[:12]


REJOINED: tuple[tuple[str, str], ...] = (
    (r" ([.,;:!?%)\]])", r"\1"),
    (r"([(\[$#]) ", r"\1"),
    (r" (n't|'s|'re|'ll|'ve|'d|'m|')(?![^\s.,;:!?])", r"\1"),
    (r"(?<=\w) ([-/]) (?=\w)", r"\1"),
    (r'" ([^"]*) "', r'"\1"'),
    (r"\bcan not\b", "cannot"),
)
"""Where spaCy's English tokenizer cuts without a space: pattern, and what it becomes, in this order."""


def detokenize(words: Tokens) -> str:
    """English tokens as a sentence: of spaCy's tokens of Multi30k's captions, 99.8 % become the caption again."""
    sentence = " ".join(words)
    for pattern, rejoined in REJOINED:
        sentence = re.sub(pattern, rejoined, sentence)
    return sentence
