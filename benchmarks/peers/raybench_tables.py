"""raybench's own results, read by its store, and once more as any Parquet reader would."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Hashable, Sequence
from itertools import pairwise
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.peers.contestant import Key, Rows, Verdict, first_difference
from raybench.results.parts import PART
from raybench.results.schema import SETTLED, epoch_schema, trial_schema
from raybench.results.store import Store

NAME = "smoke"
TIMES = {"s", "h", "images/s", "MiB", "UTC"}
"""Units of columns that differ from run to run."""
MEASURED = ("(s)", "(MiB)", "(1/s)", "device hours")
"""How the headings of such columns end in a printed table."""
HISTORY = {"attempt", "failures", "node", "written_by"}
"""Columns that tell how a trial came about rather than what came of it."""


class Raybench:
    """`python -m raybench.sweep smoke`; the same command goes on."""

    name: str = "raybench"
    workers: tuple[str, ...] = ("ResourceTrainable", "ClassificationTrainable", "_prepare_remotely")

    def command(self, folder: Path) -> list[str]:
        """The command a user would type."""
        return [sys.executable, "-m", "raybench.sweep", NAME, "--preset", "quick", "--results", str(folder)]

    def variables(self, scratch: Path) -> dict[str, str]:  # noqa: ARG002
        """None: it keeps its token in its cache."""
        return {}

    def marks(self, folder: Path) -> set[Hashable]:
        """Trials and attempts that have an epoch's row: a run's own attempts are new, an earlier run's are not."""
        return {
            (match["trial"], match["attempt"])
            for path in (folder / NAME / "epochs").glob("*.parquet")
            if (match := PART.fullmatch(path.name))
        }

    def written(self, folder: Path) -> float:
        """When the newest of the trials' epoch files was written."""
        times = [0.0]
        for path in (folder / NAME / "epochs").glob("*.parquet"):
            with contextlib.suppress(FileNotFoundError):
                times.append(path.stat().st_mtime if PART.fullmatch(path.name) else 0.0)
        return max(times)

    def epochs(self, folder: Path) -> int:
        """Rows of each trial's last attempt, and of what is compacted."""
        found: dict[str, tuple[int, int]] = {}
        for path in (folder / NAME / "epochs").glob("*.parquet"):
            with contextlib.suppress(OSError, pa.ArrowInvalid):
                rows = pq.read_metadata(path).num_rows
                match = PART.fullmatch(path.name)
                name, attempt = (match["trial"], int(match["attempt"])) if match else (path.name, 0)
                found[name] = max(found.get(name, (0, 0)), (attempt, rows))
        return sum(rows for _, rows in found.values())

    def read(self, folder: Path) -> Rows:
        """The tables as the store reads them."""
        store = Store(folder / NAME)
        trials, epochs = store.trials(), store.epochs()
        settled = trials.filter(pl.col("status").is_in([*SETTLED]))
        begun = set(trials["trial_id"]) | set(epochs["trial_id"])
        rows = {(row[0], 0): text for row, text in _texts(settled, trial_schema(), ["trial_id"])}
        rows |= {(row[0], row[1]): text for row, text in _texts(epochs, epoch_schema(), ["trial_id", "epoch"])}
        times = epochs.select("trial_id", "epoch", "train_time", "eval_time").iter_rows()
        written: dict[Key, Hashable] = {(trial, epoch): (train, evaluated) for trial, epoch, train, evaluated in times}
        return Rows(rows, written, len(begun - set(settled["trial_id"])), len(store.skipped))

    def broken(self, code: int) -> bool:
        """2 says that nothing was started."""
        return code == 2

    def judge(self, folder: Path, before: Sequence[Rows], reference: Path) -> Verdict:
        """Tables, files and the printed comparison."""
        end, whole = self.read(folder), self.read(reference)
        wanted = dict(whole.rows)
        for earlier in before:
            wanted |= earlier.rows
        store = Store(folder / NAME)
        trials, epochs = store.trials(), store.epochs()
        differences = first_difference(end.rows, whole.rows)
        if not differences and table_without_times(folder) != table_without_times(reference):
            differences = "comparison.md differs"
        return Verdict(
            lost=sum(end.rows.get(key) != text for key, text in wanted.items()),
            duplicates=_twice(trials, ["trial_id"]) + _twice(epochs, ["trial_id", "epoch"]),
            duplicates_on_disk=_twice_on_disk(folder, "trials", ["trial_id"])
            + _twice_on_disk(folder, "epochs", ["trial_id", "epoch"]),
            wrong_ids=len({trial for trial, _ in end.rows} - {trial for trial, _ in whole.rows}),
            again=_again(before, end),
            restarted=trials.filter(pl.col("attempt") > 1).height,
            unreadable=end.unreadable + sum(earlier.unreadable for earlier in before),
            identical=not differences,
            differences=differences,
        )


def _texts(table: pl.DataFrame, schema: pa.Schema, keys: list[str]) -> list[tuple[tuple[str, int], str]]:
    """Each row's key and all its numbers that are not times, floats in full."""
    units = {field.name: (field.metadata or {}).get(b"unit", b"").decode() for field in schema}
    columns = [
        name
        for name in table.columns
        if units.get(name) not in TIMES and name not in HISTORY and not name.startswith("env/") and name not in keys
    ]
    # A column of nothing is as good as none: a row without a teacher has no loss of one.
    return [
        (tuple(row[key] for key in keys), str([(name, row[name]) for name in columns if row[name] is not None]))
        for row in table.select(*keys, *columns).to_dicts()
    ]


def _twice(table: pl.DataFrame, keys: list[str]) -> int:
    return table.height - table.select(keys).n_unique()


def _twice_on_disk(folder: Path, table: str, keys: list[str]) -> int:
    """Among the rows of each trial's highest attempt in all files; the driver's word on a trial is no second row."""
    files = sorted((folder / NAME / table).glob("*.parquet"))
    if not files:
        return 0
    columns = ["trial_id", "attempt", *(["written_by"] if table == "trials" else ["epoch"])]
    rows = pl.concat([pl.read_parquet(file, columns=columns, glob=False) for file in files], how="diagonal_relaxed")
    last = rows.filter(pl.col("attempt") == pl.col("attempt").max().over("trial_id"))
    return _twice(last, [*keys, *(["written_by"] if table == "trials" else [])])


def _again(before: Sequence[Rows], end: Rows) -> int:
    """Epochs whose times changed from one reading to the next: who goes on takes over a row with its times."""
    count = 0
    for earlier, later in pairwise([*before, end]):
        count += sum(later.written.get(key, time) != time for key, time in earlier.written.items())
    return count


def table_without_times(folder: Path) -> str:
    """comparison.md without its columns of times and memory."""
    path = folder / NAME / "comparison.md"
    if not path.exists():
        return "no comparison.md"
    kept: list[str] = []
    timed: set[int] = set()
    for line in path.read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if not line.startswith("|"):
            timed = set()
        elif not timed:
            timed = {place for place, cell in enumerate(cells) if cell.endswith(MEASURED)}
        kept.append("|".join(cell for place, cell in enumerate(cells) if place not in timed))
    return "\n".join(kept)
