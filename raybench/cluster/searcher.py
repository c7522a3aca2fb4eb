"""The searcher that hands Tune the plan's next job, and keeps the books of what the driver alone knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

from ray.tune.search import Searcher

from raybench.cluster.deaths import Deaths
from raybench.cluster.jobs import known, pack_job, pack_setup, settled_before, unpack_outcomes
from raybench.config.trial import TrialConfig
from raybench.results.schema import Status, TrialRow
from raybench.results.storage import Folder
from raybench.results.store import Store
from raybench.search.cells import Job
from raybench.search.outcomes import Known
from raybench.search.search import Search
from raybench.training.checkpoints import Checkpoints
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

    def __init__(
        self,
        search: Search,
        setup: Setup,
        store: Store,
        observer: Observer,
        width: int,
        stopping: Callable[[], bool] = lambda: False,
        local: bool = True,
    ) -> None:
        """`stopping` says whether a signal has come, `local` whether all workers are on this machine."""
        super().__init__(metric="score", mode="max")
        self.stopping = stopping
        self.search = search
        self.setup = setup
        self.store = store
        self.observer = observer
        self.width = width
        self.running: dict[str, Job] = {}
        self.deaths = Deaths(search.plan.sweep.limits.max_failures, local=local)
        self._timed_out: dict[str, int] = {}
        """Trial id -> the most epochs that it had when the timer of its worker ended it."""
        self._attempts: dict[str, int] = {}
        """Trial id -> the attempt as which it was handed out last, at least."""
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
        self.deaths.handed_out(trial_id)
        for each in (trial.trial_id for trial in job.trials):
            self._attempts[each] = max(self.store.next_attempt(each), self._attempts.get(each, 0) + 1)
        attempts = {trial.trial_id: self._attempts[trial.trial_id] for trial in job.trials}
        self.observer.started(job)
        return {"job": pack_job(job), "setup": pack_setup(replace(self.setup, attempts=attempts))}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A job came back, was stopped by the scheduler, or lost its worker."""
        job = self.running.pop(trial_id, None)
        if job is None:
            return
        if result and result.get("fault"):
            self.fault = result["fault"]
            return
        outcomes = unpack_outcomes(result["outcomes"], self._sign) if result and "outcomes" in result else {}
        if error and self.stopping():
            return  # whoever stopped the driver may have stopped its workers too: no fault of the trial
        if error:
            outcomes = self._after_death(trial_id, job)
        elif result and result["epoch"] < job.rungs[-1]:
            reason = f"asha: mean {result['score']:.4g} at epoch {result['epoch']} over {len(job.trials)} seeds"
            for trial in job.trials:
                last = outcomes.get(trial.trial_id, Known(Status.RUNNING))
                if not last.settled:
                    outcomes[trial.trial_id] = self._decide(job.cell, trial, last, Status.PRUNED, reason)
        self.search.tell(job, outcomes)
        self._prune()
        self.observer.ended(job, outcomes)

    def _after_death(self, run_id: str, job: Job) -> dict[str, Known]:
        """What is known of a job whose worker died; what is not settled is due again, or given up."""
        before = settled_before(job, self.setup)
        outcomes = {each: known(outcome.status, outcome.scores, self._sign) for each, outcome in before.items()}
        unsettled = [trial for trial in job.trials if trial.trial_id not in outcomes]
        if not unsettled:
            return outcomes
        hung = next((trial for trial in unsettled if self._stack(trial)), None)
        ids = [trial.trial_id for trial in unsettled]
        if self._again_after_timer(run_id, hung) if hung else self.deaths.again(run_id, ids):
            # Due again, from its last checkpoint. Tune's own retry leaves out who dies between two trials.
            return outcomes
        if hung:
            what = "stall" if self.setup.trial_time_s is None else "timeout"
            reason = f"{what}: no thread of its worker answered any more; its stack is in {self._stack(hung)}"
            unsettled = [hung]
        else:
            reason = self.deaths.reason(run_id, unsettled[0].trial_id)
        for trial in unsettled:
            outcomes[trial.trial_id] = self._decide(job.cell, trial, self._so_far(trial), Status.FAILED, reason)
        return outcomes

    def _so_far(self, trial: TrialConfig) -> Known:
        """A trial as its rows have it, by which a driver that goes on later judges it."""
        rows = self.store.last_epochs(trial.trial_id)
        return known(Status.RUNNING, {row.epoch: row.value(self.setup.metric) for row in rows}, self._sign)

    def _again_after_timer(self, run_id: str, trial: TrialConfig) -> bool:
        """Whether a trial whose worker's timer ended it has another worker.

        Once tells nothing: a process that was suspended, with its machine or by Slurm, looks the same to the timer. One
        that got further meanwhile costs nothing; one that has not finished one more epoch hangs.
        """
        name = trial.trial_id
        rows = self.store.epochs([name])
        last = max(rows["attempt"], default=0)
        epochs = rows.height if last > self.setup.reopened.get(name, 0) else 0
        before = self._timed_out.get(name)
        self._timed_out[name] = max(epochs, before or 0)
        if before is not None and epochs > before:
            return True
        if before is not None and last < self._attempts[name]:
            return False
        return self.deaths.again(run_id, [name])

    def _stack(self, trial: TrialConfig) -> Folder | None:
        """Where the timer of a worker that spoke no more wrote its stack, if it did, in the attempt handed out last."""
        logs = self.store.folder / "logs"
        for attempt in range(self._attempts.get(trial.trial_id, 1), self.store.next_attempt(trial.trial_id)):
            path = logs / f"{trial.trial_id}-a{attempt}-stack.txt"
            if path.exists() and path.stat().st_size:
                return path
        return None

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
