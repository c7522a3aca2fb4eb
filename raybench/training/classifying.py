"""Images with labels: the student alone, or with a teacher."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybench import data as image_data
from raybench import models
from raybench.config.trial import DatasetConfig, ModelConfig, TrialConfig
from raybench.data import ImageData, Request
from raybench.data.splits import split
from raybench.data.views import endless, view_count, view_table
from raybench.errors import DataError
from raybench.models.macs import count_macs
from raybench.training.batches import Training
from raybench.training.device import Device
from raybench.training.ingredients import Ingredients, gather, load_data, make_model, scored_images
from raybench.training.kinds import Made, Sizes
from raybench.training.latents import EncodedImages, FromLatents
from raybench.training.metrics import CLASSIFICATION
from raybench.training.mixing import MixedImages
from raybench.training.preparation import teacher_logits
from raybench.training.recorder import Setup
from raybench.training.tasks import Classification, Distillation, Task

MEASURES = CLASSIFICATION
PROBE_IMAGES = 64
CODECS = ("bmshj2018_factorized",)
"""Models that code images and classify none."""


def datasets() -> tuple[str, ...]:
    """Every image data set."""
    return image_data.names("image")


def unknown_model(name: str) -> str | None:
    """What is wrong with a model's name; none for one of ours that sees images, and every timm name."""
    if models.exists(name):
        kind = name in models.names("text") or name in CODECS
        return "classifies no images" if kind else None
    near = models.nearest(name)
    return "unknown model" + (f"; nearest: {', '.join(near)}" if near else "") + " (raybench list models)"


def load(dataset: DatasetConfig, data_root: Path | None, download: bool = True) -> ImageData:
    """The images. Raises DataError."""
    return image_data.load(Request.of(dataset), data_root, download=download)


def sizes(dataset: DatasetConfig, data: ImageData) -> Sizes:
    """How many images; raises DataError where there are not so many, or not so many views of each."""
    parts = split(data.train_labels, dataset.val_size, dataset.train_size)
    if dataset.views != "all":
        view_table(1, dataset.augment, dataset.views)
    elif not endless(dataset.augment):
        view_count(dataset.augment)
    return Sizes(len(parts.train), len(parts.val), len(data.test_labels))


def bare_model(model: ModelConfig, dataset: DatasetConfig, data: ImageData, setup: Setup) -> nn.Module:
    """The model without its weights; without memory where it may be large."""
    # Our own take a second at most, and the meta device 3 s to load what it needs.
    with torch.device("cpu" if model.name in models.names() else "meta"):
        return make_model(model.model_copy(update={"weights": "none"}), dataset, data, setup).module


def make(config: TrialConfig, setup: Setup, device: Device) -> Made:
    """Data, split, model and teacher of a trial."""
    ingredients = gather(config, setup, device)
    data, built = ingredients.data, ingredients.built
    task, about_teacher = make_task(config, setup, ingredients, device)
    header = {"mean": built.mean, "std": built.std, "image_size": built.image_size, "classes": data.classes}
    return Made(
        task=task,
        training=_training(config, ingredients),
        validation=ingredients.validation,
        test=scored_images(ingredients, config.dataset, device),
        sizes=Sizes(len(ingredients.split.train), len(ingredients.split.val), len(data.test_labels)),
        macs=lambda: count_macs(built.module, data.train_images.shape[1], built.image_size),
        about={"dataset_variant": data.variant, "dataset_fingerprint": data.fingerprint, **about_teacher},
        header={name: json.dumps(value) for name, value in header.items()},
    )


def _training(config: TrialConfig, ingredients: Ingredients) -> Training:
    if config.latents != "off":
        return EncodedImages(ingredients.training)
    if not config.mix.on:
        return ingredients.training
    return MixedImages(ingredients.training, config.mix, len(ingredients.data.classes), config.label_smoothing)


def make_task(
    config: TrialConfig, setup: Setup, ingredients: Ingredients, device: Device
) -> tuple[Task, dict[str, Any]]:
    """The trial's objective, and what its row says of its teacher."""
    student: Classification
    if config.latents == "off":
        compile_for = config.batch_size if config.compile else None
        student = Classification(
            ingredients.built,
            device.device,
            config.label_smoothing,
            compile_for=compile_for,
            accumulate=config.accumulate,
        )
    else:
        student = FromLatents(config, ingredients, device)
    wanted = config.canonical().distillation
    if wanted.teacher is None:
        return student, {}
    logits, record = teacher_logits(config, setup, ingredients.training, device)
    return Distillation(student, wanted, logits), {
        "teacher_top1": record.eval_top1,
        "teacher_test_top1": record.test_top1,
    }


def probe(config: TrialConfig, setup: Setup, device: Device) -> tuple[Callable[[int], Tensor], nn.Module]:
    """The cross-entropy of so many images, `PROBE_IMAGES` at most, by the model without its weights."""
    data = load_data(config.dataset, setup)
    bare = config.model.model_copy(update={"weights": "none"})
    task = Classification(make_model(bare, config.dataset, data, setup), device.device)
    labels = torch.from_numpy(data.train_labels[:PROBE_IMAGES]).to(device.device)
    views = torch.from_numpy(data.train_images[:PROBE_IMAGES].copy()).to(device.device)
    if not len(labels):
        raise DataError(f"{config.dataset.name}: no training images")

    def loss(images: int) -> Tensor:
        return F.cross_entropy(task.predict(views[:images]).float(), labels[:images])

    return loss, task.module
