"""The search over all cells: hands out jobs, takes in outcomes, and knows when nothing is left."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from raybench.config.plan import Cell, Plan
from raybench.config.trial import TrialConfig
from raybench.search.cells import Asynchronous, CellSearch, Exhaustive, Halving, Job
from raybench.search.outcomes import Known, Outcomes
from raybench.search.tpe import Suggestions, TreeParzen

Gate = Callable[[Outcomes], bool]
"""Whether distillation may go on, asked once every trial of the student alone is settled."""


class Search:
    """Every cell's search, the cells in the order in which they should run."""

    def __init__(self, plan: Plan, outcomes: Outcomes, folder: Path, width: int, gate: Gate | None = None) -> None:
        """`folder` is the sweep's, for stored suggestions; `width` the number of trials that run at a time."""
        self.gate = gate
        self.plan = plan
        self.outcomes = outcomes
        self._cells = [_cell_search(plan, cell, number, folder, width) for number, cell in enumerate(plan.cells)]
        self._out: set[tuple[str, ...]] = set()
        self._order = sorted(range(len(self._cells)), key=lambda index: _priority(plan.cells[index]))
        self._ready: dict[int, list[Job]] = {}
        self._of_trial: dict[str, int] = {}

    def next_job(self) -> Job | None:
        """The next job, or none while all that is due is running (or all is done)."""
        for index in self._order:
            if self.plan.cells[index].baseline is not None and not self._gate_open():
                return None
            jobs = self._ready.get(index)
            if jobs is None:
                jobs = self._ready[index] = [
                    job for job in self._cells[index].due(self.outcomes) if job.key not in self._out
                ]
            if jobs:
                job = jobs.pop(0)
                self._out.add(job.key)
                self._of_trial.update({trial.trial_id: index for trial in job.trials})
                return job
        return None

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing is due, or what is due is held back by the gate."""
        return not self._out and self.next_job_index() is None

    def next_job_index(self) -> int | None:
        """The cell of the next job."""
        for index in self._order:
            if self.plan.cells[index].baseline is not None and not self._gate_open():
                return None
            if self._cells[index].due(self.outcomes):
                return index
        return None

    def _gate_open(self) -> bool:
        if self.gate is None:
            return True
        alone = [search for search in self._cells if search.cell.baseline is None]
        if any(search.due(self.outcomes) for search in alone):
            return False
        return self.gate(self.outcomes)

    def tell(self, job: Job, outcomes: dict[str, Known]) -> None:
        """What became of a job's trials."""
        self.outcomes.update(outcomes)
        self._out.discard(job.key)
        for trial in job.trials:
            self._ready.pop(self._of_trial.get(trial.trial_id, -1), None)

    def pruned(self) -> Iterator[tuple[str, TrialConfig, str]]:
        """(cell, trial, reason) of every trial that the search gave up and that is not settled."""
        for search in self._cells:
            for trial, reason in search.pruned(self.outcomes):
                yield search.cell.label, trial, reason

    def cells(self) -> tuple[Cell, ...]:
        """The plan's cells with the settings tried so far."""
        return tuple(replace(search.cell, settings=search.settings()) for search in self._cells)

    def due_trials(self) -> int:
        """Trials known to be due now."""
        return sum(len(job.trials) for search in self._cells for job in search.due(self.outcomes))


def _cell_search(plan: Plan, cell: Cell, number: int, folder: Path, width: int) -> CellSearch:
    sweep = plan.sweep
    if sweep.tune.algorithm == "tpe":
        searched = json.dumps([sweep.preset, cell.label, sweep.tune.space], sort_keys=True)
        name = hashlib.sha256(searched.encode()).hexdigest()[:12]
        suggestions = Suggestions(folder / "suggestions" / f"{name}.jsonl")
        return TreeParzen(cell, sweep, suggestions, width, number)
    if sweep.scheduler.name == "halving":
        return Halving(cell, sweep)
    if sweep.scheduler.name == "asha":
        return Asynchronous(cell, sweep)
    return Exhaustive(cell, sweep)


def _priority(cell: Cell) -> tuple[bool, float]:
    """The student alone first, since every other cell is held against it; then the largest, so that no long trial is left for last."""
    size = cell.factors.get("dataset.train_size", 0)
    images = float("inf") if size == "all" else float(size) if isinstance(size, int | float) else 0.0
    return (cell.baseline is not None, -images)
