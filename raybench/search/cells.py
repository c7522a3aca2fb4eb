"""Search inside one cell: what may run now, what is pruned, and whether the cell is done."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Protocol

from raybench.config.plan import Cell, Setting
from raybench.config.sweep import SweepConfig
from raybench.config.trial import TrialConfig
from raybench.search.outcomes import Outcomes


@dataclass(frozen=True)
class Job:
    """Work for one worker: trials, more than one only where seeds are judged as they run, and the rungs to tell of."""

    cell: str
    trials: tuple[TrialConfig, ...]
    rungs: tuple[int, ...]

    @property
    def key(self) -> tuple[str, ...]:
        """What makes two jobs the same work."""
        return (*(trial.trial_id for trial in self.trials), str(self.rungs[-1]))


@dataclass(frozen=True)
class Stretch:
    """Epochs that a job has before it, as far as they can be foreseen."""

    job: Job
    begin: int
    """Epochs that its trials have behind them; of several trials the fewest."""

    @classmethod
    def of(cls, job: Job, outcomes: Outcomes) -> Stretch:
        """All that is left of a job."""
        return cls(job, min(outcomes.epochs(trial.trial_id) for trial in job.trials))


Stages = list[list[Stretch]]
"""What a cell has before it: stages one after another, each begun when all of the one before is over."""


class CellSearch(Protocol):
    """The search inside one cell. Outcomes only grow between two questions: what was known stays known."""

    cell: Cell
    eager: bool
    """Whether more may be due before all that was due is told."""

    def due(self, outcomes: Outcomes) -> list[Job]:
        """Every job that may run now, those already handed out included; empty only when done."""
        ...

    def ahead(self, outcomes: Outcomes) -> Stages:
        """All that is to come, what is due now first. What depends on scores that nobody knows yet is an example."""
        ...

    def done(self, outcomes: Outcomes) -> bool:
        """Whether nothing is or will be due."""
        ...

    def pruned(self, outcomes: Outcomes) -> list[tuple[TrialConfig, str]]:
        """Trials that the search gave up and that are not settled yet, each with the reason."""
        ...

    def settings(self, outcomes: Outcomes) -> tuple[Setting, ...]:
        """The settings tried so far."""
        ...


class Exhaustive:
    """Grid and random: every setting with every seed, or on the first seed and the selected one then on the others."""

    eager = False

    def __init__(self, cell: Cell, sweep: SweepConfig) -> None:
        self.cell = cell
        self.first_only = sweep.tune.seeds == "first" and len(cell.settings) > 1

    def due(self, outcomes: Outcomes) -> list[Job]:
        """All that is not settled; with `seeds: first` the other seeds follow once every setting has its first."""
        if not self.first_only:
            return self._open([trial for setting in self.cell.settings for trial in setting.trials], outcomes)
        firsts = self._open([setting.trials[0] for setting in self.cell.settings], outcomes)
        if firsts:
            return firsts
        return self._open(list(self._best(outcomes).trials), outcomes)

    def _best(self, outcomes: Outcomes) -> Setting:
        return max(self.cell.settings, key=lambda setting: outcomes[setting.trials[0].trial_id].best)

    def _open(self, trials: list[TrialConfig], outcomes: Outcomes) -> list[Job]:
        return [
            Job(self.cell.label, (trial,), (trial.schedule.epochs,))
            for trial in trials
            if not outcomes.settled(trial.trial_id)
        ]

    def ahead(self, outcomes: Outcomes) -> Stages:
        """What is due; with `seeds: first` and settings still untried, the other seeds of any of them after that."""
        now = [Stretch.of(job, outcomes) for job in self.due(outcomes)]
        if not self.first_only or all(outcomes.settled(s.trials[0].trial_id) for s in self.cell.settings):
            return [now]
        others = self._open(list(self.cell.settings[-1].trials[1:]), outcomes)
        return [now, [Stretch.of(job, outcomes) for job in others]]

    def done(self, outcomes: Outcomes) -> bool:
        """Whether all that is wanted is settled."""
        return not self.due(outcomes)

    def pruned(self, outcomes: Outcomes) -> list[tuple[TrialConfig, str]]:  # noqa: ARG002
        """Nothing is ever pruned."""
        return []

    def settings(self, outcomes: Outcomes) -> tuple[Setting, ...]:
        """All of the cell's; with `seeds: first`, the ones not selected with the one seed that they are wanted with."""
        if not self.first_only:
            return self.cell.settings
        tuned = all(outcomes.settled(setting.trials[0].trial_id) for setting in self.cell.settings)
        best = self._best(outcomes) if tuned else None
        return tuple(s if s is best else Setting(s.tuned, s.trials[:1]) for s in self.cell.settings)

    def compared(self, outcomes: Outcomes) -> tuple[Setting, ...]:
        """All; with `seeds: first` the selected one, once every setting has its first seed."""
        if self.first_only and all(outcomes.settled(s.trials[0].trial_id) for s in self.cell.settings):
            return (self._best(outcomes),)
        return self.settings(outcomes)


