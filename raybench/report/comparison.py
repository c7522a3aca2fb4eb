"""What a sweep answers: every cell's selected setting, its test result, and whether it differs from another cell's.

That other is the student alone, where there is one, else the cell that is best on validation among those with the same
data. Settings are selected on validation; the test metric is only reported. Differences are paired by seed where seed,
split and order are the same. A trial whose maths departs from its configuration (column `deviation`) is counted and
otherwise left out.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from raybench.config.sweep import better
from raybench.report.selection import Mode, first_best, rank_of
from raybench.report.statistics import (
    SIGNIFICANCE,
    Estimate,
    detectable_difference,
    estimate,
    holm,
    p_value,
    seeds_needed,
    welch,
)

if TYPE_CHECKING:
    from raybench.config.plan import Cell, Setting
    from raybench.config.trial import TrialConfig

__all__ = ["CellResult", "Counts", "Difference", "Mode", "Verdict", "compare", "detectable_difference"]

Verdict = Literal["better", "worse", "not distinguishable", "too few seeds"]
Against = Literal["student alone", "best on validation"]
READ = (
    *("trial_id", "status", "deviation", "preset", "dataset_variant"),
    *("param_count", "gmacs", "infer_samples_per_sec", "teacher_top1"),
    *("epochs", "train_time", "eval_time", "device_hours", "energy", "peak_memory"),
    *("env/gpu", "env/cpu", "env/git_commit", "env/git_dirty"),
)
"""Columns of a row that tables are made from, beside the two metrics; of a hundred and fifty."""
MIN_PAIRS = 3
"""Below so many seeds on both sides nothing is tested."""


@dataclass(frozen=True)
class Counts:
    """Trials of a cell, all its settings and seeds together. `due`: running or not begun."""

    complete: int = 0
    deviating: int = 0
    """Complete, but not what the configuration says."""
    failed: int = 0
    diverged: int = 0
    pruned: int = 0
    due: int = 0


@dataclass(frozen=True)
class Difference:
    """The cell minus its baseline, in the test metric's unit."""

    to: Against
    by_seed: tuple[tuple[int, float], ...]
    """Pairs; none where the two cells have no split in common, or no seed."""
    n: int
    """Pairs; where there are none, the seeds of the cell that has fewer."""
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    """95 % t interval; none below two pairs or without spread."""
    p: float | None
    """t test, two-sided, paired or Welch's; none below three seeds."""
    p_holm: float | None
    """The same, corrected for all `compared`."""
    compared: int
    """Comparisons corrected for: those tested, or with the best on validation all pairs."""
    verdict: Verdict
    seeds_needed: int | None
    """Pairs that would tell the observed difference with 80 % power at 5 % over `compared`; none below three pairs, for
    two samples, or when out of reach."""

    @property
    def paired(self) -> bool:
        """Whether it is a mean of differences, seed by seed."""
        return bool(self.by_seed)


