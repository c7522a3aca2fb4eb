"""Parallel coordinates: every setting of a sweep as one line through its hyperparameters to its result."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl

from raybench.config.sweep import better
from raybench.report.figures import INK, drawing, title_panel
from raybench.report.naming import key_title, metric_title, metric_words, population_titles
from raybench.report.scale import Scale, broken, make_scale, normal
from raybench.report.settings import (
    SPEEDS,
    TRAIN_SIZE,
    Population,
    SettingRow,
    effective,
    log_of,
    row_facts,
    settings_of,
)

MAX_LINES = 120
"""More lines hide one another."""
MAX_PANELS = 4
NAME_LETTERS = 16
HEIGHT = 3.1
FEW_LEVELS = 12
"""Values of a key up to which its lines are spread about them."""
PALE_TO_DARK = ("#d9d2b0", "#8fa3b5", "#0072B2", "#00223a")
"""Lightness alone tells the order, whatever colours one sees."""


def coordinates(trials: pl.DataFrame, keys: Sequence[str], metric: str) -> dict[Population, list[SettingRow]]:
    """The settings of each population that show something: where some of `keys` vary, and the metric too.

    A population is what shares sweep, preset and data; the train size is one of the coordinates. The student alone has
    no kind of distillation, temperature or teacher.
    """
    panels: dict[Population, list[SettingRow]] = {}
    for each in settings_of(trials, metric, keys, metric in SPEEDS):
        setting = replace(each, values=effective(each.values))
        panels.setdefault(replace(each.population, train_size=None), []).append(setting)
    return {
        population: members
        for population, members in panels.items()
        if axes_of(members, keys) and len({each.estimate.mean for each in members}) > 1
    }


def axes_of(settings: Sequence[SettingRow], keys: Sequence[str]) -> list[str]:
    """The keys asked for that vary, in the order given, and the train size first where it varies unasked."""
    varying = {key for key in (TRAIN_SIZE, *keys) if len({normal(each.values.get(key)) for each in settings}) > 1}
    asked = [key for key in dict.fromkeys(keys) if key in varying]
    return [TRAIN_SIZE, *asked] if TRAIN_SIZE in varying and TRAIN_SIZE not in asked else asked


def thinned(settings: Sequence[SettingRow], most: int = MAX_LINES) -> list[SettingRow]:
    """At most so many, evenly over their ranks by the metric, the best and the worst among them, by rising metric."""
    ranked = sorted(settings, key=lambda each: each.estimate.mean)
    if len(ranked) <= most:
        return ranked
    return [ranked[round(index * (len(ranked) - 1) / (most - 1))] for index in range(most)]


def parallel_coordinates(
    trials: pl.DataFrame, keys: Sequence[str], metric: str, path: Path, title: str = "", source: str = ""
) -> Path | None:
    """A line a setting, through its values of `keys` to the mean of `metric` over its seeds, which colours it too.

    keys: dotted, such as `optimizer.lr`; those that do not vary are left out. Rates and what spans a decade stand on a
    logarithmic axis. A panel a population, at most `MAX_LINES` lines each, which is said where there are more. None
    where nothing varies. The folder of `path` is made; its suffix (.png, .svg, .pdf) decides the format.
    """
    panels = coordinates(trials, keys, metric)
    if not panels:
        return None
    shown = dict(list(panels.items())[:MAX_PANELS])
    titles = population_titles(list(shown))
    most = max(len(axes_of(members, keys)) for members in shown.values())
    with drawing() as new_figure:
        width = min(12.0, max(7.2, 1.45 * (most + 1)))
        axes, close = new_figure(title or f"Settings and their {metric_words(metric)}", len(shown), HEIGHT, 1, width)
        for axis, (population, members) in zip(axes, shown.items(), strict=True):
            title_panel(axis, titles[population], 1, pad=30 if titles[population] else None)
            _draw_panel(axis, thinned(members), axes_of(members, keys), metric)
        close([], _explained(panels, metric) + f" {row_facts(_all(panels), trials, source)}", path)
    return path


def _all(panels: dict[Population, list[SettingRow]]) -> list[SettingRow]:
    return [each for members in list(panels.values())[:MAX_PANELS] for each in members]


def _explained(panels: dict[Population, list[SettingRow]], metric: str) -> str:
    said = (
        f"A line: one setting, mean over its seeds; darker: better {metric_words(metric)}, best on top. Lines with a "
    )
    said += "value in common stand side by side about it."
    for members in list(panels.values())[:MAX_PANELS]:
        if len(members) > MAX_LINES:
            said += f" {MAX_LINES} of {len(members):,} settings, evenly by rank."
    if len(panels) > MAX_PANELS:
        said += f" {MAX_PANELS} of {len(panels)} panels."
    return said


def _draw_panel(axis: Any, settings: Sequence[SettingRow], keys: Sequence[str], metric: str) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("better", PALE_TO_DARK)
    sign = 1 if better(metric) == "max" else -1
    worst_first = sorted(settings, key=lambda each: sign * each.estimate.mean)
    scales = [make_scale(sorted((normal(s.values.get(k)) for s in settings), key=str), log_of(k)) for k in keys]
    scales.append(make_scale([each.estimate.mean for each in settings], log=False))
    columns = [[each.values.get(key) for each in worst_first] for key in keys]
    columns.append([each.estimate.mean for each in worst_first])
    places = [_spread(scale, values) for scale, values in zip(scales, columns, strict=True)]
    low, high = scales[-1].span
    for row, each in enumerate(worst_first):
        share = (each.estimate.mean - low) / (high - low)
        colour = colours(share if sign > 0 else 1 - share)
        axis.plot([column[row] for column in places], color=colour, linewidth=1.2, alpha=0.85, zorder=2 + row / 1000)
    for column, (name, scale) in enumerate(zip([*map(key_title, keys), metric_title(metric)], scales, strict=True)):
        _draw_axis(axis, column, name, scale)
    axis.set_xlim(-0.08, len(keys) + 0.32)
    axis.set_ylim(-0.1, 1.1)
    axis.set_axis_off()


def _height(scale: Scale, place: float) -> float:
    low, high = scale.span
    return (place - low) / (high - low) if high > low else 0.5


def _spread(scale: Scale, values: Sequence[Any]) -> list[float]:
    """Heights from 0 to 1; where few values are shared by many, those with the same stand side by side."""
    heights = [_height(scale, scale.position(value)) for value in values]
    levels = sorted(set(heights))
    if len(levels) > FEW_LEVELS:
        return heights
    room = min((b - a for a, b in pairwise(levels)), default=1.0)
    counts, seen = Counter(heights), Counter[float]()
    spread = []
    for height in heights:
        rank, count = seen[height], counts[height]
        seen[height] += 1
        # Narrower for few lines: two that share a value are not torn apart.
        width = min(0.3 * room, 0.012 * (count - 1), 0.12)
        spread.append(height + (rank / (count - 1) - 0.5) * width if count > 1 else height)
    return spread


def _draw_axis(axis: Any, column: int, name: str, scale: Scale) -> None:
    axis.plot([column, column], [-0.08, 1.08], color=INK, linewidth=1.1, zorder=5)
    label = f"{name}, log" if scale.kind == "log" else name
    axis.annotate(
        textwrap.fill(label, NAME_LETTERS),
        (column, 1.08),
        (0, 6),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontweight="bold",
        fontsize=9,
        annotation_clip=False,
    )
    for place, text in scale.ticks():
        height = _height(scale, place)
        axis.plot([column - 0.02, column + 0.02], [height, height], color=INK, linewidth=1.1, zorder=5)
        axis.annotate(
            broken(text, NAME_LETTERS),
            (column, height),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            zorder=6,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
        )
