"""Batches of augmented views, made on the device from images that live there as uint8."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raybench.config.trial import DatasetConfig
from raybench.data import ImageData
from raybench.data.resampling import centre_crop
from raybench.data.transfer import ahead, over, pinned
from raybench.data.views import (
    BLOCK,
    draw_slots,
    endless,
    epoch_order,
    fixed_codes,
    fresh_codes,
    parsed,
    render,
    turned_codes,
    view_count,
    view_table,
)
from raybench.errors import DataError
from raybench.training.metrics import Measures

NO_END = (
    "augment = {augment} has no end of views, so that a teacher's logits cannot be computed before; set dataset.views "
    "to how many fixed views each image has, or distillation.cache=off for a teacher in every step"
)


@dataclass(frozen=True)
class Share:
    """Which part of every batch a process trains on, of those that train one trial together."""

    rank: int = 0
    of: int = 1

    def cut(self, count: int) -> slice:
        """Its examples of a batch of so many: equal parts but for one example.

        Of a batch with fewer examples than processes each has all of them, since a process without any would have
        nothing to say of its gradient.
        """
        if not self.divides(count):
            return slice(0, count)
        size, more = divmod(count, self.of)
        start = self.rank * size + min(self.rank, more)
        return slice(start, start + size + (self.rank < more))

    def divides(self, count: int) -> bool:
        """Whether a batch of so many is cut at all."""
        return 1 < self.of <= count


EVERYTHING = Share()


@dataclass(frozen=True)
class Batch:
    """Views of some training images, all on one device."""

    positions: Tensor  # (B,) places in the training subset
    slots: Tensor  # (B,) which of its fixed views each image shows; 0 where every epoch has a fresh one
    views: Tensor  # (B, C, H, W) uint8
    labels: Tensor  # (B,)
    targets: Tensor | None = None  # (B, classes) probabilities, where images are mixed; labels are then the first ones
    shared: int = 0
    """Weight of the batch of which this is one process's share; 0 where it is whole."""

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

    def cut(self, share: Share) -> Batch:
        """A process's share of this batch, which is whole."""
        if not share.divides(len(self.labels)):
            return self
        mine = share.cut(len(self.labels))
        targets = None if self.targets is None else self.targets[mine]
        return Batch(
            self.positions[mine], self.slots[mine], self.views[mine], self.labels[mine], targets, shared=self.weight
        )


class Training(Protocol):
    """What a task trains on.

    Batches have `labels`, `weight` (what their losses are means over), `shared` (the weight of the batch of which this
    is a share, or 0) and `parts(most)`.
    """

    def __len__(self) -> int:
        """Examples of an epoch."""
        ...

    def steps(self, batch_size: int) -> int:
        """Batches of an epoch."""
        ...

    def epoch(self, epoch: int, seed: int, batch_size: int, share: Share = EVERYTHING) -> Iterator[Any]:
        """One pass, of which a process sees its share of every batch; a function of its arguments alone."""
        ...

    def measured(self, measures: Measures) -> tuple[str, ...]:
        """The metrics that make sense on these batches."""
        ...


class Examples(Protocol):
    """What a task is evaluated on."""

    def batches(self, batch_size: int) -> Iterator[tuple[Any, Tensor]]:
        """What the task predicts from, and the targets its metrics look at."""
        ...


