"""Batches of augmented views, made on the device from images that live there as uint8."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raybench.config.trial import DatasetConfig
from raybench.data import ImageData
from raybench.data.views import draw_slots, epoch_order, render, view_count, view_table
from raybench.training.metrics import Measures


@dataclass(frozen=True)
class Batch:
    """Views of some training images, all on one device."""

    positions: Tensor  # (B,) places in the training subset
    slots: Tensor  # (B,) which of its fixed views each image shows
    views: Tensor  # (B, C, H, W) uint8
    labels: Tensor  # (B,)
    targets: Tensor | None = None  # (B, classes) probabilities, where images are mixed; labels are then the first ones

    @property
    def weight(self) -> int:
        """How many its losses are means over: images."""
        return len(self.labels)

    def parts(self, most: int | None) -> list[Batch]:
        """The batch in as few parts of at most `most` images as will do, of equal size but for one image."""
        if most is None or len(self.labels) <= most:
            return [self]
        # Equal rather than full: batch normalisation has no statistics of one image left over.
        count = -(-len(self.labels) // most)
        split = [each.tensor_split(count) for each in (self.positions, self.slots, self.views, self.labels)]
        targets = self.targets.tensor_split(count) if self.targets is not None else [None] * count
        return [Batch(*parts) for parts in zip(*split, targets, strict=True)]


class Training(Protocol):
    """What a task trains on. Batches have `labels`, `weight` (what their losses are means over) and `parts(most)`."""

    def __len__(self) -> int:
        """Examples of an epoch."""
        ...

    def steps(self, batch_size: int) -> int:
        """Batches of an epoch."""
        ...

    def epoch(self, epoch: int, seed: int, batch_size: int) -> Iterator[Any]:
        """One pass; a function of its arguments alone."""
        ...

    def measured(self, measures: Measures) -> tuple[str, ...]:
        """The metrics that make sense on these batches."""
        ...


class Examples(Protocol):
    """What a task is evaluated on."""

    def batches(self, batch_size: int) -> Iterator[tuple[Any, Tensor]]:
        """What the task predicts from, and the targets its metrics look at."""
        ...


class TrainingImages:
    """The training subset: which view an image shows in an epoch is a function of seed, epoch and image alone."""

    def __init__(self, data: ImageData, indices: npt.NDArray[Any], config: DatasetConfig, device: torch.device) -> None:
        self.augment = config.augment
        self.device = device
        self.indices = torch.from_numpy(indices)
        self.images = torch.from_numpy(np.ascontiguousarray(data.train_images[indices])).to(device)
        self.labels = torch.from_numpy(data.train_labels[indices]).to(device)
        self._table = _table(len(data.train_images), config.augment, config.views)  # (all training images, views)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def views(self) -> int:
        """Fixed views of each image."""
        return self._table.shape[1]

    def codes(self, positions: Tensor, slots: Tensor) -> Tensor:
        """The view codes (B,) at these positions (B,) and slots (B,), all on the CPU."""
        return self._table[self.indices[positions], slots]

    def render(self, positions: Tensor, slots: Tensor) -> Tensor:
        """The views (B, C, H, W), uint8, at these positions (B,) and slots (B,), both on the CPU."""
        codes = self.codes(positions, slots)
        return render(self.images, positions.to(self.device), codes.to(self.device), self.augment)

    def measured(self, measures: Measures) -> tuple[str, ...]:
        """The metrics of training batches."""
        return measures.training

    def steps(self, batch_size: int) -> int:
        """Batches of one epoch."""
        return len(_sizes(len(self), batch_size))

    def epoch(self, epoch: int, seed: int, batch_size: int) -> Iterator[Batch]:
        """One pass in the order of (seed, epoch).

        The last batch may be smaller; a single image left over joins the batch before it, since batch normalisation
        has no statistics of one value.
        """
        positions = epoch_order(len(self), epoch, seed)
        slots = draw_slots(self.indices[positions], epoch, seed, self.views)
        codes = self.codes(positions, slots)
        # Once an epoch to the device, so that no step waits for a copy.
        positions, slots, codes = (each.to(self.device) for each in (positions, slots, codes))
        labels = self.labels[positions]
        sizes = _sizes(len(self), batch_size)
        for p, s, c, y in zip(*(each.split(sizes) for each in (positions, slots, codes, labels)), strict=True):
            yield Batch(p, s, render(self.images, p, c, self.augment), y)


def _sizes(images: int, batch_size: int) -> list[int]:
    """Images in each batch of an epoch."""
    full, rest = divmod(images, batch_size)
    sizes = [batch_size] * full + [rest] * (rest > 0)
    if rest == 1 and full:
        sizes[-2:] = [batch_size + 1]
    return sizes


def views_of(config: DatasetConfig) -> int:
    """How many fixed views of each image there are."""
    return view_count(config.augment) if config.views == "all" else config.views


@lru_cache(maxsize=4)
def _table(images: int, augment: tuple[str, ...], views: int | Literal["all"]) -> Tensor:
    """The views of every image; kept, since a worker trains many trials on the same data."""
    return view_table(images, augment, views)


class PlainImages:
    """Images as they are, for evaluation, in large batches."""

    def __init__(
        self, images: npt.NDArray[Any], labels: npt.NDArray[Any], indices: npt.NDArray[Any] | None, device: torch.device
    ) -> None:
        chosen = images if indices is None else images[indices]
        # A copy: torch cannot say that memory mapped for reading is not to be written to.
        self.images = torch.from_numpy(np.array(chosen)).to(device)
        self.labels = torch.from_numpy(np.array(labels if indices is None else labels[indices])).to(device)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(B, C, H, W) uint8 and (B,) labels."""
        yield from zip(self.images.split(batch_size), self.labels.split(batch_size), strict=True)
