"""Ray trainables: one a task, thin around `raybench.training`."""

from __future__ import annotations

import math
import socket
from dataclasses import replace
from typing import Any

from ray import tune

from raybench.cluster.groups import run_together
from raybench.cluster.jobs import WORST, pack_outcomes, settled_before, unpack_job, unpack_setup
from raybench.config.plugins import receive
from raybench.errors import ConfigError, ResultsError
from raybench.results.schema import Status
from raybench.training.recorder import Setup
from raybench.training.trial import Outcome, run_trial


class TaskTrainable(tune.Trainable):
    """Trials of any kind of task. One step is the way to the next rung; trials write their own rows.

    A worker serves many trials in turn (`reuse_actors`); each begins in `run_trial`, which sets every seed, thread
    count and mode anew.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Take the first job."""
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another job; nothing of the one before stays."""
        self._take(new_config)
        return True

    def _take(self, config: dict[str, Any]) -> None:
        self.job = unpack_job(config["job"])
        # This process is ours alone: a watchdog may end it when a trial hangs.
        self.where = replace(unpack_setup(config["setup"]), guarded=True)
        self.rung = 0
        self.fault = _load_plugins(self.where)
        self.outcomes = settled_before(self.job, self.where) if len(self.job.trials) > 1 else {}

    def step(self) -> dict[str, Any]:
        """Train every trial of the job to the next rung; `score` is their mean there, larger being better."""
        until = self.job.rungs[self.rung]
        if self.fault is not None:
            return _ended_by(self.fault, until)
        try:
            self._train(until)
        except ResultsError as error:
            # Not the trial's fault, and trying again fills no less of the disk: the driver ends the sweep, and the
            # trial goes on from its checkpoint another time.
            return _ended_by(str(error), until)
        outcomes = [self.outcomes[trial.trial_id] for trial in self.job.trials]
        self.rung += 1
        settled = all(outcome.status != Status.RUNNING for outcome in outcomes)
        scores = [self._score(outcome, until) for outcome in outcomes]
        return {
            "score": sum(scores) / len(scores),
            "epoch": until,
            "outcomes": pack_outcomes(outcomes),
            "done": settled or self.rung == len(self.job.rungs),
        }

    def _train(self, until: int) -> None:
        for trial in self.job.trials:
            # A seed that diverged or failed at an earlier rung is not begun again.
            if trial.trial_id not in self.outcomes or self.outcomes[trial.trial_id].status == Status.RUNNING:
                run = run_trial if self.where.workers == 1 else run_together
                self.outcomes[trial.trial_id] = run(trial, self.where, self.job.cell, until)

    def _score(self, outcome: Outcome, rung: int) -> float:
        value = outcome.scores.get(rung)
        if value is None or not math.isfinite(value):
            return WORST
        return value if self.where.mode == "max" else -value

    def save_checkpoint(self, checkpoint_dir: str) -> None:  # noqa: ARG002
        """Nothing: the trial keeps its own checkpoints in the results folder."""
        return

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: the trial goes on from its own."""


def _load_plugins(where: Setup) -> str | None:
    """What is wrong with the sweep's plugins on this machine; none where they are loaded now."""
    try:
        receive(where.plugins)
    except (ConfigError, OSError) as error:
        return f"plugins on {socket.gethostname()}: {error}"
    return None


def _ended_by(fault: str, epoch: int) -> dict[str, Any]:
    """A result that ends the sweep."""
    return {"score": WORST, "epoch": epoch, "outcomes": "[]", "fault": fault, "done": True}


class ClassificationTrainable(TaskTrainable):
    """Classification and distillation of images (`training/classifying.py`)."""


class TranslationTrainable(TaskTrainable):
    """Translation of sentences (`training/translating.py`)."""


class CompressionTrainable(TaskTrainable):
    """Training of an image codec (`training/compressing.py`)."""


TRAINABLES: dict[str, type[TaskTrainable]] = {
    "image_classification": ClassificationTrainable,
    "translation": TranslationTrainable,
    "compression": CompressionTrainable,
}
"""Task -> trainable; its name is what a process list shows of a worker between two trials."""
