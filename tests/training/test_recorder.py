"""What a trial occupies and what it leaves. Its rows are tested with whole trials."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import polars as pl
import pytest
import torch
from safetensors import safe_open

from raybench.config.trial import TrialConfig
from raybench.data import load
from raybench.errors import ResultsError
from raybench.results.schema import Status
from raybench.results.store import Store
from raybench.training import recorder as recorder_module
from raybench.training.checkpoints import Checkpoints
from raybench.training.device import Device
from raybench.training.ingredients import gather
from raybench.training.loop import Run
from raybench.training.recorder import Recorder, Setup, device_share
from raybench.training.tasks import Classification
from raybench.training.trial import run_trial

if TYPE_CHECKING:
    from conftest import Digits  # type: ignore[import-not-found]


@pytest.mark.parametrize(("cpu", "threads"), [(0.5, 1), (1, 1), (2, 2), (2.9, 2), (8, 8)])
def test_threads_are_whole_and_at_least_one(cpu: float, threads: int) -> None:
    assert Setup(cpu=cpu).threads == threads


def test_share_of_a_gpu_is_what_was_asked_for() -> None:
    assert device_share(Setup(cpu=4, gpu=0.5)) == 0.5
    assert device_share(Setup(cpu=4, gpu=2)) == 2


def test_share_of_a_cpu_node_is_that_of_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert device_share(Setup(cpu=2)) == 0.25
    assert device_share(Setup(cpu=80)) == 1
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert device_share(Setup(cpu=0.5)) == 0.5


def left(folder: Path) -> set[str]:
    """Weights and checkpoints that lie there."""
    return {path.name for name in ("weights", "checkpoints") for path in (folder / name).rglob("*.*")}


@pytest.mark.parametrize("keep", ["none", "best", "last"])
def test_what_stays_of_a_complete_trial(digits: Digits, tmp_path: Path, keep: Literal["none", "best", "last"]) -> None:
    trial = digits.trial()
    setup = digits.setup(tmp_path, keep=keep, checkpoint_every_epochs=1)
    assert run_trial(trial, setup).status == Status.COMPLETE
    names = {
        "none": set(),
        "best": {f"{trial.trial_id}.safetensors"},
        "last": {"a1-epoch-000002.pt", "a1-epoch-000003.pt"},
    }
    assert left(tmp_path) == names[keep]
    found = digits.row(tmp_path, trial)
    assert 0 < found["checkpoint_time"] < 10
    # Weights, their best copy and their momentum, 75,002 parameters of 4 bytes each, and a little more.
    assert 3 * 75_002 * 4 / 2**20 < found["checkpoint_mib"] < 1


def test_the_weights_kept_are_those_that_were_scored(digits: Digits, tmp_path: Path) -> None:
    trial = digits.trial(schedule__epochs=6)
    run_trial(trial, digits.setup(tmp_path))
    found = digits.row(tmp_path, trial)
    with safe_open(tmp_path / "weights" / f"{trial.trial_id}.safetensors", "pt") as file:
        about = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    assert (about["trial_id"], about["epoch"]) == (trial.trial_id, str(found["best_epoch"]))
    assert TrialConfig.model_validate_json(about["config"]) == trial
    assert json.loads(about["classes"]) == list(load("digits").classes)
    cpu = Device(torch.device("cpu"), "fp32")
    ingredients = gather(trial, Setup(), cpu)
    task = Classification(ingredients.built, cpu.device)
    task.module.load_state_dict(weights)
    run = Run(trial, task, ingredients.training, ingredients.validation, cpu)
    assert run.evaluate(ingredients.validation)["top1"] == found["eval_top1"]


@pytest.mark.parametrize(("keep", "names"), [("best", set()), ("last", {"a1-epoch-000001.pt", "a1-epoch-000002.pt"})])
def test_a_trial_that_ran_out_of_time_goes_on_where_its_last_state_was_kept(
    digits: Digits, tmp_path: Path, keep: Literal["best", "last"], names: set[str]
) -> None:
    trial = digits.trial()
    run_trial(trial, digits.setup(tmp_path, checkpoint_every_s=0), until=2)
    assert run_trial(trial, digits.setup(tmp_path, keep=keep, trial_time_s=1e-9)).status == Status.FAILED
    assert left(tmp_path) == names
    # As --rerun failed asks, with a longer limit.
    outcome = run_trial(trial, digits.setup(tmp_path, keep=keep, reopened={trial.trial_id: 2}))
    assert (outcome.status, outcome.epochs) == (Status.COMPLETE, 3)
    assert digits.row(tmp_path, trial)["failures"] == 0


def test_a_complete_trial_asked_to_run_again_begins_anew_whatever_was_kept(
    digits: Digits, finished: Callable[[TrialConfig], Path], tmp_path: Path
) -> None:
    trial = digits.trial()
    setup = digits.setup(tmp_path, keep="last", checkpoint_every_epochs=1)
    run_trial(trial, setup, "a cell")
    outcome = run_trial(trial, replace(setup, reopened={trial.trial_id: 1}), "a cell")
    assert (outcome.status, outcome.epochs) == (Status.COMPLETE, 3)
    times = pl.read_parquet(tmp_path / "epochs" / "*.parquet").sort("attempt", "epoch")["train_time"]
    # Trained, not read from the first attempt's end.
    assert len(set(times)) == 6
    assert digits.numbers(tmp_path, trial) == digits.numbers(finished(trial), trial)
    assert left(tmp_path) == {"a2-epoch-000002.pt", "a2-epoch-000003.pt"}


def test_one_that_failed_at_its_test_goes_on_from_the_end_of_its_training(
    digits: Digits, finished: Callable[[TrialConfig], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = digits.trial()
    setup = digits.setup(tmp_path, keep="last")

    def broken(_: Run) -> None:
        raise RuntimeError("no test today")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "use_best", broken)
        assert run_trial(trial, setup, "a cell").status == Status.FAILED
    assert run_trial(trial, replace(setup, reopened={trial.trial_id: 1}), "a cell").status == Status.COMPLETE
    # The first attempt's epochs alone: nothing was trained again.
    assert [path.name for path in (tmp_path / "epochs").iterdir()] == [f"{trial.trial_id}-a1.parquet"]
    assert digits.numbers(tmp_path, trial) == digits.numbers(finished(trial), trial)


@pytest.mark.scenario(12)
def test_a_disk_that_fills_in_training_settles_nothing_and_loses_nothing(
    digits: Digits, finished: Callable[[TrialConfig], Path], small_disk: Path
) -> None:
    trial = digits.trial()
    # A checkpoint is 0.9 MiB: there is room for one on 1 MiB, and not for the next beside it.
    with pytest.raises(ResultsError, match="disk full"):
        run_trial(trial, digits.setup(small_disk, checkpoint_every_s=0), "a cell")
    row, epochs = digits.row(small_disk, trial), Store(small_disk).epochs()["epoch"].to_list()
    assert row["status"] == "running"
    assert epochs in ([1], [1, 2])
    state = Checkpoints(small_disk / "checkpoints" / trial.trial_id).newest()
    assert state is None or state["epoch"] in epochs
    assert not list(small_disk.rglob("*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    assert run_trial(trial, digits.setup(small_disk), "a cell").status == Status.COMPLETE
    assert digits.numbers(small_disk, trial) == digits.numbers(finished(trial), trial)


def test_an_attempt_ends_after_it_started_whatever_the_wall_clock_says(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = digits.trial()
    begun = time.monotonic()
    recorder = Recorder(trial, "a cell", digits.setup(tmp_path), tmp_path)

    class SetBack(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]  # noqa: ARG003
            return datetime(2000, 1, 1, tzinfo=UTC)

    monkeypatch.setattr(recorder_module, "datetime", SetBack)
    time.sleep(0.1)
    recorder.settle(Status.FAILED, "no reason")
    took = digits.row(tmp_path, trial)["ended"] - digits.row(tmp_path, trial)["started"]
    assert timedelta(seconds=0.1) <= took <= timedelta(seconds=time.monotonic() - begun)


def test_last_words_settle_a_trial_but_never_one_that_is_settled(digits: Digits, tmp_path: Path) -> None:
    hung, done = digits.trial(), digits.trial(seed=1)
    for trial, status in ((hung, "failed"), (done, "complete")):
        recorder = Recorder(trial, "a cell", digits.setup(tmp_path), tmp_path)
        if trial is done:
            recorder.settle(Status.COMPLETE)
        recorder.give_up("timeout: longer than 5 s; hung at loop.py:88 in _train")
        assert digits.row(tmp_path, trial)["status"] == status
    assert digits.row(tmp_path, hung)["reason"] == "timeout: longer than 5 s; hung at loop.py:88 in _train"
