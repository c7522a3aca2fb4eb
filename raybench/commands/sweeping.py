"""One sweep from its file to its table: what is wanted, what is settled, what is due, and running that."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from rich.console import Console

from raybench.commands.borrowed import Unlent, with_best_trials
from raybench.commands.given import check_used, load_plugins
from raybench.commands.sharing import (
    Machines,
    check_fits,
    check_workers,
    examples,
    machines_at,
    settle,
    this_machine,
)
from raybench.config.load import load_sweep
from raybench.config.placement import Share, at_a_time
from raybench.config.plan import Plan, make_plan
from raybench.config.plugins import Plugin, codes
from raybench.config.sweep import SweepConfig
from raybench.config.trial import TrialConfig
from raybench.errors import ConfigError, ResultsError
from raybench.report.comparison import CellResult, compare
from raybench.report.events import Events
from raybench.results.manifest import environment
from raybench.results.schema import Status
from raybench.results.storage import Folder, check_writable, entries, folder_at, read, remove, write_atomically
from raybench.results.store import Store
from raybench.search.outcomes import Known, Outcomes
from raybench.search.search import Search, taught

if TYPE_CHECKING:
    from raybench.training.preflight import Checked
    from raybench.training.preparation import TeacherWanted
    from raybench.training.recorder import Setup

REOPENED = "reopened.json"
"""In the sweep's folder: what a run was asked to run again, until it has ended by itself."""


def choose_preset(preset: str, cluster: Machines | None) -> tuple[str, str]:
    """(preset, why). `auto` is paper where this machine, or the cluster that is joined, has a GPU."""
    if preset != "auto":
        return preset, ""
    if cluster is not None:
        found = cluster.gpus > 0
        where = f"the cluster at {cluster.address}"
    else:
        found = any(Path("/dev").glob("nvidia[0-9]*")) and os.environ.get("CUDA_VISIBLE_DEVICES") != ""
        where = "this machine"
    if found:
        return "paper", f"a GPU in {where}"
    return "quick", f"no GPU in {where}; --preset paper for the published setting"


def unknown_name(key: str, name: str) -> str | None:
    """What is wrong with the name of a data set, model or metric. Asked only of what a file or command names."""
    from raybench.training.preflight import unknown

    return unknown(key, name)


def _check_writable(store: Store) -> None:
    """Raises ResultsError when no rows could be written here. Makes no folder: other faults may come out after this."""
    if not isinstance(store.folder, Path) or os.path.exists(store.folder):  # noqa: PTH110 - Path's raises where it may not look
        store.check_writable()
        return
    place = next(folder for folder in store.folder.parents if os.path.exists(folder))  # noqa: PTH110
    if not place.is_dir():
        raise ResultsError(
            f"{place} is a file, where the folder of the results is to be; move it, or give --results ROOT"
        )
    check_writable(place)


def _plan(config: SweepConfig, unlent: Sequence[Unlent]) -> Plan:
    """The plan. Raises ConfigError with every fault of it, and beside them the sweeps that must be run first."""
    try:
        return make_plan(config)
    except ConfigError as error:
        raise ConfigError([*map(str, unlent), *error.problems]) from error


def _codes(config: SweepConfig) -> dict[str, str]:
    """The code of what the sweep names from outside the repository, wherever it does."""
    text = json.dumps([config.base, config.factors, config.tune.space])
    return {key: code for key, code in codes().items() if json.dumps(key.partition(" ")[2]) in text}


