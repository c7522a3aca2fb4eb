"""What a trial trains on and with: data, split, images on the device, and a freshly initialised model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from raybench.config.folders import cache_root
from raybench.config.trial import DatasetConfig, ModelConfig, TrialConfig
from raybench.data import ImageData, Request, load
from raybench.data.cache import file_hash
from raybench.data.splits import Split, split
from raybench.errors import DataError, WeightsError
from raybench.models import BuiltModel, build, weight_file
from raybench.results.storage import local_copy
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
    data = load(Request.of(config), setup.data_root, fingerprint=config.fingerprint or None)
    check_planned(config, data.fingerprint)
    return data


def check_planned(config: DatasetConfig, fingerprint: str) -> None:
    """Raise DataError where data of this fingerprint are not those the plan was made with."""
    if config.fingerprint and config.fingerprint != fingerprint:
        raise DataError(
            f"{config.name}: these are not the data of the plan (fingerprint {fingerprint}, planned "
            f"{config.fingerprint}); run the command again to plan on them"
        )


def make_model(config: ModelConfig, dataset: DatasetConfig, data: ImageData, setup: Setup) -> BuiltModel:
    """The model for a data set, in its size and normalisation unless the model brings its own."""
    size = dataset.image_size or data.train_images.shape[-1]
    return build(
        located(config, setup),
        num_classes=len(data.classes),
        in_channels=data.train_images.shape[1],
        image_size=size,
        mean=data.mean,
        std=data.std,
        weights_root=weights_root(setup),
    )


def weights_root(setup: Setup) -> Path | None:
    """Where weight files are looked for; none leaves it to their finder."""
    return setup.weights_root or setup.data_root


def located(config: ModelConfig, setup: Setup) -> ModelConfig:
    """The model with the path of the weights that a trial of another sweep has kept, where it asks for them.

    Raises WeightsError when they are not there, and where a weight file is not the one the plan was made with.
    """
    found = _lent(config, setup)
    if config.digest and (here := _digest(found, setup)) and here != config.digest:
        raise WeightsError(
            f"{config.weights}: not the weights of {config.name} of the plan (SHA-256 {here} here, planned "
            f"{config.digest}); run the command again to plan on them"
        )
    return found


def weights_digest(config: ModelConfig, setup: Setup) -> str:
    """First 12 hex digits of the SHA-256 of a model's weight file; empty from scratch and where timm fetches it.

    Raises WeightsError where it is absent or cannot be read.
    """
    return _digest(_lent(config, setup), setup)


def as_planned(config: TrialConfig, setup: Setup) -> TrialConfig:
    """A trial made by hand, with the identity of its data and its teacher's weight file, as a plan fills them in.

    A file that is not there is left to whoever reads it.
    """
    if not config.dataset.fingerprint:
        dataset = config.dataset.model_copy(update={"fingerprint": load_data(config.dataset, setup).fingerprint})
        config = config.model_copy(update={"dataset": dataset})
    teacher = config.distillation.teacher
    if teacher is None or teacher.digest:
        return config
    try:
        digest = weights_digest(teacher, setup)
    except WeightsError:
        return config
    told = config.distillation.model_copy(update={"teacher": teacher.model_copy(update={"digest": digest})})
    return config.model_copy(update={"distillation": told}) if digest else config


def _digest(found: ModelConfig, setup: Setup) -> str:
    if (path := weight_file(found, weights_root(setup))) is None:
        return ""
    try:
        return file_hash(path, cache_root() / "hashes")[:12]
    except (DataError, OSError) as error:
        raise WeightsError(str(error)) from error


def _lent(config: ModelConfig, setup: Setup) -> ModelConfig:
    if config.of_sweep is None:
        return config
    sweep, trial = config.of_sweep
    if setup.results is None:
        raise WeightsError(f"weights of sweep {sweep}: where its results are is not known here")
    place = (setup.lenders or setup.results.parent) / sweep / "weights" / f"{trial}.safetensors"
    try:
        path = local_copy(place, cache_root() / "weights")
    except FileNotFoundError as error:
        raise WeightsError(
            f"trial {trial} of sweep {sweep} has kept no weights: {place} is not there; run  python -m raybench.sweep "
            f"{sweep}  with checkpoints.keep=best"
        ) from error
    return config.model_copy(update={"weights": str(path)})


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
