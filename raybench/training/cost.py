"""What a plan will cost: two timed steps of each distinct model, on the machine at hand, before anything starts."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from raybench.config.trial import DatasetConfig, ModelConfig, TrialConfig
from raybench.data import ImageData
from raybench.data.splits import split
from raybench.distillation.teacher import TeacherRecord
from raybench.training.batches import views_of
from raybench.training.device import choose_device
from raybench.training.ingredients import load_data, make_model
from raybench.training.preparation import TeacherWanted, teacher_folder
from raybench.training.recorder import Setup
from raybench.training.tasks import Classification

PROBE_IMAGES = 64
PROBE_LARGE = 2
"""Images of a probe of a model that takes more than a fraction of a second for one."""
TRIAL_OVERHEAD_S = 0.2
START_S = 20.0
"""Seconds until Ray and its workers stand and torch is imported in each; rough, as the estimate is."""


@dataclass(frozen=True)
class Speed:
    """Seconds an image."""

    train_s: float
    infer_s: float


class Estimator:
    """Remembers the speed of each model it has timed."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._speeds: dict[str, Speed] = {}

    def trial_s(self, trial: TrialConfig) -> float:
        """Seconds of one trial, its teacher's work left out."""
        data = load_data(trial.dataset, self.setup)
        train = len(split(data.train_labels, trial.dataset.val_size, trial.dataset.train_size).train)
        speed = self._speed(trial.model, trial, data)
        epoch = train * speed.train_s + trial.dataset.val_size * speed.infer_s
        return trial.schedule.epochs * epoch + len(data.test_labels) * speed.infer_s + TRIAL_OVERHEAD_S

    def teacher_s(self, wanted: TeacherWanted) -> float:
        """Seconds to prepare a teacher and its logits on one trial's share; nothing for one that is in the cache."""
        trial, images = wanted.example, wanted.images
        own, teacher = trial.teacher_trial(), trial.canonical().distillation.teacher
        if own is None or teacher is None:
            return 0.0
        data = load_data(trial.dataset, self.setup)
        speed = self._speed(own.model, own, data)
        filled = images * views_of(trial.dataset) * speed.infer_s if trial.distillation.cache == "prefill" else 0.0
        if TeacherRecord.load(teacher_folder(trial)) is not None:
            return filled
        step = {"none": 0.0, "head": speed.infer_s, "finetune": speed.train_s}[teacher.prepare]
        train = len(data.train_labels) - own.dataset.val_size
        return filled + own.schedule.epochs * (train * step + own.dataset.val_size * speed.infer_s)

    def _speed(self, model: ModelConfig, trial: TrialConfig, data: ImageData) -> Speed:
        key = f"{trial.dataset.data_key} {trial.dataset.image_size} {trial.precision} {model.model_dump_json()}"
        if key not in self._speeds:
            self._speeds[key] = _probe(model, trial.dataset, trial.precision, data, self.setup)
        return self._speeds[key]


def _probe(model: ModelConfig, dataset: DatasetConfig, precision: str, data: ImageData, setup: Setup) -> Speed:
    device = choose_device(precision, setup.gpu)
    torch.set_num_threads(setup.threads)
    bare = model.model_copy(update={"weights": "none"})
    task = Classification(make_model(bare, dataset, data, setup), device.device)
    labels = torch.from_numpy(data.train_labels[:PROBE_IMAGES]).to(device.device)
    views = torch.from_numpy(data.train_images[:PROBE_IMAGES].copy()).to(device.device)

    def step(images: int) -> float:
        device.synchronise()
        start = time.perf_counter()
        with device.autocast():
            loss = F.cross_entropy(task.logits(views[:images]).float(), labels[:images])
        loss.backward()
        device.synchronise()
        return (time.perf_counter() - start) / images

    def look(images: int) -> float:
        device.synchronise()
        start = time.perf_counter()
        with torch.no_grad(), device.autocast():
            task.logits(views[:images])
        device.synchronise()
        return (time.perf_counter() - start) / images

    task.train()
    images = PROBE_IMAGES if step(PROBE_LARGE) < 0.2 else PROBE_LARGE
    train_s = min(step(images) for _ in range(2))
    task.module.eval()
    return Speed(train_s, min(look(images) for _ in range(2)))
