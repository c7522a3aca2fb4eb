"""The search over simulated outcomes: each trial once, the same decisions after any interruption, fast for many."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybench.config.trial import TrialConfig
from raybench.results.schema import Status
from raybench.search.cells import Exhaustive, Job
from raybench.search.outcomes import Known, Outcomes
from raybench.search.search import Search, taught
from tests.search.world import (
    ALPHA,
    EPOCHS,
    GRID,
    HALVED,
    HALVING,
    NOWHERE,
    PLANS,
    SIZE,
    World,
    completes,
    hash_of,
    plan,
    rates,
    run_whole,
    score,
    some_fail,
    trials_of,
)


@pytest.mark.parametrize("width", [1, 2, 50])
@pytest.mark.parametrize("name", ["grid", "shared grid"])
def test_grid_hands_out_every_trial_exactly_once(name: str, width: int) -> None:
    world = run_whole(PLANS[name], width=width)
    handed = trials_of(world.jobs)
    assert len(handed) == len(set(handed))
    assert set(handed) == {trial.trial_id for trial in PLANS[name].trials()}
    assert all(job.rungs == (EPOCHS,) for job in world.jobs)


class Asking(World):
    """Asks after every job whether the student alone is done, and compares with a look at every cell."""

    answers: list[bool]

    def finish(self, search: Search, job: Job) -> None:
        """One job."""
        super().finish(search, job)
        alone = [each for each in search._searches if not taught(search.plan, each.cell)]
        assert search.alone_done == all(each.done(search.outcomes) for each in alone)
        self.answers.append(search.alone_done)


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("name", PLANS)
def test_when_the_student_alone_is_done_is_known(name: str, width: int) -> None:
    world = Asking()
    world.answers = []
    world.work(Search(PLANS[name], Outcomes({}), NOWHERE, width), width=width)
    assert world.answers[-1]
    assert world.answers == sorted(world.answers)  # once done, done


def test_whether_the_student_alone_is_done_costs_no_look_at_every_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    search = Search(plan({ALPHA: [0.0, 0.5]}, seeds=list(range(200))), Outcomes({}), NOWHERE, 2)
    looks = 0
    done = Exhaustive.done

    def counted(self: Exhaustive, outcomes: Outcomes) -> bool:
        nonlocal looks
        looks += 1
        return done(self, outcomes)

    monkeypatch.setattr(Exhaustive, "done", counted)
    for _ in range(200):
        job = search.next_job()
        assert job is not None
        search.tell(job, {trial.trial_id: Known(Status.COMPLETE, {EPOCHS: 1.0}) for trial in job.trials})
        search.alone_done  # noqa: B018
    assert search.alone_done
    assert looks <= 3


def test_nothing_settled_is_handed_out_again() -> None:
    trials = list(GRID.trials())
    known = {trial.trial_id: Known(status) for trial, status in zip(trials, list(Status) * 9, strict=False)}
    search = Search(GRID, Outcomes(known), NOWHERE, 2)
    world = World(rows=dict(known))
    assert search.due_trials() == sum(not one.settled for one in known.values()) + len(trials) - len(known)
    world.work(search)
    assert set(trials_of(world.jobs)) == {t.trial_id for t in trials} - {i for i, one in known.items() if one.settled}


def test_the_student_alone_comes_first_and_the_largest_first() -> None:
    search = Search(plan({ALPHA: [0.9, 0.0], SIZE: [10, "all", 20]}), Outcomes(), NOWHERE, 2)
    order = []
    while (job := search.next_job()) is not None:
        order.append((job.trials[0].distillation.alpha, job.trials[0].dataset.train_size))
    assert order == [(0.0, "all"), (0.0, 20), (0.0, 10), (0.9, "all"), (0.9, 20), (0.9, 10)]


def test_a_job_that_came_back_unsettled_is_due_again() -> None:
    search = Search(plan(), Outcomes(), NOWHERE, 1)
    job = search.next_job()
    assert job is not None
    assert search.next_job() is None
    assert not search.finished
    search.tell(job, {job.trials[0].trial_id: Known(Status.RUNNING, {1: 5.0})})
    again = search.next_job()
    assert again is not None
    assert again.key == job.key
    search.tell(again, {})
    assert search.next_job() is not None


def test_a_trial_with_all_epochs_and_no_end_is_due() -> None:
    (trial,) = plan().trials()
    rows = Outcomes({trial.trial_id: Known(Status.RUNNING, dict.fromkeys(range(1, EPOCHS + 1), 1.0))})
    assert Search(plan(), rows, NOWHERE, 1).next_job() is not None


def test_scores_known_before_a_worker_died_stay() -> None:
    search = Search(plan(), Outcomes(), NOWHERE, 1)
    job = search.next_job()
    assert job is not None
    trial_id = job.trials[0].trial_id
    search.tell(job, {trial_id: Known(Status.RUNNING, {1: 5.0})})
    search.tell(job, {trial_id: Known(Status.FAILED)})
    assert search.outcomes[trial_id] == Known(Status.FAILED, {1: 5.0})


# -- resuming ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["grid", "first", "halving", "shared halving", "shared grid"]),
    st.lists(st.integers(0, 40), max_size=4),
    st.integers(1, 9),
    st.integers(0, 2**16),
    st.booleans(),
)
def test_an_interrupted_search_ends_as_an_uninterrupted_one(
    name: str, stops: list[int], width: int, seed: int, failing: bool
) -> None:
    wanted = PLANS[name]
    fate: Callable[[TrialConfig], Status] = some_fail if failing else completes
    whole = run_whole(wanted, fate)
    broken = World(fate)
    order = random.Random(seed)
    for stop_after in (*stops, 10**9):
        broken.work(Search(wanted, broken.outcomes(), NOWHERE, width), width, order, stop_after)
    assert broken.statuses() == whole.statuses()
    assert {i: known.scores for i, known in broken.rows.items()} == {i: k.scores for i, k in whole.rows.items()}
    assert broken.reasons == whole.reasons


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(PLANS)), st.integers(1, 6), st.integers(0, 2**16))
def test_every_job_is_handed_out_once_whatever_the_order(name: str, width: int, seed: int) -> None:
    world = World(some_fail)
    world.work(Search(PLANS[name], Outcomes(), NOWHERE, width), width, random.Random(seed))
    keys = [job.key for job in world.jobs]
    assert len(keys) == len(set(keys))
    if name != "first":
        assert set(world.rows) == {trial.trial_id for trial in PLANS[name].trials()}
    assert all(known.settled for known in world.rows.values())


def test_a_pruned_trial_that_the_driver_could_not_write_is_told_again() -> None:
    world = World()
    search = Search(HALVED, Outcomes(), NOWHERE, 1)
    while not list(search.pruned()):
        job = search.next_job()
        assert job is not None
        told = {t.trial_id: Known(Status.RUNNING, {1: score(t, 1)}) for t in job.trials}
        world.rows.update(told)
        search.tell(job, told)
    first = {trial.trial_id for _, trial, _ in search.pruned()}
    assert {trial.trial_id for _, trial, _ in Search(HALVED, world.outcomes(), NOWHERE, 1).pruned()} == first


# -- the gate ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opens", [True, False])
def test_the_gate_is_asked_once_when_the_student_alone_is_settled(opens: bool) -> None:
    asked: list[int] = []

    def gate(outcomes: Outcomes) -> bool:
        asked.append(len(outcomes))
        return opens

    world = World()
    alone = sum(len(setting.trials) for cell in GRID.cells if cell.baseline is None for setting in cell.settings)
    search = Search(GRID, Outcomes(), NOWHERE, 4, gate)
    world.work(search, 4)
    assert asked == [alone]
    assert len(world.rows) == (len(list(GRID.trials())) if opens else alone)
    assert search.finished


def test_without_a_gate_nothing_waits_for_the_student_alone() -> None:
    search = Search(GRID, Outcomes(), NOWHERE, 4)
    handed = 0
    while search.next_job() is not None:
        handed += 1
    assert handed == len(list(GRID.trials()))


def test_a_gate_without_a_student_alone_holds_nothing_back() -> None:
    wanted = plan({SIZE: [10, 20]})
    world = World()
    world.work(Search(wanted, Outcomes(), NOWHERE, 1, lambda outcomes: False), 1)  # noqa: ARG005
    assert len(world.rows) == 2


def test_a_gate_guards_teachers_where_no_cell_is_the_student_alone() -> None:
    taught_only = plan({ALPHA: [0.5, 0.9]}, seeds=[0])
    search = Search(taught_only, Outcomes(), NOWHERE, 2, gate=lambda outcomes: False)  # noqa: ARG005
    assert search.next_job() is None
    assert search.finished


# -- speed ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "count", "scheduler", "width"),
    [
        (1, 1000, {"name": "none"}, 5000),
        (1, 1000, HALVING, 5000),
        (50, 20, {"name": "none"}, 8),
        (50, 20, HALVING, 8),
    ],
)
def test_5000_trials_take_seconds(cells: int, count: int, scheduler: dict[str, Any], width: int) -> None:
    wanted = plan({SIZE: list(range(1, cells + 1))}, space=rates(count), seeds=[0, 1, 2, 3, 4], scheduler=scheduler)
    assert sum(1 for _ in wanted.trials()) == 5000
    search = Search(wanted, Outcomes(), NOWHERE, width)
    running: list[Job] = []
    handed = 0
    started = time.process_time()
    while True:
        while len(running) < width and (job := search.next_job()) is not None:
            running.append(job)
            handed += 1
        if not running:
            break
        job = running.pop(0)
        rung, (trial,) = job.rungs[-1], job.trials
        status = Status.COMPLETE if rung == EPOCHS else Status.RUNNING
        search.tell(job, {trial.trial_id: Known(status, {rung: float(hash_of(trial) % 1000)})})
        for _, dropped, _ in list(search.pruned()):
            search.outcomes[dropped.trial_id] = Known(Status.PRUNED, search.outcomes[dropped.trial_id].scores)
    assert search.finished
    assert handed >= 5000
    assert time.process_time() - started < 5  # about 0.3 s on an idle core of the machine it was written on
