"""Published numbers beside the measured ones, a row each: the difference, and whether the settings are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from raybench.config.sweep import better
from raybench.report.comparison import CellResult
from raybench.report.crossing import Crossing
from raybench.report.fits import LogFit
from raybench.report.references import INFERRED_NOTE, closest, described, differing, not_measured
from raybench.report.sheet import Column, Sheet, cell_names, signed_text
from raybench.report.statistics import Estimate, binomial_interval, estimate
from raybench.report.trends import trends
from raybench.results.published import PublishedRow

OF_RESULT = {
    ("flops", "G"): "gmacs",
    ("param_count", "M"): "param_count",
    ("train_time", "s/epoch"): "epoch_time",
    ("infer_samples_per_sec", "images/s"): "infer_samples_per_sec",
}
"""(metric, unit) of a published row -> the figure of a cell's result that is the same quantity."""

SECONDS = {"min": 60.0, "h": 3600.0}
TIMES = ("epoch_time", "infer_samples_per_sec")
"""Of these, those that belong to the hardware."""


@dataclass(frozen=True)
class Reproduction:
    """One published number and ours that comes closest to its setting."""

    published: PublishedRow
    interval: tuple[float, float] | None
    """95 % binomial interval of a published accuracy whose number of test images is known, %."""
    cell: str | None
    """Label of the closest cell; none where that model was not measured."""
    measured: Estimate | None
    measured_as: str
    """Which of our figures that is: test, validation at epoch 2 …; `not compared` where a cell has none of it."""
    differs: tuple[str, ...]
    """What keeps the two from being the same setting."""
    assumed: tuple[str, ...]
    """What the sweep decided where the source is silent: a setting that was guessed is not known to be the same."""

    @property
    def same_setting(self) -> str:
        """`yes` only for a reproduction."""
        if self.differs:
            return "no"
        return "as far as the source says" if self.assumed else "yes"

    @property
    def difference(self) -> float | None:
        """Measured minus published, in the published unit."""
        if self.measured is None or self.published.value is None:
            return None
        return self.measured.mean - self.published.value


def reproductions(
    rows: Sequence[PublishedRow], results: Sequence[CellResult], epochs: pl.DataFrame, assumed: Sequence[str] = ()
) -> list[Reproduction]:
    """One entry a published row, in their order.

    `epochs` holds one row a trial and epoch, for what was published of the middle of a run. `assumed` is what the sweep
    decided where the source is silent.
    """
    found = []
    for row in rows:
        nearest = closest(row, results)
        if nearest is None:
            found.append(Reproduction(row, _interval(row), None, None, "", (not_measured(results),), ()))
            continue
        base = next((result for result in results if result.label == nearest.baseline), None)
        measured, named = _measured(row, nearest, base, epochs)
        label, differs = nearest.label, (*differing(row, nearest), *_read_otherwise(row, nearest))
        named = named if measured else "not compared"
        found.append(Reproduction(row, _interval(row), label, measured, named, differs, tuple(assumed)))
    return found


def _read_otherwise(row: PublishedRow, result: CellResult) -> tuple[str, ...]:
    """What sets apart how the two numbers came about: the hardware of times, the epoch of an accuracy."""
    found = []
    if OF_RESULT.get((row.metric, row.unit)) in TIMES or row.metric == "train_time":
        ours = ", ".join(result.hardware) or "unknown"
        if row.hardware is None or row.hardware.lower() not in ours.lower():
            found.append(f"hardware {ours}, {f'not {row.hardware}' if row.hardware else 'theirs not stated'}")
    elif row.at is not None and row.at.startswith("epoch") and result.selected:
        last = row.setting.epochs is None or row.setting.epochs >= result.selected[0].schedule.epochs
        found += ["best epoch on validation, theirs the one named"] * last
    return tuple(found)


def _interval(row: PublishedRow) -> tuple[float, float] | None:
    if row.value is None or row.unit != "%" or not row.setting.test_images:
        return None
    return binomial_interval(row.value, row.setting.test_images)


def _measured(
    row: PublishedRow, result: CellResult, base: CellResult | None, epochs: pl.DataFrame
) -> tuple[Estimate | None, str]:
    """Ours of the same quantity and its name; none where it is not measured here. `base`: what it is compared with."""
    if row.value is None or not result.selected:
        return None, ""
    if row.at is not None and ("first" in row.at or "step" in row.at):
        return None, ""
    if (name := OF_RESULT.get((row.metric, row.unit))) is not None:
        return _one(getattr(result, name)), "median"
    trained = result.selected[0].schedule.epochs
    if row.metric == "train_time" and row.unit in SECONDS:
        took = result.train_time and result.train_time / SECONDS[row.unit]
        return _one(took), f"median, {trained} epochs"
    if row.metric in OF_CURVES:
        return OF_CURVES[row.metric](result, base, epochs)
    at_end = row.setting.epochs is None or row.setting.epochs >= trained
    if at_end and not row.metric.startswith(("eval_", "train_")) and result.test_metric == f"test_{row.quantity}":
        return result.test, "test"
    if at_end and result.metric == row.metric:
        return result.validation, "validation"
    epoch = trained if at_end else row.setting.epochs or trained
    metric = row.metric if row.metric.startswith("train_") else f"eval_{row.quantity}"
    where = "training" if row.metric.startswith("train_") else "validation"
    return _at_epoch(result, epochs, metric, epoch), f"{where} at epoch {epoch}"


def _one(value: float | None) -> Estimate | None:
    return None if value is None else Estimate(1, value, None, None, None)


