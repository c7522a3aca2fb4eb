"""Batches of augmented views, made on the device from images that live there as uint8."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raybench.config.trial import DatasetConfig
from raybench.data import ImageData
from raybench.data.views import draw_slots, epoch_order, render, view_table


@dataclass(frozen=True)
class Batch:
    """Views of some training images."""

    positions: Tensor  # (B,) places in the training subset
    slots: Tensor  # (B,) which of its fixed views each image shows
    views: Tensor  # (B, C, H, W) uint8
    labels: Tensor  # (B,)


class TrainingImages:
    """The training subset: which image shows which view in which epoch is a function of seed, epoch and image alone."""

    def __init__(self, data: ImageData, indices: npt.NDArray[Any], config: DatasetConfig, device: torch.device) -> None:
        self.augment = config.augment
        self.device = device
        self.indices = torch.from_numpy(indices)
        self.images = torch.from_numpy(np.ascontiguousarray(data.train_images[indices])).to(device)
        self.labels = torch.from_numpy(data.train_labels[indices]).to(device)
        self.table = view_table(len(data.train_images), config.augment, config.views)[self.indices]  # (n, K)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def views(self) -> int:
        """Fixed views of each image."""
        return self.table.shape[1]

    def render(self, positions: Tensor, slots: Tensor) -> Tensor:
        """The views (B, C, H, W), uint8, at these positions (B,) and slots (B,)."""
        codes = self.table[positions, slots]
        return render(self.images, positions.to(self.device), codes.to(self.device), self.augment)

    def epoch(self, epoch: int, seed: int, batch_size: int) -> Iterator[Batch]:
        """One pass in the order of (seed, epoch); the last batch may be smaller."""
        order = epoch_order(len(self), epoch, seed)
        for positions in order.split(batch_size):
            slots = draw_slots(self.indices[positions], epoch, seed, self.views)
            yield Batch(positions, slots, self.render(positions, slots), self.labels[positions.to(self.device)])


class PlainImages:
    """Images as they are, for evaluation, in large batches."""

    def __init__(
        self, images: npt.NDArray[Any], labels: npt.NDArray[Any], indices: npt.NDArray[Any] | None, device: torch.device
    ) -> None:
        chosen = images if indices is None else images[indices]
        self.images = torch.from_numpy(np.ascontiguousarray(chosen)).to(device)
        self.labels = torch.from_numpy(np.array(labels if indices is None else labels[indices])).to(device)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(B, C, H, W) uint8 and (B,) labels."""
        yield from zip(self.images.split(batch_size), self.labels.split(batch_size), strict=True)
