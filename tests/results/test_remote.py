"""Results on a real S3 server and on a real network file system: the guarantees of a local disk."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from safetensors.torch import load

from raybench.commands.comparing import Asked, compare_sweeps, sweeps_in
from raybench.config.trial import TrialConfig
from raybench.errors import ResultsError
from raybench.results import queries
from raybench.results.lock import SweepLock
from raybench.results.manifest import write_manifest
from raybench.results.schema import Status
from raybench.results.storage import Folder, entries, folder_at, read, write_atomically
from raybench.results.store import Store
from raybench.search.tpe import Suggestions
from raybench.training.checkpoints import Checkpoints, latest_epoch
from raybench.training.recorder import Setup
from raybench.training.trial import run_trial

if TYPE_CHECKING:
    from conftest import Rows, Servers, Start  # type: ignore[import-not-found]
    from upath import UPath

pytestmark = pytest.mark.scenario(19)


def fill(rows: Rows, store: Store) -> None:
    """Settled, pruned by the driver, of a second attempt, running."""
    store.write_trial(rows.trial("old"))
    store.write_epochs("old", 1, rows.epochs("old"))
    store.compact()
    store.write_trial(rows.trial("a", Status.RUNNING, eval_top1=5.0))
    store.write_trial(rows.trial("a", Status.PRUNED, reason="rung", config={}), by="driver")
    store.write_epochs("a", 1, rows.epochs("a", count=3))
    store.write_trial(rows.trial("b", attempt=1))
    store.write_trial(rows.trial("b", attempt=2))
    store.write_epochs("b", 1, rows.epochs("b", count=4))
    store.write_epochs("b", 2, rows.epochs("b", attempt=2))
    store.write_trial(rows.trial("c", Status.RUNNING))
    store.write_epochs("c", 1, rows.epochs("c"))


def files(folder: Folder) -> list[str]:
    return [f"{table}/{name}" for table in ("epochs", "trials") for name in entries(folder / table)]


def test_the_tables_are_those_of_a_local_disk(rows: Rows, remote: Folder, tmp_path: Path) -> None:
    here, there = Store(tmp_path / "local"), Store(remote)
    for store in (here, there):
        store.check_writable()
        assert store.trials().height == 0
        assert store.next_attempt("a") == 1
        fill(rows, store)
    for _ in range(2):
        for again in (there, Store(folder_at(str(remote)))):
            assert_frame_equal(again.trials(), here.trials())
            assert_frame_equal(again.epochs(), here.epochs())
            assert again.next_attempt("b") == 3
            assert again.last_epochs("c") == here.last_epochs("c")
            assert again.skipped == []
        there.compact()
    compacts = [
        "epochs/c-a1.parquet",
        "epochs/compact-2.parquet",
        "trials/c-a1-trial.parquet",
        "trials/compact-2.parquet",
    ]
    assert files(remote) == compacts
    for again in (there, Store(folder_at(str(remote)))):
        assert_frame_equal(queries.final_epochs(again, "lr"), queries.final_epochs(here, "lr"))
        assert_frame_equal(queries.curve(again, "a", "lr"), queries.curve(here, "a", "lr"))
        assert_frame_equal(queries.summary(again, "eval_top1"), queries.summary(here, "eval_top1"))
    there.write_trial(rows.trial("c", Status.COMPLETE, eval_top1=9.0))
    assert there.trials().filter(pl.col("trial_id") == "c")["eval_top1"].to_list() == [9.0]


@pytest.mark.scenario(14)
def test_broken_files_are_skipped_and_named(rows: Rows, remote: Folder) -> None:
    store = Store(remote)
    for trial_id in "abc":
        store.write_trial(rows.trial(trial_id))
    whole = read(remote / "trials" / "a-a1-trial.parquet")
    write_atomically(remote / "trials" / "a-a1-trial.parquet", whole[: len(whole) // 2])
    write_atomically(remote / "trials" / "b-a1-trial.parquet", b"")
    write_atomically(remote / "trials" / "notes.parquet", b"not ours")
    for _ in range(2):
        assert store.trials()["trial_id"].to_list() == ["c"]
        assert [line.split(": ")[0].rsplit("/", 1)[1][:4] for line in store.skipped] == ["a-a1", "b-a1"]
        store.compact()


ZYGOTE = """
# Forks children that act on folder/1, folder/2 … and are killed: before the Nth change there, or somewhere.
import json, os, random, signal, sys, time
from s3fs import S3FileSystem
from raybench.results.schema import EpochRow
from raybench.results.storage import folder_at
from raybench.results.store import Store

def write(folder, written):
    for count in range(1, 10_000):
        rows = [EpochRow(trial_id="w", attempt=1, epoch=1 + i, lr=float(count)) for i in range(1 + count % 50)]
        Store(folder).write_epochs("w", 1, rows)
        os.write(written, b".")

