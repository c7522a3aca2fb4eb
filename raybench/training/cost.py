"""What a plan will cost: two timed steps of each distinct model, on the machine at hand, before anything starts."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from raybench.config import plugins
from raybench.config.trial import TrialConfig
from raybench.data.views import BLOCK
from raybench.distillation.packing import Packing
from raybench.errors import ConfigError
from raybench.training.batches import views_of
from raybench.training.device import choose_device, out_of_memory
from raybench.training.kinds import kind_of
from raybench.training.preparation import TeacherWanted, find_teacher
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
START_S = 20.0
"""Seconds until Ray and its workers stand and torch is imported in each; rough, as the estimate is."""


@dataclass(frozen=True)
class Speed:
    """Seconds an example."""

    train_s: float
    infer_s: float


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
    """Remembers the speed of each model it has timed."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._speeds: dict[str, Speed] = {}

    def trial_s(self, trial: TrialConfig) -> float:
        """Seconds of one trial; of its teacher's work what a live one takes in every step."""
        kind = kind_of(trial.task)
        sizes = kind.sizes(trial.dataset, kind.load(trial.dataset, self.setup.data_root))
        speed = self._speed(trial)
        epoch = sizes.train * speed.train_s + sizes.validation * speed.infer_s
        if trial.canonical().distillation.cache == "off":
            epoch += sizes.train * self._asked_s(trial)
        return trial.schedule.epochs * epoch + sizes.test * speed.infer_s + TRIAL_OVERHEAD_S

    def teacher_s(self, wanted: TeacherWanted) -> float:
        """Seconds to prepare a teacher and its logits on one trial's share; nothing for one that is in the cache."""
        trial, images = wanted.example, wanted.images
        own, teacher = trial.teacher_trial(), trial.canonical().distillation.teacher
        if own is None or teacher is None:
            return 0.0
        speed = self._speed(own)
        filled = images * views_of(trial.dataset) * speed.infer_s if trial.distillation.cache != "off" else 0.0
        if find_teacher(trial) is not None:
            return filled
        step = {"none": 0.0, "head": speed.infer_s, "finetune": speed.train_s}[teacher.prepare]
        kind = kind_of(own.task)
        train = kind.sizes(own.dataset, kind.load(own.dataset, self.setup.data_root)).train
        return filled + own.schedule.epochs * (train * step + own.dataset.val_size * speed.infer_s)

    def logits(self, wanted: TeacherWanted, trained: int) -> Logits | None:
        """What the cache of a teacher's logits costs and saves where its trials train on `trained` images in all their
        epochs together; none where there is no cache."""
        trial = wanted.example
        teacher = trial.canonical().distillation.teacher
        if teacher is None or trial.distillation.cache == "off":
            return None
        views, asked_s = views_of(trial.dataset), self._asked_s(trial)
        data = kind_of(trial.task).load(trial.dataset, self.setup.data_root)
        width = Packing(len(data.classes)).width
        mib = -(-wanted.images // BLOCK) * BLOCK * views * width * 2 / 2**20
        return Logits(views, mib, wanted.images * views * asked_s, trained * asked_s)

    def _asked_s(self, trial: TrialConfig) -> float:
        """Seconds in which a trial's teacher answers for an image; nothing where there is no teacher."""
        own = trial.teacher_trial()
        return 0.0 if own is None else self._speed(own).infer_s

    def _speed(self, trial: TrialConfig) -> Speed:
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
