"""Cells at equal cost: the best validation metric so far after equally many epochs, or equal device time, and what a
target costs.

Device time is a trial's seconds of training and validation times the share of a device that it occupied: four trials
side by side on one GPU each take longer than one alone, and none of them costs the whole of it.

A setting that trains longer scores higher for that alone. Only validation is known in the middle of a trial: the test
set is scored once, at its end.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from raybench.report.cells import data_of
from raybench.report.comparison import CellResult, Mode
from raybench.report.selected import selected_epochs
from raybench.report.sheet import (
    QUANTITIES,
    Column,
    Sheet,
    digits_of,
    estimate_texts,
    key_columns,
    ordered,
    quantity_title,
    readable,
    short_text,
)
from raybench.report.statistics import Estimate, estimate


@dataclass(frozen=True)
class Reached:
    """When the seeds of a cell first reached a target."""

    seeds: int
    """How many did."""
    epochs: float | None
    """Median over those, epochs finished."""
    device_seconds: float | None
    """Median over those, s of training and validation times the share of the device."""


@dataclass(frozen=True)
class AtBudget:
    """One cell's selected setting."""

    label: str
    n: int
    at_epochs: Estimate | None
    """Of each seed the best of its first epochs; none where a seed trained fewer."""
    at_time: Estimate | None
    """Of each seed the best of the epochs that ended in time; only where every seed finished one."""
    target: Reached
    unknown: int
    """Trials whose share of a device is not known; they count as if they had it for themselves."""
    untimed: int = 0
    """Trials with an epoch whose time is not known; they stand in no device time."""


@dataclass(frozen=True)
class Budget:
    """All cells at the same cost."""

    metric: str
    epochs: int
    device_seconds: float
    """Time of training and validation times the share of the device."""
    target: float
    cells: tuple[AtBudget, ...]


def at_equal_cost(
    results: Sequence[CellResult],
    epochs: pl.DataFrame,
    metric: str,
    mode: Mode,
    *,
    at_epoch: int | None = None,
    at_device_seconds: float | None = None,
    target: float | None = None,
) -> Budget | None:
    """Each cell's selected setting at a cost that all have paid; none where no two cells have curves.

    `epochs` holds one row a trial and epoch (`Store.epochs()`). Left out, the epochs and the device time are the most
    that every cell has, and the target is the lowest (for a loss: the highest) of the cells' final bests, which all
    reach on the average.
    """
    parts = selected_epochs(results, epochs, ("train_time", "eval_time", metric))
    curves = {
        result.label: found
        for result in results
        if result.label in parts and (found := _curves(result, parts[result.label], metric, mode)).height
    }
    if len(curves) < 2:
        return None
    last = pl.concat([_last(found).with_columns(label=pl.lit(label)) for label, found in curves.items()])
    means = last.group_by("label").agg(pl.mean("best", "spent"))
    sign = 1 if mode == "max" else -1
    chosen_epochs = at_epoch or min(last["epoch"].to_list())
    seconds = at_device_seconds or min(means["spent"].drop_nulls().to_list(), default=0.0)
    goal = target if target is not None else sign * min(sign * best for best in means["best"].to_list())
    unknown = {result.label: sum(t.trial_id not in result.shares for t in result.selected) for result in results}
    cells = [
        AtBudget(
            label=label,
            n=found["trial_id"].n_unique(),
            # A cell that ended before is not compared at what it never trained.
            at_epochs=_of_all(found, found.filter(pl.col("epoch") == chosen_epochs)),
            # The mean of several runs' times may end a hair before the last epoch of one of them.
            at_time=_of_all(timed, _last(timed.filter(pl.col("spent") <= seconds * (1 + 1e-9)))),
            target=_reached(found, goal, sign),
            unknown=unknown[label],
            untimed=found["trial_id"].n_unique() - timed["trial_id"].n_unique(),
        )
        for label, found in curves.items()
        for timed in [found.drop_nulls("spent")]
    ]
    return Budget(metric, chosen_epochs, seconds, goal, tuple(cells))


