"""From the rows of sweeps to tables: what is compared, with what, and in which form it is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from raybench.config.changes import read_resolved
from raybench.config.load import load_sweep
from raybench.config.plan import Cell, Setting, make_plan
from raybench.config.price import Price
from raybench.config.sweep import SweepConfig, better
from raybench.errors import ConfigError, RaybenchError, ResultsError
from raybench.report.budget import Budget, at_equal_cost, budget_sheet
from raybench.report.cells import Axes, Grouped, grouped
from raybench.report.comparison import CellResult, compare
from raybench.report.examples import examples_sheet, over_examples
from raybench.report.export import as_csv, as_json, cost_record, records
from raybench.report.fits import LogFit
from raybench.report.reproduction import Reproduction, reproduction_sheet, reproductions
from raybench.report.sheet import Sheet, make_sheet, quantity_title
from raybench.report.statistics import LARGEST
from raybench.report.tables import sheet_markdown
from raybench.report.trends import trend_record, trend_sheet, trends
from raybench.results.predictions import Predictions, read_predictions
from raybench.results.published import published
from raybench.results.storage import Folder, entries, explain, read
from raybench.results.store import Store
from raybench.search.outcomes import Outcomes
from raybench.search.search import Search

EPOCH_COLUMNS = (
    *("trial_id", "epoch", "train_time", "eval_time"),  # equal cost, trends, curves
    *("train_loss", "eval_loss", "train_top1", "eval_top1"),  # the four panels of a page
)
"""What is made from an epoch's row, beside the metric and what was published of the middle of a run."""


@dataclass(frozen=True)
class Asked:
    """What a comparison is asked to say."""

    by: tuple[str, ...] = ()
    metric: str | None = None
    preset: str | None = None
    at_epoch: int | None = None
    at_device_seconds: float | None = None
    target: float | None = None
    price: Price | None = None


@dataclass(frozen=True)
class Compared:
    """One table's worth: the trials of one preset, of one sweep or of several together."""

    name: str
    preset: str
    config: SweepConfig | None
    """As it was run; none where nobody knows."""
    results: tuple[CellResult, ...]
    budget: Budget | None
    reproductions: tuple[Reproduction, ...]
    notes: tuple[str, ...]
    price: Price | None
    """Of a device; none where nobody says."""
    stale: bool
    """Whether all of it was made by another recipe than this version's."""
    trials: pl.DataFrame = field(repr=False, compare=False)
    """The rows compared, one a trial."""
    epochs: pl.DataFrame = field(repr=False, compare=False)
    """Those of the selected settings, one a trial and epoch; the columns that tables and figures are made from."""

    @property
    def title(self) -> str:
        """Sweep, preset and quantity."""
        stale = ", all stale" if self.stale else ""
        return f"{self.name}, {self.preset}, test {quantity_title(self.results[0].test_metric)}{stale}"

    def sheets(self) -> list[Sheet]:
        """The comparison, the same at equal cost, and what was published beside it."""
        main = make_sheet(self.results, self.title, price=self.price)
        # That nothing here is of this recipe comes before all else.
        first, later = (self.notes[:1], self.notes[1:]) if self.stale else ((), self.notes)
        sheets = [replace(main, footnotes=(*first, *main.footnotes, *later))]
        if self.budget is not None:
            sheets.append(budget_sheet(self.budget, self.results))
        metric = self.results[0].metric
        found, horizon = trends(self.results, self.epochs, metric)
        if any(isinstance(trend.log, LogFit) for trend in found):
            sheets.append(trend_sheet(found, horizon, self.results, metric, better(metric)))
        if self.reproductions:
            sheets.append(
                reproduction_sheet(self.reproductions, f"{self.name}, published against measured", self.results)
            )
        return sheets

    def text(self, form: str) -> str:
        """All of it as md, html, csv, latex or json."""
        if form == "csv":
            return as_csv(self.records())
        if form == "json":
            return as_json(self._content())
        if form in ("html", "latex"):
            from raybench.commands.reporting import html_page, latex

            return html_page(self) if form == "html" else latex(self)
        return "\n".join(sheet_markdown(sheet) for sheet in self.sheets())

    def records(self) -> list[dict[str, Any]]:
        """A flat record a cell, with what is known of it from every table but the published one's."""
        found, _ = self._trends()
        return [
            {
                "sweep": self.name,
                "preset": self.preset,
                **cell,
                **{f"at_equal_cost/{key}": value for key, value in cost_record(self.budget, cell["cell"]).items()},
                **{f"trend/{key}": value for key, value in found[cell["cell"]].items()},
                "stale": self.stale,
            }
            for cell in records(self.results, self.price)
        ]

    def _trends(self) -> tuple[dict[str, dict[str, Any]], float]:
        """Label -> what its curve tells, for every cell; the last epoch at which a crossing was looked for."""
        found, horizon = trends(self.results, self.epochs, self.results[0].metric)
        by_label = {trend.label: trend for trend in found}
        return {result.label: trend_record(by_label.get(result.label)) for result in self.results}, horizon

    def _content(self) -> dict[str, Any]:
        found, horizon = self._trends()
        return {
            "name": self.name,
            "preset": self.preset,
            "stale": self.stale,
            "cells": records(self.results, self.price),
            "at_equal_cost": self.budget,
            "trends": [{"cell": label, **trend} for label, trend in found.items()],
            "trends_horizon": horizon,
            "published": [
                {
                    **each.published.model_dump(mode="json"),
                    "interval": each.interval,
                    "cell": each.cell,
                    "measured": each.measured,
                    "measured_as": each.measured_as,
                    "difference": each.difference,
                    "same_setting": each.same_setting,
                    "differs": each.differs,
                    "assumed": each.assumed,
                    "assumed_in_preset": "paper",
                }
                for each in self.reproductions
            ],
            "notes": self.notes,
            "footnotes": {sheet.title: sheet.footnotes for sheet in self.sheets()},
        }