def die_before(number):
    ask, changes = S3FileSystem._call_s3, 0
    async def counted(self, method, *arguments, **further):
        nonlocal changes
        changes += method in ("put_object", "delete_object")
        if changes == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return await ask(self, method, *arguments, **further)
    S3FileSystem._call_s3 = counted

kind, folder, count = sys.argv[1], folder_at(sys.argv[2]), int(sys.argv[3])
random.seed(0)
fates = []
for number in range(1, count + 1):
    seen, written = os.pipe()
    child = os.fork()
    if child == 0:
        if kind == "write":
            write(folder / str(number), written)
        die_before(number)
        Store(folder / str(number)).compact()
        os._exit(0)
    if kind == "write":
        for _ in range(random.randrange(8)):
            os.read(seen, 1)
        time.sleep(random.uniform(0.0, 0.02))
        os.kill(child, signal.SIGKILL)
    fates.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(fates))
"""


@pytest.mark.slow
@pytest.mark.scenario(15)
def test_writers_killed_at_random_times(rows: Rows, remote: Folder, start: Start) -> None:
    for number in range(1, 11):
        Store(remote / str(number)).write_epochs("w", 1, rows.epochs("w", count=1, lr=0.0))
    fates, _ = start(ZYGOTE, "write", remote, 10).communicate()
    assert json.loads(fates) == [-9] * 10
    reached = set()
    for number in range(1, 11):
        store = Store(remote / str(number))
        found = store.last_epochs("w")
        lr = int(found[0].lr or 0)
        assert len(found) == 1 + lr % 50, "all rows of one writing"
        assert store.skipped == []
        reached.add(lr)
    assert len(reached) > 3, "the kills came at different times"


@pytest.mark.slow
@pytest.mark.scenario(15)
def test_a_compaction_killed_before_each_of_its_changes(rows: Rows, s3: UPath, start: Start) -> None:
    template = Store(s3 / "template")
    fill(rows, template)
    trials, table = template.trials(), template.epochs()
    content = {name: read(template.folder / name) for name in files(template.folder)}
    for number in range(1, 13):
        for name, old in content.items():
            write_atomically(s3 / str(number) / name, old)
    fates, _ = start(ZYGOTE, "compact", s3, 12).communicate()
    # Two tables: one put each, then the compact file before and three or four parts removed.
    assert json.loads(fates) == [-9] * 11 + [0]
    for number in range(1, 13):
        again = Store(s3 / str(number))
        for _ in range(2):
            assert_frame_equal(again.trials(), trials)
            assert_frame_equal(again.epochs(), table)
            assert again.skipped == []
            again.compact()
        assert len(files(again.folder)) == 4


@pytest.mark.slow
def test_two_compactions_at_once_lose_nothing(rows: Rows, remote: Folder, start: Start) -> None:
    store = Store(remote)
    for number in range(12):
        store.write_trial(rows.trial(f"t{number}"))
    trials = store.trials()
    script = (
        "import sys; from raybench.results.storage import folder_at; from raybench.results.store import Store\n"
        "print('ready', flush=True); sys.stdin.readline(); Store(folder_at(sys.argv[1])).compact()"
    )
    both = [start(script, remote) for _ in range(2)]
    assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait() for process in both] == [0, 0]
    assert_frame_equal(Store(remote).trials(), trials)
    store.compact()
    assert_frame_equal(Store(remote).trials(), trials)
    assert len(entries(remote / "trials")) == 1


HOLD = """
import sys
from raybench.results.lock import SweepLock
from raybench.results.storage import folder_at
with SweepLock(folder_at(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.scenario(16)
def test_a_second_driver_is_refused_and_a_dead_one_followed(remote: Folder, start: Start) -> None:
    process = start(HOLD, remote)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(ResultsError, match=rf"process {process.pid} on host"), SweepLock(remote):
        pass
    process.kill()
    process.wait()
    with SweepLock(remote):
        pass


def test_manifest_and_suggestions(remote: Folder) -> None:
    write_manifest(remote, command="a", started="1", ended=None)
    write_manifest(remote, command="a", started="1", ended="2")
    write_manifest(remote, command="b", started="3", ended=None)
    assert [run["ended"] for run in json.loads(read(remote / "manifest.json"))["runs"]] == ["2", None]
    suggestions = Suggestions(remote / "suggestions" / "x.jsonl")
    for lr in (0.1, 0.2):
        suggestions.add({"optimizer.lr": lr})
    assert Suggestions(remote / "suggestions" / "x.jsonl").points == suggestions.points


@pytest.mark.scenario(13)
def test_checkpoints(remote: Folder, caplog: pytest.LogCaptureFixture) -> None:
    folder = remote / "checkpoints" / "a"
    checkpoints = Checkpoints(folder)
    for epoch in (1, 2, 3):
        checkpoints.save({"epoch": epoch, "model": torch.full((1000,), float(epoch))})
    assert [*entries(folder)] == ["a1-epoch-000002.pt", "a1-epoch-000003.pt"]
    assert latest_epoch(folder) == 3
    write_atomically(folder / "a1-epoch-000003.pt", read(folder / "a1-epoch-000003.pt")[:-100])
    state = Checkpoints(folder, attempt=2).newest()
    assert state is not None
    assert state["epoch"] == 2
    assert "not readable; the one before is used" in caplog.text
    checkpoints.clear()
    assert entries(folder) == {}


TIMES = {"attempt", "failures", "node", "started", "ended", "peak_memory", "device_hours", "tensorboard"}
"""Columns that two equal trials need not share, with every time and speed."""


def numbers(folder: Folder, trial: TrialConfig) -> list[dict[str, Any]]:
    store = Store(folder)
    found = [*store.epochs([trial.trial_id]).to_dicts(), *store.trials().to_dicts()]
    timed = ("_time", "_per_sec", "_mib")
    return [{k: v for k, v in row.items() if k not in TIMES and not k.endswith(timed)} for row in found]


def trial() -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "dataset": {"name": "digits", "train_size": 60, "val_size": 100},
            "model": {"name": "resnet8"},
            "optimizer": {"lr": 0.05},
            "schedule": {"epochs": 4},
            "batch_size": 32,
        }
    )


