"""The search over simulated outcomes: each trial once, the same decisions after any interruption, fast for many."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybench.config.plan import Plan, make_plan
from raybench.config.sweep import SweepConfig
from raybench.config.trial import TrialConfig
from raybench.results.schema import Status
from raybench.search.cells import Job
from raybench.search.outcomes import Known, Outcomes
from raybench.search.search import Search

EPOCHS = 9
ALPHA, TYPE, SIZE = "distillation.alpha", "distillation.type", "dataset.train_size"
HALVING = {"name": "halving", "grace_epochs": 1, "reduction_factor": 3}
NOWHERE = Path("/nonexistent")
"""Only tpe keeps anything in the sweep's folder."""


def plan(factors: dict[str, Any] | None = None, epochs: int = EPOCHS, **content: Any) -> Plan:
    tune: dict[str, Any] = {key: content.pop(key) for key in ("algorithm", "num_samples", "space") if key in content}
    if "first" in content:
        tune["seeds"] = content.pop("first")
    base = {
        "dataset": {"name": "digits"},
        "model": {"name": "resnet8"},
        "schedule": {"epochs": epochs},
        "distillation": {"type": "hard", "alpha": 0.0, "teacher": {"name": "resnet20"}},
    }
    defaults = {"name": "some", "preset": "paper", "base": base, "factors": factors or {}, "tune": tune}
    return make_plan(SweepConfig.model_validate(defaults | content))


def rates(count: int) -> dict[str, list[float]]:
    return {"optimizer.lr": [round(0.001 * (index + 1), 6) for index in range(count)]}


def score(trial: TrialConfig, epoch: int) -> float:
    """A pure pseudo-random metric, as a deterministic training would give."""
    return random.Random(f"{trial.trial_id} {epoch}").uniform(0, 100)


def completes(trial: TrialConfig) -> Status:  # noqa: ARG001
    return Status.COMPLETE


@dataclass
class World:
    """What the rows would hold, and a driver that works off a search as the real one does."""

    fate: Callable[[TrialConfig], Status] = completes
    rows: dict[str, Known] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    def outcomes(self) -> Outcomes:
        """The rows as a new driver reads them."""
        return Outcomes({trial_id: Known(known.status, dict(known.scores)) for trial_id, known in self.rows.items()})

    def finish(self, search: Search, job: Job) -> None:
        """Run one job to its last rung, write its rows, tell the search, and write what the search gave up."""
        told = {trial.trial_id: self._run(trial, job.rungs[-1]) for trial in job.trials}
        self.rows.update(told)
        search.tell(job, dict(told))
        for _, trial, reason in list(search.pruned()):
            known = self.rows.get(trial.trial_id, Known(Status.RUNNING))
            self.rows[trial.trial_id] = search.outcomes[trial.trial_id] = Known(Status.PRUNED, known.scores)
            assert trial.trial_id not in self.reasons, "given up twice"
            self.reasons[trial.trial_id] = reason

    def _run(self, trial: TrialConfig, until: int) -> Known:
        fate = self.fate(trial)
        last = until if fate == Status.COMPLETE else min(until, 1 + hash_of(trial) % EPOCHS)
        scores = {epoch: score(trial, epoch) for epoch in range(1, last + 1)}
        if last < until or (fate != Status.COMPLETE and until == trial.schedule.epochs):
            return Known(fate, scores)
        return Known(Status.COMPLETE if until == trial.schedule.epochs else Status.RUNNING, scores)

    def work(self, search: Search, width: int = 2, order: random.Random | None = None, stop_after: int = 10**9) -> None:
        """Keep `width` jobs running; they end in random order. Stops dead after so many have ended."""
        order = order or random.Random(0)
        running: list[Job] = []
        ended = 0
        while True:
            while len(running) < width and (job := search.next_job()) is not None:
                running.append(job)
                self.jobs.append(job)
                busy = Counter(trial.trial_id for one in running for trial in one.trials)
                assert max(busy.values()) == 1, "one trial in two workers"
            assert len(running) == width or search.next_job() is None
            if not running:
                assert search.finished
                return
            assert not search.finished
            if ended == stop_after:
                return
            self.finish(search, running.pop(order.randrange(len(running))))
            ended += 1

    def statuses(self) -> dict[str, Status]:
        return {trial_id: known.status for trial_id, known in self.rows.items()}


