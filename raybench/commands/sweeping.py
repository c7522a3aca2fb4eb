"""One sweep with everything known of it: what is wanted, what is settled, what is due, and what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import polars as pl
from rich.console import Console

from raybench.commands import reopening
from raybench.commands.borrowed import Unlent
from raybench.commands.sharing import Machines
from raybench.commands.teachers import by_teacher, gated, weak_teachers
from raybench.config.placement import Share, at_a_time
from raybench.config.plan import Plan
from raybench.config.sweep import SweepConfig
from raybench.config.trial import TrialConfig
from raybench.report.comparison import CellResult, compare
from raybench.report.events import Events
from raybench.results.schema import Status
from raybench.results.storage import Folder, entries
from raybench.results.store import Store
from raybench.search.outcomes import Known, Outcomes
from raybench.search.search import Search

if TYPE_CHECKING:
    from raybench.training.preflight import Checked
    from raybench.training.preparation import TeacherWanted
    from raybench.training.recorder import Setup


@dataclass
class Sweep:
    """A sweep with everything known before it starts."""

    config: SweepConfig
    why_preset: str
    plan: Plan
    checked: Checked
    store: Store
    folder: Folder
    setup: Setup
    outcomes: Outcomes
    machines: Machines
    share: Share
    """What one worker of a trial occupies."""
    max_concurrent: int | None
    console: Console
    quiet: bool = False
    """Whether only the results are said, and what went wrong."""
    events: Events = field(default_factory=Events)
    unlent: tuple[Unlent, ...] = ()
    """Sweeps whose weights are wanted here and that must be run first; only a dry run goes on without them."""

    def take(self, share: Share) -> None:
        """Each worker of each trial has this share."""
        self.share = share
        limit = self.config.limits.memory_mib or share.limit_mib
        self.setup = replace(
            self.setup, cpu=share.cpu, gpu=share.gpu, kind=share.kind, workers=share.workers, memory_mib=limit
        )

    @property
    def address(self) -> str | None:
        """Of the cluster; none where trials run on this machine."""
        return self.machines.address

    def begin(self) -> None:
        """Under the sweep's lock: look again at what is settled, and keep what is asked to run again."""
        self.store.compact()  # what an earlier run left when it was cut off, so that parts never pile up
        self.outcomes = read_outcomes(self.store, self.config)
        reopening.forget(self.outcomes, self.setup.reopened, self.store)
        self._clear_leftovers()
        reopening.keep(self.folder, self.setup.reopened)

    def end(self) -> None:
        """All that was due is done."""
        reopening.done(self.folder)
        self._clear_leftovers()
        self.store.compact()

    def _clear_leftovers(self) -> None:
        """Remove the checkpoints of a worker that was killed between a trial's last row and their removal.

        Known by their epoch: what `checkpoints.keep: last` leaves of a complete trial is of its last one.
        """
        from raybench.training.checkpoints import Checkpoints, latest_epoch

        left = set(entries(self.folder / "checkpoints"))
        if not left:
            return
        complete = self.store.trials().filter(pl.col("status") == Status.COMPLETE, pl.col("trial_id").is_in(left))
        for trial_id, attempt, epochs in complete.select("trial_id", "attempt", "epochs").iter_rows():
            folder = self.folder / "checkpoints" / trial_id
            if latest_epoch(folder, attempt) < (epochs or 0):
                Checkpoints(folder, attempt=attempt).clear()

    def share_data(self) -> None:
        """Bring the data to the cluster's depot, from which machines that lack their files copy them, each once.

        Raises ResultsError where that cannot be written.
        """
        from raybench.data import Request, kind_of, share

        requests = {Request.of(trial.dataset) for trial in self.plan.trials()}
        for request in sorted(requests, key=str):
            if kind_of(request.name) == "image":
                share(request, self.setup.data_root)

    def search(self, width: int) -> Search:
        """The search, from what is settled."""
        gate = self._gate if gated(self.plan) else None
        return Search(self.plan, Outcomes(self.outcomes), self.folder, width, gate)

    def _gate(self, outcomes: Outcomes) -> bool:
        return not weak_teachers(self.plan, outcomes, self.folder, gates=("stop",))

    def weak_teachers(self, outcomes: Outcomes) -> list[str]:
        """A line for each prepared teacher that is near chance or not better than the student alone."""
        return weak_teachers(self.plan, outcomes, self.folder)

    @property
    def width(self) -> int:
        """Trials at a time, as far as can be said before Ray runs."""
        fits = max(1, at_a_time(self.machines.nodes, self.share))
        return min(fits, self.max_concurrent) if self.max_concurrent else fits

    @property
    def wanted_trials(self) -> int:
        """Trials that a whole run of this plan settles."""
        tune, seeds = self.config.tune, len(self.config.seeds)
        if tune.algorithm == "tpe":
            return len(self.plan.cells) * (tune.num_samples or 0) * seeds
        if tune.seeds == "first":
            return sum(len(cell.settings) + seeds - 1 for cell in self.plan.cells)
        return sum(len(cell.settings) for cell in self.plan.cells) * seeds

    @property
    def settled_trials(self) -> int:
        """How many of them are settled already."""
        return sum(self.outcomes.settled(trial_id) for trial_id in self.trial_ids())

    @property
    def due(self) -> bool:
        """Whether anything is left to do."""
        return not self.search(self.width).finished

    def held_back(self) -> int:
        """Trials that are due and that the gate keeps from running."""
        search = self.search(1)
        return search.due_trials() if search.finished else 0

    def due_trials(self) -> list[TrialConfig]:
        """The trials that are due now or will be, as far as the plan knows them."""
        return [trial for trial in self.plan.trials() if not self.outcomes.settled(trial.trial_id)]

    def teachers(self, trials: Sequence[TrialConfig]) -> list[TeacherWanted]:
        """Each distinct teacher that these trials need, with the most images any of them trains on."""
        return [self.wanted(taught) for taught in by_teacher(trials)]

    def wanted(self, taught: Sequence[TrialConfig]) -> TeacherWanted:
        """The teacher of trials that share one."""
        from raybench.distillation.packing import needs_whole
        from raybench.training.preparation import TeacherWanted

        # Logits that are whole do for those that are kept in part, too.
        example = max(reversed(taught), key=lambda trial: needs_whole(trial.distillation))
        return TeacherWanted(example, max(self.train_images(trial) for trial in taught))

    def train_images(self, trial: TrialConfig) -> int:
        """Images in a trial's training subset."""
        if isinstance(trial.dataset.train_size, int):
            return trial.dataset.train_size
        return self.checked.images[trial.dataset.data_key] - trial.dataset.val_size

    def results(self) -> list[CellResult]:
        """Every cell's result from the rows there are."""
        metric = self.config.metric
        return compare(
            self.search(1).compared_cells(),
            self.store.trials(),
            metric.name,
            metric.mode,
            metric.shown,
        )

    # -- the gate ------------------------------------------------------------------------------------------------------

    def data_text(self) -> str:
        """The data sets with their variants."""
        return ", ".join(f"{name} ({variant})" for name, variant in self.checked.variants.items())

    def trial_ids(self) -> set[str]:
        """Every trial of the plan, with `tpe` those suggested so far."""
        return {t.trial_id for cell in self.search(1).cells() for s in cell.settings for t in s.trials}

    def say(self, text: str) -> None:
        """A line of plain text."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)


def read_outcomes(store: Store, config: SweepConfig) -> Outcomes:
    """What the rows say of every trial, scores signed so that larger is better. An unknown status settles nothing."""
    sign = 1.0 if config.metric.mode == "max" else -1.0
    scores: dict[str, dict[int, float]] = {}
    epochs = store.epochs(columns=["trial_id", "epoch", config.metric.name])
    if config.metric.name in epochs.columns:
        for trial_id, epoch, value in epochs.iter_rows():
            scores.setdefault(trial_id, {})[epoch] = sign * value if value is not None else float("-inf")
    rows = store.trials().select("trial_id", "status").iter_rows()
    known = {trial_id: Status(status) for trial_id, status in rows if status in {*Status}}
    return Outcomes({trial_id: Known(status, scores.get(trial_id, {})) for trial_id, status in known.items()})
