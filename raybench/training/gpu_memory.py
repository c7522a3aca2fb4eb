"""What trials take of a GPU: the peak of a few real steps of each, in a process of its own that leaves nothing behind.

python -m raybench.training.gpu_memory        reads trials and folders as JSON, writes a Measured as JSON
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raybench.config.costs import step_key
from raybench.config.placement import CONTEXT_MIB
from raybench.config.trial import DistillationConfig, TrialConfig
from raybench.distillation.packing import packing_of
from raybench.distillation.teacher import Teacher
from raybench.training.batches import EVERYTHING, Examples, Share, Training
from raybench.training.device import Device, choose_device, out_of_memory, release_memory
from raybench.training.footprint import ended_how
from raybench.training.ingredients import load_data, make_model
from raybench.training.kinds import Sizes, kind_of
from raybench.training.loop import Run
from raybench.training.metrics import Measures
from raybench.training.recorder import Setup
from raybench.training.speed import in_words
from raybench.training.tasks import Classification, Distillation, LiveTeacher

STEPS = 2
"""The optimizer makes its state in the first, so the second is the first to have everything at once."""


@dataclass(frozen=True)
class Peak:
    """The most memory that a trial's tensors took, with what the allocator kept between them."""

    what: str
    """Which trial, in words."""
    mib: float


