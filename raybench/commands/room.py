"""Whether there is room for a sweep: what it takes of disk and memory, and what there is."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raybench.config.placement import at_a_time
from raybench.config.trial import TrialConfig
from raybench.results.storage import Folder
from raybench.training.preparation import find_teacher

if TYPE_CHECKING:
    from raybench.commands.sweeping import Sweep
    from raybench.training.cost import Estimator

TRIAL_BYTES = 5_000
"""Of a trial's row, its events and the blocks of its small files, measured on compacted sweeps."""
EPOCH_BYTES = 1_100
"""Of an epoch's row, its TensorBoard events and its line in the log."""
PREDICTION_BYTES = 1
STATE_OF_WEIGHTS = 4
"""Sizes of the weights in a checkpoint, at most: they, the best epoch's, Adam's two moments."""
CHECKPOINTS_KEPT = 2
"""Of each running trial."""
MEMORY_MARGIN = 0.05
"""Of a machine's memory that the system, Ray and the driver need themselves."""


@dataclass(frozen=True)
class Disk:
    """What a run leaves on the disk, MiB."""

    rows: float = 0.0
    """With events and logs."""
    weights: float = 0.0
    predictions: float = 0.0
    running: float = 0.0
    """Checkpoints of running trials, gone at the end."""
    teachers: float = 0.0
    """Weights and logits, in the cache."""
    free: float | None = None
    """Where the results lie; none where nobody can say."""

    @property
    def total(self) -> float:
        """At most, while it runs."""
        return self.rows + self.weights + self.predictions + self.running + self.teachers


@dataclass(frozen=True)
class Memory:
    """What trials take of a node at a time, MiB."""

    trial: float
    """The peak of the largest."""
    trials: int
    """At a time on the node that has the least for each."""
    node: float | None
    """All that this node has; none where nobody has said."""
    of_gpu: bool = False

    @property
    def fits(self) -> bool:
        """Whether there is enough, as far as that is known."""
        return self.node is None or self.trial * self.trials <= self.node * (1 - MEMORY_MARGIN)

    @property
    def fitting(self) -> int:
        """Trials at a time that would fit."""
        return 0 if self.node is None else int(self.node * (1 - MEMORY_MARGIN) // self.trial)


def disk_of(sweep: Sweep, estimator: Estimator, due: Sequence[TrialConfig]) -> Disk:
    """Disk that the due trials take: of whole ones, though a scheduler may prune some."""
    config, models = sweep.config, sweep.checked.students
    share = _wanted_share(sweep)
    weights = [4 * models.get(trial.model.name, 0) / 2**20 for trial in due]
    largest = max(weights, default=0.0)
    kept = {"none": 0, "best": 1, "last": 1 + STATE_OF_WEIGHTS}[config.checkpoints.keep]
    rows = sum(TRIAL_BYTES + EPOCH_BYTES * trial.schedule.epochs for trial in due) / 2**20
    tested = sum(estimator.sizes(trial).test for trial in due if trial.task == "image_classification")
    teachers = 0.0
    for wanted in sweep.teachers(due):
        found = estimator.logits(wanted, 0)
        teachers += found.mib if found else 0.0
        teacher = wanted.example.distillation.teacher
        if teacher is not None and find_teacher(wanted.example) is None:
            teachers += 4 * sweep.checked.teachers.get(teacher.name, 0) / 2**20
    return Disk(
        rows=rows * share,
        weights=sum(weights) * share * kept,
        predictions=tested * share * PREDICTION_BYTES / 2**20,
        running=largest * STATE_OF_WEIGHTS * CHECKPOINTS_KEPT * min(sweep.width, len(due)),
        teachers=teachers,
        free=_free_mib(sweep.folder),
    )


def _wanted_share(sweep: Sweep) -> float:
    """Of the trials of the plan those that will run: `seeds: first` never runs all of them."""
    planned = sum(1 for _ in sweep.plan.trials())
    return min(1.0, sweep.wanted_trials / planned) if planned else 1.0


def _free_mib(folder: Folder) -> float | None:
    if not isinstance(folder, Path):
        return None
    there = next((each for each in (folder, *folder.absolute().parents) if each.exists()), None)
    try:
        return shutil.disk_usage(there).free / 2**20 if there else None
    except OSError:
        return None


def memory_of(sweep: Sweep, estimator: Estimator) -> Memory | None:
    """Memory of trials at a time, on the node that has the least for each; none where nothing was measured."""
    peaks = [speed.memory_mib for _, speed in estimator.used.values() if speed.memory_mib]
    if not peaks:
        return None
    peak, most = max(peaks), sweep.max_concurrent or sweep.width
    if sweep.setup.gpu > 0:
        return Memory(peak, max(1, min(most, int(1 / sweep.share.gpu))), _gpu_mib(sweep), of_gpu=True)
    nodes = [(node.memory_mib, min(most, at_a_time([node], sweep.share))) for node in sweep.machines.nodes]
    known = [(mib, max(1, trials)) for mib, trials in nodes if mib is not None]
    if not known:
        return Memory(peak, min(most, sweep.width), None)
    mib, trials = min(known, key=lambda each: each[0] / each[1])
    return Memory(peak, trials, mib)


def _gpu_mib(sweep: Sweep) -> float | None:
    """Of a GPU of this machine; of a cluster's nobody has said."""
    import torch

    if sweep.address is not None or not torch.cuda.is_available():
        return None
    return float(torch.cuda.get_device_properties(0).total_memory) / 2**20


def lacks(disk: Disk, memory: Memory | None) -> list[str]:
    """What cannot fit, a line each."""
    found = []
    if disk.free is not None and disk.total > disk.free:
        cure = "checkpoints.keep=none keeps no weights, --results ROOT takes another disk"
        found.append(f"warning: disk: about {_mib(disk.total)} are needed, {_mib(disk.free)} are free; {cure}")
    if memory is not None and not memory.fits:
        assert memory.node is not None
        what = f"{memory.trials} trials at a time" if memory.trials > 1 else "a trial"
        cure = f"--max-concurrent {memory.fitting} fits" if memory.fitting else "a smaller batch_size or image_size may"
        if memory.of_gpu:
            cure = "a larger share (resources.gpu) gives each more; resources.gpu=auto measures"
        where = "a GPU" if memory.of_gpu else "a node"
        found.append(
            f"warning: memory: {what} take about {_mib(memory.trial * memory.trials)}, {where} has "
            f"{_mib(memory.node)}; {cure}"
        )
    return found


def memory_text(memory: Memory | None) -> str:
    """What trials take of memory, in words."""
    if memory is None:
        return "memory not known (--probe measures it)"
    of = f" of {_mib(memory.node)}{' of a GPU' if memory.of_gpu else ''}" if memory.node else ""
    return f"memory {memory.trials} x {_mib(memory.trial)}{of}"


def disk_text(disk: Disk) -> str:
    """What it takes of the disk, in words."""
    free = f" of {_mib(disk.free)} free" if disk.free is not None else ""
    parts = {"weights": disk.weights, "running": disk.running, "teachers": disk.teachers}
    of = ", ".join(f"{name} {_mib(mib)}" for name, mib in parts.items() if mib >= 0.05 * disk.total)
    return f"disk {_mib(disk.total)}{free}{f' ({of})' if of else ''}"


def _mib(mib: float) -> str:
    return f"{mib / 1024:,.1f} GiB" if mib >= 1024 else f"{mib:,.1f} MiB" if mib < 10 else f"{mib:,.0f} MiB"
