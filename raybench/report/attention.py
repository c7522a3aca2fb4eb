"""Attention maps of one sentence: a row a layer, a column a head, one word looking at the others in each row of a map.

As The Annotated Transformer shows its encoder; layers are counted from 1.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raybench.report.figures import COLOURS, DPI, house_style

CELL_INCHES = 0.105
"""Of one word beside another, in which its name fits at `FONT` points."""
MAX_INCHES = 20.0
"""Of all maps of a layer together; more words than fit become smaller."""
GAP_INCHES = 0.12
FONT = 6.5
LETTER_INCHES = 0.055
"""Width of a letter at `FONT` points, at most."""
LETTERS_AN_INCH = 14.8
LINE_INCHES = 0.165
"""Of what is said beneath."""
LONGEST_LABEL = 14
"""Letters of a word that are shown."""


def attention_figure(
    maps: Sequence[npt.NDArray[np.floating[Any]]],
    tokens: Sequence[str],
    path: Path,
    layers: Sequence[int] = (1, 3, 5),
    *,
    looked_at: Sequence[str] | None = None,
    title: str = "Encoder self-attention",
    source: str = "",
) -> Path:
    """Draw the maps of some layers, every head, one sentence.

    maps: of each layer (heads, T, S), rows sum to 1. tokens: the T words that look; `looked_at`: the S words looked at,
    for attention to a source. `layers` count from 1; those the model lacks are left out. `source` names where the maps
    come from. The folder of `path` is made; its suffix decides the format. Returns `path`. Raises ValueError where maps
    and words do not fit, or none is left.
    """
    columns = tokens if looked_at is None else looked_at
    shown = [layer for layer in layers if 1 <= layer <= len(maps)]
    if not shown:
        raise ValueError(f"none of the layers {list(layers)} is among the {len(maps)} of these maps")
    if any(each.ndim != 3 or each.shape[1:] != (len(tokens), len(columns)) for each in maps):
        shapes = ", ".join(str(each.shape) for each in maps)
        raise ValueError(f"maps must be (heads, {len(tokens)}, {len(columns)}), as many as there are words: {shapes}")
    heads = maps[0].shape[0]
    with house_style():
        _draw([maps[layer - 1] for layer in shown], shown, heads, tokens, columns, title, source, path)
    return path


def _draw(
    maps: Sequence[npt.NDArray[np.floating[Any]]],
    layers: Sequence[int],
    heads: int,
    tokens: Sequence[str],
    columns: Sequence[str],
    title: str,
    source: str,
    path: Path,
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure

    cell = min(CELL_INCHES, MAX_INCHES / (heads * len(columns)))
    font, letter = FONT * cell / CELL_INCHES, LETTER_INCHES * cell / CELL_INCHES
    names = [[_cut(word) for word in words] for words in (tokens, columns)]
    # Every length in inches, from the left and from below; the figure is as large as they need together.
    left, below = (0.4 + letter * max(map(len, each)) for each in names)
    wide, high = cell * len(columns), cell * len(tokens)
    width = left + heads * (wide + GAP_INCHES) + 0.6
    lines = ["Each row: where one word looks; its weights sum to 1."]
    lines += textwrap.wrap(f"Source: {source}.", max(20, int(width * LETTERS_AN_INCH))) if source else []
    below += LINE_INCHES * (len(lines) - 1)
    height = below + len(maps) * (high + GAP_INCHES) + 0.6
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    colours = LinearSegmentedColormap.from_list("attention", ["#ffffff", COLOURS[0], "#00243a"])
    scale = Normalize(0, 1)
    for row, (layer, weights) in enumerate(zip(layers, maps, strict=True)):
        bottom = below + (len(maps) - 1 - row) * (high + GAP_INCHES)
        figure.text(
            0.12 / width, (bottom + high / 2) / height, f"layer {layer}", rotation=90, va="center", fontweight="bold"
        )
        for head in range(heads):
            start = left + head * (wide + GAP_INCHES)
            axis = figure.add_axes((start / width, bottom / height, wide / width, high / height))
            axis.imshow(weights[head], cmap=colours, norm=scale, aspect="auto", interpolation="nearest")
            axis.grid(visible=False)
            axis.tick_params(length=0, pad=2, labelsize=font)
            axis.set_yticks(range(len(tokens)), names[0] if head == 0 else [""] * len(tokens))
            axis.set_xticks(range(len(columns)), names[1] if row == len(maps) - 1 else [""] * len(columns), rotation=90)
            axis.spines[["top", "right"]].set_visible(True)
            if row == 0:
                axis.set_title(f"head {head + 1}", fontsize=8, pad=3)
    figure.text(0.12 / width, 1 - 0.1 / height, title, va="top", fontsize=12, fontweight="bold")
    said = "\n".join(lines)
    figure.text(0.12 / width, 0.08 / height, said, va="bottom", fontsize=8, color="#5f6368", linespacing=1.3)
    bar = figure.add_axes(((width - 0.5) / width, below / height, 0.1 / width, min(1.5, high) / height))
    figure.colorbar(ScalarMappable(scale, colours), cax=bar, ticks=[0, 0.5, 1]).ax.tick_params(labelsize=7, length=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, metadata={"Software": None} if path.suffix == ".png" else None)


def _cut(word: str) -> str:
    return word if len(word) <= LONGEST_LABEL else word[: LONGEST_LABEL - 1] + "…"