class Kept:
    """Images of a part: on a GPU where there is room, else where they are mapped from, which processes share."""

    def __init__(self, images: npt.NDArray[Any], indices: npt.NDArray[Any] | None, device: torch.device) -> None:
        """images: uint8 (N, C, H, W). indices: (n,) which of them; none means all."""
        self.device = device
        count = len(images) if indices is None else len(indices)
        if device.type != "cpu" and count * images[0].nbytes <= _room(device):
            chosen = images if indices is None else np.ascontiguousarray(images[indices])
            self.images = torch.from_numpy(chosen).to(device)
            self._rows = None
        else:
            self.images = torch.from_numpy(images)
            self._rows = None if indices is None else torch.from_numpy(indices)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Images on the device, (N, C, H, W), and where in them those at the positions (B,) are."""
        return self.placed(self.ready(positions))

    def ready(self, positions: Tensor) -> Tensor:
        """What of `at` needs no device: the images (B, C, H, W) in pinned memory; on the device their places (B,)."""
        if self.on_device:
            return self._in_images(positions)
        chosen = self.images.index_select(0, self._in_images(positions.cpu()))
        return pinned(chosen, self.device)

    def placed(self, ready: Tensor) -> tuple[Tensor, Tensor]:
        """As `at`, of what is `ready`."""
        if self.on_device:
            return self.images, over(ready, self.device)
        return over(ready, self.device), torch.arange(len(ready), device=self.device)

    def run(self, start: int, end: int) -> Tensor:
        """Images (end - start, C, H, W) on the device, from one position to before another."""
        if self._rows is None and self.on_device:
            return self.images[start:end]
        images, places = self.at(torch.arange(start, end))
        return images.index_select(0, places)

    @property
    def on_device(self) -> bool:
        """Whether the images lie there and not in the host's memory."""
        return self.images.device.type == self.device.type

    def _in_images(self, positions: Tensor) -> Tensor:
        return positions if self._rows is None else self._rows[positions]


def _room(device: torch.device) -> int:
    """Bytes that the images of a part may take on a GPU: half of what is free, or of what this process may yet take."""
    free, total = torch.cuda.mem_get_info(device)
    share = torch.cuda.get_per_process_memory_fraction(device) * total - torch.cuda.memory_reserved(device)
    return max(0, int(min(free, share))) // 2


