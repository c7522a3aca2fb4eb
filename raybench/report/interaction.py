"""Does alpha act alike whatever another factor is? The interaction of two factors, as lines and as differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybench.report.comparison import CellResult
from raybench.report.figures import ALPHA, MIN_SEEDS, data_of, drawing, facts, label_axes, title_panel
from raybench.report.naming import key_title, metric_title, metric_words, names_of
from raybench.report.scale import make_scale, normal
from raybench.report.sheet import readable, signed_text
from raybench.report.statistics import Estimate, estimate
from raybench.report.views import BESIDE, handles_of, look, mark_ticks, shifts

MOST_SAID = 4
"""Panels, and levels of each, whose differences are written beneath the figure; more of them nobody reads."""


@dataclass(frozen=True)
class InteractionPanel:
    """Cells that share every factor but alpha and the other one."""

    title: str
    lines: dict[str, list[CellResult]]
    """Level of the other factor -> its cells by rising alpha, the student alone first where it was run."""


@dataclass(frozen=True)
class Interaction:
    """How much more alpha changes the test metric at one level of the other factor than at another."""

    panel: str
    level: str
    reference: str
    """The level whose change is subtracted."""
    low: float
    high: float
    """The alphas between which the change is."""
    estimate: Estimate
    """Over seeds that all four cells have; 0 where alpha and the other factor only add up."""


def interaction_panels(results: Sequence[CellResult], other: str) -> list[InteractionPanel]:
    """Panels with two lines or more, of two alphas or more each; empty where there is none.

    other: dotted key of a factor. A cell of the student alone belongs to every line whose factors it shares, since it
    has no kind of distillation, temperature or teacher.
    """
    measured = [result for result in readable(results) if result.test and ALPHA in result.factors]
    alone = [result for result in measured if result.factors[ALPHA] == 0]
    lines: dict[tuple[Any, ...], dict[Any, list[CellResult]]] = {}
    for result in measured:
        if result not in alone and other in result.factors:
            lines.setdefault(_rest(result, other), {}).setdefault(normal(result.factors[other]), []).append(result)
    panels = {}
    for rest, levels in lines.items():
        joined = {}
        for level, cells in levels.items():
            own = [each for each in alone if _belongs(each, cells[0])]
            line = sorted([*own, *cells], key=lambda result: float(result.factors[ALPHA]))
            if len({result.factors[ALPHA] for result in line}) > 1:
                joined[level] = line
        if len(joined) > 1:
            panels[rest] = _ranked(joined)
    titles = names_of([dict(rest) for rest in panels])
    return [
        InteractionPanel(title, dict(zip(_level_names(levels, other), levels.values(), strict=True)))
        for title, levels in zip(titles, panels.values(), strict=True)
    ]


def _rest(result: CellResult, other: str) -> tuple[Any, ...]:
    factors = {key: normal(value) for key, value in result.factors.items() if key not in (ALPHA, other)}
    about = dict(zip(("preset", "data", "variant"), map(" and ".join, data_of(result)), strict=True))
    return (*about.items(), *factors.items())


def _belongs(alone: CellResult, cell: CellResult) -> bool:
    absent = object()
    return data_of(alone) == data_of(cell) and all(
        cell.factors.get(key, absent) == value for key, value in alone.factors.items() if key != ALPHA
    )


def _ranked(levels: dict[Any, list[CellResult]]) -> dict[Any, list[CellResult]]:
    """Numbers by size, `all` after them; names as they came."""
    scale = make_scale(levels)
    return dict(sorted(levels.items(), key=lambda item: scale.position(item[0])))


def _level_names(levels: dict[Any, list[CellResult]], other: str) -> list[str]:
    return names_of([{other: cells[-1].factors[other]} for cells in levels.values()])


def interactions(panel: InteractionPanel) -> list[Interaction]:
    """Each level's change from the lowest to the highest alpha, less that of the first level, paired by seed.

    A difference of differences: (m[level, high] - m[level, low]) - (m[reference, high] - m[reference, low]). Levels
    that share no seed or only one alpha with the first are left out.
    """
    (reference, first), *others = panel.lines.items()
    found = []
    for level, cells in others:
        ours, theirs = ({float(c.factors[ALPHA]): dict(c.by_seed) for c in line} for line in (cells, first))
        common = sorted(ours.keys() & theirs.keys())
        if len(common) < 2:
            continue
        low, high = common[0], common[-1]
        corners = (ours[high], ours[low], theirs[high], theirs[low])
        seeds = sorted(set.intersection(*(set(corner) for corner in corners)))
        values = [(ours[high][s] - ours[low][s]) - (theirs[high][s] - theirs[low][s]) for s in seeds]
        if (mean := estimate(values)) is not None:
            found.append(Interaction(panel.title, level, reference, low, high, mean))
    return found


def alpha_interaction(
    results: Sequence[CellResult], other: str, path: Path, title: str = "", source: str = ""
) -> Path | None:
    """Test metric against alpha, a line a level of the factor `other`, a panel what else differs.

    None where no two levels have two alphas. The folder of `path` is made; its suffix decides the format.
    """
    panels = interaction_panels(results, other)
    if not panels:
        return None
    metric, name = results[0].test_metric, key_title(other)
    looks = {level: look(index) for index, level in enumerate(dict.fromkeys(lv for p in panels for lv in p.lines))}
    scale = make_scale([r.factors[ALPHA] for p in panels for line in p.lines.values() for r in line], log=False)
    with drawing() as new_figure:
        axes, close = new_figure(title or f"Does the effect of alpha depend on the {name}?", len(panels))
        for axis, panel in zip(axes, panels, strict=True):
            title_panel(axis, panel.title, min(3, len(panels)))
            for (level, line), shift in zip(panel.lines.items(), shifts(scale, len(panel.lines)), strict=True):
                _draw_line(axis, line, looks[level], shift, BESIDE * (scale.span[1] - scale.span[0]))
            mark_ticks(axis, scale, columns=min(3, len(panels)))
        label_axes(axes, "alpha (weight of the distillation term)", metric_title(metric))
        shown = [result for panel in panels for line in panel.lines.values() for result in line]
        close(handles_of(looks), f"{_explained(panels, metric, name)} {facts(shown, source)}", path)
    return path


def _draw_line(axis: Any, line: Sequence[CellResult], looks: dict[str, Any], shift: float, left: float) -> None:
    shown = [(float(result.factors[ALPHA]) + shift, result.test, result) for result in line if result.test]
    axis.plot(
        [x for x, _, _ in shown],
        [test.mean for _, test, _ in shown],
        color=looks["color"],
        linestyle=looks["linestyle"],
        linewidth=1.6,
        zorder=3,
    )
    for x, test, result in shown:
        values = [value for _, value in result.by_seed]
        axis.plot([x - left] * len(values), values, ".", color=looks["color"], alpha=0.35, ms=4.5, mew=0, zorder=3)
        if test.low is not None and test.n >= MIN_SEEDS:
            axis.plot([x, x], [test.low, test.high], color=looks["color"], linewidth=1.3, alpha=0.7, zorder=4)
        axis.plot([x], [test.mean], looks["marker"], color=looks["color"], ms=6.5, mec="white", mew=0.5, zorder=5)


def _explained(panels: Sequence[InteractionPanel], metric: str, name: str) -> str:
    said = (
        f"Parallel lines: alpha acts alike whatever the {name}; lines that close, part or cross: its effect depends on "
    )
    said += "it. Markers: mean over seeds; bars: 95 % t interval (3 seeds or more); faint dots: the seeds."
    found = {panel.title: interactions(panel)[:MOST_SAID] for panel in panels[:MOST_SAID]}
    found = {title: each for title, each in found.items() if each}
    if not found:
        return said
    (first, *_), *_ = found.values()
    said += (
        f" Interaction, what alpha {first.low:g} to {first.high:g} adds to {metric_words(metric)} beyond what it adds "
    )
    said += f"at {first.reference}, paired by seed (95 % t interval of each alone; 0: none): "
    texts = [f"{title}{': ' * bool(title)}{', '.join(map(_text, each))}" for title, each in found.items()]
    return f"{said}{'; '.join(texts)}."


def _text(found: Interaction) -> str:
    mean, low, high = found.estimate.mean, found.estimate.low, found.estimate.high
    spread = (high - low) / 2 if low is not None and high is not None else abs(mean)
    digits = min(6, max(1, -math.floor(math.log10(spread)))) if spread > 0 else 1
    numbers = signed_text(mean, digits)
    if low is not None and high is not None:
        numbers += f" [{signed_text(low, digits)}, {signed_text(high, digits)}]"
    return f"{numbers} at {found.level.removesuffix(' training images')}"
