"""A metric against one hyperparameter: what is computed (`lines_against`) stands apart from what is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl

from raybench.config.sweep import better
from raybench.report.figures import COLOURS, INK, MARKERS, MIN_SEEDS, drawing, label_axes, title_panel
from raybench.report.naming import key_title, metric_title, metric_words, names_of, population_titles
from raybench.report.scale import Scale, broken, make_scale, normal
from raybench.report.settings import (
    ALPHA,
    SPEEDS,
    TRAIN_SIZE,
    Population,
    SettingRow,
    effective,
    log_of,
    row_facts,
    select,
    settings_of,
    tuned_keys,
    validation_of,
)

MAX_NAMES = 10
"""Lines of a figure that one can still tell apart; more are the best on validation, and it is said."""
MAX_PANELS = 9
TICK_LETTERS = 72
"""That fit beneath one panel, or beneath all of a row together, side by side."""
BESIDE = 0.009
"""Share of the axis by which seeds stand left of their mean, out of the way of its bar."""
DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)))


@dataclass(frozen=True)
class Line:
    """Settings that differ in one key alone, by its rising value."""

    panel: Population
    """All that is fixed; without the train size where that is the key."""
    cell: Mapping[str, Any]
    """The factors that tell the line from others of its panel."""
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Point:
    """One setting on a line."""

    value: Any
    """Of the key."""
    setting: SettingRow
    selected: bool
    """Whether it is the one that its cell was decided on; all are where the key is a factor."""


def lines_against(trials: pl.DataFrame, key: str, metric: str, select_by: str | None = None) -> list[Line]:
    """A metric against a key of the configuration, such as `optimizer.lr`; empty where nothing would be seen.

    A tuned key: every setting, each line within one cell. A factor: the selected setting of each cell, each line
    through cells that share their other factors. `select_by` is a metric of validation; None: that of the same quantity
    as `metric`. In a panel where no cell has two values there is nothing to see, so that its lines are left out.
    """
    by_device = metric in SPEEDS
    settings = settings_of(trials, metric, [key], by_device)
    by = select_by or validation_of(metric, trials)
    return join_settings(settings, key, select(settings_of(trials, by, [key], by_device), by))


def join_settings(settings: Sequence[SettingRow], key: str, chosen: Mapping[tuple[Population, str], str]) -> list[Line]:
    """The lines of `lines_against` from settings; `chosen` is what `select` gave of them."""
    tuned = tuned_keys(settings)
    if key not in tuned:
        settings = [each for each in settings if chosen.get(each.group) == each.setting_id]
    lines: dict[tuple[Any, ...], Line] = {}
    # The student alone has no temperature and no teacher, so that it has no place among theirs.
    settings = [each for each in settings if key in effective(each.values) or not key.startswith("distillation.")]
    for each in settings:
        panel = replace(each.population, train_size=None) if key == TRAIN_SIZE else each.population
        values = {name: value for name, value in effective(each.values).items() if name != key}
        cell = {name: value for name, value in values.items() if name not in tuned and name != TRAIN_SIZE}
        # A factor is followed at whatever each of its cells selected; a tuned key with all else held.
        held = frozenset((name, normal(value)) for name, value in (values if key in tuned else cell).items())
        identity = (panel, each.cell if key in tuned else "", held)
        point = Point(effective(each.values).get(key), each, chosen.get(each.group) == each.setting_id)
        known = lines.get(identity) or Line(panel, cell, ())
        lines[identity] = replace(known, points=(*known.points, point))
    if key == ALPHA:
        lines = _begun_by_the_student_alone(lines)
    # Of a random search every setting is a line of its own: what is seen there are the dots of a cell.
    taken: dict[tuple[Any, ...], set[float | str]] = {}
    for line in lines.values():
        taken.setdefault((line.panel, cell_key(line)), set()).update(normal(point.value) for point in line.points)
    seen = {panel for (panel, _), found in taken.items() if len(found) > 1}
    scale = make_scale([each.values.get(key) for each in settings]) if settings else None
    return [
        replace(line, points=tuple(sorted(line.points, key=lambda point: scale.position(point.value))))
        for line in lines.values()
        if scale is not None and line.panel in seen
    ]


def _begun_by_the_student_alone(lines: Mapping[tuple[Any, ...], Line]) -> dict[tuple[Any, ...], Line]:
    """Each line of alpha with the student alone that shares what it has: it has no kind of distillation."""
    alone = {identity: line for identity, line in lines.items() if all(point.value == 0 for point in line.points)}
    joined, begun = {}, set()
    for identity, line in lines.items():
        if identity not in alone:
            own = [each for each in alone if each[:2] == identity[:2] and each[2] <= identity[2]]
            begun |= set(own)
            joined[identity] = replace(line, points=(*line.points, *(p for each in own for p in alone[each].points)))
    return joined | {identity: line for identity, line in alone.items() if identity not in begun}


def distinct_values(line: Line) -> int:
    """How many values of the key its points have."""
    return len({normal(point.value) for point in line.points})


def against(
    trials: pl.DataFrame,
    key: str,
    metric: str,
    path: Path,
    title: str = "",
    source: str = "",
    *,
    select_by: str | None = None,
) -> Path | None:
    """Figure of `lines_against`: a panel a population, a colour a cell; None where there is nothing to see.

    Rates, train sizes and other numbers that span a decade stand on a logarithmic axis. The folder of `path` is
    made; its suffix (.png, .svg, .pdf) decides the format.
    """
    lines = lines_against(trials, key, metric, select_by)
    if not lines:
        return None
    lines, notes = _fewer(lines, metric)
    by = select_by or validation_of(metric, trials)
    scale = make_scale([point.value for line in lines for point in line.points], log_of(key))
    names = line_names(lines)
    looks = looks_of(names)
    titles = population_titles([line.panel for line in lines])
    tuned = any(not point.selected for line in lines for point in line.points)
    with drawing() as new_figure:
        heading = title or f"{metric_words(metric).capitalize()} against {key_title(key)}"
        axes, close = new_figure(heading, len(titles))
        for axis, (panel, panel_title) in zip(axes, titles.items(), strict=True):
            title_panel(axis, panel_title, min(3, len(titles)))
            members = [line for line in lines if line.panel == panel]
            for line, shift in zip(members, shifts(scale, len(members)), strict=True):
                draw_line(axis, line, scale, looks[names[cell_key(line)]], shift, ring=tuned)
            mark_ticks(axis, scale, columns=min(3, len(titles)))
        label_axes(axes, f"{key_title(key)}{', log' if scale.kind == 'log' else ''}", metric_title(metric))
        joined = scale.kind != "names" and any(len(line.points) > 1 for line in lines)
        explained = " ".join([_explained(key, scale, tuned, joined, by), *notes])
        shown = [point.setting for line in lines for point in line.points]
        handles = handles_of(looks) if len(looks) > 1 else []
        close(handles, f"{explained} {row_facts(shown, trials, source)}", path)
    return path


def _explained(key: str, scale: Scale, tuned: bool, joined: bool, by: str) -> str:
    name, what = key_title(key), "Lines" if joined else "Of one colour"
    if tuned:
        alone = f" that differ in {name} alone" if joined else ""
        said = f"{what}: settings of a cell{alone}; rings: those selected on {metric_words(by)}."
    else:
        said = f"{what}: cells that differ in {name} alone, each with its setting selected on {metric_words(by)}."
    said += " Markers: mean over seeds; bars: 95 % t interval (3 seeds or more); faint dots: the seeds."
    said += " At alpha 0: the student alone." if key == ALPHA else ""
    apart = [f"{value:g}" if isinstance(value, float) else value for value in scale.beside]
    return said + (f" Not to scale: {', '.join(apart)}." if apart and scale.kind != "names" else "")


def _fewer(lines: Sequence[Line], metric: str) -> tuple[list[Line], list[str]]:
    """As many cells and panels as one can tell apart, the best of them, with what was left out in words."""
    sign = 1 if better(metric) == "max" else -1
    panels = list(dict.fromkeys(line.panel for line in lines))
    kept = [line for line in lines if line.panel in panels[:MAX_PANELS]]
    notes = [f"{MAX_PANELS} of {len(panels)} panels shown."] if len(panels) > MAX_PANELS else []
    best: dict[tuple[Any, ...], float] = {}
    for line in kept:
        cell = cell_key(line)
        top = max(sign * point.setting.estimate.mean for point in line.points)
        best[cell] = max(top, best.get(cell, top))
    if len(best) > MAX_NAMES:
        ranked = sorted(best, key=lambda cell: -best[cell])[:MAX_NAMES]
        kept = [line for line in kept if cell_key(line) in ranked]
        notes.append(f"The {MAX_NAMES} best of {len(best)} cells.")
    return kept, notes


def cell_key(line: Line) -> tuple[Any, ...]:
    """The factors of a line; those of one cell share it."""
    return _key_of(line.cell)


def _key_of(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(sorted((key, normal(value)) for key, value in cell.items()))


def line_names(lines: Sequence[Line]) -> dict[tuple[Any, ...], str]:
    """The name of each cell; lines of one cell share it, and cells that differ in nothing but their panels'."""
    panels: dict[Population, list[Mapping[str, Any]]] = {}
    for line in lines:
        panels.setdefault(line.panel, []).append(line.cell)
    # What only differs from panel to panel, as batch sizes do from preset to preset, is no part of a name.
    keys = {"model.name"} | {
        key
        for cells in panels.values()
        for key in dict.fromkeys(key for cell in cells for key in cell)
        if len({normal(cell.get(key)) for cell in cells}) > 1
    }
    kept = {cell_key(line): {key: value for key, value in line.cell.items() if key in keys} for line in lines}
    distinct = {_key_of(cell): cell for cell in kept.values()}
    names = dict(zip(distinct, names_of(list(distinct.values())), strict=True))
    return {key: names[_key_of(cell)] for key, cell in kept.items()}


