"""The epochs of the selected trials, cell by cell, and their mean."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from raybench.report.comparison import CellResult


def selected_epochs(
    results: Sequence[CellResult], epochs: pl.DataFrame, columns: Sequence[str]
) -> dict[str, pl.DataFrame]:
    """Label of each cell that has some -> those rows of its selected trials, in order of `trial_id` and `epoch`.

    `epochs` holds one row a trial and epoch (`Store.epochs()`), and is gone through once however many cells there are.
    Each frame has these columns, `trial_id` and `epoch`; empty where `epochs` lacks one.
    """
    wanted = list(dict.fromkeys(("trial_id", "epoch", *columns)))
    if not set(wanted) <= set(epochs.columns):
        return {}
    pairs = [(result.label, trial.trial_id) for result in results for trial in result.selected]
    cells = pl.DataFrame(pairs, {"_cell": pl.String, "trial_id": pl.String}, orient="row")
    rows = epochs.select(wanted).join(cells, on="trial_id").sort("trial_id", "epoch")
    parts = rows.partition_by("_cell", as_dict=True, include_key=False, maintain_order=True)
    return {str(label): part.select(wanted) for (label,), part in parts.items()}


def mean_curve(epochs: pl.DataFrame, result: CellResult, metric: str) -> pl.DataFrame:
    """Columns epoch, mean, sd (sample) and n of a cell's selected setting, as far as all of its seeds came.

    Where seeds stop early a mean over those that are left would jump: there the curve ends. Empty without a number.
    """
    empty = pl.DataFrame(schema={"epoch": pl.Int64, "mean": pl.Float64, "sd": pl.Float64, "n": pl.UInt32})
    if not {"trial_id", "epoch", metric} <= set(epochs.columns):
        return empty
    rows = epochs.filter(pl.col("trial_id").is_in([trial.trial_id for trial in result.selected]))
    rows = rows.filter(pl.col(metric).is_not_null() & pl.col(metric).is_finite())
    if not len(rows):
        return empty
    last = rows.group_by("trial_id").agg(pl.col("epoch").max())["epoch"].min()
    rows = rows.filter(pl.col("epoch") <= last)
    value = pl.col(metric)
    return rows.group_by("epoch").agg(mean=value.mean(), sd=value.std(), n=pl.len()).sort("epoch")
