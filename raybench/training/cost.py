"""What a plan will cost, before anything starts: from what was measured of each distinct model, or a rough timing.

Measured is what rows of earlier trials tell, or a probe (probing.py). What neither knows is timed here and now: forward
and backward passes of one batch of random weights, without data, optimizer or anything else of a trial.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from raybench.config import plugins
from raybench.config.costs import TrialCost, step_key
from raybench.config.trial import TrialConfig
from raybench.data.views import BLOCK
from raybench.distillation.packing import packing_of
from raybench.errors import ConfigError
from raybench.training.batches import views_of
from raybench.training.device import choose_device, out_of_memory
from raybench.training.ingredients import make_model
from raybench.training.kinds import Sizes, kind_of
from raybench.training.preparation import TeacherWanted, find_teacher, worth_threads
from raybench.training.recorder import Setup
from raybench.training.speed import in_words

PROBE_EXAMPLES = 64
PROBE_LARGE = 2
"""Examples of a probe of a model that takes more than a fraction of a second for one."""
OF_A_MODEL = (
    *(RuntimeError, MemoryError, TypeError, ValueError, AssertionError),
    *(AttributeError, NameError, IndexError, KeyError),
)
"""What a model's own code may raise."""
TRIAL_OVERHEAD_S = 0.2
"""Of a trial beside its epochs and its test, where nothing was measured."""
START_S = 20.0
"""Seconds until Ray and its workers stand and torch is imported in each; rough, as the estimate is."""


HAND_OVER_S = 0.3
"""From the end of a trial to the begin of the next on its worker."""
Source = Literal["rows", "probe", "rough"]


@dataclass(frozen=True)
class Speed:
    """Seconds an example, and where that is known from."""

    train_s: float
    infer_s: float
    source: Source = "rough"
    fixed_s: float | None = None
    """Of a trial beside its epochs, where it was measured."""
    memory_mib: float | None = None
    """Peak of a trial, where it was measured."""
    trials: frozenset[str] = frozenset()
    """Ids of the stored trials that this is from."""


SPREADS: dict[Source, float] = {"rows": 0.15, "probe": 0.2, "rough": 0.5}
"""By how much the estimates of unlike models may be off beside each other."""
Measured = Callable[[TrialConfig], Speed | None]
"""What was measured of trials like this one; none where nothing was."""


@dataclass(frozen=True)
class Logits:
    """What keeping a teacher's logits costs and saves."""

    views: int
    mib: float
    """On disk, of the images that are needed."""
    fill_s: float
    """To compute them all, once."""
    live_s: float
    """What the teacher would take in every step of every trial instead."""