def looks_of(names: Mapping[tuple[Any, ...], str]) -> dict[str, dict[str, Any]]:
    """Name -> colour, marker and dash, in the order in which the lines come."""
    return {name: look(index) for index, name in enumerate(dict.fromkeys(names.values()))}


def look(index: int) -> dict[str, Any]:
    """Colour, marker and dash of the `index`-th line; the dashes change where the colours begin anew."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[index // len(COLOURS) % len(DASHES)],
    }


def shifts(scale: Scale, lines: int) -> list[float]:
    """How far each of so many lines stands beside its place, so that their bars do not hide one another."""
    places = sorted(scale.places.values())
    gap = min((b - a for a, b in pairwise(places)), default=1.0)
    step = min(0.018 * (places[-1] - places[0] or 1.0), 0.5 * gap / max(1, lines))
    return [step * (index - (lines - 1) / 2) for index in range(lines)]


def mark_ticks(axis: Any, scale: Scale, columns: int = 1) -> None:
    """The ticks of a scale and room beside its ends, in one of so many panels in a row."""
    low, high = scale.span
    room = (0.5 if scale.kind == "names" else 0.09 * (high - low)) or 0.5
    axis.set_xlim(low - room, high + room)
    letters = TICK_LETTERS // columns
    ticks = scale.ticks(letters=letters)
    each = max(6, letters // len(ticks))
    texts = [broken(text, each) if scale.kind == "names" else text for _, text in ticks]
    axis.set_xticks([place for place, _ in ticks], texts)
    if max(len(line) for text in texts for line in text.split("\n")) * len(ticks) > 1.5 * letters:
        axis.tick_params(axis="x", labelrotation=30)


def draw_line(
    axis: Any, line: Line, scale: Scale, looks: Mapping[str, Any], shift: float, *, ring: bool, seeds: bool = True
) -> None:
    """Points with their seeds and intervals `shift` beside their places, joined where the key is one of numbers."""
    colour = looks["color"]
    places = [scale.position(point.value) + shift for point in line.points]
    low, high = scale.span
    left = BESIDE * ((high - low) or 1.0)
    means = [point.setting.estimate.mean for point in line.points]
    if scale.kind != "names":
        axis.plot(places, means, color=colour, linestyle=looks["linestyle"], linewidth=1.4, alpha=0.75, zorder=3)
    for place, point in zip(places, line.points, strict=True):
        found, by_seed = point.setting.estimate, [value for _, value in point.setting.by_seed]
        if seeds and found.n > 1:
            axis.plot([place - left] * found.n, by_seed, ".", color=colour, alpha=0.35, ms=4.5, mew=0, zorder=3)
        if found.low is not None and found.n >= MIN_SEEDS:
            axis.plot([place, place], [found.low, found.high], color=colour, linewidth=1.3, alpha=0.7, zorder=4)
        axis.plot([place], [found.mean], looks["marker"], color=colour, ms=6.5, mec="white", mew=0.5, zorder=5)
        if ring and point.selected:
            axis.plot([place], [found.mean], "o", ms=11, mfc="none", mec=INK, mew=1.1, zorder=6)


def handles_of(looks: Mapping[str, Mapping[str, Any]]) -> list[tuple[Any, str]]:
    """Legend entries of named looks."""
    from matplotlib.lines import Line2D

    return [(Line2D([], [], lw=1.6, ms=6, mec="white", **each), name) for name, each in looks.items()]
