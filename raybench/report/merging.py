"""What token merging buys: images/s and accuracy against ToMe's r, the option `tome_r` of a model."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from raybench.report.figures import drawing, title_panel
from raybench.report.naming import metric_title, metric_words, population_titles
from raybench.report.scale import Scale, make_scale
from raybench.report.settings import SettingRow, row_facts, select, settings_of
from raybench.report.views import (
    Line,
    cell_key,
    distinct_values,
    draw_line,
    handles_of,
    join_settings,
    line_names,
    looks_of,
    mark_ticks,
    shifts,
)

R = "model.options.tome_r"
SPEED = "infer_samples_per_sec"
MAX_ROWS = 4
MAX_WRITTEN = 2
"""Lines of a panel up to which factors are written beside their points."""


def r_of(value: Any) -> int | None:
    """The number of the option `tome_r`, 0 where it is not given; None for a schedule that changes with the block."""
    if isinstance(value, str):
        with suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value.strip())
    if value is None:
        return 0
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def lines_against_r(trials: pl.DataFrame, metric: str, select_by: str = "eval_top1") -> tuple[list[Line], int]:
    """A metric against the tokens merged in each block (option `tome_r`), through selected settings of equal models.

    Only models that were measured at two r or more, on one device. Second: the schedules that are left out, since no
    one number tells them.
    """
    measured = settings_of(trials, metric, [R], by_device=True)
    settings = [
        replace(each, values={**each.values, R: r}) for each in measured if (r := r_of(each.values.get(R))) is not None
    ]
    chosen = select(settings_of(trials, select_by, [R], by_device=True), select_by)
    lines = [line for line in join_settings(settings, R, chosen) if distinct_values(line) > 1]
    return lines, len(measured) - len(settings)


def speed_against_r(
    trials: pl.DataFrame,
    path: Path,
    title: str = "",
    source: str = "",
    *,
    metric: str = "test_top1",
    select_by: str = "eval_top1",
) -> Path | None:
    """Images/s and `metric` against ToMe's r side by side, r = 0 being the reference; None where r does not vary.

    A row a population, at most four of them. The suffix of `path` decides the format.
    """
    rates, left_out = lines_against_r(trials, SPEED, select_by)
    scores, _ = lines_against_r(trials, metric, select_by)
    if not rates:
        return None
    panels = list(dict.fromkeys(line.panel for line in rates))[:MAX_ROWS]
    rates, scores = ([line for line in lines if line.panel in panels] for lines in (rates, scores))
    lines = [*rates, *scores]
    names = line_names(lines)
    looks = looks_of(names)
    scale = make_scale([point.value for line in lines for point in line.points], log=False)
    titles = population_titles(panels)
    with drawing() as new_figure:
        axes, close = new_figure(title or "Speed and accuracy against ToMe's r", 2 * len(panels), columns=2)
        for row, panel in enumerate(panels):
            for axis, shown, what in zip(axes[2 * row :], (rates, scores), (SPEED, metric), strict=False):
                members = [line for line in shown if line.panel == panel]
                for line, shift in zip(members, shifts(scale, len(members)), strict=True):
                    draw_line(axis, line, scale, looks[names[cell_key(line)]], shift, ring=False)
                    _draw_reference(axis, line, looks[names[cell_key(line)]]["color"])
                title_panel(axis, titles[panel], 2)
                axis.set_ylabel(metric_title(what))
                mark_ticks(axis, scale, columns=2)
                if what == SPEED:
                    axis.set_ylim(0, 1.08 * axis.get_ylim()[1])
                    for line in members if len(members) <= MAX_WRITTEN else ():
                        _write_ratios(axis, line, scale)
        for axis in axes[-2:]:
            axis.set_xlabel("r (tokens merged in each block)")
        explained = "Dotted: r = 0, the plain model, to which the factors are written. Markers: mean over seeds of the "
        explained += f"setting selected on {metric_words(select_by)}; bars: 95 % t interval (3 seeds or more)."
        if left_out:
            explained += f" Not shown: {left_out} setting{'s' * (left_out != 1)} whose r changes from block to block."
        settings = [point.setting for line in lines for point in line.points]
        handles = handles_of(looks) if len(looks) > 1 else []
        close(handles, f"{explained} {row_facts(settings, trials, source)}{_devices(settings)}", path)
    return path


def _reference(line: Line) -> float | None:
    return next((point.setting.estimate.mean for point in line.points if point.value == 0), None)


def _draw_reference(axis: Any, line: Line, colour: str) -> None:
    if (reference := _reference(line)) is not None:
        axis.axhline(reference, color=colour, linestyle=":", linewidth=1.2, alpha=0.8, zorder=2)


def _write_ratios(axis: Any, line: Line, scale: Scale) -> None:
    reference = _reference(line)
    for point in line.points if reference else ():
        mean = point.setting.estimate.mean
        if point.value != 0 and reference:
            at = (scale.position(point.value), mean)
            axis.annotate(
                f"{mean / reference:.2f}×",
                at,
                (0, 8),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                zorder=6,
                bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
            )


def _devices(settings: Sequence[SettingRow]) -> str:
    devices = sorted({each.population.device for each in settings if each.population.device})
    return f" Measured on {', '.join(devices)}." if devices else ""
