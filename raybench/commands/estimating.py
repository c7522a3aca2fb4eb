"""What a sweep will cost before it is paid for, and beside that at its end what it did cost."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from raybench.commands.room import Disk, Memory, disk_of, disk_text, lacks, memory_of, memory_text
from raybench.commands.stored import Stored
from raybench.commands.sweeping import Sweep
from raybench.commands.teachers import by_teacher
from raybench.config.costs import TrialCost, step_key
from raybench.config.price import Price
from raybench.config.trial import TrialConfig
from raybench.errors import RaybenchError
from raybench.report.progress import seconds_text
from raybench.report.time_left import WORKER_S, TimeLeft
from raybench.training.cost import START_S, Estimator, Speed
from raybench.training.probing import Probed, probe_apart, question
from raybench.training.recorder import device_share

KIND_SHOWN = 3
LEFT_KEPT = 100
"""Of what was said to be left while it ran, about so many points are kept."""


@dataclass(frozen=True)
class Estimate:
    """What is due costs about so much."""

    cost: Callable[[TrialConfig], TrialCost]
    wall_s: float = 0.0
    device_hours: float = 0.0
    teachers: dict[str, float] = field(default_factory=dict)
    """Example trial of each teacher -> seconds to prepare it with its logits."""
    logits: tuple[str, ...] = ()
    """A line for each teacher whose logits are kept: their size, and what that saves."""
    sources: tuple[str, ...] = ()
    """Where it comes from, in words."""
    disk: Disk = field(default_factory=Disk)
    memory: Memory | None = None
    """None where nothing was measured."""
    price: Price | None = None

    def record(self) -> dict[str, Any]:
        """As it is kept of a run."""
        return {
            "wall_s": self.wall_s,
            "device_hours": self.device_hours,
            "sources": list(self.sources),
            "disk_mib": self.disk.total,
            "memory_mib": self.memory.trial if self.memory else None,
            "cost": self.price.of(self.device_hours) if self.price else None,
        }


def estimate(sweep: Sweep, *, probe: bool = False, price: Price | None = None) -> Estimate:
    """From stored rows; what they do not know from a probe, where one is asked for, else from a rough timing."""
    probes = Probes(sweep) if probe else None

    def measured(trial: TrialConfig) -> Speed | None:
        return stored.speed(trial) or (probes.speed(trial) if probes else None)

    estimator = Estimator(sweep.setup, measured)
    stored = Stored(sweep.folder, sweep.setup, sweep.machines, estimator.sizes)
    due = sweep.due_trials()
    teachers = _teachers(sweep, estimator, due)
    clock = TimeLeft(estimator.cost)
    clock.follow(sweep.search(1).ahead, teachers)
    wall_s = clock.left(sweep.width) + START_S - WORKER_S
    work_s = clock.work()
    return Estimate(
        estimator.cost,
        wall_s=wall_s,
        device_hours=(sum(teachers.values()) + work_s * device_share(sweep.setup)) / 3600,
        teachers=teachers,
        logits=tuple(line for trials in by_teacher(due) for line in _logits(sweep, estimator, trials)),
        sources=_sources(estimator),
        disk=disk_of(sweep, estimator, due),
        memory=memory_of(sweep, estimator),
        price=price,
    )


class Probes:
    """A few real steps of each distinct model, each in a process of its own where trials will run."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self._known: dict[str, Speed] = {}

    def speed(self, trial: TrialConfig) -> Speed:
        """Of this trial's model, data, batch and kind of distillation. Raises RaybenchError where it cannot be run."""
        key = step_key(trial, without=("train_size",))
        if key not in self._known:
            self.sweep.say(f"probe: {trial.model.name}, batch {trial.batch_size}")
            found = self._probe(question(trial, self.sweep.setup))
            if found.fault:
                raise RaybenchError(f"probe of model {trial.model.name} on {trial.dataset.name}: {found.fault}")
            self._known[key] = Speed(found.train_s, found.infer_s, "probe", memory_mib=found.memory_mib)
        return self._known[key]

    def _probe(self, asked: str) -> Probed:
        if self.sweep.address is None:
            return probe_apart(asked)
        from raybench.cluster.measuring import probe_at

        share = self.sweep.share
        return probe_at(self.sweep.address, asked, share.cpu, share.gpu, share.kind)


