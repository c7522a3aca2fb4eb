"""One sweep from its file to its table: what is wanted, what is settled, what is due, and running that."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console

from raybench.config.load import load_sweep
from raybench.config.plan import Plan, make_plan
from raybench.config.sweep import SweepConfig
from raybench.config.trial import TrialConfig
from raybench.errors import ConfigError
from raybench.report.comparison import CellResult, compare
from raybench.report.figures import comparison_figure, curves_figure
from raybench.report.progress import Progress, seconds_text
from raybench.report.tables import comparison_lines, comparison_markdown, comparison_table
from raybench.results.lock import SweepLock
from raybench.results.manifest import environment, write_manifest
from raybench.results.parts import write_atomically
from raybench.results.published import published
from raybench.results.schema import Status
from raybench.results.store import Store
from raybench.search.cells import Job
from raybench.search.outcomes import Known, Outcomes
from raybench.search.search import Search

if TYPE_CHECKING:
    from raybench.cluster.driver import Stopped
    from raybench.commands.plan_text import Estimate
    from raybench.distillation.teacher import TeacherRecord
    from raybench.training.preflight import Checked
    from raybench.training.preparation import TeacherWanted
    from raybench.training.recorder import Setup

EXIT_COMPLETE = 0
EXIT_TROUBLE = 1
PLAIN_WIDTH = 160
"""Columns of a table printed where there is no terminal."""


def choose_preset(preset: str, address: str | None) -> tuple[str, str]:
    """(preset, why). `auto` is paper where this machine, or the cluster behind `address`, has a GPU."""
    if preset != "auto":
        return preset, ""
    if address is not None:
        from raybench.cluster.session import gpus_at

        found = gpus_at(address) > 0
        where = f"the cluster at {address}"
    else:
        found = any(Path("/dev").glob("nvidia[0-9]*")) and os.environ.get("CUDA_VISIBLE_DEVICES") != ""
        where = "this machine"
    if found:
        return "paper", f"a GPU in {where}"
    return "quick", f"no GPU in {where}; --preset paper for the published setting"


@dataclass
class Sweep:
    """A sweep with everything known before it starts."""

    config: SweepConfig
    why_preset: str
    plan: Plan
    checked: Checked
    store: Store
    folder: Path
    setup: Setup
    outcomes: Outcomes
    address: str | None
    max_concurrent: int | None
    console: Console

    @classmethod
    def load(
        cls,
        name: str,
        *,
        preset: str,
        overrides: Sequence[str],
        options: dict[str, Any],
        results: Path,
        data_root: Path | None,
        address: str | None = None,
        max_concurrent: int | None = None,
        rerun: Sequence[str] = (),
    ) -> Sweep:
        """Read, check and plan. Raises RaybenchError with everything that is wrong; nothing has started then."""
        chosen, why = choose_preset(preset, address)
        config = load_sweep(name, chosen, overrides, options)
        plan = make_plan(config)
        folder = (results / config.name).expanduser().absolute()
        store = Store(folder)
        store.check_writable()
        # torch comes with these, seconds after everything that can be said without it has been said.
        from raybench.training.preflight import check
        from raybench.training.recorder import Setup

        checked = check(plan, data_root, lambda key: config.places.get(key, config.name))
        config = config.model_copy(update={"fingerprints": checked.fingerprints})
        setup = Setup(
            sweep=config.name,
            preset=config.preset,
            results=folder,
            data_root=data_root,
            metric=config.metric.name,
            mode=config.metric.mode,
            cpu=config.resources.cpu,
            gpu=config.resources.gpu,
            trial_time_s=config.limits.trial_time_s,
            env=dict(environment()),
        )
        sweep = cls(
            config=config,
            why_preset=why,
            plan=make_plan(config),
            checked=checked,
            store=store,
            folder=folder,
            setup=setup,
            outcomes=read_outcomes(store, config),
            address=address,
            max_concurrent=max_concurrent,
            console=Console(),
        )
        sweep._reopen(rerun)
        return sweep

    def _reopen(self, rerun: Sequence[str]) -> None:
        """Forget the outcomes that are to be run again."""
        wanted = {trial.trial_id for trial in self.plan.trials()} | set(self.outcomes)
        faults = []
        for name in rerun:
            if name in ("failed", "diverged"):
                again = [trial_id for trial_id, known in self.outcomes.items() if known.status == name]
            else:
                again = [trial_id for trial_id in wanted if trial_id == name]
                if not again:
                    faults.append(
                        f"command line: --rerun {name}: no such trial in this sweep (failed, diverged, or a trial's 12 digits)"
                    )
            for trial_id in again:
                self.outcomes.pop(trial_id, None)
        if faults:
            raise ConfigError(faults)

    def search(self, width: int) -> Search:
        """The search, from what is settled."""
        gate = self._gate if self._gated else None
        return Search(self.plan, Outcomes(self.outcomes), self.folder, width, gate)

    @property
    def local_width(self) -> int:
        """Trials at a time on this machine, as far as can be said without Ray."""
        fits = max(1, int((os.cpu_count() or 1) // self.config.resources.cpu))
        if self.config.resources.gpu > 0:
            import torch

            fits = min(fits, max(1, int(torch.cuda.device_count() // self.config.resources.gpu)))
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
        trials = {t.trial_id for cell in self.search(1).cells() for s in cell.settings for t in s.trials}
        return sum(self.outcomes.settled(trial_id) for trial_id in trials)

    @property
    def due(self) -> bool:
        """Whether anything is left to do."""
        return not self.search(self.local_width).finished

    def due_trials(self) -> list[TrialConfig]:
        """The trials that are due now or will be, as far as the plan knows them."""
        return [trial for trial in self.plan.trials() if not self.outcomes.settled(trial.trial_id)]

    def teachers(self, trials: Sequence[TrialConfig]) -> list[TeacherWanted]:
        """Each distinct teacher that these trials need, with the most images any of them trains on."""
        from raybench.training.preparation import TeacherWanted, teacher_key

        found: dict[str, TeacherWanted] = {}
        for trial in trials:
            if trial.canonical().distillation.teacher is None:
                continue
            # Trials of one teacher may differ in views; each kind of views has its own logits.
            key = f"{teacher_key(trial)} {trial.dataset.views} {trial.dataset.augment} {trial.distillation.cache}"
            images = self.train_images(trial)
            before = found.get(key)
            found[key] = TeacherWanted(trial, max(images, before.images if before else 0))
        return list(found.values())

    def train_images(self, trial: TrialConfig) -> int:
        """Images in a trial's training subset."""
        if isinstance(trial.dataset.train_size, int):
            return trial.dataset.train_size
        return self.checked.images[trial.dataset.name] - trial.dataset.val_size

    def results(self) -> list[CellResult]:
        """Every cell's result from the rows there are."""
        metric = self.config.metric
        return compare(
            self.search(1).cells(), self.store.trials(), metric.name, metric.mode, metric.name.replace("eval_", "test_")
        )

    # -- the gate ------------------------------------------------------------------------------------------------------

    @property
    def _gated(self) -> bool:
        """Whether some teacher is to stop the sweep when it is no better than the student alone."""
        return any(t.gate == "stop" for trial in self.plan.trials() if (t := trial.distillation.teacher) is not None)

    def student_alone(self, outcomes: Outcomes) -> float | None:
        """Best mean validation metric of the student alone over its cells; none before they are settled."""
        alone = [cell for cell in self.plan.cells if cell.baseline is None and cell.settings]
        if not alone or len(alone) == len(self.plan.cells):
            return None
        means = [
            outcomes.mean_best(setting)
            for cell in alone
            for setting in cell.settings
            if all(outcomes.settled(trial.trial_id) for trial in setting.trials)
        ]
        finite = [value for value in means if value > float("-inf")]
        return max(finite, default=None)

    def _gate(self, outcomes: Outcomes) -> bool:
        return not self.weak_teachers(outcomes)

    def weak_teachers(self, outcomes: Outcomes) -> list[str]:
        """A line for each prepared teacher that is near chance or not better than the student alone."""
        from raybench.distillation.teacher import TeacherRecord
        from raybench.training.preparation import teacher_folder

        alone = self.student_alone(outcomes)
        lines = []
        for wanted in self.teachers(list(self.plan.trials())):
            record = TeacherRecord.load(teacher_folder(wanted.example))
            if record is None:
                continue
            if record.near_chance:
                lines.append(
                    f"teacher {record.name} ({record.prepare}) is near chance: top-1 {record.eval_top1:.1f} % on validation, "
                    f"chance {record.chance_top1:.1f} %"
                )
            elif alone is not None and self.config.metric.name == "eval_top1" and record.eval_top1 <= alone:
                lines.append(
                    f"teacher {record.name} ({record.prepare}) is not better than the student alone: "
                    f"top-1 {record.eval_top1:.1f} % on validation against {alone:.1f} %"
                )
        return list(dict.fromkeys(lines))

    # -- running -------------------------------------------------------------------------------------------------------

    def run(
        self, *, command: str, estimate: Estimate, started: datetime, time_budget_s: float | None, verbose: bool
    ) -> int:
        """Run what is due, then print the table; returns the exit code. Raises RaybenchError when it cannot start."""
        from raybench.cluster.session import configure, session

        configure(self.address)
        from raybench.cluster.driver import Stop, Stopped, prepare, run, slots

        stop = Stop(time_budget_s)
        with SweepLock(self.folder), stop.installed():
            self._write_resolved()
            about = {"command": command, "started": started.isoformat(), "preset": self.config.preset}
            write_manifest(self.folder, **about, ended=None, exit_code=None)
            progress = self._progress(estimate)
            stopped: Stopped | None = None
            code = EXIT_TROUBLE
            try:
                with session(self.address, verbose) as resources, progress:
                    stop.check()
                    with stop.installed():  # Ray has put its own handlers in place by now
                        width = slots(self.plan, resources, self.max_concurrent)
                        search = self.search(width)
                        progress.width = width
                        watch = GateWatch(self, progress, search)
                        prepare(self.teachers(self.due_trials()), self.setup, stop, watch)
                        run(self.plan, search, self.setup, width=width, stop=stop, observer=watch, verbose=verbose)
            except Stopped as error:
                stopped = error
            if stopped is None:
                self.store.compact()
            code = self._finish(command, stopped, progress)
            counts = self.store.trials()["status"].value_counts().to_dicts()
            trials = {row["status"]: row["count"] for row in counts}
            write_manifest(self.folder, **about, ended=datetime.now(UTC).isoformat(), exit_code=code, trials=trials)
        return code

    def _progress(self, estimate: Estimate) -> Progress:
        return Progress(
            console=self.console,
            store=self.store,
            metric=self.config.metric.name,
            mode=self.config.metric.mode,
            tuned=tuple(self.config.tune.space),
            costs=dict(estimate.costs),
            total=self.wanted_trials,
            settled=self.settled_trials,
        )

    def _write_resolved(self) -> None:
        content = self.config.model_dump(mode="json", exclude={"places"})
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        write_atomically(self.folder / "sweep.yaml", text.encode())

    def _finish(self, command: str, stopped: Stopped | None, progress: Progress) -> int:
        if stopped is not None and stopped.number is not None:
            self.say(f"stopping: {self._saved(progress)}. Go on with:  {command}")
            return 128 + stopped.number
        self.outcomes = read_outcomes(self.store, self.config)
        self.show_results()
        if stopped is not None:
            self.say(f"time budget spent, {self._saved(progress)}. Go on with:  {command}")
            return EXIT_TROUBLE
        return self._trouble()

    def _saved(self, progress: Progress) -> str:
        epochs = []
        for trial_id in progress.running:
            files = sorted((self.folder / "checkpoints" / trial_id).glob("epoch-*.pt"))
            epochs.append(int(files[-1].stem.removeprefix("epoch-")) if files else 0)
        count = len(epochs)
        if not count:
            return "no trial was running"
        where = " and ".join(str(epoch) for epoch in epochs) if any(epochs) else "their start"
        return f"{count} running trial{'s' if count != 1 else ''} saved at {'epoch ' if any(epochs) else ''}{where}"

    def nothing_to_do(self) -> int:
        """Everything is settled: the table again."""
        rows = self._rows()
        counts = {status: sum(row["status"] == status for row in rows) for status in Status}
        listed = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        extend = "--seeds, --num-samples, key=value extend it; --rerun failed|diverged|ID repeats"
        self.say(f"nothing to do: {len(rows)} of {self.wanted_trials} trials settled ({listed}). ({extend}.)")
        self.show_results()
        return self._trouble()

    def _rows(self) -> list[dict[str, Any]]:
        wanted = {t.trial_id for cell in self.search(1).cells() for s in cell.settings for t in s.trials}
        columns = ["trial_id", "status", "reason", "cell", "seed"]
        return [row for row in self.store.trials().select(columns).to_dicts() if row["trial_id"] in wanted]

    def _trouble(self) -> int:
        """The exit code, and each trial that failed or diverged with its reason."""
        bad = [row for row in self._rows() if row["status"] in (Status.FAILED, Status.DIVERGED)]
        for row in bad:
            self.say(f"{row['status']}: {row['trial_id']} {row['cell']} seed={row['seed']}: {row['reason']}")
        return EXIT_TROUBLE if bad else EXIT_COMPLETE

    def show_results(self) -> None:
        """The comparison table, the figures, and where everything lies."""
        results = self.results()
        if self.store.skipped:
            self.say("skipped, not readable: " + "; ".join(self.store.skipped))
        if not any(result.counts.complete for result in results):
            self.say("no complete trial yet, so there is no table")
            return
        quantity = (
            "test top-1 (%)"
            if self.config.metric.name == "eval_top1"
            else self.config.metric.name.replace("eval_", "test ")
        )
        title = f"{self.config.name}, {self.config.preset}, {quantity}"
        rows = published(self.config.name)
        self.console.print()
        if self.console.is_terminal:
            self.console.print(comparison_table(results, title, rows, width=self.console.width))
        else:
            for line in comparison_lines(results, title, rows, width=PLAIN_WIDTH):
                self.say(line)
        for line in self.weak_teachers(self.outcomes):
            self.say(f"note: {line}")
        write_atomically(self.folder / "comparison.md", comparison_markdown(results, title, rows).encode())
        source = f"{self._data_text()}, preset {self.config.preset}"
        comparison_figure(results, self.folder / "comparison.png", self.config.question or title, source)
        curves_figure(self.store.epochs(), results, self.folder / "curves.png", self.config.question or title)
        shown = os.path.relpath(self.folder)
        self.say("")
        self.say(f"{shown} (comparison.md, comparison.png, curves.png) · tensorboard --logdir {shown}")

    def _data_text(self) -> str:
        return ", ".join(f"{name} ({variant})" for name, variant in self.checked.variants.items())

    def say(self, text: str) -> None:
        """A line of plain text."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)


class GateWatch:
    """Tells progress of jobs and teachers, and says once when a teacher turns out weak."""

    def __init__(self, sweep: Sweep, progress: Progress, search: Search) -> None:
        self.sweep = sweep
        self.progress = progress
        self.search = search
        self.said: set[str] = set()

    def started(self, job: Job) -> None:
        """A job went to a worker."""
        self.progress.started(job)

    def ended(self, job: Job, outcomes: Mapping[str, Known]) -> None:
        """A job came back."""
        self.progress.ended(job, outcomes)
        alone = [cell for cell in self.search.plan.cells if cell.baseline is None]
        ids = [trial.trial_id for cell in alone for setting in cell.settings for trial in setting.trials]
        if all(self.search.outcomes.settled(trial_id) for trial_id in ids):
            self._warn()

    def teacher_started(self, config: TrialConfig) -> None:
        """A teacher is being prepared."""
        teacher = config.distillation.teacher
        assert teacher is not None
        self.progress.say(f"teacher {teacher.name} ({teacher.prepare}): preparing")

    def teacher_ready(self, config: TrialConfig, record: TeacherRecord) -> None:  # noqa: ARG002
        """A teacher is ready."""
        self.progress.say(
            f"teacher {record.name} ({record.prepare}): prepared in {seconds_text(record.prepare_time)}, "
            f"top-1 {record.eval_top1:.1f} % on validation, {record.test_top1:.1f} % on test (chance {record.chance_top1:.1f} %)"
        )
        self._warn()

    def _warn(self) -> None:
        for line in self.sweep.weak_teachers(self.search.outcomes):
            if line not in self.said:
                self.said.add(line)
                self.progress.say(f"warning: {line}")


def read_outcomes(store: Store, config: SweepConfig) -> Outcomes:
    """What the rows say of every trial, scores signed so that larger is better."""
    sign = 1.0 if config.metric.mode == "max" else -1.0
    scores: dict[str, dict[int, float]] = {}
    epochs = store.epochs()
    if config.metric.name in epochs.columns:
        for trial_id, epoch, value in epochs.select("trial_id", "epoch", config.metric.name).iter_rows():
            scores.setdefault(trial_id, {})[epoch] = sign * value if value is not None else float("-inf")
    rows = store.trials().select("trial_id", "status").iter_rows()
    return Outcomes({trial_id: Known(Status(status), scores.get(trial_id, {})) for trial_id, status in rows})