def hash_of(trial: TrialConfig) -> int:
    return int(trial.trial_id, 16)


def some_fail(trial: TrialConfig) -> Status:
    """One trial in seven diverges, one fails."""
    return {0: Status.DIVERGED, 1: Status.FAILED}.get(hash_of(trial) % 7, Status.COMPLETE)


def trials_of(jobs: Iterable[Job]) -> list[str]:
    return [trial.trial_id for job in jobs for trial in job.trials]


GRID = plan({ALPHA: [0.0, 0.5], TYPE: ["hard", "soft"], SIZE: [10, 20]}, space=rates(3), seeds=[0, 1])
FIRST = plan({ALPHA: [0.0, 0.5], SIZE: [10, 20]}, space=rates(4), seeds=[0, 1, 2], first="first")
HALVED = plan({ALPHA: [0.0, 0.5], SIZE: [10, 20]}, space=rates(7), seeds=[0, 1], scheduler=HALVING)
SHARED = plan({TYPE: ["hard", "soft"]}, space={ALPHA: [0.0, 0.3, 0.6, 0.9], **rates(3)}, seeds=[0], scheduler=HALVING)
SHARED_GRID = plan({TYPE: ["hard", "soft", "both"]}, space={ALPHA: [0.0, 0.5]}, seeds=[0, 1])
ASHA = plan({ALPHA: [0.0, 0.5]}, space=rates(4), seeds=[0, 1, 2], scheduler={"name": "asha"})
PLANS = {
    "grid": GRID,
    "first": FIRST,
    "halving": HALVED,
    "shared halving": SHARED,
    "shared grid": SHARED_GRID,
    "asha": ASHA,
}


def run_whole(wanted: Plan, fate: Callable[[TrialConfig], Status] = some_fail, width: int = 2) -> World:
    world = World(fate)
    world.work(Search(wanted, Outcomes(), NOWHERE, width), width)
    return world


@pytest.mark.parametrize("width", [1, 2, 50])
@pytest.mark.parametrize("name", ["grid", "shared grid"])
def test_grid_hands_out_every_trial_exactly_once(name: str, width: int) -> None:
    world = run_whole(PLANS[name], width=width)
    handed = trials_of(world.jobs)
    assert len(handed) == len(set(handed))
    assert set(handed) == {trial.trial_id for trial in PLANS[name].trials()}
    assert all(job.rungs == (EPOCHS,) for job in world.jobs)


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


# -- seeds: first -----------------------------------------------------------------------------------------------------


def test_first_tunes_on_the_first_seed_and_repeats_the_selected_setting() -> None:
    world = run_whole(FIRST, completes)
    handed = trials_of(world.jobs)
    assert len(handed) == len(set(handed)) == 4 * (4 + 2)
    for cell in FIRST.cells:
        best = max(cell.settings, key=lambda setting: world.rows[setting.trials[0].trial_id].best)
        for setting in cell.settings:
            ran = [trial.seed for trial in setting.trials if trial.trial_id in world.rows]
            assert ran == ([0, 1, 2] if setting is best else [0])
    # What a table is made of is what ran: the other seeds of settings that were not selected are not due.
    shown = [
        t.trial_id
        for cell in Search(FIRST, world.outcomes(), NOWHERE, 2).cells()
        for s in cell.settings
        for t in s.trials
    ]
    assert sorted(shown) == sorted(handed)


def test_first_with_one_setting_runs_every_seed_at_once() -> None:
    search = Search(plan(space=rates(1), seeds=[0, 1, 2], first="first"), Outcomes(), NOWHERE, 3)
    assert [search.next_job() is not None for _ in range(4)] == [True, True, True, False]


def test_first_never_selects_what_failed_while_something_did_not() -> None:
    world = World(lambda trial: Status.COMPLETE if trial.optimizer.lr == 0.003 else Status.DIVERGED)
    world.work(Search(FIRST, Outcomes(), NOWHERE, 2))
    for cell in FIRST.cells:
        ran = [setting for setting in cell.settings if setting.trials[1].trial_id in world.rows]
        assert [setting.tuned["optimizer.lr"] for setting in ran] == [0.003]


