"""Figures of a comparison: test results against alpha, and validation curves; Okabe and Ito's colours, safe for all.

matplotlib is imported when a figure is drawn, never through pyplot: no window, no global state.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl

from raybench.config.folders import cache_root
from raybench.config.plan import show
from raybench.report.comparison import CellResult
from raybench.report.selected import mean_curve
from raybench.report.sheet import left_out_note, quantity_title, readable, short_name, varying

ALPHA = "distillation.alpha"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
ALONE = "#5f6368"
INK = "#202124"
DPI = 160
TITLE_LETTERS = 84
"""Of panels' titles, in all columns of a row together."""
LINES = "Lines: mean over the seeds of the selected setting; bands: one sample sd"
MIN_SEEDS = 3
"""Fewer give no bar: the t interval of two seeds is nine times their distance and would flatten everything else."""
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa0a6",
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8eaed",
    "grid.linewidth": 0.8,
    "xtick.color": "#5f6368",
    "ytick.color": "#5f6368",
    "text.color": INK,
    "axes.labelcolor": INK,
    "legend.frameon": False,
    "svg.hashsalt": "raybench",
}


@dataclass(frozen=True)
class Panel:
    """Cells that share every factor which is not of the distillation."""

    title: str
    alone: CellResult | None
    lines: dict[str, list[CellResult]]
    """Name of the kind -> its cells by rising alpha."""


def comparison_figure(results: Sequence[CellResult], path: Path, title: str, source: str = "") -> Path:
    """Test metric against alpha with 95 % intervals, a panel a train size, a line a kind, the student alone as a band.

    Where alpha is not a factor: a dot with its interval for every cell. `source` names where the rows came from. The
    folder of `path` is made; its suffix (.png, .svg, .pdf) decides the format. Returns `path`.
    """
    results = readable(results)
    if not any(result.test for result in results):
        return _nothing(path, title)
    if not any(ALPHA in result.factors and result.factors[ALPHA] > 0 for result in results):
        return _dots(results, path, title, source)
    panels = [panel for panel in make_panels(results) if _measured(panel)]
    quantity = quantity_title(results[0].test_metric)
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    with drawing() as new_figure:
        axes, close = new_figure(title, len(panels))
        for axis, panel in zip(axes, panels, strict=True):
            title_panel(axis, panel.title, _panels_a_row(len(panels)))
            _draw_panel(axis, panel, names)
        _equal_spans(axes, 101.0 if "top" in results[0].test_metric else None)
        label_axes(axes, "alpha (weight of the distillation term)", f"test {quantity}")
        alone = any(panel.alone and panel.alone.test for panel in panels)
        explained = "Markers: mean over seeds; bars: 95 % t interval (3 seeds or more); faint dots: the seeds. "
        explained += "Grey: the student alone, mean and interval. " if alone else ""
        explained += "Every panel spans the same range. " if len(panels) > 1 else ""
        close(_handles(names, alone), explained + facts(results, source), path)
    return path


def curves_figure(
    epochs: pl.DataFrame,
    results: Sequence[CellResult],
    path: Path,
    title: str,
    metric: str = "eval_top1",
    source: str = "",
) -> Path:
    """`metric` against the epoch for each cell's selected setting: mean over its seeds, band of one sample sd.

    `epochs` holds one row a trial and epoch (`Store.epochs()`); a panel a train size. Returns `path`.
    """
    panels = [(panel, _curves(epochs, panel, metric)) for panel in make_panels(readable(results))]
    panels = [(panel, curves) for panel, curves in panels if curves]
    if not panels:
        return _nothing(path, title)
    kinds = list(dict.fromkeys(name for panel, _ in panels for name in panel.lines))
    taught = [r for panel, _ in panels for line in panel.lines.values() for r in line]
    alphas = sorted({float(r.factors[ALPHA]) for r in taught if ALPHA in r.factors})
    with drawing() as new_figure:
        axes, close = new_figure(title, len(panels))
        handles: dict[str, Any] = {}
        for axis, (panel, curves) in zip(axes, panels, strict=True):
            title_panel(axis, panel.title, _panels_a_row(len(panels)))
            for result, curve in curves:
                look = _look(result, panel, kinds, alphas)
                line = draw_curve(axis, curve, **look)
                handles.setdefault(_curve_name(result, panel), line)
        label_axes(axes, "epoch", f"validation {quantity_title(metric)}")
        explained = f"{LINES}.{early_note(pair for _, curves in panels for pair in curves)} "
        ranked = sorted(handles, key=lambda name: name != "student alone")
        close([(handles[name], name) for name in ranked], explained + facts(results, source), path)
    return path