@dataclass(frozen=True)
class CellResult:
    """One cell. Numbers are those of the selected setting; none where nothing was measured, never zero."""

    label: str
    factors: Mapping[str, Any]
    baseline: str | None
    tuned: Mapping[str, Any]
    """Selected values of what was tuned; empty without a complete trial."""
    selected: tuple[TrialConfig, ...]
    """The selected setting's complete trials, in the order of the plan."""
    by_seed: tuple[tuple[int, float], ...]
    """Test metric of each complete seed."""
    test: Estimate | None
    validation: Estimate | None
    difference: Difference | None
    """None for the baseline itself, without a baseline, or without a common seed."""
    counts: Counts
    train_time: float | None
    """Median over the selected trials, s."""
    epoch_time: float | None
    """Median over the selected trials of training time an epoch, s."""
    peak_memory: float | None
    """Highest over the selected trials, MiB."""
    device_hours: float | None
    """Of all trials of the cell, its tuning included."""
    param_count: float | None
    """Median, millions."""
    gmacs: float | None
    """Median multiply-adds of one forward pass, 1e9."""
    infer_samples_per_sec: float | None
    """Median over the selected trials."""
    teacher_top1: tuple[float, float] | None
    """Lowest and highest over the selected trials, %."""
    presets: tuple[str, ...]
    variants: tuple[str, ...]
    """Presets and data set variants of the selected trials, sorted; more than one is a mixture and must be said."""
    metric: str
    test_metric: str
    test_mode: Mode
    baseline_chosen: bool = False
    """Whether the baseline is the best on validation, chosen by looking, and not the student alone."""
    hardware: tuple[str, ...] = ()
    """GPUs, or CPUs where there was none, of the selected trials, sorted."""
    commits: Mapping[str, str] = field(default_factory=dict)
    """Selected trial -> git commit that made its row, 8 digits, `+changes` when dirty; without those not known."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Complete trial of any setting -> how its maths departs from its configuration."""
    energy: float | None = None
    """Wh that the devices drew during all trials of the cell, its tuning included; none where one of them has none."""
    best: bool = False
    """Whether it is really better than every other cell that is compared with the same one, and than that."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Trial of any setting -> the share of a device that it occupied; without those of which it is not known."""


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
    measured = _with_references(measured, mode)
    by_label = {result.label: result for result in measured}
    return _marked(_judged([replace(result, difference=_difference(result, by_label)) for result in measured]))


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


def _with_references(results: list[CellResult], mode: Mode) -> list[CellResult]:
    """Where no cell has the student alone to compare with: with the best on validation among those of the same data."""
    if any(result.baseline is not None for result in results):
        return results
    sign = 1 if mode == "max" else -1
    by_data: dict[str, list[CellResult]] = {}
    for result in results:
        if result.validation is not None:
            by_data.setdefault(_data(result), []).append(result)
    found = []
    for result in results:
        group = by_data.get(_data(result), [])
        best = max(group, key=lambda r: sign * r.validation.mean if r.validation else -math.inf, default=result)
        found.append(result if best is result else replace(result, baseline=best.label, baseline_chosen=True))
    return found


def _data(result: CellResult) -> str:
    """Names what a cell was trained and judged on."""
    factors = {key: value for key, value in result.factors.items() if key.startswith("dataset")}
    return json.dumps([factors, result.presets, result.variants], sort_keys=True)


def _difference(result: CellResult, by_label: Mapping[str, CellResult]) -> Difference | None:
    base = by_label.get(result.baseline) if result.baseline is not None else None
    if base is None:
        return None
    return _between(result, base, "best on validation" if result.baseline_chosen else "student alone")


def _between(result: CellResult, base: CellResult, to: Against) -> Difference | None:
    """One cell minus another, not judged yet; none where one of them has no number."""
    alone = dict(base.by_seed) if _same_images(result, base) else {}
    by_seed = tuple((seed, value - alone[seed]) for seed, value in result.by_seed if seed in alone)
    if not by_seed:
        return _unpaired(result, base, to)
    values = [value for _, value in by_seed]
    found = estimate(values)
    assert found is not None
    enough = found.n >= MIN_PAIRS
    return Difference(
        to=to,
        by_seed=by_seed,
        n=found.n,
        mean=found.mean,
        sd=found.sd,
        low=found.low,
        high=found.high,
        p=p_value(values) if enough else None,
        p_holm=None,
        compared=0,
        verdict="too few seeds",
        seeds_needed=None,
    )


def _unpaired(result: CellResult, base: CellResult, to: Against) -> Difference | None:
    """Cells that share no images seed by seed are two samples."""
    ours, theirs = [value for _, value in result.by_seed], [value for _, value in base.by_seed]
    if not ours or not theirs:
        return None
    found = welch(ours, theirs)
    enough = min(len(ours), len(theirs)) >= MIN_PAIRS
    return Difference(
        to=to,
        by_seed=(),
        n=min(len(ours), len(theirs)),
        mean=found.mean,
        sd=found.sd,
        low=found.low,
        high=found.high,
        p=found.p if enough else None,
        p_holm=None,
        compared=0,
        verdict="too few seeds",
        seeds_needed=None,
    )


