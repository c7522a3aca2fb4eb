"""The searcher that hands Tune the plan's next job, and keeps the books of what the driver alone knows."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

from ray.tune.search import Searcher

from raybench.cluster.deaths import Deaths
from raybench.cluster.jobs import known, pack_job, pack_setup, settled_before, unpack_outcomes
from raybench.config.trial import TrialConfig
from raybench.results.schema import Status, TrialRow
from raybench.results.store import Store
from raybench.search.cells import Job
from raybench.search.outcomes import Known
from raybench.search.search import Search
from raybench.training.checkpoints import Checkpoints
from raybench.training.limits import SETUP_S
from raybench.training.recorder import Setup
from raybench.training.watchdog import BACKSTOP_S


class Observer(Protocol):
    """Who is told how the sweep goes."""

    def started(self, job: Job) -> None:
        """A job went to a worker."""
        ...

    def ended(self, job: Job, outcomes: dict[str, Known]) -> None:
        """A job came back."""
        ...


class PlanSearcher(Searcher):
    """`suggest` is the next due job, None while a rung is not complete, FINISHED at the end."""

    def __init__(self, search: Search, setup: Setup, store: Store, observer: Observer, width: int) -> None:
        super().__init__(metric="score", mode="max")
        self.search = search
        self.setup = setup
        self.store = store
        self.observer = observer
        self.width = width
        self.running: dict[str, Job] = {}
        self.deaths = Deaths(search.plan.sweep.limits.max_failures)
        self._begun: dict[str, float] = {}
        """When each job was handed out, on the monotonic clock."""
        self.fault: str | None = None
        """A fault of the results folder that a trial met: the sweep ends, and the trial stays due."""
        self._sign = 1.0 if setup.mode == "max" else -1.0

    def suggest(self, trial_id: str) -> Any:
        """The next job as Tune's configuration."""
        if not self.running:
            self._prune()  # a driver may have been killed between a rung's last row and its prunings
        if len(self.running) >= self.width:
            return None
        job = self.search.next_job()
        if job is None:
            return Searcher.FINISHED if not self.running and self.search.finished else None
        self.running[trial_id], self._begun[trial_id] = job, time.monotonic()
        self.observer.started(job)
        return {"job": pack_job(job), "setup": pack_setup(self.setup)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A job came back, was stopped by the scheduler, or lost its worker."""
        job = self.running.pop(trial_id, None)
        begun = self._begun.pop(trial_id, 0.0)
        if job is None:
            return
        if result and result.get("fault"):
            self.fault = result["fault"]
            return
        outcomes = unpack_outcomes(result["outcomes"], self._sign) if result and "outcomes" in result else {}
        if error:
            outcomes = self._after_death(trial_id, job, time.monotonic() - begun)
        elif result and result["epoch"] < job.rungs[-1]:
            reason = f"asha: mean {result['score']:.4g} at epoch {result['epoch']} over {len(job.trials)} seeds"
            for trial in job.trials:
                last = outcomes.get(trial.trial_id, Known(Status.RUNNING))
                if not last.settled:
                    outcomes[trial.trial_id] = self._decide(job.cell, trial, last, Status.PRUNED, reason)
        self.search.tell(job, outcomes)
        self._prune()
        self.observer.ended(job, outcomes)

    def _after_death(self, run_id: str, job: Job, lived_s: float) -> dict[str, Known]:
        """What is known of a job whose worker died; what is not settled is due again, or given up."""
        before = settled_before(job, self.setup)
        outcomes = {each: known(outcome.status, outcome.scores, self._sign) for each, outcome in before.items()}
        unsettled = [trial for trial in job.trials if trial.trial_id not in outcomes]
        if not unsettled:
            return outcomes
        limit = self.setup.trial_time_s
        if limit is not None and len(job.trials) == 1 and lived_s >= limit + SETUP_S + BACKSTOP_S:
            # A hang that lets no thread of the worker speak: its timer ended it.
            reason = f"timeout: longer than {limit:g} s; its worker did not answer any more"
        elif self.deaths.again(run_id, [trial.trial_id for trial in unsettled]):
            # Due again, from its last checkpoint. Tune's own retry leaves out who dies between two trials.
            return outcomes
        else:
            reason = self.deaths.reason(run_id, unsettled[0].trial_id)
        for trial in unsettled:
            outcomes[trial.trial_id] = self._decide(job.cell, trial, Known(Status.RUNNING), Status.FAILED, reason)
        return outcomes

    def _prune(self) -> None:
        for cell, trial, reason in list(self.search.pruned()):
            last = self.search.outcomes.get(trial.trial_id, Known(Status.RUNNING))
            self.search.outcomes[trial.trial_id] = self._decide(cell, trial, last, Status.PRUNED, reason)

    def _decide(self, cell: str, trial: TrialConfig, last: Known, status: Status, reason: str) -> Known:
        """Write what the driver decided into a part of its own."""
        attempt = max(1, self.store.next_attempt(trial.trial_id) - 1)
        row = TrialRow(
            trial_id=trial.trial_id,
            setting_id=trial.setting_id,
            sweep=self.setup.sweep,
            preset=self.setup.preset,
            cell=cell,
            status=status,
            attempt=attempt,
            seed=trial.seed,
            reason=reason,
            failures=attempt if status == Status.FAILED else None,
            ended=datetime.now(UTC),
            config=trial.flat(),
            env=self.setup.env,
        )
        self.store.write_trial(row, by="driver")
        if self.setup.keep != "last":
            Checkpoints(self.store.folder / "checkpoints" / trial.trial_id, attempt=attempt).clear()
        return replace(last, status=status)

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles the experiment to restore it later; we resume from rows, and a live table cannot be pickled."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the rows are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the rows are the state."""
