"""Ray trainables: one a task, thin around `raybench.training`."""

from __future__ import annotations

import math
from typing import Any

from ray import tune

from raybench.cluster.jobs import pack_outcomes, unpack_job, unpack_setup
from raybench.errors import ResultsError
from raybench.results.schema import SETTLED, Status
from raybench.results.store import Store
from raybench.search.cells import Job
from raybench.training.recorder import Setup
from raybench.training.trial import Outcome, run_trial


class ImageTrainable(tune.Trainable):
    """Classification and distillation of images. One step is the way to the next rung; trials write their own rows.

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
        self.where = unpack_setup(config["setup"])
        self.rung = 0
        self.outcomes = _settled_before(self.job, self.where) if len(self.job.trials) > 1 else {}

    def step(self) -> dict[str, Any]:
        """Train every trial of the job to the next rung; `score` is their mean there, larger being better."""
        until = self.job.rungs[self.rung]
        try:
            self._train(until)
        except ResultsError as error:
            # Not the trial's fault, and trying again fills no less of the disk: the driver ends the sweep, and the
            # trial goes on from its checkpoint another time.
            return {"score": -1e9, "epoch": until, "outcomes": "[]", "fault": str(error), "done": True}
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
                self.outcomes[trial.trial_id] = run_trial(trial, self.where, self.job.cell, until)

    def _score(self, outcome: Outcome, rung: int) -> float:
        value = outcome.scores.get(rung)
        # Finite, since a scheduler compares quantiles: what diverged or failed is worse than anything.
        if value is None or not math.isfinite(value):
            return -1e9
        return value if self.where.mode == "max" else -value

    def save_checkpoint(self, checkpoint_dir: str) -> None:  # noqa: ARG002
        """Nothing: the trial keeps its own checkpoints in the results folder."""
        return

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: the trial goes on from its own."""


def _settled_before(job: Job, where: Setup) -> dict[str, Outcome]:
    """Seeds of the job that an earlier worker settled, from the rows."""
    assert where.results is not None
    store = Store(where.results)
    wanted = [trial.trial_id for trial in job.trials]
    found: dict[str, Outcome] = {}
    for row in store.trials().to_dicts():
        reopened = row["attempt"] <= where.reopened.get(row["trial_id"], 0)
        if row["trial_id"] in wanted and row["status"] in SETTLED and not reopened:
            rows = store.last_epochs(row["trial_id"])
            scores = {one.epoch: one.value(where.metric) for one in rows}
            found[row["trial_id"]] = Outcome(row["trial_id"], Status(row["status"]), len(rows), scores, row["reason"])
    return found


TRAINABLES = {"image_classification": ImageTrainable}
"""Task -> trainable."""