@dataclass(frozen=True)
class Measured:
    """The peaks of trials on one kind of GPU."""

    gpu_mib: float
    """What a process can have of the GPU, its context included."""
    peaks: tuple[Peak, ...] = ()
    fault: str = ""
    """Why nothing was measured, in words."""

    @property
    def largest(self) -> Peak | None:
        """The peak that decides; none where something could not be measured."""
        return None if self.fault else max(self.peaks, key=lambda peak: peak.mib, default=None)

    def dumped(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def loaded(cls, text: str) -> Measured:
        """From JSON."""
        content = json.loads(text)
        return cls(content["gpu_mib"], tuple(Peak(**peak) for peak in content["peaks"]), content["fault"])


def asked(trials: Sequence[TrialConfig], setup: Setup) -> str:
    """What is to be measured, as JSON: each trial once of those whose memory is the same."""
    different = {step_key(trial): trial.model_dump(mode="json") for trial in trials}
    folders = {name: str(path) for name in ("data_root", "weights_root") if (path := getattr(setup, name)) is not None}
    return json.dumps({"trials": list(different.values()), "folders": folders})


def measure_apart(question: str) -> Measured:
    """The answer to what was `asked`, from a process of its own on this machine's first GPU."""
    command = [sys.executable, "-m", "raybench.training.gpu_memory"]
    done = subprocess.run(command, input=question, capture_output=True, text=True, check=False)
    try:
        return Measured.loaded(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return Measured(0.0, fault=ended_how(done))


def answer(question: str) -> Measured:
    """The answer to what was `asked`, in this process, which keeps a context on the GPU."""
    content = json.loads(question)
    folders: dict[str, Any] = {name: Path(path) for name, path in content["folders"].items()}
    setup = Setup(gpu=1.0, **folders)
    gpu_mib, peaks = 0.0, []
    try:
        free, total = torch.cuda.mem_get_info()
        # Our own context is no longer free, and counted with each trial.
        gpu_mib = min(total / 2**20, free / 2**20 + CONTEXT_MIB)
        for each in content["trials"]:
            trial = TrialConfig.model_validate_json(json.dumps(each))
            peaks.append(Peak(_words(trial), _peak_mib(trial, setup, gpu_mib)))
    except Exception as error:  # whoever asked says what it means for the sweep
        return Measured(gpu_mib, fault=in_words(error))
    return Measured(gpu_mib, tuple(peaks))


def _peak_mib(trial: TrialConfig, setup: Setup, gpu_mib: float) -> float:
    """The peak of a trial; all of the GPU where that is too little, so that it has one to itself."""
    release_memory()
    torch.cuda.reset_peak_memory_stats()
    try:
        device = choose_device(trial.precision, setup.gpu)
        device.set_products()
        take_steps(trial, setup, device)
    except Exception as error:
        if out_of_memory(error) is None:
            raise
        return gpu_mib
    return reserved_mib()


def reserved_mib() -> float:
    """The most that torch ever held of the GPU, since this was last reset, MiB."""
    return torch.cuda.max_memory_reserved() / 2**20


def take_steps(trial: TrialConfig, setup: Setup, device: Device) -> None:
    """A few steps of the one loop and a batch of validation, as the trial takes them but with random weights."""
    few_steps(trial, setup, device).run.train_epoch()


@dataclass(frozen=True)
class FewSteps:
    """A trial's run whose epochs have a few steps and a batch of validation."""

    run: Run
    sizes: Sizes
    kept: Tensor | None
    """What else lies on the device meanwhile."""

    @property
    def examples(self) -> float:
        """Of an epoch's steps; batches are equal rather than full."""
        training = self.run.training
        whole = training.training.steps(self.run.config.batch_size) if isinstance(training, Beginning) else 1
        return len(training) * min(STEPS, whole) / whole


def few_steps(trial: TrialConfig, setup: Setup, device: Device) -> FewSteps:
    """A trial with random weights, ready for such epochs."""
    bare = trial.model_copy(
        update={
            "model": trial.model.model_copy(update={"weights": "none"}),
            "distillation": DistillationConfig(),
            "latents": "off",
        }
    )
    made = kind_of(trial.task).make(bare, setup, device)
    task, kept = made.task, None
    wanted = trial.canonical().distillation
    if wanted.teacher is not None and isinstance(task, Classification):
        if wanted.cache == "off":
            task = Distillation(task, wanted, LiveTeacher(_teacher(trial, setup, device)))
        else:
            # The logits of an epoch lie on the device, whatever they say.
            classes = len(load_data(trial.dataset, setup).classes)
            kept = torch.empty(
                made.sizes.train, packing_of(wanted, classes).width, dtype=torch.float16, device=device.device
            )
    run = Run(trial, task, Beginning(made.training), FirstExamples(made.validation), device)
    return FewSteps(run, made.sizes, kept)


def _teacher(trial: TrialConfig, setup: Setup, device: Device) -> Teacher:
    own = trial.teacher_trial()
    assert own is not None
    bare = own.model.model_copy(update={"weights": "none"})
    return Teacher(
        make_model(bare, trial.dataset, load_data(trial.dataset, setup), setup), device.device, device.autocast_dtype
    )


class Beginning:
    """The first batches of an epoch."""

    def __init__(self, training: Training) -> None:
        self.training = training

    def __len__(self) -> int:
        return len(self.training)

    def steps(self, batch_size: int) -> int:
        """Batches of the epoch."""
        return min(STEPS, self.training.steps(batch_size))

    def epoch(self, epoch: int, seed: int, batch_size: int, share: Share = EVERYTHING) -> Iterator[Any]:
        """So many batches."""
        return islice(self.training.epoch(epoch, seed, batch_size, share), STEPS)

    def measured(self, measures: Measures) -> tuple[str, ...]:
        """As in the whole epoch."""
        return self.training.measured(measures)


class FirstExamples:
    """The first batch of what is evaluated on."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def batches(self, batch_size: int) -> Iterator[tuple[Any, Tensor]]:
        """One batch."""
        return islice(self.examples.batches(batch_size), 1)


def _words(trial: TrialConfig) -> str:
    """A trial, as far as its memory goes."""
    teacher = trial.canonical().distillation.teacher
    live = f", teacher {teacher.name} in every step" if teacher and trial.distillation.cache == "off" else ""
    side = f" at {size} px" if (size := trial.model.image_size or trial.dataset.image_size) else ""
    return f"{trial.model.name}{side}, batch {trial.batch_size}{live}"


if __name__ == "__main__":
    print(answer(sys.stdin.read()).dumped())
