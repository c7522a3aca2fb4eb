"""The searcher that hands Tune the plan's next job, and keeps the books of what the driver alone knows."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

from ray.tune.search import Searcher

from raybench.cluster.jobs import pack_job, pack_setup, unpack_outcomes
from raybench.config.trial import TrialConfig
from raybench.results.schema import Status, TrialRow
from raybench.results.store import Store
from raybench.search.cells import Job
from raybench.search.outcomes import Known
from raybench.search.search import Search
from raybench.training.recorder import Setup


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
        self.reasons: dict[str, str] = {}
        self.deaths: Counter[tuple[str, ...]] = Counter()
        """Job -> times that its worker died."""
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
        self.running[trial_id] = job
        self.observer.started(job)
        return {"job": pack_job(job), "setup": pack_setup(self.setup)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A job came back, was stopped by the scheduler, or died once too often."""
        job = self.running.pop(trial_id, None)
        if job is None:
            return
        if result and result.get("fault"):
            self.fault = result["fault"]
            return
        if error:
            self.deaths[job.key] += 1
            if self.deaths[job.key] <= self.search.plan.sweep.limits.max_failures:
                # Due again, from its last checkpoint. Tune's own retry leaves out who dies between two trials.
                self.search.tell(job, {})
                return
        outcomes = unpack_outcomes(result["outcomes"], self._sign) if result and "outcomes" in result else {}
        for trial in job.trials:
            known = outcomes.get(trial.trial_id, Known(Status.RUNNING))
            if known.settled:
                continue
            if error:
                times = self.deaths[job.key]
                reason = f"its worker died {times} time{'s' if times != 1 else ''}"
                if last := self.reasons.get(trial_id):
                    reason += f"; last: {last}"
                outcomes[trial.trial_id] = self._decide(job.cell, trial, known, Status.FAILED, reason)
            elif result and result["epoch"] < job.rungs[-1]:
                reason = f"asha: mean {result['score']:.4g} at epoch {result['epoch']} over {len(job.trials)} seeds"
                outcomes[trial.trial_id] = self._decide(job.cell, trial, known, Status.PRUNED, reason)
        self.search.tell(job, outcomes)
        self._prune()
        self.observer.ended(job, outcomes)

    def _prune(self) -> None:
        for cell, trial, reason in list(self.search.pruned()):
            known = self.search.outcomes.get(trial.trial_id, Known(Status.RUNNING))
            self.search.outcomes[trial.trial_id] = self._decide(cell, trial, known, Status.PRUNED, reason)

    def _decide(self, cell: str, trial: TrialConfig, known: Known, status: Status, reason: str) -> Known:
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
        shutil.rmtree(self.store.folder / "checkpoints" / trial.trial_id, ignore_errors=True)
        return replace(known, status=status)

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles the experiment to restore it later; we resume from rows, and a live table cannot be pickled."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the rows are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the rows are the state."""
