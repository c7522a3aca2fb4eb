"""Training and validation curves of a few settings in four panels: loss and accuracy, with the final values written.

The layout is that of the figure in github.com/heroyjz/tinyvit-vs-resnet-cifar10.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from raybench.config.sweep import better
from raybench.report.comparison import CellResult
from raybench.report.figures import ALPHA, LINES, cell_names, draw_curve, drawing, early_note, facts, named
from raybench.report.naming import metric_title
from raybench.report.selected import mean_curve
from raybench.report.sheet import readable, varying
from raybench.report.views import handles_of, look

METRICS = ("train_loss", "eval_loss", "train_top1", "eval_top1")
MOST = 4
"""Settings that four panels can hold."""
LINE_POINTS = 10.0
"""Height of a line of text that final values keep apart."""


def few(results: Sequence[CellResult], most: int = MOST) -> list[CellResult]:
    """At most so many measured cells in the order given: a student alone where there is one, then the best.

    Best on validation, of each cell its selected setting.
    """
    measured = [result for result in results if result.selected and result.validation]
    if len(measured) <= most:
        return measured
    baselines = {result.baseline for result in measured}
    sign = 1 if better(measured[0].metric) == "max" else -1
    ranked = sorted(measured, key=lambda result: -sign * (result.validation.mean if result.validation else 0.0))
    alone = [result for result in ranked if result.label in baselines][:1]
    chosen = [*alone, *(result for result in ranked if result not in alone)][:most]
    return [result for result in measured if result in chosen]


def four_panels(
    epochs: pl.DataFrame, results: Sequence[CellResult], path: Path, title: str = "", source: str = ""
) -> Path | None:
    """Loss and top-1 on training and validation against the epoch, at most four settings, means with bands over seeds.

    epochs: a row a trial and epoch (`Store.epochs()`). Panels without a number are left out; None where all are.
    The folder of `path` is made; its suffix (.png, .svg, .pdf) decides the format.
    """
    measured = [result for result in readable(results) if result.selected]
    shown = few(measured)
    curves = {metric: [mean_curve(epochs, result, metric) for result in shown] for metric in METRICS}
    panels = {metric: each for metric, each in curves.items() if any(map(len, each))}
    if not panels:
        return None
    looks = [look(index) | {"marker": ""} for index in range(len(shown))]
    with drawing() as new_figure:
        axes, close = new_figure(title or "Training and validation", len(panels), 2.7, min(2, len(panels)))
        for axis, (metric, each) in zip(axes, panels.items(), strict=True):
            axis.set_title(metric_title(metric))
            for points, style in zip(each, looks, strict=True):
                draw_curve(axis, points, color=style["color"])
        for axis in axes[-min(2, len(axes)) :]:
            axis.set_xlabel("epoch")

        def arrange() -> None:
            for axis, (metric, each) in zip(axes, panels.items(), strict=True):
                drawn = [(points, style) for points, style in zip(each, looks, strict=True) if len(points)]
                ends = [(points["epoch"][-1], points["mean"][-1], style["color"]) for points, style in drawn]
                _write_ends(axis, ends, 1 if metric.endswith("top1") else _decimals([value for _, value, _ in ends]))

        caption = _explained(panels, shown, measured)
        handles = handles_of(dict(zip(cell_names(shown), looks, strict=True))) if len(shown) > 1 else []
        close(handles, f"{caption} {facts(shown, source)}", path, arrange)
    return path


def _explained(panels: dict[str, Any], shown: Sequence[CellResult], measured: Sequence[CellResult]) -> str:
    said = f"{LINES}; numbers: the mean where it ends."
    if len(shown) < len(measured):
        baselines = {result.baseline for result in measured}
        alone = "the student alone and " if any(result.label in baselines for result in shown) else ""
        said += f" {len(shown)} of {len(measured)} cells: {alone}the best on validation"
        shared = named(shown[0], [key for key in varying(measured) if key not in varying(shown)])
        said += f" ({shared})." if len(shown) > 1 and shared else "."
    if "train_loss" in panels and len({result.factors.get(ALPHA) for result in shown}) > 1:
        said += " A training loss mixes label and teacher by alpha: it does not compare across alphas."
    return said + early_note(pair for each in panels.values() for pair in zip(shown, each, strict=True))


def _decimals(values: Sequence[float]) -> int:
    """That show three digits of the largest."""
    largest = max(map(abs, values))
    return min(6, max(0, 2 - math.floor(math.log10(largest)))) if largest > 0 else 3


def _write_ends(axis: Any, ends: Sequence[tuple[int, float, str]], decimals: int) -> None:
    """The values beside the curves' ends, moved up or down until none covers another."""
    pixels = axis.get_figure().dpi / 72
    rim = axis.get_window_extent()
    heights = [float(axis.transData.transform((epoch, value))[1]) for epoch, value, _ in ends]
    gap = LINE_POINTS * pixels
    spread = spread_out(heights, gap, rim.y0 + gap / 2, rim.y1 - gap / 2)
    last = max(epoch for epoch, _, _ in ends)
    for (epoch, value, colour), height, place in zip(ends, heights, spread, strict=True):
        # A curve that stops early has room beside it; its value stands there, not in the margin.
        offset = (4, (place - height) / pixels)
        axis.annotate(
            f"{value:.{decimals}f}",
            (epoch, value),
            offset,
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            fontweight="bold",
            color=colour,
            annotation_clip=False,
        ).set_in_layout(epoch == last)


def spread_out(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The heights in the order given, moved as little as keeps any two `gap` apart, within low and high if they fit.

    Neighbours that are too near become one block about their middle, until no two blocks touch.
    """
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    blocks: list[tuple[float, list[int]]] = []  # (middle, members from below)
    for index in order:
        middle, members = heights[index], [index]
        while blocks:
            below, others = blocks[-1]
            if middle - (len(members) - 1) / 2 * gap - (below + (len(others) - 1) / 2 * gap) >= gap:
                break
            blocks.pop()
            members = [*others, *members]
            middle = sum(heights[each] for each in members) / len(members)
        half = (len(members) - 1) / 2 * gap
        middle = max(min(middle, high - half), low + half) if 2 * half <= high - low else middle
        blocks.append((middle, members))
    places = [0.0] * len(heights)
    for middle, members in blocks:
        for rank, index in enumerate(members):
            places[index] = middle + (rank - (len(members) - 1) / 2) * gap
    return places