def sweeps_in(root: Folder) -> list[str]:
    """Names of the sweeps that have rows below `root`, where files may lie too: a README, a cluster's marks."""
    return looked_through(root)[0]


def check_known(root: Folder, name: str) -> None:
    """Raises ResultsError where no sweep of this name has rows, with those that have and what was passed over."""
    known, passed_over = looked_through(root)
    if name not in known:
        unknown = f"{name}: no rows of such a sweep; {root} has {', '.join(known) or 'none'}"
        raise ResultsError("\n".join([unknown, *passed_over]))


def looked_through(root: Folder) -> tuple[list[str], list[str]]:
    """The sweeps below `root`, and a note for each folder that cannot be looked into: it need not be a sweep's."""
    found, notes = [], []
    for name in entries(root):
        try:
            if _has_rows(root / name):
                found.append(name)
        except ResultsError as error:
            if not isinstance(root, Path):  # the store does not answer
                raise
            notes.append(f"passed over: {error}")
    return found, notes


def _has_rows(folder: Folder) -> bool:
    """Raises ResultsError when it cannot be looked into."""
    try:
        if isinstance(folder, Path) and not folder.is_dir():
            return False  # an object store has no folder that could be a file
    except OSError as error:
        raise explain(error, folder) from error
    return bool(entries(folder / "trials"))


def compare_sweeps(root: Folder, names: Sequence[str], asked: Asked) -> list[Compared]:
    """A table a sweep and preset, or with `by` one a preset of all sweeps together, in the order named.

    Raises ResultsError for a sweep without rows, a preset that none has, and keys and metrics that no row has.
    """
    chosen, passed_over = list(names), list[str]()
    # Those named are looked for alone: whatever lies beside them is none of their business.
    unknown = [name for name in chosen if name in ("", ".", "..") or "/" in name or not _has_rows(root / name)]
    if unknown or not chosen:
        known, passed_over = looked_through(root)
        if not known:
            nothing = f"no results in {root} (python -m raybench.sweep makes some; --results ROOT says where)"
            raise ResultsError("\n".join([nothing, *passed_over]))
        listed = f"{root} has {', '.join(known)}"
        if unknown:
            told = [f"{name}: no rows of such a sweep; {listed}" for name in unknown]
            raise ResultsError("\n".join([*told, *passed_over]))
        chosen = known
    stores = {name: Store(root / name) for name in chosen}
    groups = [list(stores.items())] if asked.by else [[each] for each in stores.items()]
    tables = [table for group in groups for table in _compare_together(dict(group), asked)]
    if not tables:
        wanted = f" of preset {asked.preset}" if asked.preset else ""
        raise ResultsError(f"no trial{wanted} of {', '.join(chosen)} is complete yet")
    return [replace(tables[0], notes=(*tables[0].notes, *passed_over)), *tables[1:]]