TRAIN = """
import sys
from raybench.commands.comparing import Asked, compare_sweeps, sweeps_in
from raybench.config.trial import TrialConfig
from raybench.results.storage import folder_at
from raybench.training.recorder import Setup
from raybench.training.trial import run_trial

setup = Setup(sweep="s", preset="quick", results=folder_at(sys.argv[1]), checkpoint_every_s=0.0)
run_trial(TrialConfig.model_validate_json(sys.argv[2]), setup)
"""


@pytest.mark.slow
@pytest.mark.scenario(1)
def test_a_trial_killed_goes_on_from_its_checkpoint_there(
    remote: Folder, start: Start, tmp_path: Path, servers: Servers
) -> None:
    torch.set_num_threads(1)
    wanted = trial()
    here = Setup(sweep="s", preset="quick", results=tmp_path / "local")
    assert run_trial(wanted, here).status == Status.COMPLETE
    process = start(TRAIN, remote, wanted.model_dump_json())
    checkpoints = remote / "checkpoints" / wanted.trial_id
    deadline = time.monotonic() + 60
    while latest_epoch(checkpoints) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -9, "it was still running"
    assert latest_epoch(checkpoints) >= 2
    outcome = run_trial(wanted, Setup(sweep="s", preset="quick", results=remote))
    assert outcome.status == Status.COMPLETE, outcome.reason
    assert numbers(remote, wanted) == numbers(tmp_path / "local", wanted)
    assert Store(remote).trials()["attempt"].to_list() == [2]
    assert entries(checkpoints) == {}
    assert load(read(remote / "weights" / f"{wanted.trial_id}.safetensors"))
    boards = entries(remote / "tensorboard" / wanted.trial_id)
    assert len(boards) == 2, "a file an attempt"
    assert all(size for *_, size in boards.values())
    everything = [remote, *(remote / name for name in ("trials", "epochs", "weights", "logs"))]
    texts = [read(folder / name) for folder in everything for name in entries(folder, lambda name: "." in name[1:])]
    assert len(texts) >= 4
    assert not any(servers.secret.encode() in text for text in texts), "credentials stay in the environment"


def test_sweeps_on_s3_are_compared_like_those_of_a_local_disk(s3: UPath, tmp_path: Path, rows: Rows) -> None:
    for root in (s3, tmp_path):
        store = Store(root / "s")
        for seed in range(3):
            trial = TrialConfig.model_validate(
                {"dataset": {"name": "digits"}, "model": {"name": "resnet8"}, "seed": seed}
            )
            about = {"config": trial.flat(), "seed": seed, "eval_top1": 70.0 + seed, "test_top1": 69.0 + seed}
            store.write_trial(rows.trial(trial.trial_id, **about))
            store.write_epochs(trial.trial_id, 1, rows.epochs(trial.trial_id, eval_top1=70.0, train_time=1.0))
    assert sweeps_in(s3) == sweeps_in(tmp_path) == ["s"]
    (there,), (here,) = (compare_sweeps(root, [], Asked()) for root in (s3, tmp_path))
    assert there.results == here.results
    assert [result.test.mean for result in there.results if result.test] == [70.0]
    assert there.text("md") == here.text("md")
