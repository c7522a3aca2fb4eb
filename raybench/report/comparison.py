"""What a sweep answers: every cell's selected setting, its test result, and whether it differs from another cell's.

That other is the student alone, where there is one, else the cell that is best on validation among those with the same
data. Settings are selected on validation; the test metric is only reported. A trial whose maths departs from its
configuration (column `deviation`) is counted and otherwise left out.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from raybench.config.sweep import better
from raybench.report.cell_result import CellResult, Counts, Difference, PassedOver, Verdict
from raybench.report.selection import Mode, Rank, first_best, rank_of
from raybench.report.statistics import LARGEST, estimate
from raybench.report.verdicts import with_verdicts

if TYPE_CHECKING:
    from raybench.config.plan import Cell, Setting
    from raybench.config.trial import TrialConfig

__all__ = ["CellResult", "Counts", "Difference", "Mode", "Verdict", "compare"]

BPP = "test_bpp"
"""Bits a pixel, which a codec pays for its PSNR."""
NUMBERS = (
    BPP,
    *("param_count", "gmacs", "infer_samples_per_sec", "teacher_top1"),
    *("epochs", "train_time", "eval_time", "device_hours", "energy", "peak_memory"),
)
TEXTS = (
    *("status", "deviation", "preset", "dataset_variant"),
    *("env/gpu", "env/cpu", "env/precision", "env/git_commit", "env/git_dirty"),
)
"""With `NUMBERS` the columns of a row that tables are made from, beside the two metrics; of a hundred and fifty."""
Columns = dict[str, list[Any]]
"""Rows of some trials, in order of trial: column -> its values, one a row."""


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
    all complete; others come after them, those with more complete seeds first. How many seeds that are the cell says,
    else the setting that has most. Counts and costs are of all trials of the cell, those too that do not compete. Seeds
    that lack one of the two metrics are counted and stand in neither mean. `test_mode` says which way `test_metric` is
    better: `mode` where both measure the same thing, else lower for a loss and higher for the rest.
    """
    rows = _of_cells(cells, _read(trials, (metric, test_metric)))
    towards = test_mode or _test_mode(metric, mode, test_metric)
    measured = [
        _cell_result(cell, begun, metric, mode, test_metric, towards) for cell, begun in zip(cells, rows, strict=True)
    ]
    return with_verdicts(measured, mode)


def _test_mode(metric: str, mode: Mode, test_metric: str) -> Mode:
    if metric.partition("_")[2] == test_metric.partition("_")[2]:
        return mode
    return better(test_metric)


def _read(trials: pl.DataFrame, metrics: Sequence[str]) -> pl.DataFrame:
    """The columns that a result is made from, each there: a number that none can measure is none, all else text."""
    numbers = list(dict.fromkeys((*NUMBERS, *metrics)))
    kinds = {"trial_id": pl.String(), **dict.fromkeys(TEXTS, pl.String()), **dict.fromkeys(numbers, pl.Float64())}
    known = [name for name in kinds if name in trials.columns]
    absent = [pl.lit(None, kind).alias(name) for name, kind in kinds.items() if name not in known]
    rows = trials.select(pl.col(name).cast(kinds[name]) for name in known).with_columns(absent)
    return rows.with_columns(pl.when(pl.col(name).abs() <= LARGEST).then(pl.col(name)) for name in numbers)


def _of_cells(cells: Sequence[Cell], rows: pl.DataFrame) -> list[Columns]:
    """The rows of each cell's trials."""
    # Settings that cannot differ share a trial: it counts once.
    wanted = [(place, trial_id) for place, cell in enumerate(cells) for trial_id in _trial_ids(cell)]
    places = pl.DataFrame(wanted, {"_cell": pl.Int64, "trial_id": pl.String}, orient="row")
    found = rows.join(places, on="trial_id").sort("trial_id").partition_by("_cell", as_dict=True, include_key=False)
    none = rows.clear()
    return [found.get((place,), none).to_dict(as_series=False) for place in range(len(cells))]


def _trial_ids(cell: Cell) -> set[str]:
    return {trial.trial_id for setting in cell.settings for trial in setting.trials} | {t.trial_id for t in cell.aside}


def _asked(cell: Cell) -> int:
    """Seeds asked for of each setting; where that is not known, the most that any of them has."""
    return cell.asked or max((len(setting.trials) for setting in cell.settings), default=0)


def _where(rows: Columns, which: Callable[[int], bool]) -> Columns:
    """The rows at the places that are meant."""
    places = [place for place in range(len(rows["trial_id"])) if which(place)]
    return {name: [values[place] for place in places] for name, values in rows.items()}


