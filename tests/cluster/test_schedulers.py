"""ASHA over the rows: what an earlier run settled counts in this one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="the scheduler is Ray's")

from ray.tune.schedulers import TrialScheduler

from raybench.cluster.deaths import Deaths
from raybench.cluster.jobs import pack_job
from raybench.cluster.schedulers import PATIENCE_S, CellScheduler, InOrder
from raybench.config.plan import Plan, make_plan
from raybench.config.sweep import SweepConfig
from raybench.results.schema import Status
from raybench.search.cells import Job
from raybench.search.outcomes import Known, Outcomes
from raybench.search.search import Search

EPOCHS = 9


@dataclass
class Run:
    """What a scheduler sees of one of Tune's trials."""

    trial_id: str
    config: dict[str, str]


@dataclass
class Waiting:
    """One of Tune's trials, to who asks whether it runs."""

    trial_id: str
    status: str


class Controller:
    """Of Tune, what a scheduler asks for."""

    def __init__(self, *trials: Waiting) -> None:
        self.trials = trials

    def get_trials(self) -> list[Waiting]:
        """In the order in which they came."""
        return list(self.trials)


def test_only_who_has_waited_for_long_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is chosen is given the next worker that falls free, and a start that is under way for it is cancelled."""
    clock = [1000.0]
    monkeypatch.setattr("raybench.cluster.schedulers.time.monotonic", lambda: clock[0])
    scheduler = InOrder(Deaths(1))
    first, second = Waiting("first", "PENDING"), Waiting("second", "PENDING")
    running, over = Waiting("running", "RUNNING"), Waiting("over", "TERMINATED")
    assert scheduler.choose_trial_to_run(Controller(over, running, first)) is None
    clock[0] += PATIENCE_S - 1
    assert scheduler.choose_trial_to_run(Controller(over, running, first, second)) is None
    clock[0] += 2
    assert scheduler.choose_trial_to_run(Controller(over, running, first, second)) is first
    assert scheduler.choose_trial_to_run(Controller(over, running, first, second)) is first, "asked twice, said twice"
    first.status = "RUNNING"
    assert scheduler.choose_trial_to_run(Controller(over, running, first, second)) is None
    clock[0] += PATIENCE_S
    assert scheduler.choose_trial_to_run(Controller(over, running, first, second)) is second
    first.status = "PENDING"  # its worker died: it waits anew
    assert scheduler.choose_trial_to_run(Controller(first)) is None


def _plan() -> Plan:
    base = {"dataset": {"name": "digits"}, "model": {"name": "resnet8"}, "schedule": {"epochs": EPOCHS}}
    content = {"name": "some", "preset": "quick", "base": base, "seeds": [0, 1]}
    content |= {"tune": {"space": {"optimizer.lr": [0.1, 0.2, 0.3, 0.4]}}, "scheduler": {"name": "asha"}}
    return make_plan(SweepConfig.model_validate(content))


def _judge(outcomes: Outcomes, score: float) -> str:
    """What ASHA makes of the last setting, with this score at the first rung."""
    plan = _plan()
    search = Search(plan, outcomes, Path("/nonexistent"), 1)
    scheduler = CellScheduler(Deaths(0), plan.sweep.scheduler, EPOCHS, search)
    cell = plan.cells[0]
    run = Run("tune-1", {"job": pack_job(Job(cell.label, cell.settings[-1].trials, (1, 3, EPOCHS)))})
    scheduler.on_trial_add(None, run)
    return scheduler.on_trial_result(None, run, {"epoch": 1, "score": score})


def _known(scores: list[float], settings: int) -> Outcomes:
    trials = [trial for setting in _plan().cells[0].settings[:settings] for trial in setting.trials]
    return Outcomes({trial.trial_id: Known(Status.COMPLETE, dict(enumerate(scores, 1))) for trial in trials})


def test_without_rows_the_first_to_come_goes_on() -> None:
    assert _judge(Outcomes(), 10.0) == TrialScheduler.CONTINUE


def test_settled_settings_are_what_a_new_one_is_held_against() -> None:
    before = _known([50.0] * EPOCHS, settings=3)
    assert _judge(before, 10.0) == TrialScheduler.STOP
    assert _judge(before, 60.0) == TrialScheduler.CONTINUE


def test_a_setting_that_goes_on_is_not_held_against_itself() -> None:
    """Its earlier scores are told again when it reaches its rungs in this run."""
    before = _known([50.0], settings=4)
    for trial_id, known in before.items():
        before[trial_id] = Known(Status.RUNNING, known.scores)
    assert _judge(before, 10.0) == TrialScheduler.CONTINUE


def test_what_was_never_a_number_counts_as_worst() -> None:
    assert _judge(_known([float("-inf")] * EPOCHS, settings=3), 10.0) == TrialScheduler.CONTINUE
