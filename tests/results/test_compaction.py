"""Compaction into several files: the tables stay what they were, and large files are not touched again."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from raybench.results import compact, compaction, parts
from raybench.results import store as storing
from raybench.results.compact import encode_compact
from raybench.results.schema import SETTLED, Status, epoch_schema, trial_schema
from raybench.results.storage import Folder, entries, read
from raybench.results.store import Store

if TYPE_CHECKING:
    from conftest import Rows  # type: ignore[import-not-found]

LARGE_ROWS = 40


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large are 40 rows of epochs (five rows of trials), in groups of 8."""
    monkeypatch.setattr(parts, "LARGE_VALUES", LARGE_ROWS * len(epoch_schema()))
    monkeypatch.setattr(compact, "GROUP_ROWS", 8)
    monkeypatch.setattr(compaction, "TRIALS_AT_A_TIME", 3)


def settle(rows: Rows, store: Store, trial_id: str, attempt: int = 1, value: float = 0.0) -> None:
    """A complete trial of five epochs."""
    written = rows.epochs(trial_id, attempt, count=5, eval_top1=value)
    store.write_epochs(trial_id, attempt, written)
    store.write_trial(rows.trial(trial_id, attempt=attempt, eval_top1=value))


def heights(folder: Path) -> list[int]:
    """Rows of each compact file, by number."""
    files = sorted(folder.glob("compact-*"), key=lambda path: int(path.stem.removeprefix("compact-")))
    return [pq.read_metadata(path).num_rows for path in files]