class Halving:
    """Deterministic successive halving (Jamieson and Talwalkar 2016, algorithm 1).

    At each rung, when all seeds of all settings that are left have come there, the best 1/factor go on. A rung is
    judged once: the scores at its epoch are all known then and do not change.
    """

    eager = False

    def __init__(self, cell: Cell, sweep: SweepConfig) -> None:
        self.cell = cell
        self.factor = sweep.scheduler.reduction_factor
        self.rungs = sweep.scheduler.rungs(cell.settings[0].trials[0].schedule.epochs)
        self._alive = list(cell.settings)
        self._passed = 0
        self._dropped: list[tuple[TrialConfig, str]] = []
        self._open = self._trials()

    def due(self, outcomes: Outcomes) -> list[Job]:
        """The trials of the lowest rung that is not complete."""
        if self.done(outcomes):
            return []
        rung = self.rungs[self._passed]
        missing = (trial for trial in reversed(self._open) if not self._came(trial, outcomes))
        return [Job(self.cell.label, (trial,), (rung,)) for trial in missing]

    def ahead(self, outcomes: Outcomes) -> Stages:
        """What is due on this rung, then the later rungs with as many settings as will be left, whichever they are."""
        stages = [[Stretch.of(job, outcomes) for job in self.due(outcomes)]]
        left = self._alive
        for before, rung in itertools.pairwise(self.rungs[self._passed :]):
            left = left[: math.ceil(len(left) / self.factor)]
            jobs = (Job(self.cell.label, (trial,), (rung,)) for setting in left for trial in setting.trials)
            stages.append([Stretch(job, before) for job in jobs])
        return stages

    def done(self, outcomes: Outcomes) -> bool:
        """Whether the last rung is complete."""
        while self._passed < len(self.rungs):
            # Only the last one is looked at, so that asking after every trial costs nothing much.
            while self._open and self._came(self._open[-1], outcomes):
                self._open.pop()
            if self._open:
                return False
            self._judge(outcomes)
        return True

    def pruned(self, outcomes: Outcomes) -> list[tuple[TrialConfig, str]]:
        """The trials of settings that a complete rung left behind."""
        self.done(outcomes)
        self._dropped = [(trial, why) for trial, why in self._dropped if not outcomes.settled(trial.trial_id)]
        return list(self._dropped)

    def settings(self, outcomes: Outcomes) -> tuple[Setting, ...]:  # noqa: ARG002
        """All of the cell's."""
        return self.cell.settings

    def _trials(self) -> list[TrialConfig]:
        """Those of the settings that are left, the last to come first."""
        return [trial for setting in reversed(self._alive) for trial in reversed(setting.trials)]

    def _came(self, trial: TrialConfig, outcomes: Outcomes) -> bool:
        if self._passed == len(self.rungs) - 1:
            return outcomes.settled(trial.trial_id)
        return outcomes.reached(trial.trial_id, self.rungs[self._passed])

    def _judge(self, outcomes: Outcomes) -> None:
        """The rung is complete: who goes on."""
        rung = self.rungs[self._passed]
        self._passed += 1
        if self._passed == len(self.rungs):
            return
        keep = math.ceil(len(self._alive) / self.factor)
        means = [outcomes.mean_at(setting, rung) for setting in self._alive]
        # sorted() is stable, so a tie keeps the order of the plan.
        best = set(sorted(range(len(means)), key=lambda index: -means[index])[:keep])
        for index, setting in enumerate(self._alive):
            if index not in best:
                why = (
                    f"halving: mean {means[index]:.4g} at epoch {rung} over {len(setting.trials)} seeds, "
                    f"not among the best {keep} of {len(means)}"
                )
                self._dropped += [(trial, why) for trial in setting.trials]
        self._alive = [setting for index, setting in enumerate(self._alive) if index in best]
        self._open = self._trials()


class Asynchronous:
    """For Ray's ASHA: one job a setting, its seeds trained side by side from rung to rung, their mean being judged."""

    eager = False

    def __init__(self, cell: Cell, sweep: SweepConfig) -> None:
        self.cell = cell
        self.rungs = sweep.scheduler.rungs(cell.settings[0].trials[0].schedule.epochs)

    def due(self, outcomes: Outcomes) -> list[Job]:
        """Every setting with a seed that is not settled; seeds that are do not run again."""
        missing = (
            tuple(trial for trial in setting.trials if not outcomes.settled(trial.trial_id))
            for setting in self.cell.settings
        )
        return [Job(self.cell.label, trials, self.rungs) for trials in missing if trials]

    def ahead(self, outcomes: Outcomes) -> Stages:
        """What is due; how far each will come is the scheduler's business."""
        return [[Stretch.of(job, outcomes) for job in self.due(outcomes)]]

    def done(self, outcomes: Outcomes) -> bool:
        """Whether all is settled."""
        return not self.due(outcomes)

    def pruned(self, outcomes: Outcomes) -> list[tuple[TrialConfig, str]]:  # noqa: ARG002
        """The scheduler decides, not the search."""
        return []

    def settings(self, outcomes: Outcomes) -> tuple[Setting, ...]:  # noqa: ARG002
        """All of the cell's."""
        return self.cell.settings
