"""One table's folder of Parquet files: what they are called, and reading many of them at once."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from raybench.errors import ResultsError
from raybench.results.compact import Compact, open_compact
from raybench.results.parquet import UNREADABLE, decode
from raybench.results.schema import polars_schema
from raybench.results.storage import Folder, Stamp, each, entries, read, remove, stamp

LARGEST = 10**15 - 1
"""Highest attempt and number of a compact file; what has more digits is none of ours and would not fit its column."""
PART = re.compile(
    r"(?P<trial>[A-Za-z0-9][A-Za-z0-9_.-]*?)-a(?P<attempt>[1-9][0-9]{0,14})(?:-(?P<by>trial|driver))?\.parquet"
)
COMPACT = re.compile(r"compact-(?P<number>[1-9][0-9]{0,14})\.parquet")
PARTS_WIN = 1 << 62
"""Age of a part: whoever replaced it did so after any compaction that left it standing."""
READS = 20
"""How often a listing is read again because a compaction went on beneath it."""

FILES_AT_A_TIME = 512
"""Files whose frames are in memory one by one."""

LARGE_VALUES = 40_000_000
"""Values of a compact file that no compaction touches again: 2.1 million rows of epochs, 0.3 million trials.

It decides what a compaction takes of memory: up to 1 GiB, three times eight bytes a value.
"""

ORIGIN = {"_path": pl.String(), "_age": pl.Int64(), "_trial": pl.String(), "_attempt": pl.Int64()}
"""What is known of a row by the name of its file."""


@dataclass(frozen=True)
class PartFile:
    """A Parquet file of one table: a part (of one trial and attempt) or a compact file (of many)."""

    path: Folder
    trial_id: str | None
    """None for a compact file."""
    attempt: int | None
    age: int
    """Of two files that hold the same row, the one with the higher age counts."""
    stamp: Stamp
    """To tell whether the file is still the one that was read."""

    @property
    def size(self) -> int:
        """Of the file that was listed, bytes."""
        return int(self.stamp[-1 if isinstance(self.stamp[0], str) else 1])

    def remove_unchanged(self) -> None:
        """Delete it if it is."""
        if stamp(self.path) == self.stamp:
            remove([self.path])


@dataclass(frozen=True)
class Wanted:
    """What a reading is for: all of a table, or less."""

    trial_ids: frozenset[str] | None = None
    columns: frozenset[str] | None = None
    """Beside `trial_id` and `attempt`; none means all."""
    last: bool = False
    """Whether each trial's last epoch is enough; further rows may come too."""

    @property
    def everything(self) -> bool:
        """Whether it is the whole table."""
        return self.trial_ids is None and self.columns is None and not self.last

    def column(self, name: str) -> bool:
        """Whether a column is asked for."""
        return self.columns is None or name in self.columns or name in ("trial_id", "attempt")


EVERYTHING = Wanted()


