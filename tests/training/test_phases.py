"""Where the time of training goes: phases follow each other without a gap, and a trial's rows account for them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from raybench.config.trial import TrialConfig
from raybench.results.store import Store
from raybench.training.phases import PHASES, Phases
from raybench.training.recorder import PHASE_TIMES

if TYPE_CHECKING:
    from conftest import Digits  # type: ignore[import-not-found]

CPU = torch.device("cpu")


def test_each_second_is_in_one_phase() -> None:
    phases = Phases(CPU)
    start = time.perf_counter()
    phases.to("data")
    time.sleep(0.02)
    phases.to("forward_backward")
    time.sleep(0.01)
    with phases.within("teacher"):
        assert phases.now == "teacher"
        time.sleep(0.03)
    time.sleep(0.01)
    phases.to("optimizer")
    phases.to(None)
    whole = time.perf_counter() - start
    taken = phases.taken()
    assert tuple(taken) == PHASES
    assert taken["data"] >= 0.02
    assert taken["forward_backward"] >= 0.02
    assert taken["teacher"] >= 0.03
    assert sum(taken.values()) <= whole
    assert sum(taken.values()) > 0.9 * whole


def test_what_belongs_to_no_phase_is_not_counted_and_nothing_twice() -> None:
    phases = Phases(CPU)
    with phases.within("teacher"):
        time.sleep(0.01)
    time.sleep(0.02)
    taken = phases.taken()
    assert 0.01 <= taken["teacher"] < 0.03
    assert sum(taken.values()) == taken["teacher"]
    assert sum(phases.taken().values()) == 0


def test_a_trial_tells_where_its_time_went(digits: Digits, finished: Callable[[TrialConfig], Path]) -> None:
    trial = digits.distilled()
    folder = finished(trial)
    row, epochs = digits.row(folder, trial), Store(folder).epochs([trial.trial_id])
    for column in PHASE_TIMES:
        assert (epochs[column] > 0).all()
        assert row[column] == pytest.approx(epochs[column].sum())
    # The rest is the loop's own: means of losses and metrics at the epoch's end.
    assert (sum(epochs[column] for column in PHASE_TIMES) <= epochs["train_time"]).all()
    assert sum(row[column] for column in PHASE_TIMES) > 0.7 * row["train_time"]
    assert row["eval_time"] == pytest.approx(epochs["eval_time"].sum())
    assert 0 < row["setup_time"] + row["rows_time"] < (row["ended"] - row["started"]).total_seconds()


def test_the_student_alone_spends_nothing_on_a_teacher(digits: Digits, finished: Callable[[TrialConfig], Path]) -> None:
    trial = digits.trial()
    assert digits.row(finished(trial), trial)["teacher_time"] == 0


@pytest.mark.gpu
def test_a_gpu_is_timed_by_its_own_clock() -> None:
    device = torch.device("cuda")
    phases = Phases(device)
    work = torch.randn(4096, 4096, device=device)
    phases.to("forward_backward")
    for _ in range(20):
        work = work @ work / 64
    asked = time.perf_counter()
    phases.to("optimizer")
    phases.to(None)
    assert time.perf_counter() - asked < 0.01  # nothing waited
    torch.cuda.synchronize()
    taken = phases.taken()
    assert taken["forward_backward"] > 10 * taken["optimizer"]
