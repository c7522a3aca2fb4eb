"""The search over all cells: hands out jobs, takes in outcomes, and knows when nothing is left."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from raybench.config.plan import Cell, Plan, first_values, make_setting
from raybench.config.trial import TrialConfig
from raybench.results.storage import Folder
from raybench.search.cells import Asynchronous, CellSearch, Exhaustive, Halving, Job, Stages
from raybench.search.outcomes import Known, Outcomes
from raybench.search.tpe import Suggestions, TreeParzen, suggestions_name

Gate = Callable[[Outcomes], bool]
"""Whether distillation may go on, asked once every trial of the student alone is settled."""


@dataclass(eq=False)
class _Queue:
    """One cell's search with the jobs that were found due and not handed out yet."""

    search: CellSearch
    gated: bool
    ready: deque[Job] = field(default_factory=deque)
    open: set[str] = field(default_factory=set)
    """Trials that were due when the search was last asked and were not told since."""
    stale: bool = True
    """Whether the search may have something new to say."""


class Search:
    """Every cell's search, the cells in the order in which they should run.

    A cell is asked again only when all that it last found due has been told: asking looks at every setting, and a sweep
    of thousands of trials would otherwise spend its time there.
    """

    def __init__(self, plan: Plan, outcomes: Outcomes, folder: Folder, width: int, gate: Gate | None = None) -> None:
        """`folder` is the sweep's, for stored suggestions; `width` the number of trials that run at a time."""
        self.gate = gate
        self.plan = plan
        self.outcomes = outcomes
        self._searches = [_cell_search(plan, cell, folder, width) for cell in plan.cells]
        queues = [_Queue(search, taught(plan, search.cell)) for search in self._searches]
        self._queues = sorted(queues, key=lambda queue: _priority(queue.search.cell))
        self._running: set[str] = set()
        self._waiting: dict[str, list[_Queue]] = {}
        """Trial id -> every queue that has it open."""
        ids = (trial.trial_id for cell in plan.cells for setting in cell.settings for trial in setting.trials)
        self._holders = Counter(ids)
        """Trial id -> number of cells that it belongs to."""
        self._open: bool | None = None

    def next_job(self) -> Job | None:
        """The next job, or none while all that is due is running (or all is done)."""
        for queue in self._queues:
            if queue.gated and not self._gate_open():
                return None
            if job := self._take(queue):
                return job
        return None

    def _take(self, queue: _Queue) -> Job | None:
        if not queue.ready and queue.stale:
            queue.stale = False
            for job in queue.search.due(self.outcomes):
                queue.ready.append(job)
                for trial_id in {trial.trial_id for trial in job.trials} - queue.open:
                    queue.open.add(trial_id)
                    self._waiting.setdefault(trial_id, []).append(queue)
        while queue.ready:
            job = queue.ready.popleft()
            # Two cells may share a trial: while one of them runs it, the other waits for what becomes of it.
            if not any(trial.trial_id in self._running for trial in job.trials) and self._due(job):
                self._running.update(trial.trial_id for trial in job.trials)
                return job
        return None

    def _due(self, job: Job) -> bool:
        """Whether a job that waited in a queue is still to be done; another cell may have done it meanwhile."""
        rung = job.rungs[-1]
        return not all(
            self.outcomes.settled(trial.trial_id)
            or (rung < trial.schedule.epochs and self.outcomes.reached(trial.trial_id, rung))
            for trial in job.trials
        )

    def tell(self, job: Job, outcomes: dict[str, Known]) -> None:
        """What became of a job's trials. Scores known before stay: a worker that died tells none."""
        for trial_id, known in outcomes.items():
            before = self.outcomes.get(trial_id)
            self.outcomes[trial_id] = replace(known, scores={**before.scores, **known.scores}) if before else known
        unfinished = self._due(job)
        for trial in job.trials:
            self._running.discard(trial.trial_id)
            for queue in self._waiting.pop(trial.trial_id, ()):
                queue.open.discard(trial.trial_id)
                queue.stale = queue.stale or unfinished or queue.search.eager or not queue.open

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing is due, or what is due is held back by the gate."""
        if self._running:
            return False
        for queue in self._queues:
            if queue.gated and not self._gate_open():
                return True
            if not queue.search.done(self.outcomes):
                return False
        return True

    @property
    def alone_done(self) -> bool:
        """Whether nothing is or will be due of the student alone.

        Asked after each trial: a cell is looked at only when all that it last found due has been handed out and told.
        """
        return all(
            queue.gated or (not queue.ready and not queue.open and queue.search.done(self.outcomes))
            for queue in self._queues
        )

    def _gate_open(self) -> bool:
        if self.gate is None:
            return True
        if self._open is None:
            if any(not queue.gated and not queue.search.done(self.outcomes) for queue in self._queues):
                return False
            # Asked once: what it is asked about, the student alone, is settled and stays so.
            self._open = self.gate(self.outcomes)
        return self._open

    def pruned(self) -> Iterator[tuple[str, TrialConfig, str]]:
        """(cell, trial, reason) of every trial that is not settled and that each cell it belongs to gave up."""
        given_up: dict[str, list[tuple[str, TrialConfig, str]]] = {}
        for search in self._searches:
            for trial, reason in search.pruned(self.outcomes):
                given_up.setdefault(trial.trial_id, []).append((search.cell.label, trial, reason))
        yield from (found[0] for trial_id, found in given_up.items() if len(found) == self._holders[trial_id])

    def cells(self) -> tuple[Cell, ...]:
        """The plan's cells with the settings tried so far."""
        return tuple(replace(search.cell, settings=search.settings(self.outcomes)) for search in self._searches)

    def compared_cells(self) -> tuple[Cell, ...]:
        """The plan's cells with the settings among which a table selects."""
        return tuple(
            replace(search.cell, settings=search.compared(self.outcomes), aside=self._run(search.cell))
            if isinstance(search, Exhaustive)
            else replace(search.cell, settings=search.settings(self.outcomes))
            for search in self._searches
        )

    def _run(self, cell: Cell) -> tuple[TrialConfig, ...]:
        return tuple(trial for each in cell.settings for trial in each.trials if trial.trial_id in self.outcomes)

    def ahead(self) -> list[tuple[str, Stages]]:
        """What is to come, cell by cell in the order in which they run, with what runs now. Decides nothing."""
        return [(queue.search.cell.label, queue.search.ahead(self.outcomes)) for queue in self._queues]

    def due_trials(self) -> int:
        """Trials known to be due now, and those that `tpe` has not suggested yet. Suggests nothing by itself."""
        jobs: list[Job] = []
        to_come = 0
        for search in self._searches:
            if isinstance(search, TreeParzen):
                jobs += search.suggested(self.outcomes)
                to_come += search.to_come
            else:
                jobs += search.due(self.outcomes)
        return len({trial.trial_id for job in jobs for trial in job.trials}) + to_come


def taught(plan: Plan, cell: Cell) -> bool:
    """Whether the trials of a cell have a teacher."""
    setting = cell.settings[0] if cell.settings else make_setting(plan.sweep, cell.point, first_values(plan.sweep))
    return setting.trials[0].canonical().distillation.teacher is not None


def _cell_search(plan: Plan, cell: Cell, folder: Folder, width: int) -> CellSearch:
    sweep = plan.sweep
    if sweep.tune.algorithm == "tpe":
        name = suggestions_name(sweep, cell)
        return TreeParzen(cell, sweep, Suggestions(folder / "suggestions" / f"{name}.jsonl"), width, int(name, 16))
    if sweep.scheduler.name == "halving":
        return Halving(cell, sweep)
    if sweep.scheduler.name == "asha":
        return Asynchronous(cell, sweep)
    return Exhaustive(cell, sweep)


def _priority(cell: Cell) -> tuple[bool, float]:
    """The student alone first, since every other cell is held against it; then the largest, so that none is last."""
    size = cell.factors.get("dataset.train_size", 0)
    images = float("inf") if size == "all" else float(size) if isinstance(size, int | float) else 0.0
    return (cell.baseline is not None, -images)
