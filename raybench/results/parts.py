"""One table's folder of small Parquet files: what they are called, and reading many of them at once."""

from __future__ import annotations

import functools
import re
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from raybench.errors import ResultsError
from raybench.results.schema import polars_schema
from raybench.results.storage import Folder, Stamp, each, entries, read, remove, stamp

PART = re.compile(r"(?P<trial>[A-Za-z0-9][A-Za-z0-9_.-]*?)-a(?P<attempt>[1-9]\d*)(?:-(?P<by>trial|driver))?\.parquet")
COMPACT = re.compile(r"compact-(?P<number>[1-9]\d*)\.parquet")
PARTS_WIN = 1 << 62
"""Age of a part: whoever replaced it did so after any compaction that left it standing."""
READS = 20
"""How often a listing is read again because a compaction went on beneath it."""

CHECKSUM = b"raybench.crc32"
"""Key in a file's footer of the CRC-32 of all its bytes, counted with zeros in its own place."""
ZEROS = b"00000000"

ORIGIN = {"_path": pl.String(), "_age": pl.Int64(), "_trial": pl.String(), "_attempt": pl.Int64()}
"""What is known of a row by the name of its file."""

UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException, OSError, ValueError)


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

    def remove_unchanged(self) -> None:
        """Delete it if it is."""
        if stamp(self.path) == self.stamp:
            remove([self.path])


class Table:
    """The files of one table, read together; what was read stays, so that only files that changed are read again."""

    def __init__(self, folder: Folder, schema: pa.Schema) -> None:
        """Columns of `schema` are always there, in its order and types."""
        self.folder = folder
        self.schema = schema
        self.skipped: list[str] = []
        """What the last reading had to leave out, one line a file."""
        self._rows = _empty(schema)
        self._stamps: dict[str, Stamp] = {}
        """Path -> the stamp of those files whose rows are here."""
        self._reading = threading.Lock()

    def files(self, trial_ids: set[str] | None = None) -> list[PartFile]:
        """The files in order of name, of all trials or of those named; compact files hold any trial's.

        Hidden files and those with foreign names are left out.

        Raises ResultsError when the folder is there but cannot be listed.
        """

        def wanted(name: str) -> bool:
            part = PART.fullmatch(name)
            named = part is not None and (trial_ids is None or part["trial"] in trial_ids)
            return named or COMPACT.fullmatch(name) is not None

        return [self._file(name, mark) for name, mark in entries(self.folder, wanted).items()]

    def _file(self, name: str, mark: Stamp) -> PartFile:
        if compact := COMPACT.fullmatch(name):
            return PartFile(self.folder / name, None, None, int(compact["number"]), mark)
        part = PART.fullmatch(name)
        assert part is not None
        return PartFile(self.folder / name, part["trial"], int(part["attempt"]), PARTS_WIN, mark)

    def read(self, trial_ids: set[str] | None = None) -> tuple[pl.DataFrame, list[PartFile]]:
        """All rows, also superseded ones, of all trials or of those named; and the files they came from.

        Each row has its file's `_path` and `_age`. Columns beyond the schema are those that hold a value anywhere.
        """
        with self._reading:
            return self._read(trial_ids)

    def _read(self, trial_ids: set[str] | None) -> tuple[pl.DataFrame, list[PartFile]]:
        for _ in range(READS):
            files = self.files(trial_ids)
            unreadable = self._take(files, whole=trial_ids is None)
            # A compaction beneath the reading may have hidden rows from it: deleted here, not yet listed there.
            compacts = {file.path for file in files if file.trial_id is None}
            after = {file.path for file in self.files(set())}
            if compacts == after and all(stamp(path) is not None for path in unreadable):
                break
        else:
            raise ResultsError(f"{self.folder} changed during each of {READS} readings; is something deleting files?")
        self.skipped = [*unreadable.values()]
        rows = self._rows.filter(pl.col("_path").is_in([str(file.path) for file in files]))
        if trial_ids is not None:
            rows = rows.filter(pl.col("trial_id").is_in(sorted(trial_ids)))
        further = [name for name in rows.columns if name not in self._always]
        empty = [name for name in further if rows[name].null_count() == rows.height]
        return rows.drop(empty), [file for file in files if file.path not in unreadable]

    @property
    def _always(self) -> set[str]:
        return {*self.schema.names, "_path", "_age"}

    def _take(self, files: Sequence[PartFile], *, whole: bool) -> dict[Folder, str]:
        """Bring the rows up to date with these files, `whole` when they are all; a line for each unreadable one."""
        fresh = [file for file in files if self._stamps.get(str(file.path)) != file.stamp]
        outdated = {str(file.path) for file in fresh}
        if whole:
            outdated |= self._stamps.keys() - {str(file.path) for file in files}
        if not outdated:
            return {}
        frames, unreadable = _read_files(fresh, self.schema)
        stay = self._rows.filter(~pl.col("_path").is_in(sorted(outdated)))
        self._rows = pl.concat([stay, *frames], how="diagonal")
        for path in outdated:
            self._stamps.pop(path, None)
        self._stamps |= {str(file.path): file.stamp for file in fresh if file.path not in unreadable}
        return unreadable


