"""What accuracy costs: test results against multiply-adds, speed or parameters, and the cells nothing beats in both."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from raybench.report.comparison import CellResult
from raybench.report.figures import ALONE, COLOURS, INK, MIN_SEEDS, cell_names, data_of, drawing, facts, title_panel
from raybench.report.labels import Box, dots, place_labels
from raybench.report.naming import metric_title, metric_words, size_text
from raybench.report.scale import spans_a_decade, text_of
from raybench.report.settings import TRAIN_SIZE
from raybench.report.sheet import readable

Mode = Literal["max", "min"]
Cost = Literal["gmacs", "infer_samples_per_sec", "param_count"]
MODES: dict[str, Mode] = {"gmacs": "min", "infer_samples_per_sec": "max", "param_count": "min"}
"""Which way each is better."""
WORDS = {"gmacs": "multiply-adds", "infer_samples_per_sec": "speed", "param_count": "parameters"}
MAX_LABELS = 12
"""Labels of a panel; the front's come first."""
HEIGHT = 3.6
FRONT = COLOURS[0]
STAIRS = {"min": "steps-post", "max": "steps-pre"}
"""What is attained between two points of the front is what the cheaper one of them attains."""
LABEL_POINTS = 8.5
LABEL_LETTERS = 30
GAP_POINTS = 6
"""Between a point and its label; one further off than twice this is tied to its point by a line."""


@dataclass(frozen=True)
class CostPoint:
    """One cell that was measured in both."""

    result: CellResult
    name: str
    cost: float
    value: float
    on_front: bool


@dataclass(frozen=True)
class CostPanel:
    """Cells that may be compared."""

    title: str
    points: list[CostPoint]


def pareto_front(
    points: Sequence[tuple[float | None, float | None]], cost_mode: Mode = "min", value_mode: Mode = "max"
) -> list[int]:
    """Indices of the points that no other beats, by rising cost as given.

    points: (cost, value). One beats another where it is no worse in both and better in one, so that equal points stand
    together. What is missing or not finite in either is never on the front and beats nothing.
    """
    signed = [
        (index, (cost if cost_mode == "min" else -cost), (value if value_mode == "max" else -value))
        for index, (cost, value) in enumerate(points)
        if cost is not None and value is not None and math.isfinite(cost) and math.isfinite(value)
    ]
    front: list[int] = []
    best, at = -math.inf, -math.inf
    for index, cost, value in sorted(signed, key=lambda each: (each[1], -each[2])):
        if value > best or (value == best and cost == at):
            front.append(index)
            best, at = value, cost
    return sorted(front, key=lambda index: points[index][0] or 0.0)


def cost_panels(results: Sequence[CellResult], cost: Cost) -> list[CostPanel]:
    """The cells of each preset, data variant and train size, with the front among them alone.

    Panels in which the cost does not vary are left out: for speed too where multiply-adds and parameters do not, since
    what equal models differ by is noise.
    """
    groups: dict[tuple[Any, ...], list[CellResult]] = {}
    for result in readable(results):
        groups.setdefault(_population(result), []).append(result)
    measured = {group: [r for r in members if _measured(r, cost)] for group, members in groups.items()}
    shown = {group: members for group, members in measured.items() if _varies(members, cost)}
    titles = _titles(list(shown))
    return [
        CostPanel(title, _cost_points(members, cost)) for title, members in zip(titles, shown.values(), strict=True)
    ]


def _measured(result: CellResult, cost: Cost) -> bool:
    value: float | None = getattr(result, cost)
    return result.test is not None and value is not None and math.isfinite(value)


def _varies(members: Sequence[CellResult], cost: Cost) -> bool:
    models = {(r.gmacs, r.param_count) for r in members}
    known = all(None not in model for model in models)
    return len({getattr(r, cost) for r in members}) > 1 and (len(models) > 1 or not known)


