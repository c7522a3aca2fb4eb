"""One page a sweep and preset: its tables, and every figure that its rows give something to see in."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from raybench.report.curves import few, four_panels
from raybench.report.figures import ALPHA, comparison_figure, curves_figure
from raybench.report.importance import importance_figure
from raybench.report.interaction import alpha_interaction
from raybench.report.latex import latex_table
from raybench.report.merging import speed_against_r
from raybench.report.naming import key_title, metric_words
from raybench.report.page import FigurePart, Part, Prose, TablePart, report_page
from raybench.report.parallel import parallel_coordinates
from raybench.report.pareto import Cost, pareto_figure
from raybench.report.views import against

if TYPE_CHECKING:
    from raybench.commands.comparing import Compared

COSTS: dict[Cost, str] = {"gmacs": "multiply-adds", "infer_samples_per_sec": "speed", "param_count": "parameters"}
Drawn = tuple[str, Callable[[Path], Path | None]]
"""A section's title, and what draws its figure into a file; none where there is nothing to see."""


def html_page(table: Compared) -> str:
    """The page as HTML, with everything in it."""
    parts: list[Part] = []
    if table.config is not None and table.config.question:
        parts.append(Prose("", (table.config.question,)))
    parts += [TablePart(sheet) for sheet in table.sheets()]
    with tempfile.TemporaryDirectory(prefix="raybench-page-") as name:
        for number, (title, draw) in enumerate(figures(table)):
            path = draw(Path(name) / f"{number}.svg")
            if path is not None:
                parts.append(FigurePart(title[0].upper() + title[1:], path.read_text(encoding="utf-8"), ""))
    return report_page(table.title, f"preset {table.preset}", parts, f"From the {source_of(table)}.")


def source_of(table: Compared) -> str:
    """What a page and each of its figures are made from: a figure may be taken out of its page."""
    commits = ", ".join(sorted({commit for result in table.results for commit in result.commits.values()}))
    made = f", made by commit {commits}" if commits else ""
    return f"rows of {table.trials.height:,} trials of {table.name}, preset {table.preset}{made}"


def latex(table: Compared) -> str:
    """Its tables for a paper."""
    return "\n".join(latex_table(sheet) for sheet in table.sheets())


def figures(table: Compared) -> list[Drawn]:
    """What may be drawn of a comparison, the most important first."""
    results, trials, epochs = list(table.results), table.trials, table.epochs
    metric, test = results[0].metric, results[0].test_metric
    named, measured, source = table.name, metric_words(test), source_of(table)

    def of_key(key: str) -> Drawn:
        title = f"{named}: {measured} by {key_title(key)}"
        return key_title(key), lambda path: against(trials, key, test, path, title, source, select_by=metric)

    def beside_alpha(key: str) -> Drawn:
        title = f"{named}: does alpha's effect depend on the {key_title(key)}?"
        return f"Alpha and {key_title(key)}", lambda path: alpha_interaction(results, key, path, title, source)

    def of_cost(cost: Cost, name: str) -> Drawn:
        title = f"{named}: {measured} against {name}"
        return f"Against {name}", lambda path: pareto_figure(results, cost, path, title, source)

    keys = _varying(table)
    question = table.config.question if table.config and table.config.question else table.title
    curves, four = f"{named}: validation by epoch", f"{named}: training and validation by epoch"
    merging, settings = f"{named}: speed and accuracy by merged tokens", f"{named}: every setting"
    depends = f"{named}: what the {metric_words(metric)} depends on"
    return [
        ("Test results", lambda path: comparison_figure(results, path, question, source)),
        ("Validation curves", lambda path: curves_figure(epochs, results, path, curves, metric, source)),
        ("Training and validation", lambda path: four_panels(epochs, few(results), path, four, source)),
        *(of_key(key) for key in ("dataset.train_size", "optimizer.lr") if key in keys),
        *(beside_alpha(key) for key in _beside_alpha(table)),
        *(of_cost(cost, name) for cost, name in COSTS.items()),
        ("Token merging", lambda path: speed_against_r(trials, path, merging, source)),
        ("All settings", lambda path: parallel_coordinates(trials, keys, metric, path, settings, source)),
        ("What matters", lambda path: importance_figure(trials, keys, metric, path, depends, source)),
    ]


def _beside_alpha(table: Compared) -> list[str]:
    keys = list(dict.fromkeys(key for result in table.results for key in result.factors))
    return [key for key in keys if key != ALPHA] if ALPHA in keys else []


def _varying(table: Compared) -> list[str]:
    """Keys whose values differ between the rows, factors and tuned ones."""
    keys = [key for result in table.results for key in (*result.factors, *result.tuned)]
    found = [key for key in dict.fromkeys(keys) if f"config/{key}" in table.trials.columns]
    return [key for key in found if table.trials[f"config/{key}"].n_unique() > 1]