# -- halving ----------------------------------------------------------------------------------------------------------


def expected_halving(wanted: Plan, rungs: tuple[int, ...] = (1, 3, 9), factor: int = 3) -> dict[str, int]:
    """Trial id -> epochs, by the definition, for trials that all complete."""
    reached: dict[str, int] = {}
    for cell in wanted.cells:
        alive = list(cell.settings)
        for rung in rungs:
            for setting in alive:
                reached |= {trial.trial_id: max(rung, reached.get(trial.trial_id, 0)) for trial in setting.trials}
            means = {id(s): sum(score(t, rung) for t in s.trials) / len(s.trials) for s in alive}
            alive = sorted(alive, key=lambda s: -means[id(s)])[: math.ceil(len(alive) / factor)]
    return reached


def test_halving_is_its_definition() -> None:
    world = run_whole(HALVED, completes)
    reached = {trial_id: max(known.scores) for trial_id, known in world.rows.items()}
    assert reached == expected_halving(HALVED)
    by_status = Counter(world.statuses().values())
    # 4 cells of 7 settings with 2 seeds: 7 -> 3 -> 1 settings.
    assert by_status == {Status.COMPLETE: 4 * 1 * 2, Status.PRUNED: 4 * 6 * 2}
    assert Counter(job.rungs for job in world.jobs) == {(1,): 4 * 14, (3,): 4 * 6, (9,): 4 * 2}
    assert Counter(max(world.rows[i].scores) for i in world.reasons) == {1: 4 * 8, 3: 4 * 4}


def test_halving_says_why() -> None:
    world = run_whole(HALVED, completes)
    told = next(text for trial_id, text in world.reasons.items() if max(world.rows[trial_id].scores) == 1)
    assert told.startswith("halving: mean ")
    assert told.endswith(" at epoch 1 over 2 seeds, not among the best 3 of 7")


def test_halving_judges_all_seeds_together() -> None:
    wanted = plan(space=rates(3), seeds=[0, 1, 2], scheduler=HALVING)
    search = Search(wanted, Outcomes(), NOWHERE, 9)
    jobs = [search.next_job() for _ in range(9)]
    assert search.next_job() is None
    (settings_,) = (cell.settings for cell in wanted.cells)
    # The second is best on average, the first has the single best seed.
    values = {0: [90, 10, 10], 1: [50, 50, 50], 2: [40, 40, 40]}
    scores = {t.trial_id: values[i][s] for i, setting in enumerate(settings_) for s, t in enumerate(setting.trials)}
    for index, job in enumerate(jobs):
        assert job is not None
        assert not list(search.pruned())
        trial_id = job.trials[0].trial_id
        search.tell(job, {trial_id: Known(Status.RUNNING, {1: scores[trial_id]})})
        assert (search.next_job() is None) == (index < 8)
    assert {t.trial_id for _, t, _ in search.pruned()} == {t.trial_id for i in (0, 2) for t in settings_[i].trials}


def test_halving_never_compares_across_cells() -> None:
    """Every score of the small cell is below every one of the large; still its own best goes to the end."""
    wanted = plan({SIZE: [10, 1000]}, space=rates(9), seeds=[0, 1], scheduler=HALVING)
    world = run_whole(wanted, completes)
    for cell in wanted.cells:
        ends = [world.rows[s.trials[0].trial_id].status for s in cell.settings]
        assert Counter(ends) == {Status.COMPLETE: 1, Status.PRUNED: 8}


def test_a_cell_does_not_wait_for_another() -> None:
    wanted = plan({SIZE: [10, 20]}, space=rates(3), scheduler=HALVING)
    search = Search(wanted, Outcomes(), NOWHERE, 6)
    jobs = [job for job in (search.next_job() for _ in range(6)) if job]
    for job in jobs[:3]:
        search.tell(job, {job.trials[0].trial_id: Known(Status.RUNNING, {1: 1.0})})
    following = search.next_job()
    assert following is not None
    assert following.rungs == (3,)
    assert following.cell == jobs[0].cell


