"""How fast models train and classify, measured side by side on random images, or on random sentences.

What is timed is the model's step on what already lies on the device: no data set, no augmentation, no logging.
A training step is forward, backward and a step of SGD with momentum; classifying is forward in evaluation mode. A text
model's sample is a pair of sentences, and each of its target tokens is a choice among its vocabulary. A codec's loss is
that of rate and distortion.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybench.config.trial import CodecConfig, ModelConfig
from raybench.models import build, build_text
from raybench.models.transformer import PADDING_ID
from raybench.training.compressing import per_image
from raybench.training.device import choose_device, out_of_memory, release_memory

IN_CHANNELS = 3
HALF = (0.5,) * IN_CHANNELS
LEARNING_RATE = 1e-4
"""Small, since labels are random and numbers that grow without bound are slow on a CPU."""
WARM_UP_STEPS = 3
WARM_UP_S = 2.0
"""No further step of warm-up begins after so long; one is always taken."""
REPEAT_S = 0.2
"""A repeat takes as many steps as last about so long, so that neither the clock nor a short pause counts."""


@dataclass(frozen=True)
class Load:
    """A model and what it is asked to do."""

    model: ModelConfig
    num_classes: int
    image_size: int
    """Side in pixels."""
    batch_size: int
    precision: str
    """auto, amp, fp32, tf32, bf16 or fp16."""
    threads: int
    sentences: tuple[int, int, int] | None = None
    """Of a text model: words it reads, words it writes, and tokens a sentence; it has no classes and no image size."""

    def build(self) -> tuple[nn.Module, int]:
        """The model, deterministic under `torch.manual_seed`, and the side of the images it expects, in pixels.

        Raises ConfigError where model or options do not fit.
        """
        if self.sentences is not None:
            source, target, _ = self.sentences
            return build_text(self.model, source_vocabulary=source, target_vocabulary=target), self.image_size
        built = build(
            self.model,
            num_classes=self.num_classes,
            in_channels=IN_CHANNELS,
            image_size=self.image_size,
            mean=HALF,
            std=HALF,
        )
        return built.module, built.image_size

    def example(self, batch_size: int) -> tuple[Tensor, ...]:
        """What the model is fed: images (B, 3, image_size, image_size), or ids of source and target (B, tokens)."""
        if self.sentences is None:
            return (torch.randn(batch_size, IN_CHANNELS, self.image_size, self.image_size),)
        *words, tokens = self.sentences
        return tuple(torch.randint(PADDING_ID + 1, count, (batch_size, tokens)) for count in words)

    def labels(self) -> Tensor:
        """The right answers to a batch: classes (B,), or words (B, tokens)."""
        if self.sentences is None:
            return torch.randint(self.num_classes, (self.batch_size,))
        return torch.randint(self.sentences[1], (self.batch_size, self.sentences[2]))


@dataclass(frozen=True)
class Rate:
    """Images, or pairs of sentences, a second: the median of the repeats, and the slowest and fastest of them."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Speed:
    """Of training and of classifying."""

    train: Rate
    infer: Rate


class Workload:
    """A model on the device, an optimizer, and one random batch."""

    def __init__(self, load: Load) -> None:
        """Raises ConfigError for a model or options that do not fit; torch's errors where memory is lacking."""
        torch.set_num_threads(load.threads)
        torch.manual_seed(0)
        self.device = choose_device(load.precision, gpu=1.0)
        self.device.set_products()
        # As a trial does it (tasks.py): convolutions are faster in this layout, other layers do not mind.
        self.module = load.build()[0].to(self.device.device).to(memory_format=torch.channels_last)
        self.batch_size = load.batch_size
        self.example = tuple(self._placed(part) for part in load.example(load.batch_size))
        self.labels = load.labels().to(self.device.device)
        trainable = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(trainable, lr=LEARNING_RATE, momentum=0.9)
        self.scaler = torch.amp.GradScaler(self.device.device.type, enabled=self.device.precision == "fp16")

    def train(self) -> None:
        """One step of training."""
        self.module.train()
        with self.device.autocast():
            loss = self._loss(self.module(*self.example))
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # Gradients of a model that waits for its next turn would take memory from the others.
        self.optimizer.zero_grad(set_to_none=True)

    @torch.inference_mode()
    def infer(self) -> None:
        """One batch classified."""
        self.module.eval()
        with self.device.autocast():
            self.module(*self.example)

    def _loss(self, answers: Any) -> Tensor:
        if not isinstance(answers, Mapping):
            return F.cross_entropy(answers.float().flatten(0, -2), self.labels.flatten())
        coded: Tensor = per_image(dict(answers), self.example[0], CodecConfig().lmbda)["loss"].mean()
        return coded + self.module.aux_loss()  # type: ignore[no-any-return,operator]

    def _placed(self, part: Tensor) -> Tensor:
        if part.ndim == 4:
            return part.to(self.device.device, memory_format=torch.channels_last)
        return part.to(self.device.device)


class _Stopwatch:
    """Times one kind of step of one workload; warmed up when it is made."""

    def __init__(self, workload: Workload, step: Callable[[], None]) -> None:
        self.workload = workload
        self.step = step
        self.rates: list[float] = []
        begun = time.perf_counter()
        for _ in range(WARM_UP_STEPS):
            last_s = self._seconds(1)
            if time.perf_counter() - begun > WARM_UP_S:
                break
        self.steps = max(1, round(REPEAT_S / last_s))

    def repeat(self) -> None:
        """One more repeat."""
        if self.steps > 1:
            self._seconds(1)  # what another model left in the processor's caches is not this one's cost
        self.rates.append(self.steps * self.workload.batch_size / self._seconds(self.steps))

    @property
    def rate(self) -> Rate:
        return Rate(statistics.median(self.rates), min(self.rates), max(self.rates))

    def _seconds(self, steps: int) -> float:
        self.workload.device.synchronise()
        start = time.perf_counter()
        for _ in range(steps):
            self.step()
        self.workload.device.synchronise()
        return time.perf_counter() - start


def compare_speeds(loads: Mapping[str, Load], repeats: int) -> dict[str, Speed | str]:
    """The speed of each model, or in words why it could not be measured.

    All models lie on the device at once and take turns, each round in another order: what slows the machine for a while
    slows them all.
    """
    watches: dict[str, tuple[_Stopwatch, _Stopwatch]] = {}
    faults: dict[str, str] = {}

    def tried(name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # whatever becomes of one model, the others are measured
            faults[name] = in_words(error)
            watches.pop(name, None)
        if name in faults:
            release_memory()  # out here, since the error holds on to the step's tensors

    def prepare(name: str) -> None:
        workload = Workload(loads[name])
        watches[name] = (_Stopwatch(workload, workload.train), _Stopwatch(workload, workload.infer))

    def take_turn(name: str) -> None:
        for watch in watches[name]:
            watch.repeat()

    for name in loads:
        tried(name, lambda name=name: prepare(name))  # type: ignore[misc]
    for turn in range(repeats):
        names = list(watches)
        first = turn % max(1, len(names))
        for name in names[first:] + names[:first]:
            tried(name, lambda name=name: take_turn(name))  # type: ignore[misc]
    speeds = {name: Speed(train.rate, infer.rate) for name, (train, infer) in watches.items()}
    return {name: speeds[name] if name in speeds else faults[name] for name in loads}


def in_words(error: Exception) -> str:
    """What went wrong while a model was measured, in a line."""
    text = str(error).strip().partition("\n")[0]
    return out_of_memory(error) or (f"{type(error).__name__}: {text}" if text else type(error).__name__)
