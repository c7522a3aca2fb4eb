"""Rows of images: what was predicted of them, what a model made of them, or what lies over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raybench.report.canvas import MARGIN, Canvas, Pixels, canvas, sequential
from raybench.report.figures import COLOURS, INK

SIDE_INCHES = 1.05
LEAST_INCHES = 7.2
"""Width of the whole, for what is said beneath."""
GAP_INCHES = 0.14
LINE_INCHES = 0.135
"""Of a caption, at 7.5 points."""
HEADING_INCHES = 0.24
SCALE_INCHES = 0.75
OUTLINE = "#000000"
RIGHT, WRONG = COLOURS[0], COLOURS[1]
"""Blue and vermilion, told apart by every eye."""


@dataclass(frozen=True, eq=False)
class Picture:
    """An image with what is said of it."""

    pixels: Pixels
    """(H, W) or (H, W, 3) in [0, 1]."""
    caption: str = ""
    """Lines beneath it."""
    colour: str = INK
    """Of the caption."""
    measured: bool = False
    """Whether the pixels (rows, columns) are a measure, shown by a scale of colours that all such pictures share."""
    owners: npt.NDArray[np.int64] | None = None
    """(rows, columns) of patches: lines are drawn between those of different numbers."""


@dataclass(frozen=True)
class Row:
    """Images that belong together."""

    heading: str
    pictures: Sequence[Picture]


def pictures_figure(rows: Sequence[Row], path: Path, title: str, explained: str, scale: str = "") -> Path:
    """Draw rows of images. `scale`: what measures are in, where there are any; it spans all of them.

    The folder of `path` is made; its suffix decides the format. Returns `path`. Raises ValueError without an image.
    """
    if not any(row.pictures for row in rows):
        raise ValueError("no image to be drawn")
    measures = [each.pixels for row in rows for each in row.pictures if each.measured]
    columns = max(len(row.pictures) for row in rows)
    room = SCALE_INCHES if measures else 0
    needed = 2 * MARGIN + columns * (SIDE_INCHES + GAP_INCHES) - GAP_INCHES + room
    heights = [_heading(row) + SIDE_INCHES + LINE_INCHES * _lines(row) + GAP_INCHES for row in rows]
    with canvas(max(needed, LEAST_INCHES), sum(heights), title, explained) as drawn:
        from matplotlib.colors import Normalize

        ends = (min(map(np.min, measures)), max(map(np.max, measures))) if measures else (0, 1)
        colours, norm = sequential(), Normalize(*ends)
        top = 0.0
        for row, height in zip(rows, heights, strict=True):
            if row.heading:
                drawn.text(MARGIN, top + 0.05, row.heading, fontsize=9, fontweight="bold")
            below = top + _heading(row)
            for column, picture in enumerate(row.pictures):
                left = MARGIN + column * (SIDE_INCHES + GAP_INCHES)
                _draw(drawn, left, below, picture, colours, norm)
                drawn.text(left, below + SIDE_INCHES + 0.03, picture.caption, fontsize=7.5, color=picture.colour)
            top += height
        if measures:
            left = MARGIN + columns * (SIDE_INCHES + GAP_INCHES)
            drawn.scale(left, HEADING_INCHES, min(1.6, sum(heights) - HEADING_INCHES), colours, norm, scale)
        return drawn.save(path)


def _heading(row: Row) -> float:
    return HEADING_INCHES if row.heading else 0.0


def _lines(row: Row) -> int:
    return max((len(each.caption.splitlines()) for each in row.pictures), default=0)


def _draw(drawn: Canvas, left: float, top: float, picture: Picture, colours: Any, norm: Any) -> None:
    height, width = picture.pixels.shape[:2]
    if picture.measured:
        axis = drawn.picture(left, top, SIDE_INCHES, SIDE_INCHES)
        axis.imshow(picture.pixels, cmap=colours, norm=norm, interpolation="nearest", aspect="auto")
        axis.spines[:].set_visible(True)
        return
    axis = drawn.image(left, top, SIDE_INCHES, picture.pixels)
    if picture.owners is not None:
        from matplotlib.collections import LineCollection

        rows, columns = picture.owners.shape
        size = np.array([width / columns, height / rows])
        lines = [np.array(line) * size for line in outlines(picture.owners)]
        axis.add_collection(LineCollection(lines, colors=OUTLINE, linewidths=0.6))
        axis.set_xlim(0, width)
        axis.set_ylim(height, 0)


def outlines(owners: npt.NDArray[np.int64]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Edges between patches of different numbers, as pairs of (x, y) in patches from the upper left.

    owners: (rows, columns). The rim of the image is no edge.
    """
    found = []
    for row, column in zip(*np.nonzero(owners[:, 1:] != owners[:, :-1]), strict=True):
        x, y = int(column) + 1, int(row)
        found.append(((x, y), (x, y + 1)))
    for row, column in zip(*np.nonzero(owners[1:] != owners[:-1]), strict=True):
        x, y = int(column), int(row) + 1
        found.append(((x, y), (x + 1, y)))
    return found


def merged_pixels(pixels: Pixels, owners: npt.NDArray[np.int64]) -> Pixels:
    """The image with every patch in the mean colour of all patches of its token.

    pixels: (H, W) or (H, W, 3); owners: (rows, columns), the token of each patch. Raises ValueError where the patches
    do not divide the image.
    """
    (height, width), (rows, columns) = pixels.shape[:2], owners.shape
    if height % rows or width % columns:
        raise ValueError(f"{rows} x {columns} patches do not divide an image of {height} x {width} pixels")
    wide = owners.repeat(height // rows, axis=0).repeat(width // columns, axis=1)  # (H, W)
    _, token = np.unique(wide, return_inverse=True)
    token = token.reshape(-1)
    flat = pixels.reshape(height * width, -1).astype(np.float64)
    counts = np.bincount(token)
    means = np.stack([np.bincount(token, channel) / counts for channel in flat.T], axis=1)  # (tokens, channels)
    merged: Pixels = means[token].reshape(pixels.shape)
    return merged