def _population(result: CellResult) -> tuple[Any, ...]:
    first = result.selected[0] if result.selected else None
    size = result.factors.get(TRAIN_SIZE, first.dataset.train_size if first else None)
    return *data_of(result), size, first.task if first else None


def _titles(groups: Sequence[tuple[Any, ...]]) -> list[str]:
    apart = [column for column in range(4) if len({group[column] for group in groups}) > 1]
    texts = [
        (f"preset {' and '.join(presets)}", " and ".join(names), " and ".join(variants), size_text(size, task))
        for presets, names, variants, size, task in groups
    ]
    return [", ".join(text[column] for column in apart) for text in texts]


def _cost_points(members: Sequence[CellResult], cost: Cost) -> list[CostPoint]:
    pairs = [(getattr(r, cost), r.test.mean if r.test else None) for r in members]
    front = set(pareto_front(pairs, MODES[cost], members[0].test_mode))
    return [
        CostPoint(result, name, pair[0], pair[1], index in front)
        for index, (result, name, pair) in enumerate(zip(members, cell_names(members), pairs, strict=True))
        if pair[1] is not None
    ]


def pareto_figure(
    results: Sequence[CellResult], cost: Cost, path: Path, title: str = "", source: str = ""
) -> Path | None:
    """Test metric against `cost`, a point a cell, the front as a line; None where no panel has two costs.

    Costs that span a decade stand on a logarithmic axis. Labels keep clear of points, bars and each other where there
    is room; beyond `MAX_LABELS` a panel only the front and the best are named. The suffix of `path` decides the format.
    """
    panels = cost_panels(results, cost)
    if not panels:
        return None
    metric, columns = results[0].test_metric, min(2, len(panels))
    by_ratio = spans_a_decade([point.cost for panel in panels for point in panel.points])
    with drawing() as new_figure:
        # Labels need more room than lines: two panels a row at most.
        width = 7.2 if columns == 1 else 9.2
        heading = title or f"{metric_words(metric).capitalize()} against {WORDS[cost]}"
        axes, close = new_figure(heading, len(panels), HEIGHT, columns, width)
        for index, (axis, panel) in enumerate(zip(axes, panels, strict=True)):
            title_panel(axis, panel.title, columns)
            axis.set_xlabel(f"{metric_title(cost)}{', log' if by_ratio else ''}")
            axis.set_ylabel(metric_title(metric) if index % columns == 0 else "")
            _draw_points(axis, panel.points, cost, by_ratio)

        def arrange() -> None:
            for axis, panel in zip(axes, panels, strict=True):
                _label_points(axis, panel.points, cost)

        shown = [point.result for panel in panels for point in panel.points]
        close([], f"{_explained(panels, cost)} {facts(shown, source)}", path, arrange)
    return path


def _explained(panels: Sequence[CostPanel], cost: Cost) -> str:
    first = panels[0].points[0].result
    better = f"{'up' if first.test_mode == 'max' else 'down'} and to the {'left' if MODES[cost] == 'min' else 'right'}"
    unnamed = sum(max(0, len(panel.points) - MAX_LABELS) for panel in panels)
    return (
        "Line and filled markers: the Pareto front of the means, cells that no other beats in both; "
        f"better is {better}. "
        "Bars: 95 % t interval (3 seeds or more); a step smaller than they are may be chance."
        + (f" {unnamed} cells off the front are not named." if unnamed else "")
    )