def test_many_parts_make_files_of_at_least_the_size_and_a_rest(rows: Rows, tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(30):
        settle(rows, store, f"t{number:02d}", value=float(number))
    trials, epochs = store.trials(), store.epochs()
    store.compact()
    for again in (store, Store(tmp_path)):
        assert_frame_equal(again.trials(), trials)
        assert_frame_equal(again.epochs(), epochs)
    assert heights(tmp_path / "epochs") == [45, 45, 45, 15], "three trials at a time, of five epochs"
    assert sum(heights(tmp_path / "trials")) == 30
    files = rows.files(tmp_path)
    store.compact()
    assert rows.files(tmp_path) == files


def test_what_is_large_is_neither_written_nor_read_again(rows: Rows, tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(20):
        settle(rows, store, f"t{number:02d}", value=float(number))
    store.compact()
    epochs = store.epochs()
    before = {name: mark for name, mark in entries(tmp_path / "epochs").items() if not name.startswith(".")}
    large = tmp_path / "epochs" / "compact-1.parquet"
    whole = large.read_bytes()
    # Whoever reads its rows of earlier epochs will notice.
    large.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    for number in range(20, 40):
        settle(rows, store, f"t{number:02d}", value=float(number))
        if number % 5 == 0:
            store.compact()
    store.compact()
    assert all("compact-1" not in line for line in store.skipped)
    large.write_bytes(whole)
    found = Store(tmp_path).epochs()
    assert_frame_equal(found.filter(pl.col("trial_id").is_in(epochs["trial_id"].unique())), epochs)
    assert found.height == 40 * 5
    after = entries(tmp_path / "epochs")
    assert all(height >= LARGE_ROWS for height in heights(tmp_path / "epochs")[:-1])
    kept = [name for name, mark in before.items() if name != "compact-1.parquet" and after.get(name) == mark]
    assert kept == ["compact-2.parquet"], "the rest of the first compaction was small"


def test_a_trial_run_again_counts_by_its_attempt_and_leaves_the_large_file_alone(rows: Rows, tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(9):
        settle(rows, store, f"t{number}", value=1.0)
    store.compact()
    assert heights(tmp_path / "epochs") == [45]
    mark = entries(tmp_path / "epochs")["compact-1.parquet"]
    store.write_trial(rows.trial("t3", Status.RUNNING, attempt=2))
    store.write_epochs("t3", 2, rows.epochs("t3", 2, count=3, eval_top1=2.0))
    for _ in range(2):
        found = Store(tmp_path).epochs(["t3"])
        assert found.select("attempt", "epoch", "eval_top1").rows() == [(2, epoch, 2.0) for epoch in (1, 2, 3)]
        assert Store(tmp_path).final_epochs(["trial_id", "epoch"]).filter(pl.col("trial_id") == "t3").rows() == [
            ("t3", 3)
        ]
        assert store.status_at("t3", 1) == Status.COMPLETE
        store.write_trial(rows.trial("t3", attempt=2))
        store.compact()
    assert entries(tmp_path / "epochs")["compact-1.parquet"] == mark
    assert heights(tmp_path / "epochs") == [45, 3]
    assert store.trials().filter(pl.col("trial_id") == "t3")["attempt"].to_list() == [2]
    # A late writer of the first attempt changes nothing, and is cleared away.
    settle(rows, store, "t3", attempt=1, value=9.0)
    store.compact()
    assert store.epochs(["t3"])["eval_top1"].to_list() == [2.0] * 3
    assert heights(tmp_path / "epochs") == [45, 3]
    assert [name for name in rows.files(tmp_path / "epochs") if name.startswith("t3")] == []


@pytest.mark.scenario(15)
def test_what_a_killed_compaction_left_does_not_outlive_what_replaced_it(rows: Rows, tmp_path: Path) -> None:
    """A small file that was merged into a large one and not yet removed; its rows were replaced in between."""
    store = Store(tmp_path)
    settle(rows, store, "old", value=1.0)
    store.compact()
    left = {path: path.read_bytes() for path in tmp_path.rglob("compact-1.parquet")}
    assert len(left) == 2
    settle(rows, store, "old", value=2.0)
    for number in range(8):
        settle(rows, store, f"t{number}")
    store.compact()
    for path, content in left.items():
        path.write_bytes(content)
    for trial_id in ("new", "newer"):
        settle(rows, store, trial_id)
        for again in (store, Store(tmp_path)):
            assert again.epochs(["old"])["eval_top1"].to_list() == [2.0] * 5
            assert again.trials().filter(pl.col("trial_id") == "old")["eval_top1"].to_list() == [2.0]
        store.compact()
    assert not any(path.exists() for path in left)
    assert heights(tmp_path / "epochs") == [45, 10], "what is in the large file is not written once more"
    assert store.epochs(["old"])["eval_top1"].to_list() == [2.0] * 5
    assert store.trials().filter(pl.col("trial_id") == "old")["eval_top1"].to_list() == [2.0]


def test_many_small_files_become_few(rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where compactions were killed before they removed what they had merged, and what is large has changed."""
    store = Store(tmp_path)
    for attempt in (1, 2, 3):
        for number in range(8 * attempt):
            settle(rows, store, f"t{number:02d}", attempt if number % 2 else 1, value=float(attempt))
        store.compact()
    assert len(before := heights(tmp_path / "epochs")) == 5
    assert sum(before) > 24 * 5, "some rows are superseded"
    trials, epochs = store.trials(), store.epochs()
    monkeypatch.setattr(parts, "LARGE_VALUES", 80 * len(epoch_schema()))
    settle(rows, store, "t05", 4, value=4.0)
    for again in (store, Store(tmp_path)):
        again.compact()
        for now, then in ((again.trials(), trials), (again.epochs(), epochs)):
            others = pl.col("trial_id") != "t05"
            assert_frame_equal(now.filter(others), then.filter(others))
        assert again.epochs(["t05"]).select("attempt", "eval_top1").unique().rows() == [(4, 4.0)]
    large, rest = heights(tmp_path / "epochs")
    assert large >= 80
    assert large + rest == 24 * 5
    assert sum(heights(tmp_path / "trials")) == 24


def test_a_damaged_file_stays_and_is_named(rows: Rows, tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(9):
        settle(rows, store, f"a{number}")
    store.compact()
    settle(rows, store, "b")
    store.compact()
    for name in ("compact-1.parquet", "compact-2.parquet"):
        path = tmp_path / "epochs" / name
        content = path.read_bytes()
        path.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    settle(rows, store, "c")
    for _ in range(2):
        store.compact()
        assert Store(tmp_path).epochs()["trial_id"].unique().to_list() == ["c"]
        assert rows.files(tmp_path / "epochs") == [f"compact-{number}.parquet" for number in (1, 2, 3)]
        store.epochs()
        assert [Path(line.partition(": ")[0]).name for line in store.skipped] == [
            "compact-1.parquet",
            "compact-2.parquet",
        ]


def damage(path: Path, column: str) -> None:
    """Flip a bit of a column's last group."""
    metadata = pq.read_metadata(path)
    chunk = metadata.row_group(metadata.num_row_groups - 1).column(metadata.schema.names.index(column))
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.scenario(14)
@pytest.mark.parametrize("table", ["trials", "epochs"])
def test_a_damaged_file_stays_though_older_rows_of_all_its_trials_are_elsewhere(
    rows: Rows, tmp_path: Path, table: str
) -> None:
    """A compaction was killed before it removed what it had merged, and the disk damaged what it had written."""
    store = Store(tmp_path)
    for trial_id in ("a", "b"):
        settle(rows, store, trial_id, value=1.0)
    store.compact()
    left = {path: path.read_bytes() for path in tmp_path.rglob("compact-1.parquet")}
    settle(rows, store, "a", attempt=2, value=2.0)
    store.compact()
    whole = (damaged := tmp_path / table / "compact-2.parquet").read_bytes()
    for path, content in left.items():
        path.write_bytes(content)
    damage(damaged, "eval_top1")
    settle(rows, store, "c")
    for _ in range(2):
        Store(tmp_path).compact()
    assert damaged.exists()
    damaged.write_bytes(whole)  # from a backup
    assert dict(store.trials().select("trial_id", "eval_top1").iter_rows()) == {"a": 2.0, "b": 1.0, "c": 0.0}
    assert store.epochs(["a"])["eval_top1"].to_list() == [2.0] * 5


def test_what_cannot_be_read_at_all_is_not_tried_for_each_few_trials(
    rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    for number in range(9):
        settle(rows, store, f"a{number}")
    store.compact()
    path = tmp_path / "epochs" / "compact-1.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    for number in range(30):
        settle(rows, store, f"b{number:02d}")
    tried = 0

    def counted(each: Folder) -> bytes:
        nonlocal tried
        tried += each == path
        return read(each)

    monkeypatch.setattr(parts, "read", counted)
    Store(tmp_path).compact()
    assert tried == 1
    assert path.exists()


@pytest.mark.scenario(16)
def test_of_two_compactions_whose_locks_do_not_see_each_other_one_gives_way(
    rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hosts on a network file system that keeps locks to each of them."""
    monkeypatch.setattr(storing, "FileLock", lambda _: contextlib.nullcontext())
    here, there = Store(tmp_path), Store(tmp_path)
    settle(rows, here, "a", value=1.0)

    def encode(frame: pl.DataFrame, schema: pa.Schema) -> bytes:
        monkeypatch.setattr(compaction, "encode_compact", encode_compact)
        settle(rows, there, "b", value=2.0)
        there.compact()  # to the end, while this one is about to write
        return encode_compact(frame, schema)

    monkeypatch.setattr(compaction, "encode_compact", encode)
    here.compact()
    for _ in range(2):
        found = Store(tmp_path)
        assert dict(found.trials().select("trial_id", "eval_top1").iter_rows()) == {"a": 1.0, "b": 2.0}
        assert found.epochs().height == 10
        found.compact()
    assert heights(tmp_path / "epochs") == [10]


def changes(draw: random.Random, rows: Rows, store: Store, mirror: Store) -> Iterator[str]:
    """What trials and a driver do, in any order, told to both stores."""
    attempts: dict[str, int] = {}
    settled: dict[str, bool] = {}
    for _ in range(60):
        trial_id = f"t{draw.randrange(12):02d}"
        attempt = attempts.get(trial_id, 0)
        what = draw.choice(["start", "epoch", "epoch", "settle", "settle", "driver", "late", "compact"])
        value = draw.random()
        for each in (store, mirror):
            if what == "start" or attempt == 0:
                each.write_trial(rows.trial(trial_id, Status.RUNNING, attempt + 1))
                each.write_epochs(trial_id, attempt + 1, rows.epochs(trial_id, attempt + 1, 1, lr=value))
            elif what == "epoch" and not settled.get(trial_id):
                count = 2 + int(4 * value)
                each.write_epochs(trial_id, attempt, rows.epochs(trial_id, attempt, count, lr=value))
            elif what == "settle" and not settled.get(trial_id):
                status = sorted(SETTLED)[int(value * len(SETTLED))]
                each.write_trial(rows.trial(trial_id, status, attempt, eval_top1=value))
            elif what == "driver" and not settled.get(trial_id):
                each.write_trial(rows.trial(trial_id, Status.FAILED, attempt, reason="rung"), by="driver")
            elif what == "late" and attempt > 1:
                each.write_epochs(trial_id, attempt - 1, rows.epochs(trial_id, attempt - 1, 5, lr=-value))
                each.write_trial(rows.trial(trial_id, attempt=attempt - 1, eval_top1=-value))
        if what == "start" or attempt == 0:
            attempts[trial_id], settled[trial_id] = attempt + 1, False
        settled[trial_id] = settled.get(trial_id, False) or what in ("settle", "driver")
        yield what


@pytest.mark.parametrize("seed", range(4))
def test_the_tables_are_those_of_a_store_that_never_compacts(rows: Rows, tmp_path: Path, seed: int) -> None:
    store, mirror = Store(tmp_path / "a"), Store(tmp_path / "b")
    draw = random.Random(seed)
    for what in changes(draw, rows, store, mirror):
        if what != "compact":
            continue
        store.compact()
        known = draw.choice([store, Store(tmp_path / "a")])
        trials, epochs = mirror.trials(), mirror.epochs()
        assert_frame_equal(known.trials(), trials)
        assert_frame_equal(known.epochs(), epochs)
        assert_frame_equal(known.trials(["cell", "eval_top1"]), trials.select("cell", "eval_top1"))
        some = draw.sample([f"t{number:02d}" for number in range(13)], 3)
        assert_frame_equal(known.epochs(some), epochs.filter(pl.col("trial_id").is_in(some)))
        ends = epochs.filter(pl.col("epoch") == pl.col("epoch").max().over("trial_id"))
        assert_frame_equal(known.final_epochs(epochs.columns), ends)
        for trial_id in some:
            assert known.next_attempt(trial_id) == mirror.next_attempt(trial_id)
            highest = mirror.next_attempt(trial_id) - 1
            assert known.status_at(trial_id, highest) == mirror.status_at(trial_id, highest)
    assert_frame_equal(Store(tmp_path / "a").epochs(), mirror.epochs())
    assert len(trial_schema()) > len(epoch_schema()), "so that trials are large sooner"


def foreign_compact(folder: Path, number: int, frame: pl.DataFrame, *, ours: bool) -> Path:
    """A file of that name with these rows, laid out as ours or as anybody's."""
    path = folder / f"compact-{number}.parquet"
    content = encode_compact(frame, epoch_schema() if "epoch" in frame.columns else trial_schema())
    path.write_bytes(content) if ours else pq.write_table(
        pq.read_table(pa.BufferReader(content)).replace_schema_metadata(), path
    )
    return path


@pytest.mark.scenario(14)
@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("odd", [{"epoch": None}, {"epoch": 0}, {"attempt": None}, {"attempt": 10**15}])
def test_an_odd_row_of_a_compact_file_is_left_out_and_no_other(
    rows: Rows, tmp_path: Path, odd: dict[str, int | None], ours: bool, large: bool
) -> None:
    store = Store(tmp_path)
    for number in range(12 if large else 4):
        settle(rows, store, f"t{number:02d}")
    sound = store.epochs()
    store.compact()
    (path,) = (tmp_path / "epochs").glob("compact-1.parquet")
    written = pl.DataFrame(pq.read_table(path))
    strange = written.filter(pl.col("trial_id") == "t01").head(1).with_columns(pl.lit(9, pl.Int64).alias("epoch"))
    strange = strange.with_columns(pl.lit(value, pl.Int64).alias(name) for name, value in odd.items())
    foreign_compact(tmp_path / "epochs", 1, pl.concat([written, strange]), ours=ours)

    def check(expected: pl.DataFrame) -> None:
        for again in (store, Store(tmp_path)):
            assert_frame_equal(again.epochs(), expected)
            assert len(again.skipped) == 1
            assert again.skipped[0].startswith(f"{path}: left out 1 row ")
            assert_frame_equal(again.epochs(columns=["epoch"]), expected.select("epoch"))
            assert_frame_equal(
                again.epochs(["t01"], ["eval_top1"]), expected.filter(pl.col("trial_id") == "t01")[["eval_top1"]]
            )
            assert again.epochs(["t00"]).height == 5
            last = expected.group_by("trial_id", maintain_order=True).agg(pl.col("epoch").last())
            assert_frame_equal(again.final_epochs(["trial_id", "epoch"]), last)
            assert again.next_attempt("t01") == 2

    check(sound)
    for name in ("u00", "u01"):
        settle(rows, store, name)
        store.compact()
        sound = pl.concat(
            [sound, sound.filter(pl.col("trial_id") == "t00").with_columns(pl.lit(name).alias("trial_id"))]
        )
        check(sound)
    others = pl.concat([pl.DataFrame(pq.read_table(each)) for each in path.parent.iterdir() if each != path])
    assert {"u00", "u01"} <= {*others["trial_id"]} <= {"t09", "t10", "t11", "u00", "u01"}
    assert path.exists()


def test_an_odd_row_of_a_trial_is_left_out_of_a_column_alone(rows: Rows, tmp_path: Path) -> None:
    store = Store(tmp_path)
    for trial_id in "abc":
        settle(rows, store, trial_id)
    store.compact()
    written = pl.DataFrame(pq.read_table(tmp_path / "trials" / "compact-1.parquet"))
    odd = pl.when(pl.col("trial_id") == "b").then(None).otherwise("attempt").alias("attempt")
    path = foreign_compact(tmp_path / "trials", 1, written.with_columns(odd), ours=True)
    assert store.trials(["trial_id"])["trial_id"].to_list() == ["a", "c"]
    assert store.skipped == [f"{path}: left out 1 row not of the trial and attempt in its name"]


@pytest.mark.scenario(14)
def test_a_highest_number_that_is_not_ours_is_named(
    rows: Rows, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    settle(rows, store, "a")
    store.compact()
    path = (tmp_path / "epochs" / "compact-1.parquet").rename(tmp_path / "epochs" / "compact-999999999999999.parquet")
    settle(rows, store, "b")
    store.compact()
    assert f"{path} is not ours: no number is left above it" in caplog.text
    assert store.epochs()["trial_id"].to_list() == ["a"] * 5 + ["b"] * 5
    path.rename(path.with_name("compact-7.parquet"))
    store.compact()
    assert [each.name for each in (tmp_path / "epochs").iterdir()] == ["compact-8.parquet"]
