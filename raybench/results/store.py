"""The tables of one sweep: small parts that trials replace after every epoch, compacted into few large files.

Every file is written whole or not at all, so whatever dies, what was finished stays. A trial and the driver never write
the same file, nor do two attempts of a trial: readers take the highest attempt, and a late writer of a lower one
changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl
from filelock import FileLock

from raybench.errors import ResultsError
from raybench.results.compact import as_text
from raybench.results.compaction import compact_table
from raybench.results.parquet import encode
from raybench.results.parts import LARGEST, PART, Table, Wanted
from raybench.results.schema import (
    SETTLED,
    EpochRow,
    TrialRow,
    Writer,
    epoch_row,
    epoch_schema,
    epoch_table,
    trial_schema,
    trial_table,
)
from raybench.results.storage import Folder, check_writable, explain, write_atomically

INTERNAL = ("_path", "_age")
PRECEDENCE = frozenset({"status", "written_by"})
"""Columns that say which of a trial's rows counts."""


class Store:
    """The results folder of one sweep: `trials/` and `epochs/`, each a folder of Parquet files."""

    def __init__(self, folder: Folder) -> None:
        """Nothing is made or read before it is needed. `folder` is results/<sweep>."""
        self.folder = folder
        self._trials = Table(folder / "trials", trial_schema())
        self._epochs = Table(folder / "epochs", epoch_schema())

    @property
    def skipped(self) -> list[str]:
        """What the last reading of each table had to leave out, one line a file."""
        return [*self._trials.skipped, *self._epochs.skipped]

    def write_trial(self, row: TrialRow, *, by: Writer = "trial") -> None:
        """Replaces the row of this trial, attempt and writer. Raises ResultsError when it cannot be written."""
        path = self._part(self._trials, row.trial_id, row.attempt, f"-{by}")
        write_atomically(path, encode(trial_table(row, by)))

    def write_epochs(self, trial_id: str, attempt: int, rows: Sequence[EpochRow]) -> None:
        """Replaces the epochs of this trial and attempt: all so far, with those of earlier attempts it went on from.

        Raises ResultsError when they cannot be written, ValueError for rows of another trial or an epoch given twice.
        """
        path = self._part(self._epochs, trial_id, attempt, "")
        write_atomically(path, encode(epoch_table(trial_id, attempt, rows)))

    def trials(self, columns: Iterable[str] | None = None, *, categories: bool = False) -> pl.DataFrame:
        """One row a trial, that of its highest attempt, by trial_id; columns of `trial_schema()` and any others.

        With `columns` those of them that there are, which takes little time however many trials and columns there are,
        and less with `categories`: text may then come as such.
        Within an attempt the driver's row counts only where the trial's own is not settled; its empty columns are then
        filled from the trial's own row. Files that cannot be read are left out and named in `skipped`.
        """
        if columns is None:
            return _one_row_a_trial(self._trials.read()[0])
        asked = list(dict.fromkeys(columns))
        rows = self._trials.read_alone(asked)
        if rows is None:
            rows = _one_row_a_trial(self._trials.read(Wanted(columns=PRECEDENCE.union(asked)))[0])
        return _only(rows if categories else as_text(rows), asked)

    def epochs(self, trial_ids: Iterable[str] | None = None, columns: Iterable[str] | None = None) -> pl.DataFrame:
        """One row a trial and epoch, of each trial's highest attempt, in order of both; all or those named.

        With `columns` those of them that there are. What is not asked for is not read from compact files, so damage
        there goes unnoticed; other files that cannot be read are left out and named in `skipped`, as are rows without
        an epoch from 1 on.
        """
        ids = None if trial_ids is None else frozenset(trial_ids)
        if columns is None:
            return _last_attempt_epochs(self._epochs.read(Wanted(ids))[0])
        asked = list(dict.fromkeys(columns))
        rows, _ = self._epochs.read(Wanted(ids, frozenset(["epoch", *asked])))
        return _only(_last_attempt_epochs(rows), asked)

    def final_epochs(self, columns: Iterable[str]) -> pl.DataFrame:
        """Of `epochs`, the last row of each trial; those of `columns` that there are."""
        asked = list(dict.fromkeys(columns))
        rows, _ = self._epochs.read(Wanted(columns=frozenset(["epoch", *asked]), last=True))
        rows = _last_attempt_epochs(rows)
        last = pl.col("trial_id").ne_missing(pl.col("trial_id").shift(-1))
        return _only(rows.filter(last), asked)

    def last_epochs(self, trial_id: str) -> list[EpochRow]:
        """The epochs of the trial's highest attempt, to go on from; empty when there are none."""
        return [epoch_row(values) for values in self.epochs([trial_id]).iter_rows(named=True)]

    def status_at(self, trial_id: str, attempt: int) -> str | None:
        """How the trial stood when `attempt` was its last; none when nothing of it is there."""
        rows, _ = self._trials.read(Wanted(frozenset([trial_id]), PRECEDENCE))
        found = _one_row_a_trial(rows.filter((pl.col("trial_id") == trial_id) & (pl.col("attempt") <= attempt)))
        return found["status"].item() if found.height else None

    def next_attempt(self, trial_id: str) -> int:
        """1 + the highest attempt of which anything was ever written, readable or not; 1 when there is none.

        Raises ResultsError where a file's name says that there were as many as there can be.
        """
        highest = 0
        for table in (self._trials, self._epochs):
            rows, _ = table.read(Wanted(frozenset([trial_id]), frozenset()))
            begun = [file.attempt for file in table.files({trial_id}) if file.attempt is not None]
            highest = max([highest, *begun, *rows["attempt"].drop_nulls()])
        if highest >= LARGEST:
            raise ResultsError(f"{self.folder}: {trial_id} has a row or file of attempt {highest}, not ours; remove it")
        return highest + 1

    def check_writable(self) -> None:
        """Raises ResultsError when rows could not be written here: a file in the way, no right to, a full disk.

        On an object store: no such bucket, credentials refused, an endpoint that does not answer.
        """
        if isinstance(self.folder, Path):
            check_writable(self._trials.folder)
            check_writable(self._epochs.folder)
        else:
            check_writable(self.folder)

    def compact(self) -> None:
        """Puts the parts of settled trials into few files; the tables stay equal, also when killed at any point.

        A compact file that is large is left alone, so that it costs what has come since the last time. May be called at
        any time, while trials write too. Rows of trials that are not settled, and files that cannot be read, stay where
        they are. Raises ResultsError when the disk is full or not writable; nothing is lost then.
        """
        if not isinstance(self.folder, Path):
            self._compact()  # a compact file is put only where there is none of its name
            return
        if not self.folder.is_dir():
            return
        try:
            # Two at once would take the same number, and one lose the other's rows.
            with FileLock(self.folder / ".compact.lock"):
                self._compact()
        except OSError as error:
            raise explain(error, self.folder) from error

    def _compact(self) -> None:
        rows, _ = self._trials.read(Wanted(columns=PRECEDENCE))
        final = _one_row_a_trial(rows).filter(pl.col("status").is_in([*SETTLED]))
        settled = dict(final.select("trial_id", "attempt").iter_rows())
        # Epochs first: no trial's row says that it is settled and compact while its epochs are neither here nor there.
        compact_table(self._epochs, settled, _last_attempt_epochs)
        compact_table(self._trials, settled, _one_row_a_trial)

    def _part(self, table: Table, trial_id: str, attempt: int, suffix: str) -> Folder:
        name = f"{trial_id}-a{attempt}{suffix}.parquet"
        match = PART.fullmatch(name)
        if not match or match["trial"] != trial_id:
            raise ValueError(f"trial_id {trial_id!r}, attempt {attempt}: letters, digits, _ . - and attempts from 1")
        return table.folder / name