def _fitted(result: CellResult, _: CellResult | None, epochs: pl.DataFrame) -> tuple[Estimate | None, str]:
    (trend,) = trends([result], epochs, result.metric)[0] or (None,)
    return _one(trend.log.r2 if trend and isinstance(trend.log, LogFit) else None), "fit to validation"


def _overtakes(result: CellResult, base: CellResult | None, epochs: pl.DataFrame) -> tuple[Estimate | None, str]:
    found = trends([result, base], epochs, result.metric)[0] if base else []
    crossing = next((trend.crossing for trend in found if trend.label == result.label), None)
    if not isinstance(crossing, Crossing) or crossing.rises != (better(result.metric) == "max"):
        return None, ""
    return _one(crossing.epoch), f"crossing of both fits{', extrapolated' if crossing.extrapolated else ''}"


def _costlier(result: CellResult, base: CellResult | None, _: pl.DataFrame) -> tuple[Estimate | None, str]:
    if base is None or not result.epoch_time or not base.epoch_time:
        return None, ""
    return _one(result.epoch_time / base.epoch_time), "medians, an epoch"


OF_CURVES = {"r2": _fitted, "overtakes_at": _overtakes, "train_cost": _costlier}
"""Metric of a published row -> what tells the same of our cell, beside the one that it is compared with."""


def _at_epoch(result: CellResult, epochs: pl.DataFrame, metric: str, epoch: int) -> Estimate | None:
    if metric not in epochs.columns:
        return None
    wanted = pl.col("trial_id").is_in([trial.trial_id for trial in result.selected]) & (pl.col("epoch") == epoch)
    return estimate(epochs.filter(wanted)[metric].drop_nulls().to_list())


def reproduction_sheet(found: Sequence[Reproduction], title: str, results: Sequence[CellResult] = ()) -> Sheet:
    """The same as a table; a row whose setting differs is never called a reproduction.

    `results` are all cells of the sweep, so that ours are named as shortly as tells them apart.
    """
    cells = cell_names(results)
    rows = [each.published for each in found]
    names = [described(row) for row in rows]
    metrics = [f"{row.metric}{f', {row.at}' if row.at else ''}" for row in rows]
    differences = list(dict.fromkeys(each.differs for each in found if each.differs))
    marks = {differs: _mark(number) for number, differs in enumerate(differences)}
    same = [f"no ({marks[each.differs]})" if each.differs else each.same_setting for each in found]
    sources = dict.fromkeys(f"{row.source}{f'; {row.hardware}' if row.hardware else ''}" for row in rows)
    assumed = dict.fromkeys(what for each in found for what in each.assumed)
    notes = [f"({marks[differs]}) {'; '.join(differs)}." for differs in differences]
    notes += _notes_of(rows)
    if assumed:
        notes.append(f"assumed{_of_preset(results)}, since the source is silent: {'; '.join(assumed)}.")
    if any(each.interval for each in found):
        notes.append(
            "[low, high]: 95 % binomial interval at the number of test images, which the source does not print."
        )
    if any(each.interval and each.published.of_inferred_images for each in found):
        notes.append(f"{INFERRED_NOTE}.")
    return Sheet.plain(
        title=title,
        subtitle="published: as printed in the source, not measured here",
        keys=[Column("\npublished of", tuple(row.model for row in rows)), Column("\nquantity", tuple(metrics))],
        columns=[
            Column("\npublished", tuple(_published(each) for each in found), right=True),
            Column("measured\nhere", tuple(_ours(each) for each in found), right=True),
            Column("measured -\npublished", tuple(_apart(each) for each in found), right=True),
            Column("same\nsetting", tuple(same)),
            Column("measured\nas", tuple(each.measured_as for each in found)),
            Column("\nour cell", tuple(cells.get(each.cell or "", each.cell or "") for each in found)),
            Column("\ntheir setting", tuple(names)),
        ],
        labels=[f"{name}: {metric}" for name, metric in zip(names, metrics, strict=True)],
        footnotes=[*notes, *(f"source: {source}" for source in sources)],
    )


def _notes_of(rows: Sequence[PublishedRow]) -> list[str]:
    """What is to be known of published numbers, each once, with the models and quantities of which it is."""
    said = dict.fromkeys(row.notes for row in rows if row.notes)
    of = {note: [row for row in rows if row.notes == note] for note in said}
    models = {note: ", ".join(dict.fromkeys(row.model for row in each)) for note, each in of.items()}
    metrics = {note: ", ".join(dict.fromkeys(row.metric for row in each)) for note, each in of.items()}
    return [f"{models[note]} ({metrics[note]}): {note}." for note in said]


def _of_preset(results: Sequence[CellResult]) -> str:
    """What is assumed is written for the paper preset, whose values another may not have."""
    presets = {preset for result in results for preset in result.presets}
    return " in preset paper" if presets - {"paper"} else ""


def _mark(number: int) -> str:
    """a, b, … z, aa, ab …"""
    letters = ""
    number += 1
    while number:
        number, last = divmod(number - 1, 26)
        letters = chr(ord("a") + last) + letters
    return letters


def _published(each: Reproduction) -> str:
    text = each.published.text
    if each.interval is None:
        return text
    return f"{text} [{each.interval[0]:.1f}, {each.interval[1]:.1f}]{each.published.of_inferred_images}"


def _ours(each: Reproduction) -> str:
    found = each.measured
    if found is None:
        return ""
    if found.n == 1:
        return f"{found.mean:.4g}"
    return f"{found.mean:.4g} ± {found.sd:.2g} ({found.n})"


def _apart(each: Reproduction) -> str:
    return "" if each.difference is None else signed_text(each.difference, 2)
