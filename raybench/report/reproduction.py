"""Published numbers beside the measured ones, a row each: the difference, and whether the settings are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from raybench.report.comparison import CellResult
from raybench.report.references import INFERRED_NOTE, closest, described, differing, not_measured
from raybench.report.sheet import Column, Sheet, cell_names, signed_text
from raybench.report.statistics import Estimate, binomial_interval, estimate
from raybench.results.published import PublishedRow

OF_RESULT = {
    ("flops", "G"): "gmacs",
    ("param_count", "M"): "param_count",
    ("train_time", "s/epoch"): "epoch_time",
    ("infer_samples_per_sec", "images/s"): "infer_samples_per_sec",
}
"""(metric, unit) of a published row -> the figure of a cell's result that is the same quantity."""


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
    """Which of our figures that is: test, validation at epoch 2 …"""
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
        measured, named = _measured(row, nearest, epochs)
        label, differs = nearest.label, (*differing(row, nearest), *_read_otherwise(row, nearest))
        found.append(
            Reproduction(row, _interval(row), label, measured, named if measured else "", differs, tuple(assumed))
        )
    return found


def _read_otherwise(row: PublishedRow, result: CellResult) -> tuple[str, ...]:
    """What sets apart how the two numbers came about: the hardware of times, the epoch of an accuracy."""
    found = []
    if OF_RESULT.get((row.metric, row.unit)) in TIMES:
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


def _measured(row: PublishedRow, result: CellResult, epochs: pl.DataFrame) -> tuple[Estimate | None, str]:
    """Ours of the same quantity and its name; none where it is not measured here."""
    if row.value is None or not result.selected:
        return None, ""
    if row.at == "first epoch":
        return None, ""
    if (name := OF_RESULT.get((row.metric, row.unit))) is not None:
        value = getattr(result, name)
        return (None, "") if value is None else (Estimate(1, value, None, None, None), "median")
    at_end = row.setting.epochs is None or row.setting.epochs >= result.selected[0].schedule.epochs
    if at_end and not row.metric.startswith("eval_") and result.test_metric == f"test_{row.quantity}":
        return result.test, "test"
    if at_end and result.metric == row.metric:
        return result.validation, "validation"
    if row.setting.epochs is None:
        return None, ""
    return _at_epoch(
        result, epochs, f"eval_{row.quantity}", row.setting.epochs
    ), f"validation at epoch {row.setting.epochs}"


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
