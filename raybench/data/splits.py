"""Validation and nested training subsets of a training set, the same for every seed, trial and machine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from raybench.data import hashing
from raybench.errors import DataError

TEST_SHARE = 0.2
"""Of each class, where a data set brings no test set of its own."""


@dataclass(frozen=True, eq=False)
class Split:
    """Indices into the training set, int64, disjoint.

    Both are in the order of `balanced_order`: a smaller training subset is a prefix of a larger one.
    """

    train: npt.NDArray[np.int64]
    val: npt.NDArray[np.int64]


def split(labels: npt.NDArray[np.int64], val_size: int, train_size: int | Literal["all"]) -> Split:
    """Cut validation first, then a training subset from the rest.

    labels: (N,) class of every training image. Both parts are class-balanced to within one image, until a class runs
    out; then the others go on. Validation depends on `val_size` alone.

    Raises DataError when there are not as many images as asked for.
    """
    available = len(labels)
    if val_size < 0:
        raise DataError(f"val_size = {val_size} must be 0 or more")
    if train_size != "all" and train_size < 1:
        raise DataError(f'train_size = {train_size} must be 1 or more, or "all"')
    rest = available - val_size
    wanted = max(rest, 1) if train_size == "all" else train_size
    if wanted > rest:
        raise DataError(
            f"val_size = {val_size} and train_size = {train_size} need {val_size + wanted} images, but the training "
            f"set has {available}; train_size may be at most {max(rest, 0)} with this val_size"
        )
    order = balanced_order(labels)
    return Split(train=order[val_size : val_size + wanted], val=order[:val_size])


def balanced_order(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """All indices, (N,): round-robin over the classes, within a class by a hash of the index.

    Any run of it is class-balanced to within one image, as long as no class has run out.
    """
    return _order(np.ascontiguousarray(labels, dtype=np.int64).tobytes()).copy()


@lru_cache(maxsize=4)
def _order(content: bytes) -> npt.NDArray[np.int64]:
    """The order for the labels in these bytes; kept, since a worker trains many trials on the same data."""
    labels = np.frombuffer(content, dtype=np.int64)
    count = len(labels)
    indices = np.arange(count, dtype=np.int64)
    ranks = hashing.bits(indices, hashing.key("split"))
    by_class = np.lexsort((ranks, labels))  # (N,) classes one after the other, hash order within
    classes, sizes = np.unique(labels, return_counts=True)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    turn = indices - starts  # (N,) position within the class
    seat = np.repeat(np.arange(len(classes)), sizes)
    order: npt.NDArray[np.int64] = by_class[np.lexsort((seat, turn))].astype(np.int64)
    return order


def cut_test(labels: npt.NDArray[np.int64], ranks: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which images, (N,), are the test set of data that bring none: `TEST_SHARE` of each class, those of lowest rank.

    labels: (N,) class of every image. ranks: (N,) a hash of each. Every class keeps an image on either side, as far as
    it has two.
    """
    chosen = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(round(TEST_SHARE * len(members)), 1), len(members) - 1)
        chosen[members[np.argsort(ranks[members], kind="stable")[:count]]] = True
    return chosen
