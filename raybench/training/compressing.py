"""Images to be coded: a codec is trained for rate and distortion at once (CI2P-ViT's equations 2 to 7).

loss = lmbda * 255^2 * MSE + bits per pixel; the entropy model's quantiles have a loss and a learning rate of their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from raybench.config.trial import CodecConfig, DatasetConfig, ModelConfig, TrialConfig
from raybench.data import ImageData
from raybench.data.views import normalise
from raybench.models import BuiltModel
from raybench.models.codec import LARGEST_PIXEL, auxiliary_parameters
from raybench.models.macs import count_macs
from raybench.training import classifying
from raybench.training.batches import Batch, PlainImages, plain_size
from raybench.training.classifying import CODECS, PROBE_IMAGES, datasets, load, sizes
from raybench.training.device import Device
from raybench.training.ingredients import gather, load_data, make_model
from raybench.training.kinds import Made, Sizes
from raybench.training.metrics import Measures
from raybench.training.recorder import Setup
from raybench.training.tasks import ParameterGroup, Parts, Quiet

__all__ = ["MEASURES", "bare_model", "datasets", "load", "make", "probe", "sizes", "unknown_model"]


def _each(name: str) -> Callable[[Any, Tensor], Tensor]:
    return lambda output, _: output[name].sum()


MEASURES = Measures({name: _each(name) for name in ("loss", "bpp", "psnr", "mse")}, training=("bpp", "psnr"))
"""bits per pixel, dB and squared error of pixels in [0, 1], means over images; the codec estimates its bits itself."""


class Compression(Quiet):
    """Rate and distortion of a codec: a model that maps images (B, 3, H, W) in [0, 1] to `x_hat` and `likelihoods`."""

    measures = MEASURES

    def __init__(self, built: BuiltModel, config: CodecConfig, device: torch.device) -> None:
        self.module: Any = built.module.to(device).to(memory_format=torch.channels_last)
        self.config = config
        self.image_size = built.image_size

    def train(self) -> None:
        """Training mode: noise stands in for rounding."""
        self.module.train()

    def groups(self) -> list[ParameterGroup]:
        """The codec, and its quantiles at their own rate."""
        quantiles = auxiliary_parameters(self.module)
        apart = {id(parameter) for parameter in quantiles}
        rest = [parameter for parameter in self.module.parameters() if id(parameter) not in apart]
        return [{"params": rest}, {"params": quantiles, "lr": self.config.aux_lr, "weight_decay": 0.0}]

    def predict(self, inputs: Tensor) -> dict[str, Tensor]:
        """uint8 images (B, C, H, W) -> each image's loss, bpp, psnr and mse, (B,)."""
        images = normalise(inputs, (0.0,) * inputs.shape[1], (1.0,) * inputs.shape[1], self.image_size)
        coded = self.module(images)
        return per_image(coded, images, self.config.lmbda)

    def step(self, batch: Batch) -> Parts:
        """`loss` with its parts `bpp` and `mse`, and `aux`, the loss of the quantiles, which only they see."""
        output = self.predict(batch.views)
        loss, aux = output["loss"].mean(), self.module.aux_loss()
        # The value is that of the paper; the gradient of the quantiles comes with it, in parameters of their own.
        whole = loss + aux - aux.detach()
        parts = {name: output[name].mean() for name in ("bpp", "mse")}
        seen = {name: value.detach() for name, value in output.items()}
        return {"loss": whole, **parts, "aux": aux, "output": seen}


def per_image(coded: dict[str, Any], images: Tensor, lmbda: float) -> dict[str, Tensor]:
    """Each image's loss, bpp, psnr (dB) and mse, (B,), of a codec's output for images (B, C, H, W) in [0, 1].

    psnr is that of pixels clipped to [0, 1], at most 100. `rate_distortion` of `models/codec.py` is the same loss of a
    whole batch, bit for bit CompressAI's; its sums are in another order, so neither gives the other's last bits.
    """
    pixels = images.shape[-2] * images.shape[-1]
    bits = [-each.float().log2().flatten(1).sum(1) for each in coded["likelihoods"].values()]
    bpp = torch.stack(bits).sum(0) / pixels
    mse = (coded["x_hat"].float() - images).square().flatten(1).mean(1)
    shown = (coded["x_hat"].float().clamp(0, 1) - images).square().flatten(1).mean(1)
    psnr = -10 * shown.clamp(min=1e-10).log10()
    return {"loss": lmbda * LARGEST_PIXEL**2 * mse + bpp, "bpp": bpp, "psnr": psnr, "mse": mse}


class CodedImages(PlainImages):
    """Images that are their own targets."""

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(B, C, H, W) uint8, twice."""
        for views, _ in super().batches(batch_size):
            yield views, views


def unknown_model(name: str) -> str | None:
    """What is wrong with a model's name; none for a codec."""
    return None if name in CODECS else f"codes no images; those that do: {', '.join(CODECS)}"


def bare_model(model: ModelConfig, dataset: DatasetConfig, data: ImageData, setup: Setup) -> nn.Module:
    """The codec without its weights."""
    return classifying.bare_model(model, dataset, data, setup)


def make(config: TrialConfig, setup: Setup, device: Device) -> Made:
    """Data, split and codec of a trial."""
    ingredients = gather(config, setup, device)
    data, built = ingredients.data, ingredients.built
    header = {"mean": [0.0] * 3, "std": [1.0] * 3, "image_size": built.image_size}
    place, side = device.device, plain_size(config.dataset)
    return Made(
        task=Compression(built, config.codec, place),
        training=ingredients.training,
        validation=CodedImages(data.train_images, data.train_labels, ingredients.split.val, place, side),
        test=CodedImages(data.test_images, data.test_labels, None, place, side),
        sizes=Sizes(len(ingredients.split.train), len(ingredients.split.val), len(data.test_labels)),
        macs=lambda: count_macs(built.module, data.train_images.shape[1], built.image_size),
        about={"dataset_variant": data.variant, "dataset_fingerprint": data.fingerprint},
        header={name: json.dumps(value) for name, value in header.items()},
    )


def probe(config: TrialConfig, setup: Setup, device: Device) -> tuple[Callable[[int], Tensor], nn.Module]:
    """The loss of so many images, `PROBE_IMAGES` at most, by the codec without its weights."""
    data = load_data(config.dataset, setup)
    bare = config.model.model_copy(update={"weights": "none"})
    task = Compression(make_model(bare, config.dataset, data, setup), config.codec, device.device)
    images = torch.from_numpy(data.train_images[:PROBE_IMAGES].copy()).to(device.device)
    return lambda count: task.predict(images[:count])["loss"].mean(), task.module