class Table:
    """The files of one table, read together.

    What was read of parts and small compact files stays, so that only files that changed are read again; of large
    compact files, and of any where a part of its rows or columns is enough, no more is read than that.
    """

    def __init__(self, folder: Folder, schema: pa.Schema) -> None:
        """Columns of `schema` are always there, in its order and types."""
        self.folder = folder
        self.schema = schema
        self.skipped: list[str] = []
        """What the last reading had to leave out, one line a file."""
        self._rows: pl.DataFrame | None = None
        self._stamps: dict[str, Stamp] = {}
        """Path -> the stamp of those files whose rows are here."""
        self._compacts: dict[str, tuple[Stamp, Compact | None]] = {}
        """Path -> stamp and index of each compact file; no index where it can be read as a whole only, if at all."""
        self._reading = threading.Lock()

    def files(self, trial_ids: Iterable[str] | None = None) -> list[PartFile]:
        """The files in order of name, of all trials or of those named; compact files hold any trial's.

        Hidden files and those with foreign names are left out.

        Raises ResultsError when the folder is there but cannot be listed.
        """
        ids = None if trial_ids is None else frozenset(trial_ids)

        def wanted(name: str) -> bool:
            part = PART.fullmatch(name)
            named = part is not None and (ids is None or part["trial"] in ids)
            return named or COMPACT.fullmatch(name) is not None

        return [self._file(name, mark) for name, mark in entries(self.folder, wanted).items()]

    def _file(self, name: str, mark: Stamp) -> PartFile:
        if compact := COMPACT.fullmatch(name):
            return PartFile(self.folder / name, None, None, int(compact["number"]), mark)
        part = PART.fullmatch(name)
        assert part is not None
        return PartFile(self.folder / name, part["trial"], int(part["attempt"]), PARTS_WIN, mark)

    def read(self, wanted: Wanted = EVERYTHING) -> tuple[pl.DataFrame, list[PartFile]]:
        """All rows that are wanted, also superseded ones, and the files that were looked at.

        Each row has its file's `_path` and `_age`. Columns beyond the schema are those that hold a value anywhere.
        """
        with self._reading:
            return self._read(wanted)

    def _read(self, wanted: Wanted) -> tuple[pl.DataFrame, list[PartFile]]:
        for _ in range(READS):
            files = self.files(wanted.trial_ids)
            rows, unreadable = self._load(files, wanted, keep=True)
            # A compaction beneath the reading may have hidden rows from it: deleted here, not yet listed there.
            compacts = {file.path for file in files if file.trial_id is None}
            after = {file.path for file in self.files(())}
            if compacts == after and all(stamp(path) is not None for path in unreadable):
                break
        else:
            raise ResultsError(f"{self.folder} changed during each of {READS} readings; is something deleting files?")
        self.skipped = [*unreadable.values()]
        return rows, [file for file in files if file.path not in unreadable]

    def read_alone(self, columns: Iterable[str]) -> pl.DataFrame | None:
        """These columns of the one compact file that is all there is; none where there is more, or not all is sound.

        For a table of one row a trial: every row counts then, and no time goes into telling whose it is. Text that
        repeats comes as categories.
        """
        with self._reading:
            files = self.files()
            index = self.compact(files[0]) if len(files) == 1 and files[0].trial_id is None else None
            if index is None:
                return None
            try:
                if not _keys_fit(index, self.schema):
                    return None
                found = index.categories(wanted := frozenset(columns))
            except UNREADABLE:
                return None
            if self.files() != files:
                return None
            self.skipped = []
            schema = {name: kind for name, kind in polars_schema(self.schema).items() if name in wanted}
            held = found.schema
            known = [name for name in schema if held.get(name) not in (schema[name], pl.Categorical)]
            rows = found.with_columns(
                (pl.col(name) if name in held else pl.lit(None)).cast(schema[name], strict=False).alias(name)
                for name in known
            )
            return self._without_empty(rows)

    def load(
        self,
        files: Sequence[PartFile],
        trial_ids: frozenset[str] | None = None,
        columns: Iterable[str] | None = None,
    ) -> tuple[pl.DataFrame, dict[Folder, str]]:
        """Rows in these files, all or of some trials, and a line for each not wholly readable; nothing is kept."""
        wanted = Wanted(trial_ids, None if columns is None else frozenset(columns))
        with self._reading:
            return self._load(files, wanted, keep=False)

    def compact(self, file: PartFile) -> Compact | None:
        """The index of a compact file that can be read in part."""
        known = self._compacts.get(str(file.path))
        if known is None or known[0] != file.stamp:
            known = file.stamp, open_compact(file.path, file.size)
            self._compacts[str(file.path)] = known
        return known[1]

    def is_large(self, compact: Compact) -> bool:
        """Whether a compaction leaves it alone."""
        return compact.height * len(self.schema) >= LARGE_VALUES

    def _load(self, files: Sequence[PartFile], wanted: Wanted, *, keep: bool) -> tuple[pl.DataFrame, dict[Folder, str]]:
        compacts = [file for file in files if file.trial_id is None]
        found = self._each(lambda file: self._partly(file, wanted, keep), compacts)
        some = [(file, index) for file, index in zip(compacts, found, strict=True) if index is not None]
        partly = {file.path for file, _ in some}
        whole = [file for file in files if file.path not in partly]
        if keep:
            unreadable = self._take(whole, files if wanted.trial_ids is None else None)
            frames = [] if self._rows is None else [self._rows]
        else:
            frames, unreadable = _read_files(whole, self.schema)
        paths = [str(file.path) for file in whole]
        frames = [self._cut(frame.filter(pl.col("_path").is_in(paths)), wanted) for frame in frames]
        for (file, _), rows in zip(some, self._each(lambda one: self._some(one[0], one[1], wanted), some), strict=True):
            if isinstance(rows, str):
                unreadable[file.path] = f"{file.path}: not readable as Parquet ({rows})"
            elif rows is not None:
                frames.append(rows[0])
                unreadable |= _of_files([file], rows[1])
        rows = pl.concat(frames, how="diagonal") if frames else _empty(self._columns(wanted))
        in_order = {file.path: unreadable[file.path] for file in files if file.path in unreadable}
        return self._without_empty(rows), in_order

    def _each(self, act: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        """At once where an answer takes a way; threads would take longer than the disk."""
        return [act(item) for item in items] if isinstance(self.folder, Path) else each(act, items)

    def _partly(self, file: PartFile, wanted: Wanted, keep: bool) -> Compact | None:
        """The index by which a compact file is read in part; none where it is read as a whole, or has been already."""
        if keep and self._stamps.get(str(file.path)) == file.stamp:
            return None
        index = self.compact(file)
        return index if index is not None and (not wanted.everything or self.is_large(index)) else None

    def _some(self, file: PartFile, index: Compact, wanted: Wanted) -> tuple[pl.DataFrame, dict[str, str]] | str | None:
        """The rows of a compact file that are wanted, as of `_sound`; or why they cannot be had; none if none are."""
        try:
            if wanted.trial_ids is not None and not index.held(wanted.trial_ids):
                return None
            known = _keys_fit(index, self.schema)
            if not known:  # of a trial's rows, the one that would be its last may be none
                columns = None if wanted.columns is None else wanted.columns | {"epoch"}
                wanted = replace(wanted, columns=columns, last=False)
            columns = None if wanted.columns is None else wanted.columns | {"trial_id", "attempt"}
            rows = _of_file(file, index.rows(wanted.trial_ids, columns, last=wanted.last), self._columns(wanted))
            return (rows.drop("_trial", "_attempt"), {}) if known else _sound(rows, self.schema)
        except UNREADABLE as error:
            return _first_line(error)

    def _cut(self, rows: pl.DataFrame, wanted: Wanted) -> pl.DataFrame:
        if wanted.trial_ids is not None:
            rows = rows.filter(pl.col("trial_id").is_in(sorted(wanted.trial_ids)))
        return rows.select(name for name in rows.columns if wanted.column(name) or name in ("_path", "_age"))

    def _columns(self, wanted: Wanted) -> pa.Schema:
        return pa.schema([entry for entry in self.schema if wanted.column(entry.name)])

    def _without_empty(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Without columns beyond the schema that hold no value."""
        always = {*self.schema.names, "_path", "_age"}
        further = [name for name in rows.columns if name not in always]
        return rows.drop([name for name in further if rows[name].null_count() == rows.height])

    def _take(self, files: Sequence[PartFile], listed: Sequence[PartFile] | None) -> dict[Folder, str]:
        """Bring the kept rows up to date with these files; a line for each unreadable one.

        `listed` are all files there are, where that is known: the rows of others go.
        """
        fresh = [file for file in files if self._stamps.get(str(file.path)) != file.stamp]
        outdated = {str(file.path) for file in fresh}
        if listed is not None:
            present = {str(file.path) for file in listed}
            outdated |= self._stamps.keys() - present
            self._compacts = {path: known for path, known in self._compacts.items() if path in present}
        if not outdated:
            return {}
        frames, unreadable = _read_files(fresh, self.schema)
        kept = _empty(self.schema) if self._rows is None else self._rows
        kept = kept.filter(~pl.col("_path").is_in(sorted(outdated)))
        self._rows = pl.concat([kept, *frames], how="diagonal")
        for path in outdated:
            self._stamps.pop(path, None)
        self._stamps |= {str(file.path): file.stamp for file in fresh if file.path not in unreadable}
        return unreadable


def _read_files(files: Sequence[PartFile], schema: pa.Schema) -> tuple[list[pl.DataFrame], dict[Folder, str]]:
    """The rows in a few frames; and what could not be read, with a line for people each."""
    frames: list[pl.DataFrame] = []
    unreadable: dict[Folder, str] = {}
    # A frame of one row and a hundred columns takes a hundred times what it holds.
    for start in range(0, len(files), FILES_AT_A_TIME):
        found, broken = _read_some_files(files[start : start + FILES_AT_A_TIME], schema)
        frames += found
        unreadable |= broken
    return frames, unreadable


def _read_some_files(files: Sequence[PartFile], schema: pa.Schema) -> tuple[list[pl.DataFrame], dict[Folder, str]]:
    """A frame for each set of columns."""
    unreadable: dict[Folder, str] = {}
    groups: dict[tuple[Any, ...], list[tuple[PartFile, pl.DataFrame]]] = {}
    for file, frame in zip(files, each(_read_file, list(files)), strict=True):
        if isinstance(frame, str):
            unreadable[file.path] = f"{file.path}: not readable as Parquet ({frame})"
        elif frame.height:
            groups.setdefault((*frame.columns, *frame.dtypes), []).append((file, frame))
    frames = []
    for group in groups.values():
        found, broken = _rows_of(group, schema)
        frames += found
        unreadable |= broken
    return frames, unreadable


def _rows_of(
    group: list[tuple[PartFile, pl.DataFrame]], schema: pa.Schema
) -> tuple[list[pl.DataFrame], dict[Folder, str]]:
    """The rows of files with equal columns; of those that cannot be taken together each for itself."""
    try:
        rows = _with_columns(_with_origin(group), schema)
    except UNREADABLE as error:
        if len(group) == 1:
            path = group[0][0].path
            return [], {path: f"{path}: not a table of ours ({_first_line(error)})"}
        alone = [_rows_of([each], schema) for each in group]
        return [frame for found, _ in alone for frame in found], {
            k: v for _, broken in alone for k, v in broken.items()
        }
    rows, faults = _sound(rows, schema)
    return [rows], _of_files([file for file, _ in group], faults)


def _of_files(files: Iterable[PartFile], faults: dict[str, str]) -> dict[Folder, str]:
    return {file.path: faults[str(file.path)] for file in files if str(file.path) in faults}


def _sound(rows: pl.DataFrame, schema: pa.Schema) -> tuple[pl.DataFrame, dict[str, str]]:
    """The rows that can be ours; and path -> a line for people about those of the file that cannot, which go."""
    # A part speaks for its own trial and attempt; whatever else has been put under its name would count twice.
    same = (pl.col("trial_id") == pl.col("_trial")) & (pl.col("attempt") == pl.col("_attempt"))
    compact = pl.col("_trial").is_null() & pl.col("trial_id").is_not_null() & pl.col("attempt").is_between(1, LARGEST)
    fits = {"not of the trial and attempt in its name": same | compact}
    if "epoch" in schema.names:
        fits["without an epoch, which count from 1"] = pl.col("epoch") >= 1
    fault = pl.coalesce(pl.when(~fit.fill_null(False)).then(pl.lit(why)) for why, fit in fits.items())
    rows = rows.with_columns(fault.alias("_fault"))
    faulty = rows.filter(pl.col("_fault").is_not_null())
    counts = faulty.group_by("_path", "_fault", maintain_order=True).len()
    faults: dict[str, str] = {}
    for path, why, count in counts.iter_rows():
        faults[path] = f"{faults[path]}; " if path in faults else f"{path}: left out "
        faults[path] += f"{count:,} row{'s' * (count != 1)} {why}"
    if faulty.height:
        rows = rows.filter(pl.col("_fault").is_null())
    return rows.drop("_fault", "_trial", "_attempt"), faults


def _keys_fit(index: Compact, schema: pa.Schema) -> bool:
    """Whether a compact file's footer tells that all its rows are sound, so that none need be looked at."""
    numbers = [name for name in ("attempt", "epoch") if name in schema.names]
    return index.within("trial_id", "", "\U0010ffff") and all(index.within(name, 1, LARGEST) for name in numbers)


def _read_file(file: PartFile) -> pl.DataFrame | str:
    """Its rows, or why there are none."""
    try:
        return decode(read(file.path)).drop(ORIGIN, strict=False)
    except UNREADABLE as error:
        return _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _with_origin(group: list[tuple[PartFile, pl.DataFrame]]) -> pl.DataFrame:
    """The rows of files with equal columns, with what is known of each row's file."""
    origin = pl.DataFrame(
        [(str(file.path), file.age, file.trial_id, file.attempt, frame.height) for file, frame in group],
        schema=ORIGIN | {"rows": pl.Int64()},
        orient="row",
    )
    repeated = origin.select(pl.col(*ORIGIN).repeat_by("rows").explode())
    return pl.concat([pl.concat([frame for _, frame in group], rechunk=True), repeated], how="horizontal")


def _of_file(file: PartFile, rows: pl.DataFrame, schema: pa.Schema) -> pl.DataFrame:
    """Rows of a compact file with the columns of `schema`, and what is known of each by the file."""
    origin = zip(ORIGIN.items(), (str(file.path), file.age, None, None), strict=True)
    rows = rows.with_columns(pl.lit(value, kind).alias(name) for (name, kind), value in origin)
    return _with_columns(rows, schema)


def _empty(schema: pa.Schema) -> pl.DataFrame:
    return pl.DataFrame(schema={**polars_schema(schema), "_path": pl.String(), "_age": pl.Int64()})


def _with_columns(frame: pl.DataFrame, schema: pa.Schema) -> pl.DataFrame:
    """The frame with every column of `schema`, in its order and types, before any others.

    Those are numbers (metrics, parts of the loss) or, of a configuration and an environment, text; what is neither is
    left out.
    """
    wanted, held = polars_schema(schema), frame.schema
    here = [
        (pl.col(name).cast(kind, strict=False) if name in held else pl.lit(None, kind)).alias(name)
        for name, kind in wanted.items()
    ]
    plain = [name for name, kind in held.items() if kind.is_numeric() or kind in (pl.String, pl.Boolean)]
    further = [
        pl.col(name).cast(pl.String if name.startswith(("config/", "env/")) else pl.Float64, strict=False)
        for name in plain
        if name not in wanted and name not in ORIGIN
    ]
    found = frame.select(*here, *further, *ORIGIN)
    became = found.schema  # made anew each time it is asked for
    if odd := [name for name, kind in wanted.items() if became[name] != kind]:
        raise ValueError(f"column {odd[0]} holds {held[odd[0]]}")
    return found