class Estimator:
    """Remembers the speed of each model."""

    def __init__(self, setup: Setup, measured: Measured = lambda _: None) -> None:
        self.setup = setup
        self.measured = measured
        self._speeds: dict[str, Speed] = {}
        self._sizes: dict[str, Sizes] = {}
        self.used: dict[str, tuple[TrialConfig, Speed]] = {}
        """What each kind of trial was estimated from, with one of them."""
        self.used_of_teachers: dict[str, tuple[TrialConfig, Speed]] = {}
        """The same of teachers that cost anything."""

    def cost(self, trial: TrialConfig) -> TrialCost:
        """Of one trial; of its teacher's work what a live one takes in every step."""
        sizes = self.sizes(trial)
        kind = step_key(trial)
        speed = self._speed(trial, kind)
        self.used.setdefault(kind, (trial, speed))
        epoch = sizes.train * speed.train_s + sizes.validation * speed.infer_s
        if speed.source == "rough" and trial.canonical().distillation.cache == "off":
            epoch += sizes.train * self._asked_s(trial)
        if speed.source != "rows":
            epoch /= self.setup.workers  # what they tell each other is not known before they run
        fixed = sizes.test * speed.infer_s + TRIAL_OVERHEAD_S if speed.fixed_s is None else speed.fixed_s
        return TrialCost(kind, epoch, fixed + HAND_OVER_S, SPREADS[speed.source])

    def trial_s(self, trial: TrialConfig) -> float:
        """Seconds of one whole trial."""
        return self.cost(trial).of(trial.schedule.epochs)

    def sizes(self, trial: TrialConfig) -> Sizes:
        """How many examples a trial has."""
        key = f"{trial.task} {trial.dataset.model_dump_json()}"
        if key not in self._sizes:
            kind = kind_of(trial.task)
            self._sizes[key] = kind.sizes(trial.dataset, kind.load(trial.dataset, self.setup.data_root))
        return self._sizes[key]

    def teacher_s(self, wanted: TeacherWanted) -> float:
        """Seconds to prepare a teacher and its logits on one trial's share; nothing for one that is in the cache."""
        trial, images = wanted.example, wanted.images
        own, teacher = trial.teacher_trial(), trial.canonical().distillation.teacher
        if own is None or teacher is None:
            return 0.0
        speed = self._speed(own)
        self.used_of_teachers[step_key(own)] = own, speed
        filled = images * views_of(trial.dataset) * speed.infer_s if trial.distillation.cache != "off" else 0.0
        if find_teacher(trial) is not None:
            return filled
        step = {"none": 0.0, "head": speed.infer_s, "finetune": speed.train_s}[teacher.prepare]
        train = self.sizes(own).train
        return filled + own.schedule.epochs * (train * step + own.dataset.val_size * speed.infer_s)

    def teacher_uses_threads(self, wanted: TeacherWanted) -> bool:
        """Whether it is prepared with all the threads of a node."""
        own = wanted.example.teacher_trial()
        if own is None:
            return False
        data = kind_of(own.task).load(own.dataset, self.setup.data_root)
        bare = own.model.model_copy(update={"weights": "none"})
        return worth_threads(own, make_model(bare, own.dataset, data, self.setup), data)

    def logits(self, wanted: TeacherWanted, trained: int) -> Logits | None:
        """What the cache of a teacher's logits costs and saves where its trials train on `trained` images in all their
        epochs together; none where there is no cache."""
        trial = wanted.example
        teacher = trial.canonical().distillation.teacher
        if teacher is None or trial.distillation.cache == "off":
            return None
        views, asked_s = views_of(trial.dataset), self._asked_s(trial)
        data = kind_of(trial.task).load(trial.dataset, self.setup.data_root)
        width = packing_of(trial.distillation, len(data.classes)).width
        mib = -(-wanted.images // BLOCK) * BLOCK * views * width * 2 / 2**20
        return Logits(views, mib, wanted.images * views * asked_s, trained * asked_s)

    def _asked_s(self, trial: TrialConfig) -> float:
        """Seconds in which a trial's teacher answers for an image; nothing where there is no teacher."""
        own = trial.teacher_trial()
        return 0.0 if own is None else self._speed(own).infer_s

    def _speed(self, trial: TrialConfig, kind: str | None = None) -> Speed:
        kind = kind or step_key(trial)
        if kind not in self._speeds:
            self._speeds[kind] = self.measured(trial) or self._rough(trial)
        return self._speeds[kind]

    def _rough(self, trial: TrialConfig) -> Speed:
        """Of the model alone, whatever the batch, the number of images and the teacher are."""
        parts = (trial.task, trial.dataset.data_key, trial.dataset.image_size, trial.precision)
        key = f"{parts} {trial.model.model_dump_json()}"
        if key not in self._speeds:
            try:
                self._speeds[key] = _probe(trial, self.setup)
            except OF_A_MODEL as error:
                raise _untrainable(trial, error) from error
        return self._speeds[key]


def _untrainable(trial: TrialConfig, error: Exception) -> ConfigError:
    """That two steps of a model cannot be made, as anything may go wrong in a model of the user's own."""
    model, data = trial.model.name, trial.dataset.name
    if (lack := out_of_memory(error)) is not None:
        smaller = f"a smaller model or image_size, or a machine with more, is needed (tried {PROBE_LARGE} images)"
        return ConfigError([f"model {model} on {data}: {lack} in the first step; {smaller}"])
    extra = plugins.find("MODELS", model) or plugins.find("TEXT_MODELS", model)
    why = plugins.blamed(error, extra.root) if extra else in_words(error)
    return ConfigError([f"model {model} on {data}: cannot be trained: {why}"])


def _probe(trial: TrialConfig, setup: Setup) -> Speed:
    device = choose_device(trial.precision, setup.gpu)
    torch.set_num_threads(setup.threads)
    loss, module = kind_of(trial.task).probe(trial, setup, device)

    def step(examples: int) -> float:
        device.synchronise()
        start = time.perf_counter()
        with device.autocast():
            found = loss(examples)
        found.backward()
        device.synchronise()
        return (time.perf_counter() - start) / examples

    def look(examples: int) -> float:
        device.synchronise()
        start = time.perf_counter()
        with torch.no_grad(), device.autocast():
            loss(examples)
        device.synchronise()
        return (time.perf_counter() - start) / examples

    module.train()
    examples = PROBE_EXAMPLES if step(PROBE_LARGE) < 0.2 else PROBE_LARGE
    train_s = min(step(examples) for _ in range(2))
    module.eval()
    return Speed(train_s, min(look(examples) for _ in range(2)))
