"""Attention over the patches of one image: a row a layer, a column a head. Layers and heads are counted from 1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raybench.report.canvas import MARGIN, Pixels, canvas, sequential

CELL_INCHES = 0.9
GAP_INCHES = 0.06
LARGEST_INCHES = 10.5
"""Of all heads together."""
IMAGE_INCHES = 1.3
BRIGHTEST = 0.995
"""Quantile of all weights at which the scale ends: one patch would else make the others white."""


def patch_attention_figure(
    pixels: Pixels, maps: Sequence[npt.NDArray[np.floating[Any]]], path: Path, title: str, explained: str, source: str
) -> Path:
    """Draw where each head of each layer looks in an image (H, W) or (H, W, 3), with the image beside.

    maps: of each layer (heads, rows, columns) weights of patches. They are shown in equal shares: a weight of one
    over the number of patches is 1. `explained` says who looks at what, `source` where it comes from. The folder of
    `path` is made; its suffix decides the format. Returns `path`. Raises ValueError without a layer.
    """
    if not maps:
        raise ValueError("no layer to be drawn")
    shares = [weights * weights[0].size for weights in maps]
    heads = max(len(each) for each in shares)
    cell = min(CELL_INCHES, LARGEST_INCHES / heads - GAP_INCHES)
    left = MARGIN + IMAGE_INCHES + 0.45
    across, down = heads * (cell + GAP_INCHES), len(shares) * (cell + GAP_INCHES)
    height = max(IMAGE_INCHES, down) + 0.25
    explained += " Colours: weight of a patch, in shares of an equal one (1: as if it looked everywhere alike)."
    explained += f" Source: {source}."
    with canvas(max(6.4, left + across + 0.85), height, title, explained) as drawn:
        from matplotlib.colors import Normalize

        end = max(1.0, float(np.quantile(np.concatenate([each.ravel() for each in shares]), BRIGHTEST)))
        colours, norm = sequential(), Normalize(0, end)
        drawn.text(MARGIN, 0.02, "image", fontsize=8)
        drawn.image(MARGIN, 0.2, IMAGE_INCHES, pixels)
        for layer, weights in enumerate(shares):
            top = 0.2 + layer * (cell + GAP_INCHES)
            drawn.text(left - 0.1, top + cell / 2, f"layer {layer + 1}", rotation=90, va="center", ha="right")
            for head, each in enumerate(weights):
                axis = drawn.picture(left + head * (cell + GAP_INCHES), top, cell, cell)
                axis.imshow(each, cmap=colours, norm=norm, interpolation="nearest", aspect="auto")
                axis.spines[:].set_visible(True)
                if layer == 0:
                    drawn.text(left + head * (cell + GAP_INCHES), 0.02, f"head {head + 1}", fontsize=min(8, 9 * cell))
        drawn.scale(left + across + 0.1, 0.2, min(2.0, height - 0.3), colours, norm, "shares of an equal one")
        return drawn.save(path)