def make_panels(results: Sequence[CellResult]) -> list[Panel]:
    """Panels in the order of the plan; the names of lines are what differs in the distillation besides alpha."""
    keys = varying(results)
    outer = [key for key in keys if not key.startswith("distillation.")]
    inner = [key for key in keys if key.startswith("distillation.") and key != ALPHA]
    cells: dict[str, list[CellResult]] = {}
    for result in results:
        cells.setdefault(named(result, outer), []).append(result)
    panels = []
    for title, members in cells.items():
        alone = next((r for r in members if r.factors.get(ALPHA) == 0), None)
        lines: dict[str, list[CellResult]] = {}
        for result in sorted((r for r in members if r is not alone), key=lambda r: float(r.factors.get(ALPHA, 0))):
            name = named(result, inner) or ("distilled" if ALPHA in keys else title or result.label)
            lines.setdefault(name, []).append(result)
        panels.append(Panel(title, alone, lines))
    return panels


def data_of(result: CellResult) -> tuple[Any, ...]:
    """What two cells must share to be compared: presets, data set and its variants."""
    names = {trial.dataset.name for trial in result.selected}
    return result.presets, tuple(sorted(names)), result.variants


def cell_names(results: Sequence[CellResult]) -> list[str]:
    """Each cell by what tells it from the others; the label where that is nothing."""
    keys = varying(results)
    names = []
    for result in results:
        alone = ALPHA in keys and result.factors.get(ALPHA) == 0
        told = [key for key in keys if not (alone and key.startswith("distillation."))]
        # The kind of distillation before its weight, as in the legends of panels.
        said = named(result, sorted(told, key=lambda key: key == ALPHA))
        names.append(", ".join(part for part in ("student alone" * alone, said) if part) or result.label)
    return names


def named(result: CellResult, keys: Sequence[str]) -> str:
    """Factors as words: sizes with their unit, a lone kind or name by its value."""
    words = []
    for key in keys:
        if key not in result.factors:
            continue
        value = result.factors[key]
        if key == "dataset.train_size":
            what = (
                "sentence pairs" if result.selected and result.selected[0].task == "translation" else "training images"
            )
            words.append(f"all {what}" if value == "all" else f"{value:,} {what}")
        elif isinstance(value, str | dict):
            words.append(show(value))
        else:
            words.append(f"{short_name(key)} {show(value)}")
    return ", ".join(words)


def _measured(panel: Panel) -> bool:
    cells = [r for line in panel.lines.values() for r in line]
    return any(r.test for r in ([panel.alone] if panel.alone else []) + cells)