def _curves(result: CellResult, rows: pl.DataFrame, metric: str, mode: Mode) -> pl.DataFrame:
    """Of each selected trial and epoch: `spent`, the device time so far, and `best` so far, where there is one.

    No epoch of a trial has a device time where that of one of them is not known.
    """
    shares = {trial.trial_id: result.shares.get(trial.trial_id, 1.0) for trial in result.selected}
    share = pl.col("trial_id").replace_strict(shares, return_dtype=pl.Float64)
    value = pl.col(metric).fill_nan(None)
    best = value.cum_max() if mode == "max" else value.cum_min()
    spent = share * (pl.col("train_time") + pl.col("eval_time")).fill_nan(None)
    # An epoch whose time is not known did not take none.
    known = pl.when(spent.is_not_null().all().over("trial_id")).then(spent.cum_sum().over("trial_id"))
    rows = rows.select("trial_id", "epoch", best=best.over("trial_id"), spent=known)
    # Where an epoch has no value the best is that of those before it.
    return rows.with_columns(pl.col("best").forward_fill().over("trial_id")).drop_nulls("best")


def _last(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.group_by("trial_id", maintain_order=True).last()


def _of_all(curves: pl.DataFrame, chosen: pl.DataFrame) -> Estimate | None:
    """Over the trials of `curves`; none where one of them has no row in `chosen`."""
    return estimate(chosen["best"].to_list()) if chosen.height == curves["trial_id"].n_unique() else None


def _reached(curves: pl.DataFrame, target: float, sign: int) -> Reached:
    first = curves.filter(sign * pl.col("best") >= sign * target).group_by("trial_id").first()
    if not first.height:
        return Reached(0, None, None)
    epoch, spent = (first[name].drop_nulls().to_list() for name in ("epoch", "spent"))
    return Reached(first.height, statistics.median(epoch), statistics.median(spent) if spent else None)


def budget_sheet(budget: Budget, results: Sequence[CellResult]) -> Sheet:
    """The same as a table, in the order of the comparison's."""
    known = {cell.label: cell for cell in budget.cells}
    rows = [result for group in ordered(readable(results)) for result in group if result.label in known]
    cells = [known[result.label] for result in rows]
    quantity = quantity_title(budget.metric)
    least = 1 if quantity in QUANTITIES.values() and quantity != QUANTITIES["bpp"] else 3
    digits = digits_of([each for cell in cells for each in (cell.at_epochs, cell.at_time)], least)
    goal = f"{budget.target:.1f} %" if "%" in quantity else f"{budget.target:.4g}"
    return Sheet.plain(
        title=f"at equal cost, validation {quantity}",
        subtitle="",
        keys=key_columns(rows),
        columns=[
            Column(f"after {budget.epochs}\nepochs", tuple(estimate_texts([cell.at_epochs for cell in cells], digits))),
            Column(
                f"after\n{short_text(budget.device_seconds)} device-s",
                tuple(estimate_texts([cell.at_time for cell in cells], digits)),
            ),
            Column(f"epochs to\n{goal}", tuple(short_text(cell.target.epochs) for cell in cells), right=True),
            Column(f"device-s to\n{goal}", tuple(short_text(cell.target.device_seconds) for cell in cells), right=True),
            Column("seeds\nthere", tuple(f"{cell.target.seeds} of {cell.n}" for cell in cells)),
        ],
        labels=[result.label for result in rows],
        footnotes=[
            "best validation so far: mean ± sample sd (n seeds) of the selected setting. device-s: seconds of training "
            "and validation times the share of the device that the trial had, start-up and checkpoints left out.",
            "to the target: median over the seeds that reached it.",
            *_data_note(rows),
            *_unknown_note(cells),
        ],
    )


def _data_note(rows: Sequence[CellResult]) -> list[str]:
    unlike = len({repr(sorted(data_of(row.factors).items())) for row in rows}) > 1
    said = "the epochs, device time and target are the same for all data, though what a target costs depends on them: "
    return [f"{said}compare cells of the same."] if unlike else []


def _unknown_note(cells: Sequence[AtBudget]) -> list[str]:
    count = sum(cell.unknown for cell in cells)
    whole = f"of {count} trial{'s' * (count != 1)} the share of the device is not known and taken as the whole."
    untimed = sum(cell.untimed for cell in cells)
    missing = f"of {untimed} trial{'s' * (untimed != 1)} the time of an epoch is not known: in no device time."
    return [whole] * bool(count) + [missing] * bool(untimed)
