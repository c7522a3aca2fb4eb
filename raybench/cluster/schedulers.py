"""Ray's ASHA, one a cell: settings are stopped within their cell, so that large train sizes prune no small ones."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from raybench.cluster.deaths import Deaths
from raybench.cluster.jobs import WORST, unpack_job
from raybench.config.sweep import SchedulerConfig
from raybench.search.search import Search

PATIENCE_S = 60.0
"""Longer than a worker takes to start."""


class InOrder(FIFOScheduler):
    """Leaves to Tune which trial runs next; keeps why a worker died, which Tune tells it before it tells its searcher.

    For trials that nothing pauses: what is paused would never go on.
    """

    def __init__(self, deaths: Deaths) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.deaths = deaths
        self._pending: dict[str, float] = {}
        """Trial id -> since when it has been seen waiting, on the monotonic clock."""

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Who has waited for long; else Tune gives a worker that falls free to the job that comes next.

        A trial chosen here is given that worker even while another is being started for it. That start is then
        cancelled, and begun anew for the next trial: as long as jobs come, trials shorter than a start would never see
        a second worker. Who waits for a machine that may never come is not left behind either.
        """
        now = time.monotonic()
        waiting = [trial for trial in tune_controller.get_trials() if trial.status == Trial.PENDING]
        self._pending = {trial.trial_id: self._pending.get(trial.trial_id, now) for trial in waiting}
        return next((trial for trial in waiting if now - self._pending[trial.trial_id] > PATIENCE_S), None)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:  # noqa: ARG002
        """A worker died; the searcher may hand its job out again."""
        self.deaths.heard(trial.trial_id, trial)


@dataclass(frozen=True)
class Settled:
    """A setting that an earlier run settled, as ASHA sees its trials."""

    trial_id: str


class CellScheduler(InOrder):
    """Hands each trial to the ASHA of its cell, which stops it or not; what runs next is as with `InOrder`.

    A cell's ASHA begins with what the rows know: a sweep that goes on judges a setting by those of the runs before.
    """

    def __init__(self, deaths: Deaths, config: SchedulerConfig, epochs: int, search: Search) -> None:
        super().__init__(deaths)
        self.config = config
        self.epochs = epochs
        self.search = search
        self._of_cell: dict[str, Any] = {}

    def _asha(self, trial: Any) -> Any:
        cell = unpack_job(trial.config["job"]).cell
        if cell not in self._of_cell:
            self._of_cell[cell] = ASHAScheduler(
                time_attr="epoch",
                metric="score",
                mode="max",
                max_t=self.epochs,
                grace_period=self.config.grace_epochs,
                reduction_factor=self.config.reduction_factor,
            )
            self._tell_before(cell)
        return self._of_cell[cell]

    def _tell_before(self, label: str) -> None:
        """What the settled settings of a cell scored at each rung. One that goes on reports its rungs again itself."""
        asha, outcomes = self._of_cell[label], self.search.outcomes
        for setting in next(cell.settings for cell in self.search.cells() if cell.label == label):
            if not all(outcomes.settled(trial.trial_id) for trial in setting.trials):
                continue
            before = Settled(setting.trials[0].setting_id)
            asha.on_trial_add(None, before)
            for rung in self.config.rungs(self.epochs)[:-1]:
                if all(rung in outcomes[trial.trial_id].scores for trial in setting.trials):
                    score = max(outcomes.mean_at(setting, rung), WORST)
                    asha.on_trial_result(None, before, {"epoch": rung, "score": score})

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A setting begins."""
        self._asha(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """A setting reached a rung: stop or go on."""
        decision: str = self._asha(trial).on_trial_result(tune_controller, trial, result)
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A setting ended."""
        if result and "score" in result:
            self._asha(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """A setting was taken out."""


def make_scheduler(deaths: Deaths, config: SchedulerConfig, epochs: int, search: Search) -> TrialScheduler:
    """The Tune scheduler of a sweep: only `asha` is Ray's; halving is the plan's own business."""
    return CellScheduler(deaths, config, epochs, search) if config.name == "asha" else InOrder(deaths)