def test_halving_ties_keep_the_order_of_the_plan() -> None:
    wanted = plan(space=rates(4), scheduler={"name": "halving", "reduction_factor": 4})
    search = Search(wanted, Outcomes(), NOWHERE, 1)
    while (job := search.next_job()) is not None and job.rungs == (1,):
        search.tell(job, {job.trials[0].trial_id: Known(Status.RUNNING, {1: 1.0})})
    assert job is not None
    assert job.trials[0].optimizer.lr == 0.001


def test_halving_ranks_what_failed_or_is_no_number_last() -> None:
    wanted = plan(space=rates(3), scheduler=HALVING)
    search = Search(wanted, Outcomes(), NOWHERE, 1)
    told = [Known(Status.DIVERGED, {1: math.nan}), Known(Status.RUNNING, {1: -5.0}), Known(Status.FAILED)]
    for known in told:
        job = search.next_job()
        assert job is not None
        search.tell(job, {job.trials[0].trial_id: known})
    assert list(search.pruned()) == []  # what diverged or failed is settled as that
    following = search.next_job()
    assert following is not None
    assert following.trials[0].optimizer.lr == 0.002


def test_a_later_failure_does_not_change_an_earlier_decision() -> None:
    wanted = plan(space=rates(3), scheduler=HALVING)
    search = Search(wanted, Outcomes(), NOWHERE, 1)
    for value in (1.0, 3.0, 2.0):
        job = search.next_job()
        assert job is not None
        search.tell(job, {job.trials[0].trial_id: Known(Status.RUNNING, {1: value})})
    job = search.next_job()
    assert job is not None
    search.tell(job, {job.trials[0].trial_id: Known(Status.FAILED)})
    assert search.next_job() is None
    assert search.finished
    assert {trial.optimizer.lr for _, trial, _ in search.pruned()} == {0.001, 0.003}
    # A new driver reads the same rows, with the epochs of the one that failed.
    again = Search(wanted, Outcomes(search.outcomes), NOWHERE, 1)
    assert again.finished


def test_a_trial_of_two_cells_is_given_up_only_by_both() -> None:
    world = run_whole(SHARED, completes)
    assert {trial_id: max(known.scores) for trial_id, known in world.rows.items()} == expected_halving(SHARED)
    handed = [job.key for job in world.jobs]
    assert len(handed) == len(set(handed))
    assert all(known.settled for known in world.rows.values())


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


# -- asha -------------------------------------------------------------------------------------------------------------


def test_asha_hands_out_a_setting_with_all_its_seeds_and_rungs() -> None:
    world = run_whole(ASHA, completes)
    assert len(world.jobs) == 8
    for job in world.jobs:
        assert job.rungs == (1, 3, 9)
        assert [trial.seed for trial in job.trials] == [0, 1, 2]
        assert len({trial.setting_id for trial in job.trials}) == 1


def test_asha_leaves_settled_seeds_alone() -> None:
    setting = ASHA.cells[0].settings[0]
    rows = Outcomes({setting.trials[1].trial_id: Known(Status.COMPLETE)})
    job = Search(ASHA, rows, NOWHERE, 1).next_job()
    assert job is not None
    assert [trial.seed for trial in job.trials] == [0, 2]


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
    started = time.monotonic()
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
    assert time.monotonic() - started < 5  # about 0.3 s on an idle core of the machine it was written on


def test_a_gate_guards_teachers_where_no_cell_is_the_student_alone() -> None:
    taught_only = plan({ALPHA: [0.5, 0.9]}, seeds=[0])
    search = Search(taught_only, Outcomes(), NOWHERE, 2, gate=lambda outcomes: False)  # noqa: ARG005
    assert search.next_job() is None
    assert search.finished


def test_a_table_of_seeds_first_compares_the_selected_setting_whatever_became_of_its_other_seeds() -> None:
    def fate(trial: TrialConfig) -> Status:
        return Status.DIVERGED if trial.seed else Status.COMPLETE

    world = run_whole(FIRST, fate)
    search = Search(FIRST, world.outcomes(), NOWHERE, 2)
    for cell, whole in zip(search.compared_cells(), FIRST.cells, strict=True):
        best = max(whole.settings, key=lambda setting: world.rows[setting.trials[0].trial_id].best)
        assert cell.settings == (best,)
