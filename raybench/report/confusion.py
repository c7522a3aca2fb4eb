"""Which classes are taken for which: the confusion matrix, as counts and as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from raybench.report.canvas import MARGIN, canvas, cut, sequential

WITH_COUNTS = 20
"""Classes up to which each cell's count is printed."""
WITH_NAMES = 120
"""Classes up to which they are named at the axes."""
LARGEST_INCHES = 11.0
LONGEST_NAME = 18
LETTER_INCHES = 0.052
"""Of a name, at 7 points."""
DARK = 0.42
"""Of the scale of colours, from where ink is white."""
TOLD = 5
"""Confusions named beneath."""

Counts = npt.NDArray[np.int64]


def confusion_matrix(labels: npt.ArrayLike, predictions: npt.ArrayLike, classes: int) -> Counts:
    """How many images of each true class (row) were taken for each class (column): (classes, classes).

    labels, predictions: (n,). Raises ValueError for a class beyond the last.
    """
    true, taken = (np.asarray(each, dtype=np.int64) for each in (labels, predictions))
    if true.size and max(true.max(), taken.max()) >= classes:
        raise ValueError(f"class {max(true.max(), taken.max())} where there are {classes}")
    return np.bincount(true * classes + taken, minlength=classes**2).reshape(classes, classes)


def confused(matrix: Counts, most: int = TOLD) -> list[tuple[int, int, int]]:
    """The confusions that happened most often: (true class, class taken for it, images), most first."""
    wrong = matrix * ~np.eye(len(matrix), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), len(matrix)) for place in order]
    return [(true, taken, int(wrong[true, taken])) for true, taken in pairs if wrong[true, taken]]


def confusion_figure(matrix: Counts, names: Sequence[str], path: Path, title: str, source: str = "") -> Path:
    """Draw a confusion matrix (classes, classes): each cell its share of the true class, of few classes its count.

    The folder of `path` is made; its suffix decides the format. Returns `path`.
    """
    classes = len(matrix)
    cell = min(0.42, LARGEST_INCHES / classes)
    side = cell * classes
    named = classes <= WITH_NAMES
    font = min(7.5, 72 * cell * 0.9)
    words = [cut(name, LONGEST_NAME) for name in names]
    room = (LETTER_INCHES * font / 7 * max(map(len, words)) if named else 0.0) + 0.15
    left, width = MARGIN + 0.25 + room, MARGIN + 0.25 + room + side + 0.9
    height = 0.1 + side + room + 0.3
    with canvas(max(width, 6.4), height, title, _explained(matrix, names, source)) as drawn:
        from matplotlib.colors import PowerNorm

        share = 100 * matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
        # A few images of many must be seen too.
        colours, norm = sequential(), PowerNorm(0.5, 0, 100)
        axis = drawn.axes(left, 0.1, side, side)
        axis.imshow(share, cmap=colours, norm=norm, interpolation="nearest", aspect="auto")
        axis.spines[:].set_visible(True)
        axis.tick_params(length=0, pad=2, labelsize=font)
        axis.set_xticks(range(classes) if named else [], words if named else [], rotation=90)
        axis.set_yticks(range(classes) if named else [], words if named else [])
        axis.set_xlabel("predicted class", fontsize=9)
        axis.set_ylabel("true class", fontsize=9)
        if classes <= WITH_COUNTS:
            for true, taken in zip(*np.nonzero(matrix), strict=True):
                ink = "white" if norm(share[true, taken]) > DARK else "black"
                axis.text(taken, true, f"{matrix[true, taken]:,}", ha="center", va="center", fontsize=7, color=ink)
        drawn.scale(left + side + 0.2, 0.1, min(side, 2.0), colours, norm, "share of the true class (%)")
        return drawn.save(path)


def _explained(matrix: Counts, names: Sequence[str], source: str) -> str:
    n = int(matrix.sum())
    top1 = 100 * np.trace(matrix) / max(1, n)
    said = f"Rows: true class; columns: predicted class. n = {n:,} images, {top1:.2f} % on the diagonal."
    most = [f"{names[true]} as {names[taken]} ({count:,})" for true, taken, count in confused(matrix)]
    if most:
        said += f" Most often confused (images): {', '.join(most)}."
    return f"{said} Source: {source}." if source else said