def _asked_of_trials(here: Setup, config: SweepConfig, plugins: Sequence[Plugin]) -> Setup:
    """Where trials run, with all that the sweep asks of each."""
    known = {"plugins": ", ".join(f"{plugin.name} {plugin.code}" for plugin in plugins)} if plugins else {}
    return replace(
        here,
        sweep=config.name,
        preset=config.preset,
        metric=config.metric.name,
        shown=config.metric.shown,
        mode=config.metric.mode,
        trial_time_s=config.limits.trial_time_s,
        stall_s=config.limits.stall_s,
        checkpoint_every_s=config.checkpoints.every_s,
        checkpoint_every_epochs=config.checkpoints.every_epochs,
        keep=config.checkpoints.keep,
        env={**environment(), **known},
        plugins=tuple(plugins),
    )


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

    @classmethod
    def load(
        cls,
        name: str,
        *,
        preset: str,
        overrides: Sequence[str],
        options: dict[str, Any],
        results: str,
        data_root: Path | None,
        weights_root: Path | None = None,
        address: str | None = None,
        max_concurrent: int | None = None,
        rerun: Sequence[str] = (),
        dry_run: bool = False,
        profile: bool = False,
        plugins: Sequence[str] = (),
        quiet: bool = False,
        log_json: bool = False,
    ) -> Sweep:
        """Read, check and plan. Raises RaybenchError with everything that is wrong; nothing has started then.

        `results` is the folder, or the address in an object store, of the sweeps' folders.
        """
        given = load_plugins(plugins)
        cluster = machines_at(address) if address is not None else None
        chosen, why = choose_preset(preset, cluster)
        config = load_sweep(name, chosen, overrides, options, unknown_name)
        check_used(config)
        machines = cluster or this_machine(config.resources)
        if not dry_run:  # which may plan for another machine
            check_fits(config, machines)
        folder = folder_at(results) / config.name
        config, unlent = with_best_trials(config, folder.parent)
        config = config.model_copy(update={"codes": _codes(config)})
        plan = _plan(config, unlent)
        check_workers(config, plan)
        store = Store(folder)
        if not dry_run:
            _check_writable(store)
        # torch comes with these, seconds after everything that can be said without it has been said.
        from raybench.training.preflight import check
        from raybench.training.recorder import Setup

        here = Setup(data_root=data_root, weights_root=weights_root, results=folder, profile=profile)
        checked = check(
            plan,
            here,
            lambda key: config.places.get(key, config.name),
            download=not dry_run,
            unlent={each.weights: str(each) for each in unlent},
        )
        if unlent and not dry_run:
            raise ConfigError([str(each) for each in unlent])
        config = config.model_copy(update={"fingerprints": checked.fingerprints})
        sweep = cls(
            config=config,
            why_preset=why,
            plan=make_plan(config),
            checked=checked,
            store=store,
            folder=folder,
            setup=_asked_of_trials(here, config, given),
            outcomes=read_outcomes(store, config),
            machines=machines,
            share=Share(),
            max_concurrent=max_concurrent,
            console=Console(quiet=log_json),
            quiet=quiet,
            events=Events(sys.stdout if log_json else None),
            unlent=unlent,
        )
        sweep._reopen(rerun)
        sweep._take(settle(config, machines, sweep._to_measure, sweep.setup))
        return sweep

    def _take(self, share: Share) -> None:
        """Each worker of each trial has this share."""
        self.share = share
        limit = self.config.limits.memory_mib or share.limit_mib
        self.setup = replace(
            self.setup, cpu=share.cpu, gpu=share.gpu, kind=share.kind, workers=share.workers, memory_mib=limit
        )

    def _to_measure(self) -> list[TrialConfig]:
        """Trials that are due, or of which some may be."""
        return [trial for trial in examples(self.plan) if not self.outcomes.settled(trial.trial_id)]

    @property
    def address(self) -> str | None:
        """Of the cluster; none where trials run on this machine."""
        return self.machines.address

    def _reopen(self, rerun: Sequence[str]) -> None:
        """Forget the outcomes that are to be run again: those asked for now, and those of a run that was cut off."""
        pending = self._asked_before()
        attempts = dict(self.store.trials().select("trial_id", "attempt").iter_rows())
        wanted = {trial.trial_id for trial in self.plan.trials()} | set(self.outcomes)
        faults = []
        for name in rerun:
            if name in ("failed", "diverged"):
                again = [trial_id for trial_id, known in self.outcomes.items() if known.status == name]
            else:
                again = [trial_id for trial_id in wanted if trial_id == name]
                if not again:
                    known = "failed, diverged, or a trial's 12 digits"
                    faults.append(f"command line: --rerun {name}: no such trial in this sweep ({known})")
            for trial_id in again:
                if trial_id in self.outcomes:
                    # One that the run which was cut off has done already is not done twice.
                    pending.setdefault(trial_id, self.store.next_attempt(trial_id) - 1)
        if faults:
            raise ConfigError(faults)
        self.setup.reopened.update(pending)
        self._forget(attempts)

    def _forget(self, attempts: dict[str, int]) -> None:
        for trial_id, attempt in self.setup.reopened.items():
            if attempts.get(trial_id, 0) <= attempt:
                self.outcomes.pop(trial_id, None)

    def _asked_before(self) -> dict[str, int]:
        """What a run that was cut off was asked to run again: trial id -> its last attempt before that."""
        try:
            content = json.loads(read(self.folder / REOPENED))
        except (OSError, ValueError):
            return {}
        asked = content if isinstance(content, dict) else {}
        return {key: value for key, value in asked.items() if isinstance(value, int)}

    def begin(self) -> None:
        """Under the sweep's lock: look again at what is settled, and keep what is asked to run again."""
        self.store.compact()  # what an earlier run left when it was cut off, so that parts never pile up
        self.outcomes = read_outcomes(self.store, self.config)
        self._forget(dict(self.store.trials().select("trial_id", "attempt").iter_rows()))
        self._clear_leftovers()
        if self.setup.reopened:
            write_atomically(self.folder / REOPENED, json.dumps(self.setup.reopened).encode())

    def end(self) -> None:
        """All that was due is done."""
        remove([self.folder / REOPENED])
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
        gate = self.gate if self.gated else None
        return Search(self.plan, Outcomes(self.outcomes), self.folder, width, gate)

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
        return [self.wanted(taught) for taught in self.by_teacher(trials)]

    def by_teacher(self, trials: Sequence[TrialConfig]) -> list[list[TrialConfig]]:
        """The trials that share a teacher's logits, together; those of the student alone are left out."""
        from raybench.training.preparation import teacher_key

        found: dict[str, list[TrialConfig]] = {}
        for trial in trials:
            if trial.canonical().distillation.teacher is None:
                continue
            # Trials of one teacher may differ in views; each kind of views has its own logits.
            key = f"{teacher_key(trial)} {trial.dataset.views} {trial.dataset.augment} {trial.distillation.cache}"
            found.setdefault(key, []).append(trial)
        return list(found.values())

    def wanted(self, taught: Sequence[TrialConfig]) -> TeacherWanted:
        """The teacher of trials that share one."""
        from raybench.training.preparation import TeacherWanted

        return TeacherWanted(taught[-1], max(self.train_images(trial) for trial in taught))

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

    @property
    def gated(self) -> bool:
        """Whether some teacher is to stop the sweep when it is no better than the student alone."""
        return any(t.gate == "stop" for trial in self.plan.trials() if (t := trial.distillation.teacher) is not None)

    def student_alone(self, outcomes: Outcomes) -> float | None:
        """Best mean validation metric of the student alone; none before any of its settings is settled."""
        cells = Search(self.plan, outcomes, self.folder, 1).cells()
        means = [
            outcomes.mean_best(setting)
            for cell in cells
            if not taught(self.plan, cell)
            for setting in cell.settings
            if all(outcomes.settled(trial.trial_id) for trial in setting.trials)
        ]
        return max((value for value in means if value > float("-inf")), default=None)

    def gate(self, outcomes: Outcomes) -> bool:
        return not self.weak_teachers(outcomes, gates=("stop",))

    def weak_teachers(self, outcomes: Outcomes, gates: Sequence[str] = ("warn", "stop")) -> list[str]:
        """A line for each prepared teacher of these gates that is near chance or not better than the student alone."""
        from raybench.training.preparation import find_teacher

        alone = self.student_alone(outcomes)
        lines = []
        for wanted in self.teachers(list(self.plan.trials())):
            teacher = wanted.example.distillation.teacher
            record = find_teacher(wanted.example)
            if record is None or teacher is None or teacher.gate not in gates:
                continue
            if record.near_chance:
                lines.append(
                    f"teacher {record.name} ({record.prepare}) is near chance: "
                    f"top-1 {record.eval_top1:.1f} % on validation, chance {record.chance_top1:.1f} %"
                )
            elif alone is not None and self.config.metric.name == "eval_top1" and record.eval_top1 <= alone:
                lines.append(
                    f"teacher {record.name} ({record.prepare}) is not better than the student alone: "
                    f"top-1 {record.eval_top1:.1f} % on validation against {alone:.1f} %"
                )
        return list(dict.fromkeys(lines))

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
