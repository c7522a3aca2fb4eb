"""What a trial trains on and with: data, split, images on the device, and a freshly initialised model."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from raybench.config.trial import DatasetConfig, ModelConfig, TrialConfig
from raybench.data import ImageData, Request, load
from raybench.data.splits import Split, split
from raybench.errors import DataError
from raybench.models import BuiltModel, build
from raybench.training.batches import PlainImages, TrainingImages, plain_size
from raybench.training.device import Device
from raybench.training.recorder import Setup


@dataclass(frozen=True)
class Ingredients:
    """What a trial trains on and with."""

    data: ImageData
    split: Split
    built: BuiltModel
    training: TrainingImages
    validation: PlainImages


def load_data(config: DatasetConfig, setup: Setup) -> ImageData:
    """The data set, checked against the fingerprint the plan was made with. Raises DataError when it is another."""
    data = load(Request.of(config), setup.data_root)
    if config.fingerprint and config.fingerprint != data.fingerprint:
        raise DataError(
            f"{config.name}: these are not the data of the plan (fingerprint {data.fingerprint}, planned "
            f"{config.fingerprint}); run the command again to plan on them"
        )
    return data


def make_model(config: ModelConfig, dataset: DatasetConfig, data: ImageData, setup: Setup) -> BuiltModel:
    """The model for a data set, in its size and normalisation unless the model brings its own."""
    size = dataset.image_size or data.train_images.shape[-1]
    weights_root = setup.data_root / "weights" if setup.data_root else None
    return build(
        config,
        num_classes=len(data.classes),
        in_channels=data.train_images.shape[1],
        image_size=size,
        mean=data.mean,
        std=data.std,
        weights_root=weights_root,
    )


def gather(config: TrialConfig, setup: Setup, device: Device) -> Ingredients:
    """Data, split and a freshly initialised model: the same for the same seed."""
    data = load_data(config.dataset, setup)
    parts = split(data.train_labels, config.dataset.val_size, config.dataset.train_size)
    torch.manual_seed(config.seed)
    built = make_model(config.model, config.dataset, data, setup)
    training = TrainingImages(data, parts.train, config.dataset, device.device)
    size = plain_size(config.dataset)
    validation = PlainImages(data.train_images, data.train_labels, parts.val, device.device, size)
    return Ingredients(data, parts, built, training, validation)


def scored_images(ingredients: Ingredients, config: DatasetConfig, device: Device) -> PlainImages:
    """The test set as it is scored."""
    data = ingredients.data
    return PlainImages(data.test_images, data.test_labels, None, device.device, plain_size(config))
