"""What a sweep answers: every cell's selected setting, its test result, and whether it differs from another cell's.

That other is the student alone, where there is one, else the cell that is best on validation among those with the same
data. Settings are selected on validation; the test metric is only reported. A trial whose maths departs from its
configuration (column `deviation`) is counted and otherwise left out.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from raybench.config.sweep import better
from raybench.report.cell_result import CellResult, Counts, Difference, Verdict
from raybench.report.selection import Mode, first_best, rank_of
from raybench.report.statistics import estimate
from raybench.report.verdicts import with_verdicts

if TYPE_CHECKING:
    from raybench.config.plan import Cell, Setting
    from raybench.config.trial import TrialConfig

__all__ = ["CellResult", "Counts", "Difference", "Mode", "Verdict", "compare"]

READ = (
    *("trial_id", "status", "deviation", "preset", "dataset_variant"),
    *("param_count", "gmacs", "infer_samples_per_sec", "teacher_top1"),
    *("epochs", "train_time", "eval_time", "device_hours", "energy", "peak_memory"),
    *("env/gpu", "env/cpu", "env/git_commit", "env/git_dirty"),
)
"""Columns of a row that tables are made from, beside the two metrics; of a hundred and fifty."""


def compare(
    cells: Sequence[Cell],
    trials: pl.DataFrame,
    metric: str = "eval_top1",
    mode: Mode = "max",
    test_metric: str = "test_top1",
    test_mode: Mode | None = None,
) -> list[CellResult]:
    """Results in the order of `cells`, from one row a trial (`Store.trials()`).

    In each cell the setting with the best mean `metric` over its seeds is selected among the settings whose seeds are
    all complete; others come after them, those with more complete seeds first. `test_mode` says which way
    `test_metric` is better: `mode` where both measure the same thing, else lower for a loss and higher for the rest.
    """
    wanted = {trial.trial_id for cell in cells for setting in cell.settings for trial in setting.trials}
    rows: dict[str, dict[str, Any]] = {}
    if "trial_id" in trials.columns:
        read = trials.select(name for name in dict.fromkeys((*READ, metric, test_metric)) if name in trials.columns)
        rows = {row["trial_id"]: row for row in read.iter_rows(named=True) if row["trial_id"] in wanted}
    towards = test_mode or _test_mode(metric, mode, test_metric)
    measured = [_cell_result(cell, rows, metric, mode, test_metric, towards) for cell in cells]
    return with_verdicts(measured, mode)


def _test_mode(metric: str, mode: Mode, test_metric: str) -> Mode:
    if metric.partition("_")[2] == test_metric.partition("_")[2]:
        return mode
    return better(test_metric)


def _cell_result(
    cell: Cell, rows: Mapping[str, Mapping[str, Any]], metric: str, mode: Mode, test_metric: str, test_mode: Mode
) -> CellResult:
    selected = _select(cell.settings, rows, metric, mode)
    done = _done(selected, rows)
    kept = [rows[trial.trial_id] for trial in done]
    test = [(trial.seed, _number(row, test_metric)) for trial, row in zip(done, kept, strict=True)]
    by_seed = tuple((seed, value) for seed, value in test if value is not None)
    teachers = _numbers(kept, "teacher_top1")
    trial_ids = {trial.trial_id for setting in cell.settings for trial in setting.trials}
    begun = [rows[trial_id] for trial_id in sorted(trial_ids & rows.keys())]
    return CellResult(
        label=cell.label,
        factors=cell.factors,
        baseline=cell.baseline,
        tuned=selected.tuned if selected else {},
        selected=tuple(done),
        by_seed=by_seed,
        test=estimate([value for _, value in by_seed]),
        validation=estimate(_numbers(kept, metric)),
        difference=None,
        counts=_counts(cell, rows),
        train_time=_median(kept, "train_time"),
        epoch_time=_epoch_time(kept),
        peak_memory=max(_numbers(kept, "peak_memory"), default=None),
        device_hours=_sum(begun, "device_hours"),
        param_count=_median(kept, "param_count"),
        gmacs=_median(kept, "gmacs"),
        infer_samples_per_sec=_median(kept, "infer_samples_per_sec"),
        teacher_top1=(min(teachers), max(teachers)) if teachers else None,
        presets=_names(kept, "preset"),
        variants=_names(kept, "dataset_variant"),
        metric=metric,
        test_metric=test_metric,
        test_mode=test_mode,
        hardware=tuple(sorted({str(row.get("env/gpu") or row.get("env/cpu") or "unknown") for row in kept})),
        commits={str(row["trial_id"]): commit for row in kept if (commit := _commit(row))},
        left_out=_left_out(cell, rows),
        energy=_energy(begun),
        shares={row["trial_id"]: share for row in begun if (share := _share(row)) is not None},
    )


def _select(
    settings: Sequence[Setting], rows: Mapping[str, Mapping[str, Any]], metric: str, mode: Mode
) -> Setting | None:
    """The setting that is selected on validation; none where no trial is complete."""
    done = ((setting, [rows[trial.trial_id] for trial in _done(setting, rows)]) for setting in settings)
    ranks = ((each, rank_of(_numbers(found, metric), len(each.trials), mode)) for each, found in done if found)
    return first_best(ranks)


def _done(setting: Setting | None, rows: Mapping[str, Mapping[str, Any]]) -> list[TrialConfig]:
    """Its complete trials; none of no setting."""
    return [trial for trial in setting.trials if _complete(rows.get(trial.trial_id))] if setting else []


def _counts(cell: Cell, rows: Mapping[str, Mapping[str, Any]]) -> Counts:
    # Settings that cannot differ share a trial: it counts once.
    trial_ids = {trial.trial_id for setting in cell.settings for trial in setting.trials}
    statuses = [str(rows[trial_id].get("status")) if trial_id in rows else "due" for trial_id in trial_ids]
    settled = {name: statuses.count(name) for name in ("complete", "failed", "diverged", "pruned")}
    due, deviating = len(statuses) - sum(settled.values()), len(_left_out(cell, rows))
    return Counts(**settled | {"complete": settled["complete"] - deviating}, deviating=deviating, due=due)


def _left_out(cell: Cell, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    trials = {trial.trial_id for setting in cell.settings for trial in setting.trials}
    done = ((trial_id, rows[trial_id]) for trial_id in sorted(trials & rows.keys()))
    return {trial_id: str(row["deviation"]) for trial_id, row in done if row["status"] == "complete" and _deviates(row)}


def _deviates(row: Mapping[str, Any]) -> bool:
    return row.get("deviation") is not None


def _complete(row: Mapping[str, Any] | None) -> bool:
    return row is not None and str(row.get("status")) == "complete" and not _deviates(row)


def _number(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    return float(value) if value is not None and math.isfinite(value) else None


def _numbers(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [value for row in rows if (value := _number(row, name)) is not None]


def _median(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = _numbers(rows, name)
    return statistics.median(values) if values else None


def _epoch_time(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Median over trials of the training time of an epoch, s."""
    times = [
        time / epochs for row in rows if (time := _number(row, "train_time")) and (epochs := _number(row, "epochs"))
    ]
    return statistics.median(times) if times else None


def _sum(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = _numbers(rows, name)
    return math.fsum(values) if values else None


def _energy(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Wh; a sum that leaves a trial out would look like a frugal cell."""
    used = [row for row in rows if _number(row, "device_hours")]
    return _sum(used, "energy") if len(_numbers(used, "energy")) == len(used) else None


def _share(row: Mapping[str, Any]) -> float | None:
    """Of a device, as its device hours count it beside the time it took."""
    hours, training, validation = (_number(row, name) for name in ("device_hours", "train_time", "eval_time"))
    if hours is None or training is None or validation is None or training + validation <= 0:
        return None
    return 3600 * hours / (training + validation)


def _names(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[str, ...]:
    return tuple(sorted({str(row[name]) for row in rows if row.get(name) is not None}))


def _commit(row: Mapping[str, Any]) -> str | None:
    commit = row.get("env/git_commit")
    return f"{commit[:8]}{'+changes' if row.get('env/git_dirty') else ''}" if commit else None
