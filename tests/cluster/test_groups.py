"""Trials over several workers, by Ray Train inside a trial."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import ray.train
import ray.train.torch
import torch

from raybench.cluster import groups
from raybench.cluster.groups import BrokenError, _after, actor_resources, worker_resources
from raybench.cluster.jobs import pack_setup
from raybench.config.trial import TrialConfig
from raybench.errors import ResultsError
from raybench.results.schema import Status, TrialRow
from raybench.results.store import Store
from raybench.training.recorder import Setup

if TYPE_CHECKING:
    from conftest import Sweeps  # type: ignore[import-not-found]

TRIAL = TrialConfig.model_validate({"dataset": {"name": "digits"}, "model": {"name": "resnet8"}})
CLOSED = "Traceback\n  in backward\nRuntimeError: [../gloo/transport/tcp/pair.cc:534] Connection closed by peer"
TOO_MUCH = "Traceback\n  in step\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
TWO = (
    "resources.workers=2",
    "distillation.alpha=0.0",
    "optimizer.lr=0.1",
    "--seeds",
    "1",
    "model.name=vit_micro_patch2_8",
)


def after(failures: dict[int, str], folder: Path) -> Any:
    error: Any = ray.train.WorkerGroupError(
        "workers failed", {rank: RuntimeError(text) for rank, text in failures.items()}
    )
    return _after(error, TRIAL, Setup(results=folder), "a cell", 3)


def test_who_failed_says_more_than_who_was_left(tmp_path: Path) -> None:
    with pytest.raises(BrokenError) as error:
        after({0: CLOSED, 1: TOO_MUCH}, tmp_path)
    assert str(error.value) == "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
    with pytest.raises(BrokenError, match="Connection closed by peer"):
        after({0: CLOSED}, tmp_path)
    with pytest.raises(BrokenError, match="its workers were ended"):
        after({}, tmp_path)


def test_a_full_disk_is_no_fault_of_the_trial(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"^disk full: /results$"):
        after({0: "Traceback\nraybench.errors.ResultsError: disk full: /results"}, tmp_path)


def test_what_the_first_worker_settled_counts(tmp_path: Path) -> None:
    row = TrialRow(
        trial_id=TRIAL.trial_id,
        sweep="some",
        preset="quick",
        cell="a cell",
        status=Status.FAILED,
        attempt=1,
        seed=0,
        reason="timeout: longer than 3 s",
        config=TRIAL.flat(),
        env={},
    )
    Store(tmp_path).write_trial(row)
    outcome = after({0: "Traceback\nraybench.cluster.groups.EndedError: timeout", 1: CLOSED}, tmp_path)
    assert (outcome.status, outcome.reason) == (Status.FAILED, "timeout: longer than 3 s")


def test_what_is_reserved() -> None:
    one = Setup(cpu=4, gpu=0.5, kind="A100")
    assert worker_resources(one) == {"CPU": 4, "GPU": 0.5, "accelerator_type:A100": 0.001}
    assert actor_resources(one).bundles == [worker_resources(one)]
    assert worker_resources(Setup(cpu=2, kind="A100")) == {"CPU": 2}
    # A byte: the workers' places are reserved apart, and nothing that they need is held by the trial itself.
    assert actor_resources(Setup(cpu=4, gpu=1, workers=8)).bundles == [{"memory": 1}]


def test_each_worker_on_a_node_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As Ray Train leaves it: CUDA_VISIBLE_DEVICES names the GPUs of all workers on the node, the current one is 0."""
    second, current = torch.device("cuda", 1), [torch.device("cuda", 0)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: second)
    monkeypatch.setattr(ray.train, "get_context", lambda: SimpleNamespace(get_world_rank=lambda: 1))
    trained_on = []
    monkeypatch.setattr(groups, "follow", lambda *_: trained_on.append(current[-1]))
    content = {"trial": TRIAL.model_dump_json(), "cell": "a cell", "until": 1}
    for gpu, expected in ((0.0, current[0]), (1.0, second)):
        groups._work(content | {"setup": pack_setup(Setup(results=tmp_path, gpu=gpu, workers=2))})
        assert trained_on[-1] == expected


@pytest.fixture(scope="module")
def together(sweeps: Sweeps) -> pl.DataFrame:
    """The rows of a trial by two workers."""
    done = sweeps.run("two", *TWO)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 at a time, 2 workers of 1 CPU each" in done.stdout
    assert "2 workers a trial share each batch (30 = 2 x 15)" in done.stdout
    return sweeps.metrics("two")  # type: ignore[no-any-return]


@pytest.mark.slow
def test_two_workers_train_the_trial_of_one(sweeps: Sweeps, together: pl.DataFrame) -> None:
    alone = sweeps.run("one", *(each for each in TWO if "workers" not in each))
    assert alone.returncode == 0, alone.stdout + alone.stderr
    expected = sweeps.metrics("one")
    assert together["trial_id"].to_list() == expected["trial_id"].to_list()
    for name in ("train_loss", "eval_loss", "train_top1", "eval_top1"):
        assert together[name].to_list() == pytest.approx(expected[name].to_list(), rel=1e-4)
    # Either finds what the other has settled.
    again = sweeps.run("two", *(each for each in TWO if "workers" not in each))
    assert "nothing to do: 1 of 1 trials settled (1 complete)" in again.stdout


@pytest.mark.slow
def test_a_worker_that_dies_costs_the_epochs_since_the_checkpoint(sweeps: Sweeps) -> None:
    driver = sweeps.start("killed", *TWO, "schedule.epochs=60", "checkpoints.every_epochs=1")
    try:
        epochs = sweeps.folder / "killed" / "tiny" / "epochs"
        deadline = time.monotonic() + 200
        while not list(epochs.glob("*-a1.parquet")) and time.monotonic() < deadline:
            time.sleep(0.1)
        workers = sweeps.descendants(driver.pid, lambda command: "RayTrainWorker" in command)
        assert len(workers) >= 2, "no workers of Ray Train were found"
        workers[-1].kill()
        output = driver.communicate(timeout=280)[0]
    finally:
        driver.kill()
    assert driver.returncode == 0, output
    (row,) = pl.read_parquet(sweeps.folder / "killed" / "tiny" / "trials" / "*.parquet").to_dicts()
    assert (row["status"], row["attempt"], row["failures"], row["env/workers"]) == ("complete", 2, 1, "2")
    rows = pl.read_parquet(sweeps.folder / "killed" / "tiny" / "epochs" / "*.parquet").filter(pl.col("attempt") == 2)
    assert rows["epoch"].sort().to_list() == list(range(1, 61))


@pytest.mark.slow
def test_a_trial_that_must_fail_fails_with_its_reason(sweeps: Sweeps) -> None:
    done = sweeps.run("late", *TWO, "schedule.epochs=100000", "limits.trial_time_s=5")
    assert done.returncode == 1, done.stdout + done.stderr
    (row,) = pl.read_parquet(sweeps.folder / "late" / "tiny" / "trials" / "*.parquet").to_dicts()
    assert row["status"] == "failed"
    assert row["reason"].startswith("timeout: longer than 5 s")
