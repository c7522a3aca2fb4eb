"""The store: what it keeps and which row counts; `test_store_faults.py` breaks it."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from raybench.config.trial import DatasetConfig, DistillationConfig, ModelConfig, TeacherConfig, TrialConfig
from raybench.errors import ResultsError
from raybench.results import parts
from raybench.results.schema import SETTLED, Status, epoch_schema, trial_schema
from raybench.results.store import Store

if TYPE_CHECKING:
    from conftest import Rows  # type: ignore[import-not-found]

PLAIN = TrialConfig(dataset=DatasetConfig(name="digits", train_size=500), model=ModelConfig(name="resnet8"))
DISTILLED = TrialConfig(
    dataset=DatasetConfig(name="digits"),
    model=ModelConfig(name="resnet8"),
    distillation=DistillationConfig(type="soft", teacher=TeacherConfig(name="resnet20")),
)


def test_absent_folder_reads_as_empty_tables(tmp_path: Path) -> None:
    store = Store(tmp_path / "none")
    assert store.trials().columns == trial_schema().names
    assert store.epochs().columns == epoch_schema().names
    assert store.trials().height == store.epochs().height == 0
    assert store.last_epochs("a") == []
    assert store.next_attempt("a") == 1
    store.compact()
    assert not (tmp_path / "none").exists()


def test_rows_come_back_as_written(rows: Rows, tmp_path: Path) -> None:
    store = Store(tmp_path)
    start = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    store.write_trial(
        rows.trial(
            config=PLAIN.flat(),
            eval_top1=97.5,
            started=start,
            reason="why",
            env={"git_dirty": True, "threads": 2, "own": "x"},
        )
    )
    found = store.trials().row(0, named=True)
    assert (found["eval_top1"], found["started"], found["reason"]) == (97.5, start, "why")
    assert (found["env/git_dirty"], found["env/threads"], found["env/own"]) == (True, 2, "x")
    assert (found["config/dataset.train_size"], found["config/optimizer.lr"], found["config/batch_size"]) == (
        "500",
        0.1,
        128,
    )
    assert found["test_top1"] is None
    written = rows.epochs(count=3, lr=0.1, train_loss=float("inf"), parts={"ce": 0.5, "rate": 2.0})
    store.write_epochs("a", 1, written[::-1])
    assert store.last_epochs("a") == written
    assert store.epochs(["b"]).height == 0


@pytest.mark.parametrize("compacted", [False, True])
def test_plain_readers_see_one_table_over_different_trials(rows: Rows, tmp_path: Path, compacted: bool) -> None:
    store = Store(tmp_path)
    store.write_trial(rows.trial("a", config=PLAIN.flat()))
    store.write_trial(rows.trial("b", config=DISTILLED.flat()))
    if compacted:
        store.compact()
        store.write_trial(rows.trial("c", status=Status.RUNNING, config={}))
    sizes = ["500", "all", None][: 3 if compacted else 2]
    read = pyarrow.dataset.dataset(tmp_path / "trials").to_table().sort_by("trial_id")
    assert read["config/dataset.train_size"].to_pylist() == sizes
    scanned = pl.scan_parquet(tmp_path / "trials" / "*.parquet").collect().sort("trial_id")
    assert scanned["config/dataset.train_size"].to_list() == sizes
    assert scanned["config/distillation.teacher.name"].to_list() == [None, "resnet20", None][: len(sizes)]


def test_parts_and_compact_files_have_the_same_schema_with_units(rows: Rows, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_trial(rows.trial())
    store.write_epochs("a", 1, rows.epochs())
    before = [pq.read_schema(tmp_path / name) for name in rows.files(tmp_path)]
    store.compact()
    assert rows.files(tmp_path) == ["epochs/compact-1.parquet", "trials/compact-1.parquet"]
    after = [pq.read_schema(tmp_path / name) for name in rows.files(tmp_path)]
    assert before == after
    assert after[1].field("eval_top1").metadata[b"unit"] == b"%"


@pytest.mark.scenario(6)
def test_highest_attempt_counts_whenever_the_lower_one_writes(rows: Rows, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_trial(rows.trial(attempt=2, eval_top1=90.0))
    store.write_epochs("a", 2, rows.epochs(attempt=1, count=3, eval_top1=90.0))
    trials, table = store.trials(), store.epochs()
    store.write_trial(rows.trial(attempt=1, eval_top1=10.0))
    store.write_epochs("a", 1, rows.epochs(attempt=1, count=5, eval_top1=10.0))
    assert_frame_equal(store.trials(), trials)
    assert_frame_equal(store.epochs(), table)
    assert table["attempt"].to_list() == [2, 2, 2]
    store.compact()
    store.write_trial(rows.trial(attempt=1, eval_top1=10.0))
    store.write_epochs("a", 1, rows.epochs(attempt=1, count=5, eval_top1=10.0))
    assert_frame_equal(store.trials(), trials)
    assert_frame_equal(store.epochs(), table)


def test_driver_speaks_for_a_trial_that_is_not_settled_only(rows: Rows, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_trial(rows.trial("a", Status.RUNNING, eval_top1=50.0, epochs=3))
    store.write_trial(rows.trial("a", Status.PRUNED, reason="rung 1", config={}), by="driver")
    store.write_trial(rows.trial("b", Status.COMPLETE, eval_top1=60.0))
    store.write_trial(rows.trial("b", Status.FAILED, reason="late"), by="driver")
    for _ in range(2):
        first, second = store.trials().iter_rows(named=True)
        assert (first["status"], first["reason"], first["written_by"]) == ("pruned", "rung 1", "driver")
        assert (first["eval_top1"], first["epochs"], first["config/dataset.train_size"]) == (50.0, 3, "500")
        assert (second["status"], second["reason"], second["eval_top1"]) == ("complete", None, 60.0)
        store.compact()
    store.write_trial(rows.trial("a", Status.RUNNING, attempt=2))
    assert store.trials()["status"].to_list() == ["running", "complete"]


def test_next_attempt_counts_all_that_was_ever_begun(rows: Rows, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_epochs("a", 3, rows.epochs())
    assert store.next_attempt("a") == 4
    assert store.next_attempt("b") == 1
    (tmp_path / "epochs" / "a-a7.parquet").write_bytes(b"")
    assert store.next_attempt("a") == 8
    store.write_trial(rows.trial("b", attempt=5))
    store.compact()
    assert store.next_attempt("b") == 6


@pytest.mark.scenario(14)
def test_unreadable_files_are_skipped_and_named(rows: Rows, tmp_path: Path) -> None:
    store = Store(tmp_path)
    for trial_id in "abcdef":
        store.write_trial(rows.trial(trial_id))
    store.write_trial(rows.trial("c", attempt=2))
    folder = tmp_path / "trials"
    whole = (folder / "a-a1-trial.parquet").read_bytes()
    (folder / "a-a1-trial.parquet").write_bytes(whole[: len(whole) // 2])
    (folder / "b-a1-trial.parquet").write_bytes(b"")
    (folder / "c-a2-trial.parquet").write_bytes(b"PAR1" + whole[4:-4][::-1] + b"PAR1")
    (folder / "d-a1-trial.parquet").unlink()
    (folder / "d-a1-trial.parquet").mkdir()
    (folder / ".e-a2-trial.parquet.123-ab.tmp").write_bytes(whole[:99])
    (folder / "notes.parquet").write_bytes(b"not ours")
    assert store.trials()["trial_id"].to_list() == ["c", "e", "f"]
    assert store.trials()["attempt"].to_list() == [1, 1, 1]
    assert sorted(Path(line.split(": ")[0]).name[:4] for line in store.skipped) == ["a-a1", "b-a1", "c-a2", "d-a1"]
    store.compact()
    assert store.trials()["trial_id"].to_list() == ["c", "e", "f"]
    assert len(store.skipped) == 4, "compaction leaves alone what it cannot read"
    store.write_trial(rows.trial("a"))
    assert "a" in store.trials()["trial_id"].to_list()
    assert len(store.skipped) == 3


@pytest.mark.scenario(14)
def test_a_part_speaks_for_its_own_trial_and_attempt_only(rows: Rows, tmp_path: Path) -> None:
    store = Store(tmp_path)
    for trial_id in "ab":
        store.write_trial(rows.trial(trial_id))
        store.write_epochs(trial_id, 1, rows.epochs(trial_id))
    trials, table = store.trials(), store.epochs()
    (tmp_path / "epochs" / "a-a9.parquet").write_bytes((tmp_path / "epochs" / "a-a1.parquet").read_bytes())
    (tmp_path / "trials" / "c-a1-trial.parquet").write_bytes((tmp_path / "trials" / "a-a1-trial.parquet").read_bytes())
    for _ in range(2):
        assert_frame_equal(store.trials(), trials)
        assert_frame_equal(store.epochs(), table)
        assert [Path(line.split(": ")[0]).name for line in store.skipped] == ["c-a1-trial.parquet", "a-a9.parquet"]
        store.compact()
    assert store.next_attempt("a") == 10


HUGE = f"a9{'9' * 30}"


@pytest.mark.scenario(14)
@pytest.mark.parametrize(
    "name",
    [
        f"trials/compact-{2**63}.parquet",
        f"trials/compact-{2**63 - 1}.parquet",
        "trials/compact-999999999999999.parquet",
        f"trials/a-{HUGE}-trial.parquet",
        f"epochs/a-{HUGE}.parquet",
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_a_name_of_many_digits_hides_no_row(rows: Rows, tmp_path: Path, name: str, whole: bool) -> None:
    store = Store(tmp_path)
    for trial_id in "ab":
        store.write_trial(rows.trial(trial_id))
        store.write_epochs(trial_id, 1, rows.epochs(trial_id))
    store.compact()
    for trial_id in "cd":
        store.write_trial(rows.trial(trial_id))
        store.write_epochs(trial_id, 1, rows.epochs(trial_id))
    table, _, _ = name.partition("/")
    content = next((tmp_path / table).glob("c-a1*.parquet")).read_bytes() if whole else b"x"
    (tmp_path / name).write_bytes(content)
    for _ in range(2):
        for again in (store, Store(tmp_path)):
            assert again.trials()["trial_id"].to_list() == [*"abcd"]
            assert again.epochs()["trial_id"].to_list() == [*"aabbccdd"]
            assert again.next_attempt("a") == 2
        store.compact()


def test_an_attempt_that_nothing_can_follow_is_named(rows: Rows, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_trial(rows.trial("a"))
    (tmp_path / "trials" / "a-a999999999999999-trial.parquet").write_bytes(b"")
    with pytest.raises(ResultsError, match="a has a row or file of attempt 999999999999999, not ours; remove it"):
        store.next_attempt("a")


def test_one_file_that_cannot_be_taken_takes_no_other_with_it(
    rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    for trial_id in "abc":
        store.write_trial(rows.trial(trial_id))
    with_origin = parts._with_origin

    def broken(group: Any) -> pl.DataFrame:
        if any(file.trial_id == "b" for file, _ in group):
            raise ValueError("some fault")
        return with_origin(group)

    monkeypatch.setattr(parts, "_with_origin", broken)
    assert store.trials()["trial_id"].to_list() == ["a", "c"]
    assert store.skipped == [f"{tmp_path}/trials/b-a1-trial.parquet: not a table of ours (some fault)"]


@pytest.mark.parametrize("kind", [pa.decimal256(60, 2), pa.list_(pa.decimal256(60, 2))])
def test_a_type_that_is_not_read_is_told_without_a_panic(
    rows: Rows, tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: pa.DataType
) -> None:
    store = Store(tmp_path)
    store.write_trial(rows.trial("a"))
    path = tmp_path / "trials" / "b-a1-trial.parquet"
    pq.write_table(pa.table({"x": pa.array([None], kind)}), path)
    assert store.trials()["trial_id"].to_list() == ["a"]
    (skipped,) = store.skipped
    assert skipped.startswith(f"{path}: not readable as Parquet (column x holds ")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("epoch", [None, 0, -3])
def test_rows_without_a_true_epoch_are_left_out_and_named(rows: Rows, tmp_path: Path, epoch: int | None) -> None:
    store = Store(tmp_path)
    for trial_id in "ab":
        store.write_epochs(trial_id, 1, rows.epochs(trial_id))
    path = tmp_path / "epochs" / "b-a1.parquet"
    odd = pl.when(pl.col("epoch") == 1).then(pl.lit(epoch, pl.Int64)).otherwise(pl.col("epoch")).alias("epoch")
    foreign = pl.DataFrame(pq.ParquetFile(path).read()).with_columns(odd)
    pq.write_table(foreign.to_arrow(), path)
    for _ in range(2):
        for columns in (None, ["trial_id"]):
            assert store.epochs(columns=columns)["trial_id"].to_list() == ["a", "a", "b"]
            assert store.skipped == [f"{path}: left out 1 row without an epoch, which count from 1"]
        store.compact()


@pytest.mark.scenario(14)
def test_every_truncation_is_noticed(rows: Rows, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_epochs("a", 1, rows.epochs())
    path = tmp_path / "epochs" / "a-a1.parquet"
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert store.epochs().height == 0
        assert len(store.skipped) == 1


@pytest.mark.scenario(14)
@pytest.mark.parametrize("own", [True, False])
def test_damage_anywhere_is_noticed_or_does_no_harm(rows: Rows, tmp_path: Path, own: bool) -> None:
    """Single bits flipped, in a file of ours and in one by another writer, over which a reader must not break."""
    store = Store(tmp_path)
    store.write_trial(rows.trial("a", eval_top1=12.5))
    path = tmp_path / "trials" / "a-a1-trial.parquet"
    if not own:
        pq.write_table(pq.read_table(path).replace_schema_metadata(None), path, use_dictionary=False)
    expected = store.trials()
    whole = path.read_bytes()
    draw = random.Random(0)
    for _ in range(200):
        content = bytearray(whole)
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        found = store.trials()
        assert found.height + len(store.skipped) == 1
        if own and found.height:
            assert_frame_equal(found, expected)


def test_folder_names_with_pattern_characters(rows: Rows, tmp_path: Path) -> None:
    store = Store(tmp_path / "a[b]*?")
    store.write_trial(rows.trial())
    assert store.trials().height == 1
    store.compact()
    assert store.trials().height == 1


def test_compact_keeps_running_trials_apart_and_is_repeatable(rows: Rows, tmp_path: Path) -> None:
    store = Store(tmp_path)
    for status in Status:
        store.write_trial(rows.trial(status.value, status))
        store.write_epochs(status.value, 1, rows.epochs(status.value))
    trials, table = store.trials(), store.epochs()
    for _ in range(2):
        store.compact()
        assert rows.files(tmp_path) == [
            "epochs/compact-1.parquet",
            "epochs/running-a1.parquet",
            "trials/compact-1.parquet",
            "trials/running-a1-trial.parquet",
        ]
        assert_frame_equal(store.trials(), trials)
        assert_frame_equal(store.epochs(), table)
    assert pq.read_metadata(tmp_path / "epochs/compact-1.parquet").num_rows == 2 * len(SETTLED)
    store.write_trial(rows.trial("running", Status.COMPLETE))
    store.write_trial(rows.trial("failed", Status.RUNNING, attempt=2))
    trials = store.trials()
    store.compact()
    assert_frame_equal(store.trials(), trials)
    store.write_trial(rows.trial("failed", Status.COMPLETE, attempt=2))
    store.compact()
    assert rows.files(tmp_path) == ["epochs/compact-2.parquet", "trials/compact-3.parquet"]
    assert store.trials()["status"].to_list().count("failed") == 0


def test_other_columns_of_an_older_version_are_read(rows: Rows, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_trial(rows.trial("a"))
    old = pq.read_table(tmp_path / "trials/a-a1-trial.parquet").select(["trial_id", "attempt", "status", "written_by"])
    old = old.set_column(0, "trial_id", [["z"]]).append_column("gone", [[7]]).replace_schema_metadata(None)
    pq.write_table(old, tmp_path / "trials/z-a1-trial.parquet")
    assert store.trials().select("trial_id", "gone", "sweep").rows() == [("a", None, "s"), ("z", 7, None)]
    trials = store.trials()
    store.compact()
    assert_frame_equal(store.trials(), trials)


@pytest.mark.parametrize(("key", "value"), [("optimizer.lr", "high"), ("batch_size", 1.5), ("optimizer.nesterov", 1)])
def test_value_that_does_not_fit_its_column(rows: Rows, tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(ResultsError, match=f"config/{key}"):
        Store(tmp_path).write_trial(rows.trial(config={key: value}))


def test_rows_of_another_trial_or_twice_are_refused(rows: Rows, tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="rows of b"):
        store.write_epochs("a", 1, rows.epochs("b"))
    with pytest.raises(ValueError, match="twice"):
        store.write_epochs("a", 1, rows.epochs(count=1) * 2)
    with pytest.raises(ValueError, match="attempts from 1"):
        store.write_epochs("../a", 1, [])
    with pytest.raises(ValueError, match="attempts from 1"):
        store.write_trial(rows.trial(attempt=0))


def test_two_writers_of_different_attempts(rows: Rows, tmp_path: Path) -> None:
    first, second = Store(tmp_path), Store(tmp_path)
    for count in range(1, 6):
        first.write_epochs("a", 1, rows.epochs(attempt=1, count=count, lr=1.0))
        second.write_epochs("a", 2, rows.epochs(attempt=2, count=count, lr=2.0))
        second.write_trial(rows.trial(status=Status.RUNNING, attempt=2))
        first.write_trial(rows.trial(status=Status.FAILED, attempt=1))
        assert [each.lr for each in first.last_epochs("a")] == [2.0] * count
        assert first.trials()["status"].to_list() == ["running"]
