"""The tables of one sweep: small parts that trials replace after every epoch, compacted into one file a table.

Every file is written whole or not at all, so whatever dies, what was finished stays. A trial and the driver never write
the same file, nor do two attempts of a trial: readers take the highest attempt, and a late writer of a lower one
changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import polars as pl
from filelock import FileLock

from raybench.results.parts import PART, PartFile, Table, encode
from raybench.results.schema import (
    SETTLED,
    EpochRow,
    TrialRow,
    Writer,
    epoch_row,
    epoch_schema,
    epoch_table,
    to_arrow,
    trial_schema,
    trial_table,
)
from raybench.results.storage import Folder, check_writable, create, each, explain, remove, write_atomically

STALE_AFTER_S = 3600.0
"""Age at which a temporary file has certainly lost its writer."""
INTERNAL = ("_path", "_age")
Chooser = Callable[[pl.DataFrame], pl.DataFrame]
"""Which of a trial's rows count."""


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

    def trials(self) -> pl.DataFrame:
        """One row a trial, that of its highest attempt, by trial_id; columns of `trial_schema()` and any others.

        Within an attempt the driver's row counts only where the trial's own is not settled; its empty columns are then
        filled from the trial's own row. Files that cannot be read are left out and named in `skipped`.
        """
        rows, _ = self._trials.read()
        return _one_row_a_trial(rows)

    def epochs(self, trial_ids: Iterable[str] | None = None) -> pl.DataFrame:
        """One row a trial and epoch, of each trial's highest attempt, in order of both; all or those named.

        Files that cannot be read are left out and named in `skipped`.
        """
        rows, _ = self._epochs.read(None if trial_ids is None else set(trial_ids))
        return _last_attempt_epochs(rows)

    def last_epochs(self, trial_id: str) -> list[EpochRow]:
        """The epochs of the trial's highest attempt, to go on from; empty when there are none."""
        return [epoch_row(values) for values in self.epochs([trial_id]).iter_rows(named=True)]

    def status_at(self, trial_id: str, attempt: int) -> str | None:
        """How the trial stood when `attempt` was its last; none when nothing of it is there."""
        rows, _ = self._trials.read({trial_id})
        found = _one_row_a_trial(rows.filter((pl.col("trial_id") == trial_id) & (pl.col("attempt") <= attempt)))
        return found["status"].item() if found.height else None

    def next_attempt(self, trial_id: str) -> int:
        """1 + the highest attempt of which anything was ever written, readable or not; 1 when there is none."""
        highest = 0
        for table in (self._trials, self._epochs):
            rows, _ = table.read({trial_id})
            begun = [file.attempt for file in table.files({trial_id}) if file.attempt is not None]
            highest = max([highest, *begun, *rows["attempt"].drop_nulls()])
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
        """Puts the parts of settled trials into one file a table; the tables stay equal, also when killed at any point.

        May be called at any time, while trials write too. Rows of trials that are not settled, and files that cannot be
        read, stay where they are. Raises ResultsError when the disk is full or not writable; nothing is lost then.
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
        rows, files = self._trials.read()
        final = _one_row_a_trial(rows).filter(pl.col("status").is_in([*SETTLED]))
        settled = dict(zip(final["trial_id"], final["attempt"], strict=True))
        # Epochs first: no trial's row says that it is settled and compact while its epochs are neither here nor there.
        self._compact_table(self._epochs, *self._epochs.read(), settled, _last_attempt_epochs)
        self._compact_table(self._trials, rows, files, settled, _one_row_a_trial)

    def _compact_table(
        self, table: Table, rows: pl.DataFrame, files: list[PartFile], settled: dict[str, int], chosen: Chooser
    ) -> None:
        """`settled` is the attempt that settled each trial; a later one, run again, is none of our business."""
        old = [file for file in files if file.trial_id is None]
        parts = [file for file in files if (file.attempt or 0) <= settled.get(file.trial_id or "", -1)]
        _remove_stale(table.folder)
        if not parts and len(old) <= 1:
            return
        last = pl.col("trial_id").replace_strict(settled, default=-1, return_dtype=pl.Int64)
        done = rows.filter(pl.col("attempt") <= last)
        # An earlier compact file may hold the last attempt of a trial that is being run again.
        kept = rows.filter((last == -1) & pl.col("_path").is_in([str(file.path) for file in old]))
        whole = pl.concat([chosen(done), chosen(kept)])
        number = 1 + max((file.age for file in table.files(set())), default=0)
        path = table.folder / f"compact-{number}.parquet"
        content = encode(to_arrow(whole, table.schema), large=True)
        if isinstance(path, Path):
            write_atomically(path, content)
        elif not create(path, content):
            return  # another compaction was quicker
        each(PartFile.remove_unchanged, [*old, *parts])

    def _part(self, table: Table, trial_id: str, attempt: int, suffix: str) -> Folder:
        name = f"{trial_id}-a{attempt}{suffix}.parquet"
        match = PART.fullmatch(name)
        if not match or match["trial"] != trial_id:
            raise ValueError(f"trial_id {trial_id!r}, attempt {attempt}: letters, digits, _ . - and attempts from 1")
        return table.folder / name


def _one_row_a_trial(rows: pl.DataFrame) -> pl.DataFrame:
    """By precedence: highest attempt; in it the trial's own row if settled, else the driver's, else the trial's own."""
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
    chosen = pl.concat([rows.filter(plain), filled.select(rows.columns)])
    return chosen.drop(*INTERNAL, "_order").sort("trial_id")


def _last_attempt_epochs(rows: pl.DataFrame) -> pl.DataFrame:
    """Of each trial the rows of one file: the highest attempt's, and of its files the one that counts."""
    last = pl.col("attempt") == pl.col("attempt").max().over("trial_id")
    counts = pl.col("_age") == pl.col("_age").max().over("trial_id")
    rows = rows.filter(last).filter(counts).sort("trial_id", "epoch", maintain_order=True)
    # A part that someone copied under another name is no second training.
    return rows.unique(["trial_id", "epoch"], keep="first", maintain_order=True).drop(*INTERNAL)


def _remove_stale(folder: Folder) -> None:
    """Deletes temporary files whose writers were killed long ago; an object store has none."""
    if not isinstance(folder, Path):
        return
    for path in folder.glob(".*.tmp"):
        try:
            newest = folder.stat().st_mtime  # the file server's clock, not ours
            if newest - path.stat().st_mtime > STALE_AFTER_S:
                remove([path])
        except OSError:
            continue
