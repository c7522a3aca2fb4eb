"""Running what is due of a sweep: teachers, jobs, an orderly end, and the last words."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import signal
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from raybench.commands.endings import EXIT_TROUBLE
from raybench.commands.estimating import Estimate, Truth
from raybench.commands.results_text import nothing_to_do, show_results, trouble
from raybench.commands.sweeping import Sweep, read_outcomes
from raybench.config.changes import resolved
from raybench.config.plugins import DIGITS
from raybench.config.trial import TrialConfig
from raybench.errors import RaybenchError, ResultsError
from raybench.report.progress import Progress, seconds_text
from raybench.report.time_left import TimeLeft
from raybench.results.lock import SweepLock
from raybench.results.manifest import write_manifest
from raybench.results.storage import write_atomically
from raybench.results.tidying import Tidier
from raybench.search.cells import Job
from raybench.search.outcomes import Known
from raybench.search.search import Search, taught

if TYPE_CHECKING:
    from raybench.cluster.guard import Guard
    from raybench.cluster.stopping import Stop
    from raybench.distillation.teacher import TeacherRecord


@dataclass(frozen=True)
class End:
    """How a run ended: by itself, by a signal, by its time budget, or by a fault."""

    signal: int | None = None
    out_of_time: bool = False
    fault: str | None = None


def run_sweep(
    sweep: Sweep, *, command: str, estimate: Estimate, started: datetime, time_budget_s: float | None, verbose: bool
) -> int:
    """Run what is due, then print the table; returns the exit code. Raises RaybenchError when it cannot start."""
    if importlib.util.find_spec("ray") is None:
        raise RaybenchError('a sweep runs on Ray, which is not installed: pip install "ray[default,tune]"')
    from raybench.cluster.session import configure

    configure(sweep.address)  # before anything imports ray
    from raybench.cluster.guard import Guard
    from raybench.cluster.stopping import Stop

    lock = SweepLock(sweep.folder)
    stop = Stop(time_budget_s, still_ours=lock.check, local=sweep.address is None)
    # To the last word: a signal while the table is drawn leaves no half-written end.
    with lock, stop.installed():
        sweep.begin()
        if not sweep.due:  # another driver was quicker
            return nothing_to_do(sweep)
        write_atomically(sweep.folder / "sweep.yaml", resolved(sweep.config))
        about: dict[str, Any] = {"command": command, "started": started.isoformat(), "preset": sweep.config.preset}
        if sweep.setup.plugins:
            about["plugins"] = {plugin.name: plugin.code for plugin in sweep.setup.plugins}
            _keep_plugins(sweep)
        write_manifest(sweep.folder, **about, ended=None, exit_code=None)
        progress = make_progress(sweep, estimate)
        bill = Bill(sweep)

        def last_words(reason: str) -> int:
            """From the guard's thread, when the main thread is caught in Ray."""
            progress.close()
            end = End(signal=stop.number) if stop.number is not None else End(fault=reason)
            code = _say_stopped(sweep, command, end, progress)
            with _noted(sweep):
                write_manifest(sweep.folder, **about, ended=datetime.now(UTC).isoformat(), exit_code=code)
            return code

        with Guard(stop, last_words, local=sweep.address is None) as guard:
            end = _drive(sweep, progress, estimate, stop, guard, verbose)
        if end == End():
            with _noted(sweep):
                sweep.end()
            about["estimate"] = (truth := bill.paid(estimate, progress)).record()
        else:
            truth = None
        code = _finish(sweep, command, end, progress, truth)
        with _noted(sweep):
            counts = sweep.store.trials()["status"].value_counts().to_dicts()
            trials = {row["status"]: row["count"] for row in counts}
            write_manifest(sweep.folder, **about, ended=datetime.now(UTC).isoformat(), exit_code=code, trials=trials)
    return code


def _keep_plugins(sweep: Sweep) -> None:
    """Keep the text of each plugin, so that what a row was made with can be had again."""
    for plugin in sweep.setup.plugins:
        if plugin.source is not None:
            content = plugin.source.encode()
            name = f"{hashlib.sha256(content).hexdigest()[:DIGITS]}-{plugin.name}"
            write_atomically(sweep.folder / "plugins" / name, content)


