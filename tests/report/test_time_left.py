"""The time left over runs that were recorded: unlike trials in the order of the driver, and how wrong it is when."""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from raybench.config.costs import TrialCost
from raybench.config.plan import Plan, make_plan
from raybench.config.sweep import SweepConfig
from raybench.config.trial import TrialConfig
from raybench.report.time_left import WORKER_S, TimeLeft, makespan
from raybench.results.schema import Status
from raybench.search.cells import Job, Stages, Stretch
from raybench.search.outcomes import Known, Outcomes
from raybench.search.search import Search

RECORDED = Path(__file__).parent / "timings"
"""Of each trial of a run on two cores, two at a time: seconds beside its epochs, and of each epoch."""
NOWHERE = Path("/nonexistent")
HAND_OVER_S = 0.4
AGAIN_S = 0.5
"""Of a trial that goes on: what it read before is still there."""
RATES = 3
SPREAD = 0.2
"""Of an estimate that was measured."""


class Run:
    """A driver without Ray: jobs of a search take the seconds that were recorded, on a clock of its own."""

    def __init__(self, plan: Plan, seconds: Callable[[TrialConfig], tuple[float, Sequence[float]]], width: int) -> None:
        self.plan, self.seconds, self.width = plan, seconds, width
        self.now = 0.0
        self.search = Search(plan, Outcomes(), NOWHERE, width)
        self.said: list[tuple[float, float]] = []
        """(when, seconds left) at each epoch's end and between."""

    def go(self, costs: Callable[[TrialConfig], TrialCost], start_s: float = 12.0) -> Run:
        """From the begin to the end."""
        clock = TimeLeft(costs, lambda: self.now, lambda: 0.0)
        clock.follow(self.search.ahead, {})
        # (when, number, job, epoch that ends then or None where the job does)
        events: list[tuple[float, int, Job, int | None]] = []
        done: dict[str, int] = {}
        number = 0
        running = 0

        def hand_out() -> None:
            nonlocal number, running
            while running < self.width and (job := self.search.next_job()):
                clock.started(job)
                running += 1
                (trial,) = job.trials
                fixed, epochs = self.seconds(trial)
                if trial.trial_id in done:  # it goes on from a rung
                    fixed = min(fixed, AGAIN_S)
                at = self.now + fixed / 2 + (start_s if self.now == 0 else 0.0)
                for epoch in range(done.get(trial.trial_id, 0), job.rungs[-1]):
                    at += epochs[epoch]
                    heapq.heappush(events, (at, number, job, epoch + 1))
                    number += 1
                heapq.heappush(events, (at + fixed / 2 + HAND_OVER_S, number, job, None))
                number += 1

        hand_out()
        while events:
            at, _, job, epoch = heapq.heappop(events)
            self._say(clock, at)
            self.now = at
            (trial,) = job.trials
            _, epochs = self.seconds(trial)
            if epoch is not None:
                done[trial.trial_id] = epoch
                clock.seen(trial, epochs[:epoch])
                continue
            status = Status.COMPLETE if job.rungs[-1] == trial.schedule.epochs else Status.RUNNING
            known = Known(status, {each: self._score(trial) for each in range(1, job.rungs[-1] + 1)})
            self.search.tell(job, {trial.trial_id: known})
            running -= 1
            clock.ended(job, [epochs[: job.rungs[-1]]])
            hand_out()
        assert self.search.finished
        return self

    def _say(self, clock: TimeLeft, until: float) -> None:
        """Ask three times on the way to the next event, as a table is drawn."""
        begun = self.now
        for part in range(1, 4):
            self.now = begun + (until - begun) * part / 4
            self.said.append((self.now, clock.left(self.width)))

    def _score(self, trial: TrialConfig) -> float:
        return random.Random(trial.trial_id).random()

    def errors(self, after: float = 0.2) -> list[float]:
        """After so much of the run: how far off it was, as a part of the time that was left.

        Of the last twentieth of the run as a part of that twentieth: a part of nothing has no meaning.
        """
        least = 0.05 * self.now
        return [
            abs(left - (self.now - at)) / max(least, self.now - at) for at, left in self.said if at >= after * self.now
        ]


