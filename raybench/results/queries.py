"""Questions about a sweep that are answered from few bytes of its tables, however many trials it has.

Right at any time, also while trials write and parts lie beside compact files: of each trial the highest attempt counts.
Whoever asks often gives the same `Store` again, which remembers where the rows of each trial are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import polars as pl

from raybench.config.names import nearest
from raybench.errors import ResultsError
from raybench.results.compact import as_text
from raybench.results.schema import Status, epoch_schema, trial_schema
from raybench.results.storage import Folder
from raybench.results.store import Store


def final_epochs(where: Store | Folder, metric: str) -> pl.DataFrame:
    """The last epoch of each trial: `trial_id`, `epoch` and the metric, by trial; null where a trial has none of it.

    Raises ResultsError for a metric that no epoch has.
    """
    store = _store(where)
    return _with(store.final_epochs(["trial_id", "epoch", metric]), metric, epoch_schema().names, store)


def curve(where: Store | Folder, trial_id: str, metric: str) -> pl.DataFrame:
    """A metric of one trial over its epochs: `epoch` and the metric, in order of epoch.

    Raises ResultsError for a trial of which no epoch is there, and for a metric that none of its epochs has.
    """
    store = _store(where)
    rows = store.epochs([trial_id], ["epoch", metric])
    if not rows.height:
        raise ResultsError(f"{trial_id}: {store.folder} has no epoch of such a trial")
    return _with(rows, metric, epoch_schema().names, store)


def summary(where: Store | Folder, metric: str = "test_top1", by: Sequence[str] = ("cell",)) -> pl.DataFrame:
    """One row for each combination of the columns `by`: how many trials there are, and the metric of the complete ones.

    Columns: `by`, `trials`, `complete` (those that have the metric), `mean`, `sd` (of the sample; null below two),
    `least`, `most`. In order of `by`. Raises ResultsError for a column that the trials do not have.
    """
    store = _store(where)
    rows = store.trials(["status", metric, *by], categories=True)
    for name in (metric, *by):
        _with(rows, name, trial_schema().names, store)
    counted = pl.col("_counted")
    found = (
        rows.with_columns(pl.when(pl.col("status") == Status.COMPLETE).then(pl.col(metric)).alias("_counted"))
        .group_by(by)
        .agg(
            pl.len().alias("trials"),
            counted.count().alias("complete"),
            counted.mean().alias("mean"),
            counted.std().alias("sd"),
            counted.min().alias("least"),
            counted.max().alias("most"),
        )
    )
    return as_text(found).sort(by)


def _store(where: Store | Folder) -> Store:
    return where if isinstance(where, Store) else Store(where)


def _with(rows: pl.DataFrame, name: str, known: Iterable[str], store: Store) -> pl.DataFrame:
    if name not in rows.columns:
        close = ", ".join(nearest(name, known))
        raise ResultsError(f"{name}: no row of {store.folder} has it" + (f"; near it: {close}" if close else ""))
    return rows
