"""What a data set is: where it comes from, and what it holds once decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Decoded:
    """The content of a data set: images uint8 (N, C, H, W), labels int64 (N,), and the variant."""

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    variant: str


@dataclass(frozen=True, eq=False)
class Source:
    """Where a data set was found. Finding is quick; `decode` reads everything and may take seconds."""

    name: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    files: tuple[Path, ...]
    """The files whose content decides the data; none for embedded data."""
    layout: str
    """How the files are read, and the version of a package that brings embedded data."""
    decode: Callable[[], Decoded]


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
    """`official`, `subset of official`, `own split`, `embedded` or `unverified`, and how many images were left out.

    Only `official` is the data of published numbers."""
    fingerprint: str
    """First 12 hex digits of the SHA-256 of shapes, images and labels, train then test."""