def _read_files(files: Sequence[PartFile], schema: pa.Schema) -> tuple[list[pl.DataFrame], dict[Folder, str]]:
    """The rows in a frame for each set of columns; and what could not be read, with a line for people each."""
    unreadable: dict[Folder, str] = {}
    groups: dict[tuple[Any, ...], list[tuple[PartFile, pl.DataFrame]]] = {}
    for file, frame in zip(files, each(_read_file, list(files)), strict=True):
        if isinstance(frame, str):
            unreadable[file.path] = f"{file.path}: not readable as Parquet ({frame})"
        elif frame.height:
            groups.setdefault((*frame.columns, *frame.dtypes), []).append((file, frame))
    frames = []
    for group in groups.values():
        try:
            rows = _with_columns(_united(group), schema)
        except UNREADABLE as error:
            unreadable |= {file.path: f"{file.path}: not a table of ours ({_first_line(error)})" for file, _ in group}
            continue
        # A part speaks for its own trial and attempt; whatever else has been put under its name would count twice.
        same = (pl.col("trial_id") == pl.col("_trial")) & (pl.col("attempt") == pl.col("_attempt"))
        compact = pl.col("_trial").is_null() & pl.col("trial_id").is_not_null() & pl.col("attempt").is_not_null()
        strange = set(rows.filter(~(same | compact).fill_null(False))["_path"])
        unreadable |= {
            file.path: f"{file.path}: its rows are not of the trial and attempt in its name"
            for file, _ in group
            if str(file.path) in strange
        }
        frames.append(rows.filter(~pl.col("_path").is_in(sorted(strange))).drop("_trial", "_attempt"))
    return frames, unreadable


def _read_file(file: PartFile) -> pl.DataFrame | str:
    """Its rows, or why there are none."""
    try:
        return decode(read(file.path)).drop(ORIGIN, strict=False)
    except UNREADABLE as error:
        return _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _united(group: list[tuple[PartFile, pl.DataFrame]]) -> pl.DataFrame:
    """The rows of files with equal columns, with what is known of each row's file."""
    origin = pl.DataFrame(
        [(str(file.path), file.age, file.trial_id, file.attempt, frame.height) for file, frame in group],
        schema=ORIGIN | {"rows": pl.Int64()},
        orient="row",
    )
    repeated = origin.select(pl.col(*ORIGIN).repeat_by("rows").explode())
    return pl.concat([pl.concat([frame for _, frame in group]), repeated], how="horizontal")


def _empty(schema: pa.Schema) -> pl.DataFrame:
    return pl.DataFrame(schema={**polars_schema(schema), "_path": pl.String(), "_age": pl.Int64()})


def _with_columns(frame: pl.DataFrame, schema: pa.Schema) -> pl.DataFrame:
    """The frame with every column of `schema`, in its order and types, before any others.

    Those are numbers (metrics, parts of the loss) or, of a configuration and an environment, text; what is neither is
    left out.
    """
    wanted = polars_schema(schema)
    here = [
        (pl.col(name).cast(kind, strict=False) if name in frame.columns else pl.lit(None, kind)).alias(name)
        for name, kind in wanted.items()
    ]
    plain = [name for name, kind in frame.schema.items() if kind.is_numeric() or kind in (pl.String, pl.Boolean)]
    further = [
        pl.col(name).cast(pl.String if name.startswith(("config/", "env/")) else pl.Float64, strict=False)
        for name in plain
        if name not in wanted and name not in ORIGIN
    ]
    found = frame.select(*here, *further, *ORIGIN)
    if odd := [name for name, kind in wanted.items() if found.schema[name] != kind]:
        raise ValueError(f"column {odd[0]} holds {frame.schema[odd[0]]}")
    return found


def encode(table: pa.Table, *, large: bool = False) -> bytes:
    """The table as Parquet: plain and quick for a part; zstd, at most a million rows a group, for a compact file."""
    table = table.replace_schema_metadata({CHECKSUM: ZEROS})
    sink = pa.BufferOutputStream()
    if large:
        pq.write_table(table, sink, compression="zstd", row_group_size=1_000_000)
    else:
        pq.write_table(table, sink, compression="none", use_dictionary=False, write_statistics=False)
    content = bytearray(sink.getvalue())
    place = _place_of_checksum(content)
    assert place is not None
    assert content[place] == ZEROS
    content[place] = b"%08x" % zlib.crc32(content)
    return bytes(content)


def decode(content: bytes) -> pl.DataFrame:
    """The rows of a file. Raises one of UNREADABLE, also for a single byte that is not as it was written."""
    if (place := _place_of_checksum(content)) is None:
        # Not written here. polars ends the process over some damaged files, so what nobody vouches for is arrow's.
        table = pq.ParquetFile(pa.BufferReader(content)).read()
        table.validate(full=True)
        return pl.DataFrame(table)
    parts = (content[: place.start], ZEROS, content[place.stop :])
    if b"%08x" % functools.reduce(lambda crc, part: zlib.crc32(part, crc), parts, 0) != content[place]:
        raise ValueError("its checksum does not fit: damaged, or changed by something else")
    return pl.read_parquet(content)


def _place_of_checksum(content: bytes | bytearray) -> slice | None:
    key = content.rfind(CHECKSUM)
    start = key + len(CHECKSUM) + 2  # two bytes say that the value follows, and its length
    return None if key < 0 else slice(start, start + len(ZEROS))
