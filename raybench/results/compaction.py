"""Compaction: the parts of settled trials become one compact file, together with compact files that are still small.

A compact file that is large is left alone, so that a compaction costs what has come since the last one, however long
the sweep; a trial that is run again later counts by its attempt. A file's number is its age: whoever writes one has
looked at all that hold the same trials, so that of two that hold the same row the one with the higher number is right.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import polars as pl

from raybench.results import parts
from raybench.results.compact import encode_compact
from raybench.results.parts import PartFile, Table
from raybench.results.storage import Folder, create, each, remove, stamp

logger = logging.getLogger(__name__)

STALE_AFTER_S = 3600.0
"""Age at which a temporary file has certainly lost its writer."""
TRIALS_AT_A_TIME = 256
"""Trials whose parts are read together: by the rows of so many a compact file may be larger than it need be."""

Chooser = Callable[[pl.DataFrame], pl.DataFrame]
"""Which of a trial's rows count."""


def compact_table(table: Table, settled: Mapping[str, int], chosen: Chooser) -> None:
    """Put the parts of settled trials, and small compact files, into as few new ones.

    `settled` is the attempt that settled each trial; a later one, run again, is none of our business.
    """
    _remove_stale(table.folder)
    listed = table.files()
    compacts = [file for file in listed if file.trial_id is None]
    indices = [table.compact(file) for file in compacts]
    large = [file for file, index in zip(compacts, indices, strict=True) if index and table.is_large(index)]
    small = [file for file in compacts if file not in large]
    due: dict[str, list[PartFile]] = {}
    for file in listed:
        if file.trial_id is not None and (file.attempt or 0) <= settled.get(file.trial_id, -1):
            due.setdefault(file.trial_id, []).append(file)
    if not due and len(small) <= 1:
        return
    pile = _Pile(table, compacts, large, due, chosen)
    if not all(pile.add_file(file) for file in small):
        return
    trial_ids = sorted(due)
    for start in range(0, len(trial_ids), TRIALS_AT_A_TIME):
        if not pile.add(trial_ids[start : start + TRIALS_AT_A_TIME], []):
            return
    pile.write()


class _Pile:
    """What has been read and is not written yet."""

    def __init__(
        self,
        table: Table,
        compacts: Sequence[PartFile],
        large: Sequence[PartFile],
        due: dict[str, list[PartFile]],
        chosen: Chooser,
    ) -> None:
        """`due` are the parts to be put away, from which goes what is read."""
        self.table = table
        self.compacts = list(compacts)
        """Where more rows of trials that are not done may be."""
        self.large = [str(file.path) for file in large]
        self.due = due
        self.chosen = chosen
        self.number = 1 + max((file.age for file in compacts), default=0)
        """Of the next compact file."""
        self.rows: list[pl.DataFrame] = []
        self.files: list[PartFile] = []
        """Whose rows these are."""
        self.done: set[str] = set()
        """Trials of all rows that were ever here."""
        self.unreadable: set[Folder] = set()
        """Files of which something was not read when it was wanted, or rows were left out, and which stay."""

    def add_file(self, file: PartFile) -> bool:
        """Read a small compact file, with all else that there is of its trials. False as `add` says."""
        found, unreadable = self.table.load([file], columns=[])
        if unreadable:
            self.unreadable.update(unreadable)
            if not found.height and self.table.compact(file) is None:
                self.compacts.remove(file)  # nothing can be read of it, nor is it tried again for each few trials
            return stamp(file.path) is not None
        return self.add(found["trial_id"].unique(), [file])

    def add(self, trial_ids: Iterable[str], files: Sequence[PartFile]) -> bool:
        """Read all that there is of these trials, which is all that `files` hold; write what is enough for a large one.

        False where another compaction is at work, and this one to stop.
        """
        ids = frozenset(trial_ids) - self.done
        parts_of_them = [file for trial_id in ids.intersection(self.due) for file in self.due.pop(trial_id)]
        rows, unreadable = self.table.load([*parts_of_them, *self.compacts], ids)
        if any(stamp(path) is None for path in unreadable):
            return False
        self.unreadable.update(unreadable)
        self.done |= ids
        self.compacts = [file for file in self.compacts if file not in files]
        self.rows.append(self.chosen(rows.filter(~pl.col("trial_id").is_in(self._settled_elsewhere(rows)))))
        self.files += [file for file in (*files, *parts_of_them) if file.path not in self.unreadable]
        values = sum(each.height for each in self.rows) * len(self.table.schema)
        return values < parts.LARGE_VALUES or self.write()

    def _settled_elsewhere(self, rows: pl.DataFrame) -> list[str]:
        """Trials of which a large file has the row that counts: those stay where they are, and only there."""
        top = rows.filter(pl.col("attempt") == pl.col("attempt").max().over("trial_id"))
        top = top.filter(pl.col("_age") == pl.col("_age").max().over("trial_id"))
        return top.filter(pl.col("_path").is_in(self.large))["trial_id"].unique().to_list()

    def write(self) -> bool:
        """One compact file of it all in place of what it comes from; False where another compaction was quicker."""
        if len(self.files) == 1 and self.files[0].trial_id is None:
            return True  # it would only get another name
        if not self.files:
            return True
        rows = pl.concat(self.rows, how="diagonal")
        self.rows = []
        further = rows.columns[len(self.table.schema) :]
        rows = rows.drop([name for name in further if rows[name].null_count() == rows.height])
        if rows.height:
            if self.number > parts.LARGEST:
                logger.warning(
                    "%s is not ours: no number is left above it, so nothing here is compacted; give it a lower number",
                    self.table.folder / f"compact-{self.number - 1}.parquet",
                )
                return False
            path = self.table.folder / f"compact-{self.number}.parquet"
            content = encode_compact(rows, self.table.schema)
            del rows
            if not create(path, content):
                return False
            self.number += 1
        each(PartFile.remove_unchanged, self.files)
        self.files = []
        return True


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
