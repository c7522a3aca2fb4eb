"""Ray's ASHA, one a cell: settings are stopped within their cell, so that large train sizes prune no small ones."""

from __future__ import annotations

from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from raybench.cluster.jobs import unpack_job
from raybench.config.sweep import SchedulerConfig

Reasons = dict[str, str]
"""Tune's trial id -> why its worker died last."""


class InOrder(FIFOScheduler):
    """First in, first out; keeps why a worker died, which Tune tells its scheduler before it tells its searcher."""

    def __init__(self, reasons: Reasons) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reasons = reasons

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:  # noqa: ARG002
        """A worker died; the searcher may hand its job out again."""
        self.reasons[trial.trial_id] = died(trial)


def died(trial: Any) -> str:
    """The first line of why a trial's worker died; empty where Tune does not know."""
    error = trial.get_pickled_error()
    lines = [line.strip() for line in str(error or "").splitlines() if line.strip()]
    return lines[0][:300] if lines else ""


class CellScheduler(InOrder):
    """Hands each trial to the ASHA of its cell; chooses what runs next first in, first out."""

    def __init__(self, reasons: Reasons, config: SchedulerConfig, epochs: int) -> None:
        super().__init__(reasons)
        self.config = config
        self.epochs = epochs
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
        return self._of_cell[cell]

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


def make_scheduler(reasons: Reasons, config: SchedulerConfig, epochs: int) -> TrialScheduler:
    """The Tune scheduler of a sweep: only `asha` is Ray's; halving is the plan's own business."""
    return CellScheduler(reasons, config, epochs) if config.name == "asha" else InOrder(reasons)
