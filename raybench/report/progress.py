"""How a running sweep goes: a live table in a terminal, a line a trial elsewhere, read from the trials' own rows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raybench.config.plan import show
from raybench.config.trial import TrialConfig
from raybench.report.events import Events
from raybench.report.sparkline import sparkline
from raybench.report.time_left import TimeLeft
from raybench.results.schema import EpochRow, Status
from raybench.results.store import Store
from raybench.search.cells import Job
from raybench.search.outcomes import Known

STYLES = {"complete": "green", "failed": "red", "diverged": "red", "pruned": "dim", "running": "default"}


READ_EVERY_S = 2.0
"""Between two readings of the epochs of running trials for the time left."""
RUNNING_READ = 16
"""Jobs of which they are read."""


def seconds_text(seconds: float) -> str:
    """A duration as a person says it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def value_text(metric: str, value: float) -> str:
    """A metric's value in a live table, whose heading says the unit."""
    return f"{value:.1f}" if "top" in metric else f"{value:.4g}"


def _over(job: Job, known: Known | None) -> bool:
    """Whether a job did what it was to do with a trial, which is settled or came to its rung."""
    return known is not None and (known.settled or job.rungs[-1] in known.scores)


@dataclass
class Progress:
    """Counts jobs, follows what they cost, and draws."""

    console: Console
    store: Store
    metric: str
    mode: str
    tuned: tuple[str, ...]
    """Dotted keys of what is tuned, shown beside the cell."""
    clock: TimeLeft
    total: int
    settled: int
    width: int = 1
    """Trials at a time."""
    quiet: bool = False
    """Whether only warnings are said."""
    events: Events = field(default_factory=Events)
    running: dict[str, Job] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    best: tuple[float, str] | None = None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.begun = time.monotonic()
        self._read = -float("inf")
        self.live: Live | None = None
        self.recent: list[tuple[TrialConfig, str, Status]] = []
        self.told: list[tuple[float, float]] = []
        """(seconds since the begin, seconds left) as it was said with each trial that ended."""

    def __enter__(self) -> Progress:
        self.begun = time.monotonic()
        if self.console.is_terminal and not self.quiet:
            self.live = Live(get_renderable=self.render, console=self.console, refresh_per_second=2, transient=True)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the live table away and give the cursor back."""
        if self.live:
            self.live.stop()
            self.live = None

    def say(self, text: str, *, warning: bool = False) -> None:
        """A line that stays."""
        if warning or not self.quiet:
            self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def started(self, job: Job) -> None:
        """A job went to a worker."""
        self.clock.started(job)
        for trial in job.trials:
            self.running[trial.trial_id] = job
            self.events.write("started", trial_id=trial.trial_id, cell=job.cell, seed=trial.seed, until=job.rungs[-1])

    def ended(self, job: Job, outcomes: Mapping[str, Known]) -> None:
        """A job came back: trials that are settled now are counted, and told where there is no live table."""
        self.clock.ended(job, self._seconds(job), over=all(_over(job, outcomes.get(t.trial_id)) for t in job.trials))
        for trial in job.trials:
            self.running.pop(trial.trial_id, None)
            known = outcomes.get(trial.trial_id)
            if known is None or not known.settled:
                continue
            self.settled += 1
            self.counts[known.status] = self.counts.get(known.status, 0) + 1
            name = f"{job.cell}{self._settings(trial)}"
            if known.status == Status.COMPLETE and (self.best is None or known.best > self.best[0]):
                self.best = (known.best, name)
            self.recent = [*self.recent[-5:], (trial, name, known.status)]
            left = self.time_left() if self.settled < self.total else 0.0
            self.told.append((time.monotonic() - self.begun, left))
            if self.live is None:
                self.say(self._line(trial, name, known, left))
            self._tell(job, trial, known, left)

    def _tell(self, job: Job, trial: TrialConfig, known: Known, left: float) -> None:
        if self.events.on:
            score = known.best if self.mode == "max" else -known.best
            about = {"trial_id": trial.trial_id, "cell": job.cell, "seed": trial.seed, "status": str(known.status)}
            count = {"settled": self.settled, "total": self.total, "left_s": left}
            self.events.write("ended", **about, metric=self.metric, value=score, **count)

    def _settings(self, trial: TrialConfig) -> str:
        flat = trial.flat()
        return "".join(f" {key.rpartition('.')[2]}={show(flat[key])}" for key in self.tuned if key in flat)

    def _line(self, trial: TrialConfig, name: str, known: Known, left: float) -> str:
        value = f"{self.metric} {self._shown(known.best)}" if known.best > float("-inf") else ""
        rest = f" · {seconds_text(left)} left" if self.settled < self.total else ""
        return f"{self.settled}/{self.total} {known.status} {trial.trial_id} {name} seed={trial.seed}  {value}{rest}"

    def _shown(self, score: float) -> str:
        value = score if self.mode == "max" else -score
        return f"{value:.1f} %" if "top" in self.metric else f"{value:.4g}"

    def time_left(self) -> float:
        """Seconds until the last trial is over."""
        now = time.monotonic()
        if now - self._read > READ_EVERY_S:
            self._read = now
            for job in list(self.running.values())[:RUNNING_READ]:
                for trial, seconds in zip(job.trials, self._seconds(job) or (), strict=False):
                    self.clock.seen(trial, seconds)
        return self.clock.left(self.width)

    def _seconds(self, job: Job) -> list[list[float]] | None:
        """Of each epoch of each trial of a job; none where nobody will ask."""
        if self.quiet and not self.events.on:
            return None
        rows = [self.store.last_epochs(trial.trial_id) for trial in job.trials]
        return [[(row.train_time or 0.0) + (row.eval_time or 0.0) for row in each] for each in rows]

    def render(self) -> RenderableType:
        """The live table: what runs, and the latest that ended."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("trial", "cell", "seed", "epoch", "", self.metric, "state"):
            right = name in ("seed", "epoch", self.metric)
            table.add_column(name, justify="right" if right else "left", no_wrap=True)
        # Copies, since this is drawn by a thread of its own while the driver goes on.
        running = [
            (trial, f"{job.cell}{self._settings(trial)}", Status.RUNNING)
            for trial_id, job in list(self.running.items())
            for trial in job.trials
            if trial.trial_id == trial_id
        ]
        for trial, name, status in [*self.recent, *running[: self.width + 2]]:
            table.add_row(
                trial.trial_id, name, str(trial.seed), *self._curve(trial), Text(status, style=STYLES[status])
            )
        return Group(table, Text(self._summary()))

    def _curve(self, trial: TrialConfig) -> tuple[str, str, str]:
        rows: list[EpochRow] = self.store.last_epochs(trial.trial_id)
        values = [value for row in rows if (value := row.value(self.metric)) is not None]
        if not values:
            return f"0/{trial.schedule.epochs}", "", ""
        return f"{len(rows)}/{trial.schedule.epochs}", sparkline(values), value_text(self.metric, values[-1])

    def _summary(self) -> str:
        bad = self.counts.get("failed", 0) + self.counts.get("diverged", 0)
        parts = [f"done {self.settled}/{self.total}", f"failed {bad}"]
        if self.counts.get("pruned"):
            parts.append(f"pruned {self.counts['pruned']}")
        if self.best:
            parts.append(f"best {self._shown(self.best[0])} ({self.best[1]})")
        parts.append(f"{seconds_text(self.time_left())} left")
        return "  " + " · ".join(parts)
