"""Patches of two photos that come with scikit-learn (a temple, a flower): 64x64, RGB, embedded.

Real image content for checks of what needs more than digits, as an image codec does; no question is answered with it.
Training patches are cut every 32 pixels from the upper three quarters of each photo, so they overlap; test patches from
what is below, which no training patch reaches.
Source: scikit-learn's `load_sample_images`; both photos are CC BY.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from raybench.data.source import Decoded, Request, Source

CLASSES = ("temple", "flower")
MEAN = (0.4545, 0.4868, 0.4585)
STD = (0.3901, 0.3115, 0.3405)
SIDE = 64
STEP = 32
TRAINING_ROWS = 320
"""Of each photo's 427."""
TERMS = "The two photos are those of scikit-learn's load_sample_images, which are CC BY; it names their authors."


def load_source(_request: Request, _data_root: Path, _download: bool) -> Source:
    """The embedded patches; they need no file and no network."""
    layout = f"scikit-learn {version('scikit-learn')}"
    return Source("patches", CLASSES, MEAN, STD, files=(), layout=layout, decode=_decode)


def _decode(_folder: Path) -> Decoded:
    from sklearn.datasets import load_sample_images

    photos = [np.asarray(photo, dtype=np.uint8) for photo in load_sample_images().images]  # china.jpg, flower.jpg
    train = [_patches(photo[:TRAINING_ROWS]) for photo in photos]
    test = [_patches(photo[TRAINING_ROWS:]) for photo in photos]
    labels = [np.repeat(np.arange(len(CLASSES)), [len(each) for each in part]) for part in (train, test)]
    return Decoded(np.concatenate(train), labels[0], np.concatenate(test), labels[1], variant="embedded")


def _patches(photo: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Every patch of a photo (H, W, 3), row by row: (N, 3, SIDE, SIDE)."""
    height, width = photo.shape[:2]
    corners = [(y, x) for y in range(0, height - SIDE + 1, STEP) for x in range(0, width - SIDE + 1, STEP)]
    cut = np.stack([photo[y : y + SIDE, x : x + SIDE] for y, x in corners])
    return np.ascontiguousarray(cut.transpose(0, 3, 1, 2))