def _teachers(sweep: Sweep, estimator: Estimator, due: Sequence[TrialConfig]) -> dict[str, float]:
    found = {}
    for wanted in sweep.teachers(due):
        seconds = estimator.teacher_s(wanted)
        if sweep.setup.gpu == 0 and estimator.teacher_uses_threads(wanted):
            # A teacher has the whole node; its speed is that on one trial's share.
            seconds /= max(1, (os.cpu_count() or 1) // sweep.setup.threads)
        found[wanted.example.trial_id] = seconds
    return found


def _logits(sweep: Sweep, estimator: Estimator, trials: Sequence[TrialConfig]) -> list[str]:
    """How large the logits of a teacher are, and what they save; nothing of a live one."""
    wanted = sweep.wanted(trials)
    found = estimator.logits(wanted, sum(sweep.train_images(trial) * trial.schedule.epochs for trial in trials))
    teacher = wanted.example.distillation.teacher
    if found is None or teacher is None:
        return []
    how = "computed once" if wanted.example.distillation.cache == "prefill" else "computed as epochs show them, once"
    count = f"{len(trials)} trial{'s' if len(trials) != 1 else ''}"
    return [
        f"logits of {teacher.name}: {wanted.images:,} images x {found.views} views, {found.mib:,.1f} MiB, {how} "
        f"(about {seconds_text(found.fill_s)}) for {count}; a teacher in every step: about {seconds_text(found.live_s)}"
    ]


def _sources(estimator: Estimator) -> tuple[str, ...]:
    """Where the speeds come from: `36 stored trials (resnet8)`."""
    names: dict[str, dict[str, None]] = {}
    stored: set[str] = set()
    for trial, speed in (*estimator.used.values(), *estimator.used_of_teachers.values()):
        names.setdefault(speed.source, {})[trial.model.name] = None
        stored |= speed.trials
    words = {
        "rows": f"{len(stored)} stored trial{'s' if len(stored) != 1 else ''} on this hardware",
        "probe": "a probe of a few steps",
        "rough": "a rough timing of one batch (--probe takes real steps)",
    }
    return tuple(f"{words[source]}: {_listed(list(found))}" for source, found in names.items())


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - KIND_SHOWN} more" if len(names) > KIND_SHOWN else ""
    return ", ".join(names[:KIND_SHOWN]) + more


def estimate_lines(cost: Estimate) -> list[str]:
    """Below the plan: where the estimate comes from, disk, memory and money; then what does not fit."""
    parts = [disk_text(cost.disk), memory_text(cost.memory)]
    if cost.price:
        money = f"{cost.price.of(cost.device_hours):.2f} at {cost.price.per_hour:g} a device-hour"
        parts.append(f"cost {money} ({cost.price.source})")
    lines = [f"      estimated from {'; '.join(cost.sources)}"] if cost.sources else []
    return [*lines, f"      {' · '.join(parts)}", *lacks(cost.disk, cost.memory)]


@dataclass(frozen=True)
class Truth:
    """An estimate beside what the run took."""

    estimate: Estimate
    took_s: float
    device_hours: float
    left: Sequence[tuple[float, float]] = ()
    """(seconds since the begin of the trials' part, seconds left) as was said while it ran."""

    @property
    def ratio(self) -> float | None:
        """How many times as long as estimated it took."""
        return self.took_s / self.estimate.wall_s if self.estimate.wall_s > 0 else None

    def record(self) -> dict[str, Any]:
        """As the manifest keeps it."""
        every = max(1, len(self.left) // LEFT_KEPT)
        left = [[round(at, 1), round(value, 1)] for at, value in self.left[::every]]
        took = {"took_s": self.took_s, "took_device_hours": self.device_hours, "ratio": self.ratio}
        return {**self.estimate.record(), **took, "left": left}

    def __str__(self) -> str:
        ratio = f" ({self.ratio:.2f} times as long)" if self.ratio is not None else ""
        return (
            f"estimated {seconds_text(self.estimate.wall_s)} and {self.estimate.device_hours:.2g} device-hours, took "
            f"{seconds_text(self.took_s)}{ratio} and {self.device_hours:.2g}"
        )