def compare_trials(root: Folder, names: Sequence[str], one: str, other: str) -> Sheet:
    """Two complete trials over the test images; `names` are the sweeps in which they are looked for, none means all.

    Raises ResultsError for a trial that is not there, or whose predictions are not.
    """
    found, passed_over = (names, []) if names else looked_through(root)
    first, second = (_predictions([root / name for name in found], each, passed_over) for each in (one, other))
    return examples_sheet(over_examples(first, second), one, other)


def _predictions(folders: Sequence[Folder], trial_id: str, passed_over: Sequence[str]) -> Predictions:
    for folder in folders:
        if f"{trial_id}.parquet" in entries(folder / "predictions"):
            return read_predictions(folder, trial_id)
    where = ", ".join(folder.name for folder in folders) or "no sweep"
    none = f"{trial_id}: no predictions in {where} (trials of classification keep them as they complete)"
    raise ResultsError("\n".join([none, *passed_over]))


def _compare_together(stores: dict[str, Store], asked: Asked) -> list[Compared]:
    first, *others = (store.trials() for store in stores.values())
    trials = _together([first, *others]) if others else first
    presets = [asked.preset] if asked.preset else sorted(trials["preset"].drop_nulls().unique())
    tables = []
    for preset in presets:
        rows = _measured(trials.filter(pl.col("preset") == preset))
        if rows.filter(pl.col("status") == "complete").height:
            tables.append(_table(stores, preset, rows, asked))
    return tables