@dataclass(frozen=True)
class Recorded:
    """A run that was recorded, as a plan with as many cells, settings and seeds."""

    plan: Plan
    cells: list[dict[str, Any]]

    @classmethod
    def of(cls, name: str, **more: Any) -> Recorded:
        cells = json.loads((RECORDED / f"{name}.json").read_text())
        trials = len(cells[0]["trials"])
        rates = RATES if trials % RATES == 0 and trials > RATES else 1
        content = {
            "name": "some",
            "preset": "paper",
            "base": {
                "dataset": {"name": "digits"},
                "model": {"name": "resnet8"},
                "schedule": {"epochs": len(cells[0]["trials"][0][1])},
            },
            "factors": {"batch_size": [place + 1 for place in range(len(cells))]},
            "tune": {"space": {"optimizer.lr": [0.1 / (each + 1) for each in range(rates)]}},
            "seeds": list(range(trials // rates)),
        }
        return cls(make_plan(SweepConfig.model_validate(content | more)), cells)

    def cell(self, trial: TrialConfig) -> dict[str, Any]:
        return self.cells[trial.batch_size - 1]

    def seconds(self, trial: TrialConfig) -> tuple[float, Sequence[float]]:
        """(beside its epochs, of each epoch)"""
        trials = self.cell(trial)["trials"]
        rates = self.plan.sweep.tune.space["optimizer.lr"]
        place = rates.index(trial.optimizer.lr) * len(self.plan.sweep.seeds) + trial.seed
        fixed, epochs = trials[place % len(trials)]
        return fixed, epochs

    def costs(self, wrong: Mapping[int, float]) -> Callable[[TrialConfig], TrialCost]:
        """An estimate that is off by a factor for each kind of trial."""
        means: dict[int, list[float]] = {}
        for cell in self.cells:
            means.setdefault(cell["kind"], []).extend(each for _, epochs in cell["trials"] for each in epochs)

        def cost(trial: TrialConfig) -> TrialCost:
            kind = self.cell(trial)["kind"]
            mean = sum(means[kind]) / len(means[kind])
            return TrialCost(str(kind), mean * wrong.get(kind, 1.0), 0.5, SPREAD)

        return cost


NAMES = ("ci2p-small", "deit-small", "deit_reverse-quick")
SHARED = ("ci2p-small",)
"""Runs whose machine was shared: epochs of one trial there took 14 s and 62 s."""


def wrong(name: str, seed: int, spread: float, factor: float) -> dict[int, float]:
    """By how much the estimate of each kind is off: all by a factor, and each by up to `spread` besides."""
    dice = random.Random(f"{name} {seed}")
    return {kind: factor * dice.uniform(1 - spread, 1 + spread) for kind in range(10)}


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("name", NAMES)
def test_after_a_fifth_it_is_right_within_a_quarter(name: str, factor: float) -> None:
    """However far off the estimate is for all kinds alike, where it knows how they stand to each other."""
    recorded = Recorded.of(name)
    for seed in range(2):
        errors = Run(recorded.plan, recorded.seconds, 2).go(recorded.costs(wrong(name, seed, 0.1, factor))).errors()
        assert max(errors) < (0.35 if name in SHARED else 0.25)
        assert sum(errors) / len(errors) < 0.12
        assert sum(error < 0.25 for error in errors) > 0.9 * len(errors)


@pytest.mark.parametrize("width", [1, 3, 7])
def test_so_it_is_with_other_numbers_at_a_time(width: int) -> None:
    recorded = Recorded.of("deit-small")
    run = Run(recorded.plan, recorded.seconds, width).go(recorded.costs(wrong("deit-small", 0, 0.1, 1.5)))
    assert max(run.errors()) < 0.25


@pytest.mark.parametrize("factor", [2, 3])
def test_pruned_settings_do_not_count(factor: int) -> None:
    """Halving: later rungs have as many trials as will be left."""
    scheduler = {"name": "halving", "grace_epochs": 2, "reduction_factor": factor}
    recorded = Recorded.of("deit_reverse-quick", scheduler=scheduler)
    run = Run(recorded.plan, recorded.seconds, 2).go(recorded.costs(wrong("deit_reverse-quick", 0, 0.1, 1.5)))
    whole = Recorded.of("deit_reverse-quick")
    assert run.now < 0.9 * Run(whole.plan, whole.seconds, 2).go(whole.costs({})).now
    assert max(run.errors()) < 0.25


def test_seeds_of_the_selected_setting_are_foreseen() -> None:
    recorded = Recorded.of("deit_reverse-quick")
    first = {"tune": {"seeds": "first", "space": recorded.plan.sweep.tune.space}}
    recorded = Recorded.of("deit_reverse-quick", **first)
    run = Run(recorded.plan, recorded.seconds, 2).go(recorded.costs(wrong("deit_reverse-quick", 1, 0.1, 1.5)))
    assert max(run.errors()) < 0.25


# -- the parts ---------------------------------------------------------------------------------------------------------


def test_a_worker_that_falls_free_takes_the_next() -> None:
    assert makespan([[[3.0, 3.0, 3.0]]], 2) == 6.0
    assert makespan([[[1.0, 1.0, 5.0]]], 2) == 6.0  # the longest comes last
    assert makespan([[[5.0, 1.0, 1.0]]], 2) == 5.0
    assert makespan([[[3.0]], [[4.0]]], 2) == 4.0
    assert makespan([], 2) == 0.0
    assert makespan([[[]]], 0) == 0.0


def test_a_stage_waits_for_the_one_before() -> None:
    assert makespan([[[4.0, 1.0], [2.0]]], 2) == 6.0
    # Meanwhile the other worker takes the next cell's job, and what is free then takes the stage.
    assert makespan([[[4.0, 1.0], [2.0]], [[2.0]]], 2) == 6.0
    assert makespan([[[], [], [2.0]]], 1) == 2.0


def test_what_runs_keeps_its_worker_and_its_cell_waits_for_it() -> None:
    assert makespan([[[1.0]]], 2, [(0, 5.0)]) == 5.0
    assert makespan([[[], [1.0]]], 2, [(0, 5.0)]) == 6.0
    assert makespan([[[1.0, 1.0]]], 1, [(0, 5.0)]) == 7.0


def trial(seed: int = 0, lr: float = 0.1, epochs: int = 10) -> TrialConfig:
    content = {
        "dataset": {"name": "digits"},
        "model": {"name": "resnet8"},
        "schedule": {"epochs": epochs},
        "optimizer": {"lr": lr},
        "seed": seed,
    }
    return TrialConfig.model_validate(content)


class Bench:
    """A clock to be told by hand, over trials of one cell that are all due."""

    def __init__(self, trials: int, rungs: tuple[int, ...] = (10,), spread: float = SPREAD) -> None:
        self.now = 0.0
        self.jobs = [Job("a cell", (trial(seed),), rungs) for seed in range(trials)]
        self.left = TimeLeft(lambda _: TrialCost("a kind", 2.0, 1.0, spread), lambda: self.now, lambda: 0.0)
        self.follow({})

    def follow(self, teachers: dict[str, float]) -> None:
        self.left.follow(lambda: [("a cell", [[Stretch(job, 0) for job in self.jobs]])], teachers)

    def run(self, seconds: float, epochs: Sequence[float]) -> None:
        """The next job from its start to its end."""
        job = self.jobs[0]
        self.left.started(job)
        self.now += seconds
        del self.jobs[0]
        self.left.ended(job, [epochs])


def test_before_anything_runs_it_is_the_estimate() -> None:
    bench = Bench(4)
    assert bench.left.left(2) == pytest.approx(2 * 21.0 + WORKER_S)
    assert bench.left.work() == pytest.approx(4 * 21.0)


def test_teachers_come_first_and_tell_of_each_other() -> None:
    bench = Bench(2)
    bench.follow({"one": 10.0, "other": 20.0})
    trials = 21.0 + WORKER_S
    assert bench.left.left(2) == pytest.approx(30.0 + trials)
    bench.left.teacher_started("one")
    bench.now = 4.0
    assert bench.left.left(2) == pytest.approx(26.0 + trials)
    bench.now = 20.0  # twice as long as estimated
    assert bench.left.left(2) == pytest.approx(20.0 + trials)
    bench.left.teacher_ready("one")
    assert bench.left.left(2) == pytest.approx(2 * 20.0 + trials)
    bench.left.teacher_ready("other")  # prepared before
    assert bench.left.left(2) == pytest.approx(trials)
    assert bench.left.teachers_took_s == 20.0


def test_a_running_trial_counts_by_the_epochs_that_it_has() -> None:
    bench = Bench(1)
    bench.left.started(bench.jobs[0])
    bench.now = 50.0
    bench.left.seen(trial(0), [4.0] * 9)
    # One epoch is left, near the 4 s of those before, and half a second of what comes after it.
    assert 3.5 < bench.left.left(1) < 4.6
    bench.now = 52.0
    assert 1.5 < bench.left.left(1) < 2.6


def test_one_whose_worker_died_is_due_again_and_tells_nothing() -> None:
    bench = Bench(2)
    bench.left.started(bench.jobs[0])
    bench.left.ended(bench.jobs[0], [[]], over=False)
    assert bench.left.left(1) == pytest.approx(42.0)


def test_trials_that_end_early_let_others_count_less() -> None:
    bench = Bench(4)
    for _ in range(2):
        bench.run(9.0, [2.0] * 4)
    # Four of ten epochs and a second beside them.
    assert bench.left.left(1) == pytest.approx(2 * (4 * 2.0 + 1.0))


def test_rungs_are_passed_by_as_many_as_in_this_run() -> None:
    bench = Bench(9, rungs=(1, 3, 10))
    alone = 1.0 + 2.0 * (1 + 2 / 3 + 7 / 9)
    assert bench.left.left(1) == pytest.approx(9 * alone + WORKER_S)
    for _ in range(6):  # none passes
        bench.run(3.0, [2.0])
    assert bench.left.left(1) < 3 * (1.0 + 2.0 * 1.4)


def test_a_large_sweep_is_not_looked_through_all_the_time() -> None:
    looks, watch = [0], [0.0]
    jobs = [Job("a cell", (trial(seed),), (10,)) for seed in range(100)]

    def ahead() -> list[tuple[str, Stages]]:
        looks[0] += 1
        watch[0] += 1.0  # a second
        return [("a cell", [[Stretch(job, 0) for job in jobs]])]

    now = [0.0]
    left = TimeLeft(lambda _: TrialCost("a kind", 2.0, 1.0), lambda: now[0], lambda: watch[0])
    left.follow(ahead, {})
    while len(jobs) > 50:
        left.started(job := jobs[0])
        now[0] += 21.0
        del jobs[0]
        left.ended(job, [[2.0] * 10])
        # What is over since the last look is known.
        assert left.left(1) == pytest.approx(len(jobs) * 21.0, rel=0.01)
    assert looks[0] <= 1 + 50 * 21.0 / 50.0