@contextlib.contextmanager
def _noted(sweep: Sweep) -> Iterator[None]:
    """What cannot be written at the end, on a full disk say, is told; the rows are what matters, and the exit code."""
    try:
        yield
    except (OSError, ResultsError) as error:
        sweep.say(f"note: {error}")


def _drive(sweep: Sweep, progress: Progress, estimate: Estimate, stop: Stop, guard: Guard, verbose: bool) -> End:
    """Ray from its start to its end. Faults of a request that can never be met are raised; others end the run."""
    from raybench.cluster.session import session
    from raybench.cluster.stopping import Stopped

    begun = False

    def room() -> int:
        progress.width = room_now(sweep.share, sweep.max_concurrent)
        return progress.width

    try:
        with session(sweep.address, verbose, guard, preload=takes_all_workers(sweep)), progress:
            stop.take_over()  # Ray has put its own handlers in place by now
            stop.check()
            # Ray's workers import meanwhile, too, so not before Ray runs.
            from raybench.cluster.driver import prepare, room_now, run, slots

            stop.check()
            width = slots(sweep.config.name, sweep.share, sweep.max_concurrent)
            begun = True
            search = sweep.search(width)
            progress.width = width
            progress.clock.follow(search.ahead, estimate.teachers)
            watch = Watch(sweep, progress, search)
            wanted = sweep.teachers(sweep.due_trials())
            if sweep.address is not None:
                sweep.share_data()
            prepare(wanted, sweep.setup, stop, watch, local=sweep.address is None)
            nodes_change = room if sweep.address is not None else None
            run(
                sweep.plan,
                search,
                sweep.setup,
                width=width,
                stop=stop,
                observer=watch,
                room=nodes_change,
                verbose=verbose,
            )
    except Stopped as error:
        return End(signal=error.number, out_of_time=error.number is None)
    except SystemExit:  # what Ray's handler makes of a SIGTERM while Ray starts
        return End(signal=signal.SIGTERM)
    except RaybenchError as error:
        if not begun:
            raise
        return End(fault=str(error))
    except Exception as error:
        # The rows are safe whatever broke here, so the user needs the reason and the way on rather than a traceback.
        log = sweep.folder / "logs" / "driver.txt"
        with _noted(sweep):
            write_atomically(log, traceback.format_exc().encode())
        text = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
        return End(fault=f"{type(error).__name__}: {text} (all of it in {log})")
    return End()


def takes_all_workers(sweep: Sweep) -> bool:
    """Whether each worker that Ray starts by itself on this machine, one a CPU, will train, and on the CPU."""
    if sweep.address is not None or sweep.share.gpu > 0:
        return False
    cpus = sweep.machines.nodes[0].cpu
    return sweep.width >= cpus and len(sweep.due_trials()) >= cpus


def make_progress(sweep: Sweep, estimate: Estimate) -> Progress:
    """What tells how a sweep goes."""
    return Progress(
        console=sweep.console,
        store=sweep.store,
        metric=sweep.config.metric.name,
        mode=sweep.config.metric.mode,
        tuned=tuple(sweep.config.tune.space),
        clock=TimeLeft(estimate.cost),
        total=sweep.wanted_trials,
        settled=sweep.settled_trials,
        quiet=sweep.quiet,
        events=sweep.events,
    )