def _together(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The rows of several sweeps in order of trial; one that they share counts once, and where it is complete."""
    trials = pl.concat(parts, how="diagonal_relaxed")
    trials = trials.sort(pl.col("status") == "complete", descending=True, maintain_order=True)
    return trials.unique("trial_id", keep="first", maintain_order=True).sort("trial_id")


def _table(stores: dict[str, Store], preset: str, rows: pl.DataFrame, asked: Asked) -> Compared:
    kept = {name: as_run(store, preset) for name, store in stores.items()}
    read_configs = {name: config or as_shipped(name, preset) for name, config in kept.items()}
    configs = {name: each for name, each in read_configs.items() if each is not None}
    config = next(iter(configs.values()), None)
    metric = asked.metric or (config.metric.name if config else "eval_top1")
    if not metric.startswith("eval_"):
        raise ResultsError(
            f"--metric {metric}: settings are selected on validation; name a metric that begins with eval_"
        )
    shown = config.metric.shown if config and not asked.metric else metric.replace("eval_", "test_")
    missing = [name for name in (metric, shown) if name not in rows.columns or rows[name].null_count() == rows.height]
    if missing:
        there = [n for n in rows.columns if n.startswith("eval_") and rows[n].null_count() < rows.height]
        raise ResultsError(
            f"--metric {metric}: no row of {', '.join(stores)} has {' or '.join(missing)}; it has {', '.join(there)}"
        )
    axes = Axes()
    if config is not None:
        axes = Axes(tuple(config.factors), tuple(config.tune.space), suggested=config.tune.algorithm == "tpe")
    found = grouped(rows, axes, asked.by)
    notes = [*found.notes, *_left_out(found.left_out)]
    notes += [f"skipped, not readable: {what}" for store in stores.values() for what in store.skipped]
    if not found.cells:
        raise ResultsError("\n".join([f"{', '.join(stores)}: no row that this version can read", *notes]))
    cells = found.cells
    if config is None:
        notes.append("no sweep.yaml: what was merely tuned is not known, so every key that differs makes cells")
    elif len(stores) == 1 and not asked.by:
        ((name, store),) = stores.items()
        if found.stale:
            pass  # what is due is of this recipe
        elif kept[name] is not None:
            cells = _with_due(found, config, store)
        else:
            notes.append(f"axes of {config.name} as it is shipped: what is still due is not known")
    mode = better(metric)
    results = compare(cells, found.rows, metric, mode, shown)
    ids = [trial.trial_id for result in results for trial in result.selected]
    by_text = {repr(row.model_copy(update={"sweep": ""})): row for name in stores for row in published(name)}
    rows_published = list(by_text.values())  # a row may be of several sweeps
    read_epochs = dict.fromkeys((*EPOCH_COLUMNS, metric, *(f"eval_{row.quantity}" for row in rows_published)))
    epochs = pl.concat([store.epochs(ids, read_epochs) for store in stores.values()], how="diagonal_relaxed")
    epochs = _measured(epochs.unique(["trial_id", "epoch"], keep="first", maintain_order=True))
    budget = at_equal_cost(
        results,
        epochs,
        metric,
        mode,
        at_epoch=asked.at_epoch,
        at_device_seconds=asked.at_device_seconds,
        target=asked.target,
    )
    assumed = tuple(dict.fromkeys(what for each in configs.values() for what in each.assumed))
    return Compared(
        name=" + ".join(stores),
        preset=preset,
        config=config,
        results=tuple(results),
        budget=budget,
        reproductions=tuple(reproductions(rows_published, results, epochs, assumed)),
        notes=tuple(notes),
        price=asked.price,
        stale=found.stale,
        trials=found.rows,
        epochs=epochs,
    )


def _measured(rows: pl.DataFrame) -> pl.DataFrame:
    """Without finite numbers that nothing can have measured: sums and squares of them would be none."""
    numbers = [name for name, kind in rows.schema.items() if kind.is_float()]
    # Of a large sweep's epochs the extremes take far less time than looking at each number.
    ends = rows.select(pl.max_horizontal(pl.col(name).max(), -pl.col(name).min()).alias(name) for name in numbers)
    huge = [name for name in numbers if (ends[name].item() or 0.0) > LARGEST]
    return rows.with_columns(
        pl.when(~pl.col(name).is_finite() | (pl.col(name).abs() <= LARGEST)).then(pl.col(name)) for name in huge
    )


def _left_out(reasons: Mapping[str, str]) -> list[str]:
    """A note for each reason, however many trials it is that of."""
    trials: dict[str, list[str]] = {}
    for trial_id, why in reasons.items():
        trials.setdefault(why.removeprefix(f"trial {trial_id}: "), []).append(trial_id)
    notes = []
    for why, alike in trials.items():
        few = f"{', '.join(sorted(alike)[:3])}{' …' if len(alike) > 3 else ''}"
        named = f"trial {few}" if len(alike) == 1 else f"{len(alike):,} trials ({few})"
        notes.append(f"left out: {named}: {why}")
    return notes


def as_run(store: Store, preset: str) -> SweepConfig | None:
    """The sweep as it was run last, if that was with this preset."""
    try:
        kept = read_resolved(read(store.folder / "sweep.yaml"))
    except (OSError, RaybenchError):
        return None
    return kept if kept.preset == preset else None


def sweep_as_run(store: Store, name: str, preset: str) -> SweepConfig | None:
    """The sweep as it was run last with this preset, else as it is shipped; none where there is neither."""
    return as_run(store, preset) or as_shipped(name, preset)


def as_shipped(name: str, preset: str) -> SweepConfig | None:
    """The sweep of this name as its file has it; none where there is none."""
    try:
        return load_sweep(name, preset, [], {}, None)
    except ConfigError:
        return None


def _with_due(found: Grouped, config: SweepConfig, store: Store) -> tuple[Cell, ...]:
    """The cells with the settings among which the sweep itself selects, and the trials that it still wants."""
    from raybench.commands.sweeping import read_outcomes

    outcomes = read_outcomes(store, config)
    try:
        planned = {cell.label: cell for cell in Search(make_plan(config), outcomes, store.folder, 1).compared_cells()}
    except ConfigError:
        return found.cells
    cells = []
    for cell in found.cells:
        if (wanted := planned.get(cell.label)) is None:
            cells.append(cell)
            continue
        competing = {_point(setting) for setting in cell.settings}
        # One that has been tried and does not compete was not tried in every cell.
        of_plan = [s for s in wanted.settings if _point(s) in competing or not _begun(s, outcomes)]
        known = {_point(setting) for setting in wanted.settings}
        # With seeds: first the sweep selects among fewer than were run.
        others = [] if config.tune.seeds == "first" else [s for s in cell.settings if _point(s) not in known]
        run = tuple(trial for setting in cell.settings for trial in setting.trials)
        seeds = len(config.seeds)
        cells.append(replace(cell, settings=(*of_plan, *others), asked=seeds, aside=(*cell.aside, *run)))
    return tuple(cells)


def _point(setting: Setting) -> str:
    return repr(sorted(setting.tuned.items()))


def _begun(setting: Setting, outcomes: Outcomes) -> bool:
    return any(trial.trial_id in outcomes for trial in setting.trials)
