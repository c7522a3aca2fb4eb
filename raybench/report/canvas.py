"""A figure measured in inches: title above, what it shows beneath, and axes put between them by hand.

For pictures and maps, whose pixels have a size; what has scales to read is drawn by `figures.py`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raybench.report.figures import COLOURS, DPI, house_style

Pixels = npt.NDArray[np.floating[Any]]
MARGIN = 0.12
LETTERS_AN_INCH = 14.8
"""Of what is said beneath, at 8 points."""
TITLE_LETTERS_AN_INCH = 8.6
GREY = "#5f6368"


class Canvas:
    """A body of so many inches between a title and an explanation, each of which gets the lines it needs."""

    def __init__(self, width: float, height: float, title: str, explained: str) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        lines = textwrap.wrap(explained, int(width * LETTERS_AN_INCH))
        titles = textwrap.wrap(title, int(width * TITLE_LETTERS_AN_INCH))
        self._above = MARGIN + 0.23 * len(titles) + 0.05
        self._width = width
        self._height = self._above + height + 0.1 + 0.165 * len(lines) + 0.06
        self.figure: Any = Figure(figsize=(width, self._height))
        FigureCanvasAgg(self.figure)
        left = MARGIN / width
        top = 1 - 0.1 / self._height
        self.figure.text(left, top, "\n".join(titles), va="top", fontsize=13, fontweight="bold")
        bottom = 0.06 / self._height
        self.figure.text(left, bottom, "\n".join(lines), va="bottom", fontsize=8, color=GREY, linespacing=1.3)

    def axes(self, left: float, top: float, width: float, height: float) -> Any:
        """Axes at so many inches from the left and from the top of the body."""
        bottom = self._height - self._above - top - height
        place = (left / self._width, bottom / self._height, width / self._width, height / self._height)
        axis = self.figure.add_axes(place)
        axis.grid(visible=False)
        return axis

    def picture(self, left: float, top: float, width: float, height: float) -> Any:
        """Axes without marks, for pixels."""
        axis = self.axes(left, top, width, height)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
        return axis

    def image(self, left: float, top: float, side: float, pixels: Pixels) -> Any:
        """Pixels (H, W) or (H, W, 3) in [0, 1] in a square of so many inches; returns its axes, in pixels."""
        axis = self.picture(left, top, side, side)
        height, width = pixels.shape[:2]
        look: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1} if pixels.ndim == 2 else {}
        axis.imshow(np.clip(pixels, 0, 1), extent=(0, width, height, 0), interpolation="nearest", aspect="auto", **look)
        return axis

    def text(self, left: float, top: float, words: str, **look: Any) -> None:
        """Words whose upper edge is so many inches from the top of the body."""
        place = (left / self._width, 1 - (self._above + top) / self._height)
        self.figure.text(*place, words, **{"va": "top", "fontsize": 8, **look})

    def scale(self, left: float, top: float, height: float, colours: Any, norm: Any, label: str) -> None:
        """A bar of colours, with what they stand for."""
        from matplotlib.cm import ScalarMappable

        axis = self.axes(left, top, 0.1, height)
        bar = self.figure.colorbar(ScalarMappable(norm, colours), cax=axis, format="{x:g}")
        bar.ax.tick_params(labelsize=7, length=2)
        bar.set_label(label, fontsize=8)
        bar.outline.set_visible(False)

    def save(self, path: Path) -> Path:
        """Write it; the folder is made, the suffix decides the format. Returns `path`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.figure.savefig(path, dpi=DPI, metadata={"Software": None} if path.suffix == ".png" else None)
        return path


@contextmanager
def canvas(width: float, height: float, title: str, explained: str) -> Iterator[Canvas]:
    """A canvas in the house's style; lengths in inches."""
    with house_style():
        yield Canvas(width, height, title, explained)


def sequential() -> Any:
    """Colours from none to much: white, blue, nearly black; lighter to darker for every eye."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("much", ["#ffffff", COLOURS[0], "#00243a"])


def cut(word: str, letters: int) -> str:
    """A word in at most so many letters."""
    return word if len(word) <= letters else word[: letters - 1] + "…"
