"""The tables of one sweep: small parts that trials replace after every epoch, compacted into one file a table.

Every file is written whole or not at all, so whatever dies, what was finished stays. A trial and the driver never write
the same file, nor do two attempts of a trial: readers take the highest attempt, and a late writer of a lower one
changes nothing.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
from filelock import FileLock

from raybench.errors import ResultsError
from raybench.results.parts import (
    PART,
    PartFile,
    encode,
    explain,
    list_files,
    read_files,
    remove,
    stamp,
    write_atomically,
)
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

READS = 20
"""How often a listing is read again because a compaction went on beneath it."""
STALE_AFTER_S = 3600.0
"""Age at which a temporary file has certainly lost its writer."""
INTERNAL = ("_path", "_age")


class Store:
    """The results folder of one sweep: `trials/` and `epochs/`, each a folder of Parquet files."""

    def __init__(self, folder: Path) -> None:
        """Nothing is made or read before it is needed. `folder` is results/<sweep>."""
        self.folder = folder
        self.skipped: list[str] = []
        """What the last reading had to leave out, one line a file."""

    def write_trial(self, row: TrialRow, *, by: Writer = "trial") -> None:
        """Replaces the row of this trial, attempt and writer. Raises ResultsError when it cannot be written."""
        path = self._part("trials", row.trial_id, row.attempt, f"-{by}")
        write_atomically(path, encode(trial_table(row, by)))

    def write_epochs(self, trial_id: str, attempt: int, rows: Sequence[EpochRow]) -> None:
        """Replaces the epochs of this trial and attempt: all so far, with those of earlier attempts it went on from.

        Raises ResultsError when they cannot be written, ValueError for rows of another trial or an epoch given twice.
        """
        path = self._part("epochs", trial_id, attempt, "")
        write_atomically(path, encode(epoch_table(trial_id, attempt, rows)))

    def trials(self) -> pl.DataFrame:
        """One row a trial, that of its highest attempt, by trial_id; columns of `trial_schema()` and any others.

        Within an attempt the driver's row counts only where the trial's own is not settled; its empty columns are then
        filled from the trial's own row. Files that cannot be read are left out and named in `skipped`.
        """
        rows, _ = self._read("trials", trial_schema())
        return _one_row_a_trial(rows)

    def epochs(self, trial_ids: Iterable[str] | None = None) -> pl.DataFrame:
        """One row a trial and epoch, of each trial's highest attempt, in order of both; all or those named.

        Files that cannot be read are left out and named in `skipped`.
        """
        rows, _ = self._read("epochs", epoch_schema(), None if trial_ids is None else set(trial_ids))
        return _last_attempt_epochs(rows)

    def last_epochs(self, trial_id: str) -> list[EpochRow]:
        """The epochs of the trial's highest attempt, to go on from; empty when there are none."""
        return [epoch_row(values) for values in self.epochs([trial_id]).iter_rows(named=True)]

    def next_attempt(self, trial_id: str) -> int:
        """1 + the highest attempt of which anything was ever written, readable or not; 1 when there is none."""
        highest = 0
        for table, schema in (("trials", trial_schema()), ("epochs", epoch_schema())):
            files = list_files(self.folder / table, {trial_id})
            highest = max([highest, *(file.attempt for file in files if file.attempt is not None)])
            rows, _ = self._read(table, schema, {trial_id})
            highest = max([highest, *rows["attempt"].drop_nulls()])
        return highest + 1

    def check_writable(self) -> None:
        """Raises ResultsError when rows could not be written here: a file in the way, no right to, a full disk."""
        for table in ("trials", "epochs"):
            probe = self.folder / table / f".probe-{os.getpid()}-{secrets.token_hex(4)}"
            write_atomically(probe, b"raybench")
            remove([probe])

    def compact(self) -> None:
        """Puts the parts of settled trials into one file a table; the tables stay equal, also when killed at any point.

        Rows of trials that are not settled, and files that cannot be read, stay where they are.
        Raises ResultsError when the disk is full or not writable; nothing is lost then.
        """
        if not self.folder.is_dir():
            return
        try:
            lock = FileLock(self.folder / ".compact.lock")
            with lock:  # two at once would take the same number and one lose the other's rows
                settled = set(self.trials().filter(pl.col("status").is_in([*SETTLED]))["trial_id"])
                self._compact("epochs", settled)
                self._compact("trials", settled)
        except OSError as error:
            raise explain(error, self.folder) from error

    def _compact(self, table: str, settled: set[str]) -> None:
        schema = trial_schema() if table == "trials" else epoch_schema()
        rows, files = self._read(table, schema)
        old = [file for file in files if file.trial_id is None]
        parts = [file for file in files if file.trial_id in settled]
        _remove_stale(self.folder / table)
        if not parts and len(old) <= 1:
            return
        done = rows.filter(pl.col("trial_id").is_in(sorted(settled)))
        # An earlier compact file may hold the last attempt of a trial that is being run again.
        kept = rows.filter(
            ~pl.col("trial_id").is_in(sorted(settled)) & pl.col("_path").is_in([str(file.path) for file in old])
        )
        if table == "trials":
            whole = pl.concat([_one_row_a_trial(done), _one_row_a_trial(kept)])
        else:
            whole = pl.concat([_last_attempt_epochs(done), _last_attempt_epochs(kept)])
        number = 1 + max((file.age for file in list_files(self.folder / table, set())), default=0)
        content = encode(to_arrow(whole, schema), large=True)
        write_atomically(self.folder / table / f"compact-{number}.parquet", content)
        remove(file.path for file in [*old, *parts] if _unchanged(file))

    def _part(self, table: str, trial_id: str, attempt: int, suffix: str) -> Path:
        name = f"{trial_id}-a{attempt}{suffix}.parquet"
        match = PART.fullmatch(name)
        if not match or match["trial"] != trial_id:
            raise ValueError(f"trial_id {trial_id!r}, attempt {attempt}: letters, digits, _ . - and attempts from 1")
        return self.folder / table / name

    def _read(
        self, table: str, schema: pa.Schema, trial_ids: set[str] | None = None
    ) -> tuple[pl.DataFrame, list[PartFile]]:
        """All rows, also superseded ones, and the files they came from."""
        for _ in range(READS):
            files = list_files(self.folder / table, trial_ids)
            rows, unreadable = read_files(files, schema)
            # A compaction beneath the reading may have hidden rows from it: deleted here, not yet listed there.
            compacts = {file.path for file in files if file.trial_id is None}
            after = {file.path for file in list_files(self.folder / table, set())}
            if compacts == after and all(path.exists() for path in unreadable):
                break
        else:
            raise ResultsError(
                f"{self.folder / table} changed during each of {READS} readings; is something deleting files?"
            )
        self.skipped = [line for line in self.skipped if not line.startswith(f"{self.folder / table}{os.sep}")]
        self.skipped += unreadable.values()
        if trial_ids is not None:
            rows = rows.filter(pl.col("trial_id").is_in(sorted(trial_ids)))
        return rows, [file for file in files if file.path not in unreadable]


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
    return rows.filter(last).filter(counts).drop(*INTERNAL).sort("trial_id", "epoch")


def _unchanged(file: PartFile) -> bool:
    try:
        return stamp(file.path) == file.stamp
    except OSError:
        return False


def _remove_stale(folder: Path) -> None:
    """Deletes temporary files whose writers were killed long ago."""
    for path in folder.glob(".*.tmp"):
        try:
            newest = folder.stat().st_mtime  # the file server's clock, not ours
            if newest - path.stat().st_mtime > STALE_AFTER_S:
                remove([path])
        except OSError:
            continue