def _draw_panel(axis: Any, panel: Panel, names: Sequence[str]) -> None:
    if panel.alone and panel.alone.test:
        test = panel.alone.test
        axis.axhline(test.mean, color=ALONE, linewidth=1.4, linestyle=(0, (4, 2)), zorder=2)
        if test.low is not None and test.n >= MIN_SEEDS:
            axis.axhspan(test.low, test.high, color=ALONE, alpha=0.13, linewidth=0, zorder=1)
    alphas = sorted({float(r.factors[ALPHA]) for line in panel.lines.values() for r in line if ALPHA in r.factors})
    gap = min((b - a for a, b in pairwise(alphas)), default=0.5)
    # Lines stand side by side at each alpha, so that their bars do not hide one another.
    step = min(0.03, 0.5 * gap / max(1, len(names)))
    for name, line in panel.lines.items():
        index = names.index(name)
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        shift = step * (index - (len(names) - 1) / 2)
        shown = [(float(r.factors[ALPHA]) + shift, r.test, r) for r in line if r.test and ALPHA in r.factors]
        axis.plot(
            [x for x, _, _ in shown], [t.mean for _, t, _ in shown], color=colour, linewidth=1.3, alpha=0.55, zorder=3
        )
        for x, test, result in shown:
            values = [value for _, value in result.by_seed]
            beside = [x - 0.3 * step] * len(values)
            axis.plot(beside, values, ".", color=colour, alpha=0.3, ms=5, markeredgewidth=0, zorder=3)
            if test.low is not None and test.n >= MIN_SEEDS:
                axis.plot([x, x], [test.low, test.high], color=colour, linewidth=1.6, solid_capstyle="round", zorder=4)
            axis.plot([x], [test.mean], marker, color=colour, markersize=6, markeredgecolor="white", zorder=5)
    axis.set_xticks(alphas, [f"{alpha:g}" for alpha in alphas])
    axis.set_xlim(min(alphas, default=0) - max(0.06, gap / 2), max(alphas, default=1) + max(0.06, gap / 2))


def _dots(results: Sequence[CellResult], path: Path, title: str, source: str) -> Path:
    keys = varying(results)
    shown = [r for r in results if r.test]
    names = [named(r, keys) or r.label for r in shown]
    with drawing() as new_figure:
        (axis,), close = new_figure(title, 1, height=max(1.6, 0.27 * len(shown) + 0.7))
        for row, result in enumerate(shown):
            values = [value for _, value in result.by_seed]
            axis.plot(values, [row + 0.2] * len(values), ".", color=COLOURS[0], alpha=0.3, ms=6, markeredgewidth=0)
            if result.test and result.test.low is not None and result.test.n >= MIN_SEEDS:
                axis.plot([result.test.low, result.test.high], [row, row], color=COLOURS[0], linewidth=1.6)
            if result.test:
                axis.plot([result.test.mean], [row], "o", color=COLOURS[0], markersize=6, markeredgecolor="white")
        axis.set_yticks(range(len(shown)), names)
        axis.set_ylim(len(shown) - 0.4, -0.6)
        axis.set_xlabel(f"test {quantity_title(results[0].test_metric)}")
        explained = "Dots: mean over seeds; bars: 95 % t interval (3 seeds or more); faint dots: the seeds. "
        close([], explained + facts(results, source), path)
    return path


def _curves(epochs: pl.DataFrame, panel: Panel, metric: str) -> list[tuple[CellResult, pl.DataFrame]]:
    """The `mean_curve` of each cell that has one."""
    cells = ([panel.alone] if panel.alone else []) + [r for line in panel.lines.values() for r in line]
    curves = ((result, mean_curve(epochs, result, metric)) for result in cells)
    return [(result, curve) for result, curve in curves if len(curve)]


def draw_curve(axis: Any, curve: pl.DataFrame, **look: Any) -> Any:
    """The mean of a `mean_curve` and a band of one sd about it, against the epoch; returns matplotlib's line."""
    (line,) = axis.plot(curve["epoch"], curve["mean"], linewidth=1.7, **look)
    if curve["sd"].null_count() < len(curve):
        sd = curve["sd"].fill_null(0)
        low, high = curve["mean"] - sd, curve["mean"] + sd
        axis.fill_between(curve["epoch"], low, high, color=line.get_color(), alpha=0.13, linewidth=0)
    axis.xaxis.get_major_locator().set_params(integer=True)
    return line


