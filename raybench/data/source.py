"""What a data set is: where it comes from, and what it holds once decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from raybench.config.trial import DatasetConfig
from raybench.errors import DataError

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Request:
    """Which data set is asked for, and where and how its images are read.

    A data set names in `OPTIONS` which of the fields below it takes.
    """

    name: str
    path: str | None = None
    """A file, folder or pattern, below the data root or absolute."""
    test_path: str | None = None
    label_column: str | None = None
    decode_size: int | None = None
    """Side in pixels of the squares that are kept of photos; none takes `image_size`."""
    image_size: int | None = None
    """Side in pixels of what a model sees; said for the sake of `decode_size` alone."""

    @classmethod
    def of(cls, config: DatasetConfig) -> Request:
        """What a trial's configuration asks for."""
        return cls(**{field.name: getattr(config, field.name) for field in fields(cls)})

    @property
    def options(self) -> dict[str, str | int]:
        """The options that were set."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: value for name, value in given.items() if name not in ("name", "image_size") and value is not None
        }

    @property
    def side(self) -> int:
        """Side in pixels of the kept squares. Raises DataError when neither size is said."""
        if (side := self.decode_size or self.image_size) is None:
            raise DataError(
                f"{self.name}: photos have no size of their own; set dataset.image_size (pixels the model sees) and, "
                "where crops are to come from more, dataset.decode_size"
            )
        return side

    def __str__(self) -> str:
        return " ".join(map(str, (self.name, *self.options.values())))


@dataclass(frozen=True, eq=False)
class Decoded:
    """The content of a data set: images uint8 (N, C, H, W), labels int64 (N,), and the variant.

    Where the source knows no mean and std beforehand, those of the training images are here.
    """

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    variant: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Source:
    """Where a data set was found. Finding is quick; `decode` reads everything and may take seconds."""

    name: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    """Empty where only decoding tells it; so is `std` then."""
    std: tuple[float, ...]
    files: tuple[Path, ...]
    """The files whose content decides the data; none for embedded data."""
    layout: str
    """How the files are read, and the version of a package that brings embedded data."""
    decode: Callable[[Path], Decoded]
    """Called with a folder in which it may leave `train_images.npy` and `test_images.npy` itself, when they are too
    many for memory; the arrays it returns are then mapped from there."""
    root: Path | None = None
    """The folder below which all files lie and their names there count too; none where only their own names do."""


@dataclass(frozen=True, eq=False)
class ImageData:
    """A decoded data set, memory-mapped: processes of one machine share its pages.

    Arrays can be handed to `torch.from_numpy` without a copy; a write would reach this process only, never the file.
    """

    name: str
    train_images: Images
    """uint8 (N, C, H, W)."""
    train_labels: Labels
    """int64 (N,)."""
    test_images: Images
    test_labels: Labels
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    """Of each channel over the training images, pixels in [0, 1]."""
    std: tuple[float, ...]
    variant: str
    """`official`, `subset of official`, `own split`, `embedded` or `unverified`, and what else a reader must know: how
    many images were left out, how the test set was cut.

    Only `official` is the data of published numbers."""
    fingerprint: str
    """First 12 hex digits of the SHA-256 of shapes, images and labels, train then test."""
