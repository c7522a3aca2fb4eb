"""Plans, and a world of made-up outcomes in which a search is worked off as the driver does."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