def early_note(curves: Iterable[tuple[CellResult, pl.DataFrame]]) -> str:
    """A caption's end, after a space, where a curve ends before its trials' schedule; empty where none does."""
    early = any(
        curve["epoch"][-1] < max(trial.schedule.epochs for trial in result.selected)
        for result, curve in curves
        if len(curve)
    )
    return " A line ends where the first of its seeds stopped." if early else ""


def _curve_name(result: CellResult, panel: Panel) -> str:
    if result is panel.alone:
        return "student alone"
    kind = next(name for name, cells in panel.lines.items() if result in cells)
    return f"{kind}, alpha {result.factors[ALPHA]:g}" if ALPHA in result.factors else kind


def _look(result: CellResult, panel: Panel, kinds: Sequence[str], alphas: Sequence[float]) -> dict[str, Any]:
    """Colour by kind, darker with alpha; the student alone dashed and grey."""
    if result is panel.alone:
        return {"color": ALONE, "linestyle": (0, (4, 2)), "zorder": 5}
    kind = next(index for index, name in enumerate(kinds) if result in panel.lines.get(name, []))
    rank = alphas.index(float(result.factors[ALPHA])) if ALPHA in result.factors else len(alphas) - 1
    weight = 1.0 if len(alphas) < 2 else 0.35 + 0.65 * rank / (len(alphas) - 1)
    return {"color": _blend(COLOURS[kind % len(COLOURS)], weight), "linestyle": ("-", ":")[kind // len(COLOURS) % 2]}


def _blend(colour: str, weight: float) -> str:
    """`colour` over white."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 + weight * (part - 255)):02x}" for part in parts)


def _equal_spans(axes: Sequence[Any], ceiling: float | None) -> None:
    """The same range of y in every panel, about its middle where `ceiling` allows, so that effects compare by eye."""
    bounds = [axis.get_ylim() for axis in axes]
    span = max(high - low for low, high in bounds)
    for axis, (low, high) in zip(axes, bounds, strict=True):
        top = (low + high + span) / 2
        if ceiling is not None:
            # Nothing can lie above it but an interval's end: the panel moves down rather than show what cannot be.
            top = min(top, max(high, ceiling))
        axis.set_ylim(top - span, top)


def _panels_a_row(panels: int) -> int:
    return 2 if panels == 4 else min(panels, 3)


def title_panel(axis: Any, title: str, columns: int, **options: Any) -> None:
    """A panel's title, in lines that are no wider than one of so many panels in a row."""
    axis.set_title(textwrap.fill(title, TITLE_LETTERS // columns), **options)


def label_axes(axes: Sequence[Any], x: str, y: str) -> None:
    """Names of the axes at the left and at the foot of the grid of panels."""
    columns = _panels_a_row(len(axes))
    for index, axis in enumerate(axes):
        if index % columns == 0:
            axis.set_ylabel(y)
        if index + columns >= len(axes):
            axis.set_xlabel(x if columns < 3 else x.partition(" (")[0])


def _handles(names: Sequence[str], alone: bool) -> list[tuple[Any, str]]:
    from matplotlib.lines import Line2D

    handles: list[tuple[Any, str]] = []
    if alone:
        handles.append((Line2D([], [], color=ALONE, linestyle=(0, (4, 2)), linewidth=1.4), "student alone"))
    for index, name in enumerate(names):
        look: dict[str, Any] = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
        handles.append((Line2D([], [], linewidth=1.6, markersize=6, markeredgecolor="white", **look), name))
    return handles


def facts(results: Sequence[CellResult], source: str) -> str:
    """What every caption ends with: seeds a point, presets, data, what was left out, and the source."""
    seeds = [r.test.n for r in results if r.test] or [0]
    said = f"{min(seeds)}" if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"
    presets = sorted({preset for r in results for preset in r.presets})
    variants = sorted({variant for r in results for variant in r.variants})
    parts = [
        f"n = {said} seeds a point, settings selected on validation.",
        f"Preset {' and '.join(presets)}." if presets else "",
        f"Data: {', '.join(variants)}." if variants else "",
        *(note.capitalize() for note in left_out_note(results)),
        f"Source: {source}." if source else "",
    ]
    return " ".join(part for part in parts if part)


def _nothing(path: Path, title: str) -> Path:
    with drawing() as new_figure:
        (axis,), close = new_figure(title, 1, height=1.6)
        axis.set_axis_off()
        axis.text(0, 0.5, "no complete trial yet", transform=axis.transAxes)
        close([], "", path)
    return path


@contextmanager
def house_style() -> Iterator[None]:
    """matplotlib in our style, its own cache within ours."""
    os.environ.setdefault("MPLCONFIGDIR", str(cache_root() / "matplotlib"))
    Path(os.environ["MPLCONFIGDIR"]).mkdir(parents=True, exist_ok=True)
    from matplotlib import rc_context

    with rc_context(STYLE):
        yield


@contextmanager
def drawing() -> Iterator[Any]:
    """Gives `new_figure(title, panels, height, columns, width) -> (axes, close)`; lengths in inches.

    `close(handles, caption, path, arrange)` writes it; `arrange` is called once everything has its place, for what
    must know where that is, such as labels that keep clear of each other.
    """

    def new_figure(
        title: str, panels: int, height: float = 2.9, columns: int | None = None, width: float | None = None
    ) -> tuple[list[Any], Any]:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        columns = columns or _panels_a_row(panels)
        rows = -(-panels // columns)
        inches = (width or (7.2 if columns < 3 else 9.2), height * rows)
        figure = Figure(figsize=inches, layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(rows, columns, squeeze=False)
        axes = [axis for row in grid for axis in row]
        for axis in axes[panels:]:
            axis.remove()

        def close(
            handles: Sequence[tuple[Any, str]], caption: str, path: Path, arrange: Callable[[], None] | None = None
        ) -> None:
            _frame(figure, title, handles, caption)
            if arrange is not None:
                figure.draw_without_rendering()
                arrange()
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=DPI, metadata={"Software": None} if path.suffix == ".png" else None)

        return axes[:panels], close

    with house_style():
        yield new_figure


def _frame(figure: Any, title: str, handles: Sequence[tuple[Any, str]], caption: str) -> None:
    """Title and legend above the panels, caption beneath, each in room added for it: nothing can overlap."""
    width, height = figure.get_size_inches()
    longest = max((len(name) for _, name in handles), default=0)
    columns = max(1, min(len(handles), int(width / (0.62 + 0.078 * longest))))
    legend_rows = -(-len(handles) // columns) if handles else 0
    lines = textwrap.wrap(caption, int(width * 14.8))
    titles = textwrap.wrap(title, int(width * 8.6))
    above = 0.12 + 0.25 * len(titles) + 0.22 * legend_rows
    below = 0.08 + 0.165 * len(lines)
    total = height + above + below
    figure.set_size_inches(width, total)
    left = 0.1 / width
    figure.text(left, 1 - 0.08 / total, "\n".join(titles), va="top", ha="left", fontsize=13, fontweight="bold")
    if handles:
        figure.legend(
            [handle for handle, _ in handles],
            [name for _, name in handles],
            loc="upper left",
            bbox_to_anchor=(left, 1 - (0.1 + 0.25 * len(titles)) / total),
            ncols=columns,
            borderaxespad=0,
            borderpad=0,
            handlelength=2.2,
            columnspacing=1.6,
            labelspacing=0.35,
        )
    figure.text(
        left, 0.06 / total, "\n".join(lines), va="bottom", ha="left", fontsize=8, color="#5f6368", linespacing=1.3
    )
    figure.get_layout_engine().set(rect=(0, below / total, 1, 1 - (above + below) / total), w_pad=0.06, h_pad=0.06)