class TrainingImages:
    """The training subset. Which view an image shows is a function of seed, epoch, image and the block of its position:
    the same in every batch, and in every train size, since a smaller one is a prefix of a larger one."""

    def __init__(self, data: ImageData, indices: npt.NDArray[Any], config: DatasetConfig, device: torch.device) -> None:
        self.augment = config.augment
        self.device = device
        self.indices = torch.from_numpy(indices)
        self.labels = torch.from_numpy(data.train_labels[indices]).to(device)
        self.size = view_size(config)
        self._kept = Kept(data.train_images, indices, device)
        self._mean, self._std = data.mean, data.std
        self._views = config.views
        self._endless = endless(config.augment)
        self._table: Tensor | None = None
        if not self._endless and config.views != "all":
            self._table = _table(len(data.train_images), config.augment, config.views)  # (all training images, views)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def views(self) -> int:
        """Fixed views of each image. Raises DataError where there is no end of them."""
        return views_of_all(self.augment) if self._views == "all" else self._views

    def codes(self, positions: Tensor, slots: Tensor) -> Tensor:
        """The codes (B,) of the fixed views at these positions (B,) and slots (B,), all on the CPU."""
        if self._table is not None:
            return self._table[self.indices[positions], slots]
        if self._views == "all":
            views_of_all(self.augment)
            return turned_codes(self.indices[positions], slots, self.augment)
        return fixed_codes(self.indices[positions], slots, self.augment)

    def render(self, positions: Tensor, slots: Tensor) -> Tensor:
        """The fixed views (B, C, H, W), uint8, at these positions (B,) and slots (B,), both on the CPU."""
        return self._render(self._kept.ready(positions), self.codes(positions, slots))

    def _render(self, ready: Tensor, codes: Tensor) -> Tensor:
        """The views of images that are `ready` for the device."""
        images, places = self._kept.placed(ready)
        # Numbered views are made wholly on the device; what is drawn from the code of an endless one is on the CPU.
        codes = codes if self._endless else over(codes, self.device)
        return render(images, places, codes, self.augment, size=self.size, mean=self._mean, std=self._std)

    def block_slots(self, epoch: int, seed: int) -> Tensor:
        """The slot (blocks,) that the images of each block show in an epoch."""
        return draw_slots(torch.arange(-(-len(self) // BLOCK)), epoch, seed, self.views)

    def _drawn(self, positions: Tensor, epoch: int, seed: int) -> tuple[Tensor, Tensor]:
        """Slots and codes (B,) of the views that the images at these positions show in an epoch."""
        if self._endless and self._views == "all":
            return torch.zeros_like(positions), fresh_codes(self.indices[positions], epoch, seed)
        slots = self.block_slots(epoch, seed)[positions // BLOCK]
        return slots, self.codes(positions, slots)

    def measured(self, measures: Measures) -> tuple[str, ...]:
        """The metrics of training batches."""
        return measures.training

    def steps(self, batch_size: int) -> int:
        """Batches of one epoch."""
        return len(_sizes(len(self), batch_size))

    def epoch(
        self, epoch: int, seed: int, batch_size: int, share: Share = EVERYTHING, *, rendered: bool = True
    ) -> Iterator[Batch]:
        """One pass in the order of (seed, epoch); where not `rendered`, without the views themselves.

        The last batch may be smaller; a single image left over joins the batch before it, since batch normalisation
        has no statistics of one value.
        """
        positions = epoch_order(len(self), epoch, seed)
        slots, codes = self._drawn(positions, epoch, seed)
        # Once an epoch to the device, so that no step waits for a copy. Where the images stay in the host's memory,
        # what chooses them stays too: to ask the device for it would wait for all that it has still to do.
        there, slots = over(positions, self.device), over(slots, self.device)
        chosen = there if self._kept.on_device else positions
        codes = codes if self._endless else over(codes, self.device)
        labels = self.labels[there]
        sizes = _sizes(len(self), batch_size)
        # Cut before they are rendered: no process makes the views that others train on.
        mine = (self._kept.ready(each[share.cut(len(each))]) for each in chosen.split(sizes) if rendered)
        # Images from the host's memory are gathered while the device is at the batch before.
        ready = mine if self._kept.on_device else ahead(mine)
        for whole in zip(*(each.split(sizes) for each in (there, slots, codes, labels)), strict=True):
            count = len(whole[0])
            p, s, c, y = (each[share.cut(count)] for each in whole)
            views = self._render(next(ready), c) if rendered else y.new_empty((len(y), 0), dtype=torch.uint8)
            yield Batch(p, s, views, y, shared=count if share.divides(count) else 0)


def _sizes(images: int, batch_size: int) -> list[int]:
    """Images in each batch of an epoch."""
    full, rest = divmod(images, batch_size)
    sizes = [batch_size] * full + [rest] * (rest > 0)
    if rest == 1 and full:
        sizes[-2:] = [batch_size + 1]
    return sizes


def views_of(config: DatasetConfig) -> int:
    """How many fixed views of each image there are. Raises DataError where there is no end of them."""
    return views_of_all(config.augment) if config.views == "all" else config.views


def views_of_all(augment: tuple[str, ...]) -> int:
    """How many views of each image an augmentation allows. Raises DataError where there is no end of them."""
    if endless(augment):
        raise DataError(NO_END.format(augment=list(augment)))
    return view_count(augment)


def view_size(config: DatasetConfig) -> int | None:
    """Side in pixels of a view, where views are cut from larger images; none keeps the images' own.

    Images that are not cut are resized to `image_size` as a model takes them in.
    """
    cut = config.path is not None or parsed(config.augment).smallest_crop is not None
    return config.image_size if cut else None


def plain_size(config: DatasetConfig) -> int | None:
    """Side in pixels of the square in the middle of a photo, for evaluation; none keeps images as they are."""
    return config.image_size if config.path is not None else None


@lru_cache(maxsize=4)
def _table(images: int, augment: tuple[str, ...], views: int) -> Tensor:
    """The views of every image; kept, since a worker trains many trials on the same data."""
    return view_table(images, augment, views)


class PlainImages:
    """Images as they are, for evaluation, in large batches; of photos the square in the middle."""

    def __init__(
        self,
        images: npt.NDArray[Any],
        labels: npt.NDArray[Any],
        indices: npt.NDArray[Any] | None,
        device: torch.device,
        size: int | None = None,
    ) -> None:
        """size: side in pixels of the square (`plain_size`); none keeps the images whole."""
        self.size = size
        self._kept = Kept(images, indices, device)
        self.labels = torch.from_numpy(np.array(labels if indices is None else labels[indices])).to(device)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(B, C, H, W) uint8 and (B,) labels."""
        start = 0
        for labels in self.labels.split(batch_size):
            views = self._kept.run(start, start + len(labels))
            start += len(labels)
            yield views if self.size is None else centre_crop(views, self.size).contiguous(), labels