class Bill:
    """What a run takes."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.begun = time.monotonic()
        self._before = self._device_hours()

    def paid(self, estimate: Estimate, progress: Progress) -> Truth:
        """All since the begin, beside the estimate."""
        teachers = progress.clock.teachers_took_s / 3600
        hours = self._device_hours() - self._before + teachers
        return Truth(estimate, time.monotonic() - self.begun, hours, progress.told)

    def _device_hours(self) -> float:
        rows = self.sweep.store.trials(["device_hours"])
        return float(rows["device_hours"].sum()) if rows.width else 0.0


def _finish(sweep: Sweep, command: str, end: End, progress: Progress, truth: Truth | None) -> int:
    code = 0
    if end.signal is None:
        sweep.outcomes = read_outcomes(sweep.store, sweep.config)
        if truth is not None:
            if not sweep.quiet:
                sweep.say(str(truth))
            sweep.events.write("estimate", **truth.record())
        show_results(sweep)
        code = trouble(sweep)
    return code if end == End() else _say_stopped(sweep, command, end, progress)


def _say_stopped(sweep: Sweep, command: str, end: End, progress: Progress) -> int:
    """Why the run ended before all was done, where its trials are, and how to go on; the exit code."""
    saved = _saved(sweep, progress)
    code = EXIT_TROUBLE if end.signal is None else 128 + end.signal
    what = (
        "stopping:" if end.signal is not None else "time budget spent;" if end.out_of_time else f"stopped: {end.fault};"
    )
    sweep.say(f"{what} {saved}. Go on with:  {command}")
    about = {"signal": end.signal, "out_of_time": end.out_of_time, "fault": end.fault, "running": saved}
    sweep.events.write("stopped", **about, go_on_with=command, exit_code=code)
    return code


def _saved(sweep: Sweep, progress: Progress) -> str:
    from raybench.training.checkpoints import latest_epoch

    epochs = [latest_epoch(sweep.folder / "checkpoints" / trial_id) for trial_id in progress.running]
    count = len(epochs)
    if not count:
        return "no trial was running"
    where = " and ".join(str(epoch) for epoch in epochs) if any(epochs) else "their start"
    return f"{count} running trial{'s' if count != 1 else ''} saved at {'epoch ' if any(epochs) else ''}{where}"


class Watch:
    """Tells progress of jobs and teachers, and says once when a teacher turns out weak."""

    def __init__(self, sweep: Sweep, progress: Progress, search: Search) -> None:
        self.sweep = sweep
        self.progress = progress
        self.search = search
        self.alone = frozenset(cell.label for cell in search.plan.cells if not taught(search.plan, cell))
        """Cells of the student alone."""
        self.said: set[str] = set()
        self.tidier = Tidier(sweep.folder)

    def started(self, job: Job) -> None:
        """A job went to a worker."""
        self.progress.started(job)

    def ended(self, job: Job, outcomes: Mapping[str, Known]) -> None:
        """A job came back."""
        self.progress.ended(job, outcomes)
        self.tidier.settled(sum(known.settled for known in outcomes.values()))
        if job.cell in self.alone and self.search.alone_done:
            self._warn()

    def teacher_started(self, config: TrialConfig) -> None:
        """A teacher is being prepared."""
        teacher = config.distillation.teacher
        assert teacher is not None
        self.progress.clock.teacher_started(config.trial_id)
        self.progress.say(f"teacher {teacher.name} ({teacher.prepare}): preparing")
        self.sweep.events.write("teacher_started", name=teacher.name, prepare=teacher.prepare)

    def teacher_ready(self, config: TrialConfig, record: TeacherRecord, prepared_before: bool) -> None:
        """A teacher is ready."""
        self.progress.clock.teacher_ready(config.trial_id)
        when = "prepared before" if prepared_before else f"prepared in {seconds_text(record.prepare_time)}"
        self.progress.say(
            f"teacher {record.name} ({record.prepare}): {when}, "
            f"top-1 {record.eval_top1:.1f} % on validation, {record.test_top1:.1f} % on test "
            f"(chance {record.chance_top1:.1f} %)"
        )
        about = {"name": record.name, "prepare": record.prepare, "prepared_before": prepared_before}
        self.sweep.events.write(
            "teacher_ready",
            **about,
            eval_top1=record.eval_top1,
            test_top1=record.test_top1,
            seconds=record.prepare_time,
        )
        self._warn()

    def _warn(self) -> None:
        for line in self.sweep.weak_teachers(self.search.outcomes):
            if line not in self.said:
                self.said.add(line)
                self.progress.say(f"warning: {line}", warning=True)
                self.sweep.events.write("warning", text=line)
