"""Small files that appear whole or not at all, and reading many of them at once."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from raybench.errors import ResultsError
from raybench.results.schema import polars_schema

PART = re.compile(r"(?P<trial>[A-Za-z0-9][A-Za-z0-9_.-]*?)-a(?P<attempt>[1-9]\d*)(?:-(?P<by>trial|driver))?\.parquet")
COMPACT = re.compile(r"compact-(?P<number>[1-9]\d*)\.parquet")
PARTS_WIN = 1 << 62
"""Age of a part: whoever replaced it did so after any compaction that left it standing."""

UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


@dataclass(frozen=True)
class PartFile:
    """A Parquet file of one table: a part (of one trial and attempt) or a compact file (of many)."""

    path: Path
    trial_id: str | None
    """None for a compact file."""
    attempt: int | None
    age: int
    """Of two files that hold the same row, the one with the higher age counts."""
    stamp: tuple[int, int, int]
    """Inode, size and time of change, to tell whether the file is still the one that was read."""


def stamp(path: Path) -> tuple[int, int, int]:
    """Inode, size (bytes) and time of change (ns): they differ once a file has been replaced."""
    about = path.stat()
    return about.st_ino, about.st_size, about.st_mtime_ns


def list_files(folder: Path, trial_ids: set[str] | None = None) -> list[PartFile]:
    """The Parquet files of a table in order of name, of all trials or of those named; compact files hold any trial's.

    Hidden files and those with foreign names are left out.

    Raises ResultsError when the folder is there but cannot be listed.
    """
    found = []
    try:
        names = sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise explain(error, folder) from error
    for name in names:
        part, compact = PART.fullmatch(name), COMPACT.fullmatch(name)
        if not compact and (not part or (trial_ids is not None and part["trial"] not in trial_ids)):
            continue
        path = folder / name
        try:
            mark = stamp(path)
        except FileNotFoundError:  # compacted away since the listing
            continue
        if compact:
            found.append(PartFile(path, None, None, int(compact["number"]), mark))
        elif part:
            found.append(PartFile(path, part["trial"], int(part["attempt"]), PARTS_WIN, mark))
    return found


def read_files(files: Sequence[PartFile], schema: pa.Schema) -> tuple[pl.DataFrame, dict[Path, str]]:
    """All rows of the files, each with `_path` and `_age`; and what could not be read, with a line for people each.

    Columns of `schema` are always there, in its order and types, others follow; what a file lacks is null.
    """
    unreadable: dict[Path, str] = {}
    # glob=False throughout: a results folder may hold [ or * in its name.
    groups: dict[tuple[tuple[str, str], ...], list[Path]] = {}
    for file in files:
        try:
            columns = pl.scan_parquet(file.path, glob=False).collect_schema()
        except UNREADABLE as error:
            unreadable[file.path] = _why(file.path, error)
            continue
        groups.setdefault(tuple((name, str(kind)) for name, kind in columns.items()), []).append(file.path)
    frames = [frame for group in groups.values() for frame in _read_group(group, unreadable)]
    ages = pl.DataFrame(
        {"_path": [str(file.path) for file in files], "_age": [file.age for file in files]},
        schema={"_path": pl.String, "_age": pl.Int64},
    )
    empty = with_columns(pl.DataFrame(), schema).with_columns(pl.lit(None, pl.String).alias("_path"))
    rows = pl.concat([empty, *(with_columns(frame, schema) for frame in frames)], how="diagonal_relaxed")
    return rows.join(ages, on="_path", how="left", maintain_order="left"), unreadable


def _read_group(paths: list[Path], unreadable: dict[Path, str]) -> list[pl.DataFrame]:
    """Files of equal columns in one scan; where that fails, halves of them, down to the broken file."""
    try:
        return [pl.scan_parquet(paths, include_file_paths="_path", glob=False).collect()]
    except UNREADABLE as error:
        if len(paths) == 1:
            unreadable[paths[0]] = _why(paths[0], error)
            return []
    middle = len(paths) // 2
    return _read_group(paths[:middle], unreadable) + _read_group(paths[middle:], unreadable)


def _why(path: Path, error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{path}: not readable as Parquet ({lines[0] if lines else type(error).__name__})"


def with_columns(frame: pl.DataFrame, schema: pa.Schema) -> pl.DataFrame:
    """The frame with every column of `schema`, in its order and types, before any others."""
    wanted = polars_schema(schema)
    here = [
        (pl.col(name).cast(kind, strict=False) if name in frame.columns else pl.lit(None, kind)).alias(name)
        for name, kind in wanted.items()
    ]
    if not frame.columns:
        return pl.DataFrame(schema=wanted)
    return frame.select(*here, *(name for name in frame.columns if name not in wanted))


def encode(table: pa.Table, *, large: bool = False) -> bytes:
    """The table as Parquet: plain and quick for a part; zstd, at most a million rows a group, for a compact file."""
    sink = pa.BufferOutputStream()
    if large:
        pq.write_table(table, sink, compression="zstd", row_group_size=1_000_000)
    else:
        pq.write_table(table, sink, compression="none", use_dictionary=False, write_statistics=False)
    return bytes(sink.getvalue())


def write_atomically(path: Path, content: bytes) -> None:
    """The whole content under `path`, or what was there before: written beside it, flushed to the disk, renamed.

    Makes the folder when it is absent. Raises ResultsError (disk full, not writable …) and leaves nothing behind.
    """
    temporary = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            _flush_folder(path.parent.parent)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        remove([temporary])
        raise explain(error, path) from error
    except BaseException:
        remove([temporary])
        raise


def remove(paths: Iterable[Path]) -> None:
    """Deletes what can be deleted; what is gone already, or cannot go, does no harm."""
    for path in paths:
        try:
            path.unlink()
        except OSError:
            continue


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def explain(error: OSError, path: Path) -> ResultsError:
    """The error of the operating system in words that say what to do."""
    why = error.strerror or str(error)
    other = "choose another folder with --results ROOT"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResultsError(
            f"disk full: {path} could not be written ({why}). What was written before is whole; "
            f"free space, or {other}, and run the same command again"
        )
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return ResultsError(
            f"{path} cannot be used: a file stands where a folder is needed ({why}); move it, or {other}"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ResultsError(f"{path} cannot be used: {why}; ask for the right to read and write there, or {other}")
    return ResultsError(f"{path} cannot be used: {why}; mend it, or {other}")
