"""Limits of a trial: looked at in every step, each ending it with its reason."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from raybench.errors import RaybenchError
from raybench.results.schema import Status
from raybench.results.store import Store
from raybench.training.batches import TrainingImages
from raybench.training.device import resident_mib
from raybench.training.limits import LOOK_EVERY_S, SETUP_S, Limits
from raybench.training.trial import run_trial

if TYPE_CHECKING:
    from conftest import Digits  # type: ignore[import-not-found]


def test_without_limits_nothing_is_exceeded() -> None:
    limits = Limits()
    limits.check()
    assert limits.exceeded() is None
    assert limits.left_s() == float("inf")


def test_time_counts_from_the_start_of_training_and_with_what_was_spent_before() -> None:
    limits = Limits(time_s=50)
    limits.check()
    assert 49 < limits.left_s() - SETUP_S <= 50
    limits.begin(0)
    assert 49 < limits.left_s() <= 50
    limits.begin(30)
    assert 19 < limits.left_s() <= 20
    limits.begin(60)
    assert limits.left_s() == 0
    assert limits.exceeded() == "timeout: longer than 50 s"
    with pytest.raises(RaybenchError, match="timeout: longer than 50 s"):
        limits.check()


def test_a_stall_is_the_time_since_the_last_step_and_none_between_steps() -> None:
    limits = Limits(stall_s=0.05)
    assert limits.exceeded() is None
    limits.check()
    time.sleep(0.06)
    assert limits.exceeded() == "stall: no step ended within 0.05 s"
    # Whoever can look has ended its step.
    limits.check()
    assert limits.exceeded() is None
    time.sleep(0.06)
    limits.rest()
    assert limits.exceeded() is None
    # The next step may begin now.
    assert limits.left_s() == pytest.approx(0.05)


def test_memory_is_what_the_process_holds() -> None:
    limits = Limits(memory_mib=resident_mib() + 100)
    limits.check()
    block = torch.ones(2**26)  # 256 MiB
    assert limits.exceeded() is not None
    time.sleep(LOOK_EVERY_S)
    with pytest.raises(RaybenchError, match="memory: more than"):
        limits.check()
    del block
    assert limits.exceeded() is None


def test_looking_costs_next_to_nothing() -> None:
    limits = Limits(time_s=1e6, stall_s=1e6, memory_mib=1e9)
    limits.check()
    start = time.perf_counter()
    for _ in range(1000):
        limits.check()
    # An epoch of a second has at most some hundred steps: 20 microseconds each would be 0.2 %.
    assert time.perf_counter() - start < 0.02


@pytest.mark.scenario(10)
def test_a_slow_trial_ends_in_the_middle_of_an_epoch(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = digits.trial(schedule__epochs=5000)
    outcome = run_trial(trial, digits.setup(tmp_path, trial_time_s=1))
    found = digits.row(tmp_path, trial)
    assert (outcome.status, outcome.reason) == (Status.FAILED, "timeout: longer than 1 s")
    assert (found["status"], found["reason"]) == ("failed", outcome.reason)
    assert 0 < found["epochs"] == outcome.epochs < 5000
    assert 0 < found["train_time"] < 1
    # An epoch longer than the limit does not help it.
    steps = 0
    plain = TrainingImages.epoch

    def endless(self: TrainingImages, *arguments: Any):  # type: ignore[no-untyped-def]
        nonlocal steps
        while True:
            for batch in plain(self, *arguments):
                steps += 1
                yield batch

    monkeypatch.setattr(TrainingImages, "epoch", endless)
    other = digits.trial(seed=1)
    assert run_trial(other, digits.setup(tmp_path, trial_time_s=0.3)).reason == "timeout: longer than 0.3 s"
    assert digits.row(tmp_path, other)["epochs"] == 0
    assert steps > 2


@pytest.mark.scenario(10)
def test_what_the_epochs_before_took_counts(digits: Digits, tmp_path: Path) -> None:
    trial = digits.trial(schedule__epochs=500)
    run_trial(trial, digits.setup(tmp_path), until=20)
    spent = Store(tmp_path).epochs()
    took = (spent["train_time"] + spent["eval_time"]).sum()
    outcome = run_trial(trial, digits.setup(tmp_path, trial_time_s=took / 2))
    assert (outcome.status, outcome.epochs) == (Status.FAILED, 20)
    assert digits.row(tmp_path, trial)["train_time"] == pytest.approx(spent["train_time"].sum())


@pytest.mark.scenario(8)
def test_more_memory_than_allowed_fails_the_trial_and_the_next_one_lives(digits: Digits, tmp_path: Path) -> None:
    trial = digits.trial()
    outcome = run_trial(trial, digits.setup(tmp_path, memory_mib=10))
    assert (outcome.status, outcome.reason) == (Status.FAILED, "memory: more than 10 MiB")
    assert run_trial(digits.trial(seed=1), digits.setup(tmp_path)).status == Status.COMPLETE
