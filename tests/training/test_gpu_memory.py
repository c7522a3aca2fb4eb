"""What trials take of a GPU: which are measured, by which steps, and what is made of the peak."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from raybench.config.placement import CONTEXT_MIB, pack
from raybench.results.schema import Status
from raybench.training import gpu_memory
from raybench.training.batches import Batch
from raybench.training.device import choose_device
from raybench.training.gpu_memory import Measured, Peak, answer, asked, measure_apart, take_steps
from raybench.training.loop import Run
from raybench.training.recorder import Setup
from raybench.training.tasks import LiveTeacher
from raybench.training.trial import run_trial

if TYPE_CHECKING:
    from conftest import Digits  # type: ignore[import-not-found]

LIVE = {
    "type": "soft",
    "alpha": 0.5,
    "tau": 2.0,
    "cache": "off",
    "teacher": {"name": "resnet8", "prepare": "finetune", "epochs": 50},
}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A GPU of 8,000 MiB, 6,000 of them free, by name only; the peaks that it tells, the first one first."""
    peaks: list[float] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (6000 * 2**20, 8000 * 2**20))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(gpu_memory, "reserved_mib", lambda: peaks.pop(0))
    return peaks


def question(digits: Digits, *changes: dict[str, Any]) -> str:
    return asked([digits.trial(**each) for each in changes], Setup())


def test_trials_whose_memory_is_the_same_are_measured_once(digits: Digits) -> None:
    same: list[dict[str, Any]] = [
        {},
        {"seed": 3},
        {"optimizer__lr": 0.5},
        {"schedule__epochs": 9},
        {"label_smoothing": 0.1},
    ]
    other: list[dict[str, Any]] = [{"batch_size": 64}, {"optimizer__name": "adamw"}, {"precision": "bf16"}]
    content = json.loads(question(digits, *same, *other))
    assert len(content["trials"]) == 1 + len(other)


def test_the_largest_peak_decides(digits: Digits, gpu: list[float]) -> None:
    gpu += [100.0, 250.0]
    measured = answer(question(digits, {}, {"batch_size": 64}))
    assert measured.fault == ""
    # What others have of the GPU is none of ours; our own context is.
    assert measured.gpu_mib == 6000 + CONTEXT_MIB
    assert measured.largest == Peak("resnet8, batch 64", 250.0)
    assert Measured.loaded(measured.dumped()) == measured


def test_what_is_too_large_takes_all_there_is(
    digits: Digits, gpu: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(gpu_memory, "take_steps", too_much)
    measured = answer(question(digits, {}))
    assert not gpu
    assert measured.largest is not None
    assert not pack(measured.largest.mib, measured.gpu_mib).fits


@pytest.mark.usefixtures("gpu")
def test_what_cannot_be_measured_is_said(digits: Digits) -> None:
    measured = answer(question(digits, {"dataset__train_size": 100_000}))
    assert "100000" in measured.fault.replace(",", "")
    assert measured.largest is None


def test_two_steps_and_a_batch_of_validation_are_taken(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    before = Run._step

    def counted(run: Run) -> None:
        taken.append(run.training.steps(16))
        before(run)

    monkeypatch.setattr(Run, "_step", counted)
    take_steps(digits.trial(batch_size=16), Setup(), choose_device("fp32", 0))
    assert taken == [2, 2]


def test_a_live_teacher_is_there_and_not_trained_for_it(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    before = LiveTeacher.__call__

    def counted(teacher: LiveTeacher, batch: Batch) -> torch.Tensor:
        seen.append(len(batch.labels))
        return before(teacher, batch)

    monkeypatch.setattr(LiveTeacher, "__call__", counted)
    take_steps(digits.trial(distillation=LIVE, batch_size=16), Setup(), choose_device("fp32", 0))
    assert seen == [16, 16]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_process_says_so(digits: Digits) -> None:
    measured = measure_apart(question(digits, {}))
    assert measured.largest is None
    assert measured.fault


@pytest.mark.gpu
def test_as_many_as_were_packed_run_within_their_limit(digits: Digits, tmp_path: Path) -> None:
    trials = [digits.trial(batch_size=size, dataset__train_size=600) for size in (32, 512)]
    measured = measure_apart(asked(trials, Setup()))
    assert measured.fault == ""
    assert measured.peaks[1].mib > measured.peaks[0].mib > 0
    assert measured.largest is not None
    packed = pack(measured.largest.mib, measured.gpu_mib)
    assert packed.trials >= 2
    for trial in trials:
        setup = digits.setup(tmp_path, gpu=packed.gpu, memory_mib=packed.limit_mib)
        assert run_trial(trial, setup, "a cell").status == Status.COMPLETE
        assert digits.row(tmp_path, trial)["micro_batch"] is None
