"""The code of a frozen encoder, computed once for all trials: what is trained begins behind it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from raybench.config.folders import cache_root
from raybench.config.trial import TrialConfig
from raybench.data.splits import split
from raybench.data.views import normalise
from raybench.distillation.cache import Rows, ViewCache, cache_key
from raybench.distillation.packing import Halves
from raybench.models.ci2p import CI2P
from raybench.training.batches import EVERYTHING, Batch, Share, TrainingImages
from raybench.training.device import Device, where_computed, workers
from raybench.training.ingredients import Ingredients
from raybench.training.metrics import Measures
from raybench.training.phases import Phases
from raybench.training.tasks import Classification

AT_ONCE = 32
"""Images in a forward pass of the encoder, whose maps are large; part of what decides the last bits."""


def has_frozen_encoder(module: nn.Module) -> bool:
    """Whether a model has code to keep."""
    return isinstance(module, CI2P) and module.frozen


class EncodedImages:
    """The training images without their views, of which only the code is asked."""

    def __init__(self, training: TrainingImages) -> None:
        self.training = training

    def __len__(self) -> int:
        return len(self.training)

    def measured(self, measures: Measures) -> tuple[str, ...]:
        """As with their views."""
        return self.training.measured(measures)

    def steps(self, batch_size: int) -> int:
        """Batches of one epoch."""
        return self.training.steps(batch_size)

    def epoch(self, epoch: int, seed: int, batch_size: int, share: Share = EVERYTHING) -> Iterator[Batch]:
        """One pass in the order of (seed, epoch)."""
        return self.training.epoch(epoch, seed, batch_size, share, rendered=False)


class FromLatents(Classification):
    """Classification that trains on kept code, and answers for images as the whole model does."""

    def __init__(self, config: TrialConfig, ingredients: Ingredients, device: Device) -> None:
        """The encoder of the model must be frozen (`has_frozen_encoder`)."""
        compile_for = config.batch_size if config.compile else None
        super().__init__(
            ingredients.built,
            device.device,
            config.label_smoothing,
            compile_for=compile_for,
            accumulate=config.accumulate,
        )
        assert isinstance(self.module, CI2P)
        self._model = self.module
        self._training = ingredients.training
        self._everything = _all_images(config, ingredients, device)
        self._device = device
        self.cache = _cache(config, ingredients, self._everything, self._model, device)
        self._rows: Rows | None = None
        self.phases = Phases(torch.device("cpu"))  # until a loop brings its own
        self.cache.verify(self._code, where_computed(device))

    def begin(self, epoch: int, seed: int, check: Callable[[], None]) -> None:
        """Have the code of the views of an epoch, computed now where it is missing."""
        slots = self._training.block_slots(epoch, seed)
        with self.phases.within("teacher"):
            device = self._device
            self._rows, computed = self.cache.take(
                len(self._training), self._code, slots, device.device, check, workers(device)
            )
            if computed:
                self.cache.mark_verified(where_computed(device))

    def inputs(self, batch: Batch) -> Tensor:
        """The code (B, M, h, w)."""
        assert self._rows is not None, "begin() comes first"
        return self._rows(batch.positions)

    def answers(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, classes) of the code, twice."""
        output = self._model.decide(inputs)
        return output, output

    @torch.no_grad()
    def _code(self, positions: Tensor, slot: int) -> Tensor:
        """The code (B, M, h, w) of one view of these images."""
        found = []
        for part in positions.split(AT_ONCE):
            views = self._everything.render(part, torch.full_like(part, slot))
            with self._device.autocast():
                found.append(self._model.encode(normalise(views, self.mean, self.std, self.image_size)).float().cpu())
        return torch.cat(found)


def _all_images(config: TrialConfig, ingredients: Ingredients, device: Device) -> TrainingImages:
    """The whole training part, of which this trial's images are the first: a block at their end is filled whole."""
    data = ingredients.data
    parts = split(data.train_labels, config.dataset.val_size, "all")
    return TrainingImages(data, parts.train, config.dataset, device.device)


def _cache(
    config: TrialConfig, ingredients: Ingredients, everything: TrainingImages, model: CI2P, device: Device
) -> ViewCache:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.encoder.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    built, dataset = ingredients.built, config.dataset
    key = cache_key(
        encoder=digest.hexdigest(),
        data=ingredients.data.fingerprint,
        val_size=dataset.val_size,
        augment=dataset.augment,
        views=everything.views,
        image_size=dataset.image_size,
        model_size=built.image_size,
        mean=built.mean,
        std=built.std,
        at_once=AT_ONCE,
        precision=device.precision,
        device=device.device.type,
    )
    shape = tuple(model.encode(torch.zeros(1, 3, built.image_size, built.image_size, device=device.device)).shape[1:])
    return ViewCache(cache_root() / "latents" / key, len(everything), everything.views, Halves(shape), "encoder's code")