def _cell_result(cell: Cell, begun: Columns, metric: str, mode: Mode, test_metric: str, test_mode: Mode) -> CellResult:
    complete = _where(begun, lambda place: begun["status"][place] == "complete")
    sound = _where(complete, lambda place: complete["deviation"][place] is None)
    scores, test = _by_trial(sound, metric), _by_trial(sound, test_metric)
    selected = _select(cell, scores, mode)
    done = _done(selected, scores)
    by_seed, validation = _scores(done, scores, test)
    lacking = {
        each: test_metric if test[each] is None else metric for each in test if None in (test[each], scores[each])
    }
    chosen = {trial.trial_id for trial in done}
    kept = _where(sound, lambda place: sound["trial_id"][place] in chosen)
    teachers = _known(kept["teacher_top1"])
    unpriced = complete["device_hours"].count(None) if _known(begun["device_hours"]) else 0
    left_out = {trial_id: how for trial_id, how in _by_trial(complete, "deviation").items() if how is not None}
    return CellResult(
        label=cell.label,
        factors=cell.factors,
        baseline=cell.baseline,
        tuned=selected.tuned if selected else {},
        selected=done,
        by_seed=by_seed,
        test=estimate([value for _, value in by_seed]),
        validation=estimate(validation),
        difference=None,
        counts=_counts(begun["status"], len(_trial_ids(cell)), len(left_out), len(lacking)),
        train_time=_median(kept["train_time"]),
        epoch_time=_epoch_time(kept),
        peak_memory=max(_known(kept["peak_memory"]), default=None),
        device_hours=None if unpriced else _sum(begun["device_hours"]),
        param_count=_median(kept["param_count"]),
        gmacs=_median(kept["gmacs"]),
        infer_samples_per_sec=_median(kept["infer_samples_per_sec"]),
        teacher_top1=(min(teachers), max(teachers)) if teachers else None,
        presets=tuple(sorted({*_known(kept["preset"])})),
        variants=tuple(sorted({*_known(kept["dataset_variant"])})),
        metric=metric,
        test_metric=test_metric,
        test_mode=test_mode,
        hardware=_hardware(kept),
        commits=_commits(kept),
        precisions={name: used for name, used in _by_trial(kept, "env/precision").items() if used},
        left_out=left_out,
        energy=_energy(begun),
        without=lacking,
        passed_over=_passed_over(cell, selected, scores, mode),
        test_bpp=estimate(_known(kept[BPP])) if test_metric != BPP else None,
        shares=_shares(begun),
        unpriced=unpriced,
    )


def _by_trial(rows: Columns, column: str) -> dict[str, Any]:
    return dict(zip(rows["trial_id"], rows[column], strict=True))


Scores = Mapping[str, float | None]
"""Complete trial -> its number by a metric; none where it has none."""


def _done(setting: Setting | None, scores: Scores) -> tuple[TrialConfig, ...]:
    """Its complete trials; none of no setting."""
    return tuple(trial for trial in setting.trials if trial.trial_id in scores) if setting else ()


def _select(cell: Cell, scores: Scores, mode: Mode) -> Setting | None:
    """The setting that is selected by the scores of complete trials; none where there are none."""
    asked = _asked(cell)

    def ranked() -> Iterator[tuple[Setting, Rank]]:
        for setting in cell.settings:
            if found := [scores[trial.trial_id] for trial in _done(setting, scores)]:
                yield setting, rank_of(_known(found), asked, mode)

    return first_best(ranked())


def _passed_over(cell: Cell, selected: Setting | None, scores: Scores, mode: Mode) -> tuple[PassedOver, ...]:
    """Settings with a better mean than the selected one, that lack a seed."""
    chosen = _known(scores[trial.trial_id] for trial in _done(selected, scores))
    if not chosen:
        return ()
    sign, asked = 1 if mode == "max" else -1, _asked(cell)
    found = []
    for setting in cell.settings:
        known = _known(scores[trial.trial_id] for trial in _done(setting, scores))
        if setting is selected or not 0 < len(known) < asked:
            continue
        mean = math.fsum(known) / len(known)
        if sign * mean > sign * math.fsum(chosen) / len(chosen):
            found.append(PassedOver(setting.tuned, len(known), asked, mean))
    return tuple(found)


def _scores(
    done: Sequence[TrialConfig], scores: Scores, test: Scores
) -> tuple[tuple[tuple[int, float], ...], list[float]]:
    """The test metric by seed and the values of validation, over the same seeds where any has both."""
    found = [(trial.seed, test[trial.trial_id], scores[trial.trial_id]) for trial in done]
    found = [each for each in found if None not in each] or found
    by_seed = tuple((seed, tested) for seed, tested, _ in found if tested is not None)
    return by_seed, [validation for *_, validation in found if validation is not None]


def _counts(statuses: Sequence[str | None], wanted: int, deviating: int, without: int) -> Counts:
    """Of a cell that wants so many trials."""
    counted = Counter(statuses)
    settled = {name: counted[name] for name in ("complete", "failed", "diverged", "pruned")}
    due = wanted - sum(settled.values())
    complete = settled["complete"] - deviating
    return Counts(**settled | {"complete": complete}, deviating=deviating, due=due, without_metric=without)


def _known(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if value is not None]


def _median(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return statistics.median(known) if known else None


def _epoch_time(rows: Columns) -> float | None:
    """Median over trials of the training time of an epoch, s."""
    both = zip(rows["train_time"], rows["epochs"], strict=True)
    return _median(time / epochs for time, epochs in both if time and epochs)


def _sum(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return math.fsum(known) if known else None


def _energy(rows: Columns) -> float | None:
    """Wh; a sum that leaves a trial out would look like a frugal cell."""
    used = [energy for hours, energy in zip(rows["device_hours"], rows["energy"], strict=True) if hours]
    return None if None in used else _sum(used)


def _shares(rows: Columns) -> dict[str, float]:
    """Trial -> its share of a device, as its device hours count it beside the time it took."""
    names = ("trial_id", "device_hours", "train_time", "eval_time")
    return {
        trial_id: 3600 * hours / (training + validation)
        for trial_id, hours, training, validation in zip(*(rows[name] for name in names), strict=True)
        if None not in (hours, training, validation) and training + validation > 0
    }


def _hardware(rows: Columns) -> tuple[str, ...]:
    return tuple(sorted({gpu or cpu or "unknown" for gpu, cpu in zip(rows["env/gpu"], rows["env/cpu"], strict=True)}))


def _commits(rows: Columns) -> dict[str, str]:
    names = ("trial_id", "env/git_commit", "env/git_dirty")
    return {
        trial_id: f"{commit[:8]}{'+changes' if dirty == 'true' else ''}"
        for trial_id, commit, dirty in zip(*(rows[name] for name in names), strict=True)
        if commit
    }