def _same_images(result: CellResult, base: CellResult) -> bool:
    """Whether equal seeds mean the same images in the same order."""
    if not result.selected or not base.selected:
        return True
    ours, theirs = result.selected[0].dataset, base.selected[0].dataset
    keys = ("data_key", "fingerprint", "train_size", "val_size")
    return all(getattr(ours, key) == getattr(theirs, key) for key in keys)


def _judged(results: list[CellResult]) -> list[CellResult]:
    """The same results with p values corrected together, and their verdicts.

    Comparisons with the student alone were planned: Holm. The best on validation was chosen by looking at all cells, so
    that each comparison with it is one of all pairs there were to choose from: Bonferroni over those.
    """
    tested = [result.difference.p for result in results if result.difference and result.difference.p is not None]
    chosen = any(result.difference and result.difference.to == "best on validation" for result in results)
    compared = _pairs(results) if chosen else len(tested)
    corrected = iter([min(1.0, compared * p) for p in tested] if chosen else holm(tested))
    judged: list[CellResult] = []
    for result in results:
        found = result.difference
        if found is None or found.p is None:
            judged.append(result)
            continue
        p_holm = next(corrected)
        upwards = found.mean > 0 if result.test_mode == "max" else found.mean < 0
        verdict: Verdict = "not distinguishable"
        if p_holm < SIGNIFICANCE:
            verdict = "better" if upwards else "worse"
        # Enough where this one difference would have to pass the whole correction.
        needed = seeds_needed(found.mean, found.sd, SIGNIFICANCE / compared) if found.paired and found.sd else None
        found = replace(found, p_holm=p_holm, compared=compared, verdict=verdict, seeds_needed=needed)
        judged.append(replace(result, difference=found))
    return judged


def rivalries(results: Sequence[CellResult]) -> int:
    """Comparisons of a best cell with each other of its group, all groups together."""
    return sum(len(group) - 1 for group in _groups(results))


def _groups(results: Sequence[CellResult]) -> list[list[CellResult]]:
    """Cells with a test result that are compared with the same one, that one among them."""
    groups: dict[str, list[CellResult]] = {}
    for result in results:
        if result.test is not None:
            groups.setdefault(result.baseline or result.label, []).append(result)
    return list(groups.values())


def _marked(results: list[CellResult]) -> list[CellResult]:
    """The same results, the best of each group marked where the difference to every other of it is real.

    Bonferroni over `rivalries`: of k cells, one that is not the best is marked only if it also passes against the one
    that is, which is one comparison for each such cell and k - 1 in all. So at most 5 % of tables have a false mark.
    """
    comparisons = rivalries(results)
    best = {found.label for group in _groups(results) if (found := _best(group, comparisons)) is not None}
    return [replace(result, best=True) if result.label in best else result for result in results]


def _best(group: Sequence[CellResult], comparisons: int) -> CellResult | None:
    """The cell that is better than each other of its group; none where one of them cannot be told from it."""
    if len(group) < 2:
        return None
    if any(result.baseline_chosen for result in group):
        # Compared with it already, over all pairs there were to choose from.
        first = [result for result in group if not result.baseline_chosen]
        worse = all(r.difference is not None and r.difference.verdict == "worse" for r in group if r.baseline_chosen)
        return first[0] if first and worse else None
    sign = 1 if group[0].test_mode == "max" else -1
    best = max(group, key=lambda result: sign * result.test.mean if result.test else -math.inf)
    others = [_between(best, other, "student alone") for other in group if other is not best]
    real = (
        found is not None and found.p is not None and comparisons * found.p < SIGNIFICANCE and sign * found.mean > 0
        for found in others
    )
    return best if all(real) else None


def _pairs(results: Sequence[CellResult]) -> int:
    """Pairs of cells with the same data, each of which could have been compared."""
    sizes = Counter(_data(result) for result in results if result.test is not None)
    return sum(size * (size - 1) // 2 for size in sizes.values())


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
