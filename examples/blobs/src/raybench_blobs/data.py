"""Blobs of light in one of four corners, in noise: 1,000 images of 12x12, made when they are first used."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from raybench.data.source import Decoded, Request, Source

CLASSES = ("top left", "top right", "bottom left", "bottom right")
SIDE = 12
TRAIN, TEST = 800, 200
NOISE = 60.0
"""Standard deviation of a pixel, of 255."""


def load_source(request: Request, data_root: Path, download: bool) -> Source:  # noqa: ARG001
    """What raybench calls. Finding the data is quick; `decode` makes or reads them, once a machine.

    A data set of files would look for them below `data_root`, name them in `files`, and raise raybench.DataError that
    says where it has looked.
    """
    return Source("blobs", CLASSES, mean=(), std=(), files=(), layout="version 1", decode=_decode)


def _decode(_folder: Path) -> Decoded:
    draw = np.random.default_rng(0)
    labels = np.arange(TRAIN + TEST) % len(CLASSES)
    rows, columns = 3 + 6 * (labels // 2), 3 + 6 * (labels % 2)
    y, x = np.mgrid[:SIDE, :SIDE]
    distance = (y - rows[:, None, None]) ** 2 + (x - columns[:, None, None]) ** 2  # (N, 12, 12)
    light = 120 * np.exp(-distance / 6) + draw.normal(64, NOISE, (len(labels), SIDE, SIDE))
    images = light.clip(0, 255).astype(np.uint8)[:, None]  # (N, 1, 12, 12)
    pixels = images[:TRAIN] / 255
    return Decoded(
        images[:TRAIN],
        labels[:TRAIN].astype(np.int64),
        images[TRAIN:],
        labels[TRAIN:].astype(np.int64),
        variant="made",
        mean=(float(pixels.mean()),),
        std=(float(pixels.std()),),
    )