def _draw_points(axis: Any, points: Sequence[CostPoint], cost: Cost, by_ratio: bool) -> None:
    if by_ratio:
        _mark_ratios(axis, [point.cost for point in points])
    front = sorted((point for point in points if point.on_front), key=lambda point: point.cost)
    axis.plot(
        [point.cost for point in front],
        [point.value for point in front],
        color=FRONT,
        linewidth=1.5,
        alpha=0.7,
        drawstyle=STAIRS[MODES[cost]],
        zorder=3,
    )
    for point in sorted(points, key=lambda point: point.on_front):
        colour = FRONT if point.on_front else ALONE
        low, high = _bar(point)
        if low < high:
            axis.plot([point.cost] * 2, [low, high], color=colour, linewidth=1.4, alpha=0.8, zorder=4)
        look = {"mfc": FRONT, "mec": "white"} if point.on_front else {"mfc": "white", "mec": ALONE, "mew": 1.3}
        axis.plot([point.cost], [point.value], "o" if point.on_front else "s", ms=6.5, zorder=5, **look)
    axis.margins(x=0.16, y=0.16)


def _mark_ratios(axis: Any, costs: Sequence[float]) -> None:
    """A logarithmic axis with its numbers in full."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if max(costs) < 100 * min(costs) else (1.0,)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text_of(value)))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _bar(point: CostPoint) -> tuple[float, float]:
    test = point.result.test
    if test is None or test.low is None or test.high is None or test.n < MIN_SEEDS:
        return point.value, point.value
    return test.low, test.high


def _label_points(axis: Any, points: Sequence[CostPoint], cost: Cost) -> None:
    """Written once the axes have their place: offsets in points then hold at any resolution."""
    figure = axis.get_figure()
    sign = 1 if points[0].result.test_mode == "max" else -1
    named = sorted(points, key=lambda point: (not point.on_front, -sign * point.value))[:MAX_LABELS]
    look = {"textcoords": "offset points", "fontsize": LABEL_POINTS, "ha": "center", "va": "center", "zorder": 7}
    texts = [
        axis.annotate(textwrap.fill(point.name, LABEL_LETTERS), (point.cost, point.value), (0, 0), **look)
        for point in named
    ]
    extents = [text.get_window_extent() for text in texts]
    anchors = [tuple(axis.transData.transform((point.cost, point.value))) for point in named]
    rim, gap = axis.get_window_extent(), GAP_POINTS * figure.dpi / 72
    boxes = place_labels(
        anchors,
        [(extent.width + 4, extent.height + 2) for extent in extents],
        _obstacles(axis, points, cost),
        Box(rim.x0, rim.y0, rim.x1, rim.y1),
        gap,
    )
    for text, box, (x, y), point in zip(texts, boxes, anchors, named, strict=True):
        middle = ((box.left + box.right) / 2 - x, (box.low + box.high) / 2 - y)
        text.set_position(tuple(pixels * 72 / figure.dpi for pixels in middle))
        text.set_in_layout(False)
        text.set_color(INK if point.on_front else ALONE)
        if dots((x, y), box.nearest((x, y)), gap):
            ends = axis.transData.inverted().transform([(x, y), box.nearest((x, y))])
            axis.plot(*zip(*ends, strict=True), color="#9aa0a6", linewidth=0.7, zorder=2, scalex=False, scaley=False)


def _obstacles(axis: Any, points: Sequence[CostPoint], cost: Cost) -> list[Box]:
    """Markers, bars and the stairs of the front, in pixels."""
    around = 5 * axis.get_figure().dpi / 72
    boxes = []
    for point in points:
        low, high = (axis.transData.transform((point.cost, value)) for value in _bar(point))
        boxes.append(Box(low[0] - around, low[1] - around, high[0] + around, high[1] + around))
        x, y = axis.transData.transform((point.cost, point.value))
        boxes.append(Box(x - around, y - around, x + around, y + around))
    front = sorted((point for point in points if point.on_front), key=lambda point: point.cost)
    for one, other in pairwise(axis.transData.transform((point.cost, point.value)) for point in front):
        level, turn = (one[1], other[0]) if MODES[cost] == "min" else (other[1], one[0])
        boxes.append(Box(one[0], level - 1, other[0], level + 1))
        boxes.append(Box(turn - 1, min(one[1], other[1]), turn + 1, max(one[1], other[1])))
    return boxes