def _only(rows: pl.DataFrame, columns: Iterable[str]) -> pl.DataFrame:
    return rows.select(name for name in columns if name in rows.columns)


def _one_row_a_trial(rows: pl.DataFrame) -> pl.DataFrame:
    """By precedence: highest attempt; in it the trial's own row if settled, else the driver's, else the trial's own."""
    several = rows["trial_id"].is_duplicated()
    chosen = rows.filter(~several)
    if several.any():
        chosen = pl.concat([chosen, _by_precedence(rows.filter(several))])
    chosen = chosen.drop(*INTERNAL)
    return chosen if chosen["trial_id"].is_sorted() else chosen.sort("trial_id")


def _by_precedence(rows: pl.DataFrame) -> pl.DataFrame:
    own = pl.col("written_by") != "driver"
    order = pl.when(own & pl.col("status").is_in([*SETTLED])).then(0).when(~own).then(1).otherwise(2).alias("_order")
    rows = (
        rows.filter(pl.col("attempt") == pl.col("attempt").max().over("trial_id"))
        .with_columns(order)
        .sort(["trial_id", "_order", "_age"], descending=[False, False, True])
    )
    alone = pl.len().over("trial_id") == 1
    first = pl.col("_order").cum_count().over("trial_id") == 1
    plain = alone | (first & (pl.col("_order") != 1))
    by_driver = pl.col("_order").first().over("trial_id") == 1
    filled = (
        rows.filter(by_driver & ~alone).group_by("trial_id", maintain_order=True).agg(pl.all().drop_nulls().first())
    )
    return pl.concat([rows.filter(plain), filled.select(rows.columns)]).drop("_order")


def _last_attempt_epochs(rows: pl.DataFrame) -> pl.DataFrame:
    """Of each trial the rows of one file: the highest attempt's, and of its files the one that counts."""
    last = pl.col("attempt") == pl.col("attempt").max().over("trial_id")
    counts = pl.col("_age") == pl.col("_age").max().over("trial_id")
    rows = rows.filter(last).filter(counts).sort("trial_id", "epoch", maintain_order=True)
    # A part that someone copied under another name is no second training.
    return rows.unique(["trial_id", "epoch"], keep="first", maintain_order=True).drop(*INTERNAL)
