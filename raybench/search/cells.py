"""Search inside one cell: what may run now, what is pruned, and whether the cell is done."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from raybench.config.plan import Cell, Setting
from raybench.config.sweep import SweepConfig
from raybench.config.trial import TrialConfig
from raybench.search.outcomes import Outcomes


@dataclass(frozen=True)
class Job:
    """Work for one worker: the trials (more than one only where seeds are judged together as they run), and the rungs at which to report."""

    cell: str
    trials: tuple[TrialConfig, ...]
    rungs: tuple[int, ...]

    @property
    def key(self) -> tuple[str, ...]:
        """What makes two jobs the same work."""
        return (*(trial.trial_id for trial in self.trials), str(self.rungs[-1]))


class CellSearch(Protocol):
    """The search inside one cell."""

    cell: Cell

    def due(self, outcomes: Outcomes) -> list[Job]:
        """Every job that may run now, those already handed out included; empty while waiting and when done."""
        ...

    def pruned(self, outcomes: Outcomes) -> list[tuple[TrialConfig, str]]:
        """Trials that the search gave up and that are not settled yet, each with the reason."""
        ...

    def settings(self) -> tuple[Setting, ...]:
        """The settings tried so far."""
        ...


class Exhaustive:
    """Grid and random: every setting with every seed, or tuned on the first seed and the selected setting repeated on the others."""

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
        best = max(self.cell.settings, key=lambda setting: outcomes[setting.trials[0].trial_id].best)
        return self._open(list(best.trials), outcomes)

    def _open(self, trials: list[TrialConfig], outcomes: Outcomes) -> list[Job]:
        return [
            Job(self.cell.label, (trial,), (trial.schedule.epochs,))
            for trial in trials
            if not outcomes.settled(trial.trial_id)
        ]

    def pruned(self, outcomes: Outcomes) -> list[tuple[TrialConfig, str]]:  # noqa: ARG002
        """Nothing is ever pruned."""
        return []

    def settings(self) -> tuple[Setting, ...]:
        """All of the cell's."""
        return self.cell.settings


class Halving:
    """Deterministic successive halving: at each rung, when all seeds of all settings are there, the best 1/factor go on."""

    def __init__(self, cell: Cell, sweep: SweepConfig) -> None:
        self.cell = cell
        self.factor = sweep.scheduler.reduction_factor
        epochs = cell.settings[0].trials[0].schedule.epochs
        self.rungs = sweep.scheduler.rungs(epochs)

    def due(self, outcomes: Outcomes) -> list[Job]:
        """The trials of the lowest rung that is not complete."""
        alive = list(self.cell.settings)
        for rung in self.rungs:
            jobs = [
                Job(self.cell.label, (trial,), (rung,))
                for setting in alive
                for trial in setting.trials
                if not self._done(trial, rung, outcomes)
            ]
            if jobs:
                return jobs
            alive = self._survivors(alive, rung, outcomes)
        return []

    def pruned(self, outcomes: Outcomes) -> list[tuple[TrialConfig, str]]:
        """The trials of settings that a complete rung left behind."""
        found: list[tuple[TrialConfig, str]] = []
        alive = list(self.cell.settings)
        for rung in self.rungs[:-1]:
            if any(not self._done(t, rung, outcomes) for setting in alive for t in setting.trials):
                break
            survivors = self._survivors(alive, rung, outcomes)
            for setting in alive:
                if setting not in survivors:
                    reason = f"halving: mean {outcomes.mean_at(setting, rung):.4g} at epoch {rung} over {len(setting.trials)} seeds, not among the best {len(survivors)} of {len(alive)}"
                    found += [(trial, reason) for trial in setting.trials if not outcomes.settled(trial.trial_id)]
            alive = survivors
        return found

    def settings(self) -> tuple[Setting, ...]:
        """All of the cell's."""
        return self.cell.settings

    def _done(self, trial: TrialConfig, rung: int, outcomes: Outcomes) -> bool:
        if rung == self.rungs[-1]:
            return outcomes.settled(trial.trial_id)
        return outcomes.reached(trial.trial_id, rung)

    def _survivors(self, alive: list[Setting], rung: int, outcomes: Outcomes) -> list[Setting]:
        keep = max(1, math.ceil(len(alive) / self.factor))
        # sorted() is stable, so a tie keeps the order of the plan.
        ranked = sorted(alive, key=lambda setting: -outcomes.mean_at(setting, rung))[:keep]
        return [setting for setting in alive if setting in ranked]


class Asynchronous:
    """For Ray's ASHA: one job a setting, its seeds trained side by side from rung to rung, so that their mean is judged."""

    def __init__(self, cell: Cell, sweep: SweepConfig) -> None:
        self.cell = cell
        self.rungs = sweep.scheduler.rungs(cell.settings[0].trials[0].schedule.epochs)

    def due(self, outcomes: Outcomes) -> list[Job]:
        """Every setting with a seed that is not settled."""
        return [
            Job(self.cell.label, setting.trials, self.rungs)
            for setting in self.cell.settings
            if any(not outcomes.settled(trial.trial_id) for trial in setting.trials)
        ]

    def pruned(self, outcomes: Outcomes) -> list[tuple[TrialConfig, str]]:  # noqa: ARG002
        """The scheduler decides, not the search."""
        return []

    def settings(self) -> tuple[Setting, ...]:
        """All of the cell's."""
        return self.cell.settings
