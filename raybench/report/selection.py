"""Which setting a cell is decided on: the one rule, for tables and for figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeVar

Setting = TypeVar("Setting")
Mode = Literal["max", "min"]


class Rank(NamedTuple):
    """A setting's place, by rising rank; a lucky single seed is not selected before a setting that was repeated.

    Of two that were repeated as often as was asked the better one is, however many seeds more the other has.
    """

    whole: bool
    """Whether every seed that was asked for has its score."""
    seeds: int
    """With a score, where not every one has; else 0."""
    mean: float
    """Of the scores, with the sign that makes more better."""


def rank_of(scores: Sequence[float], asked: int, mode: Mode) -> Rank:
    """Of a setting by its seeds' scores on validation, of so many that were asked for."""
    mean = math.fsum(scores) / len(scores) if scores else -math.inf
    whole = len(scores) >= asked
    return Rank(whole, 0 if whole else len(scores), mean if mode == "max" or not scores else -mean)


def first_best(ranked: Iterable[tuple[Setting, Rank]]) -> Setting | None:
    """The setting with the highest rank, of equals the one that comes first; none of none."""
    best: tuple[Setting, Rank] | None = None
    for setting, rank in ranked:
        if best is None or rank > best[1]:
            best = setting, rank
    return best[0] if best else None
