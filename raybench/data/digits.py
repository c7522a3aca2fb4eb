"""scikit-learn's digits: 1,797 real 8x8 images of handwritten digits, installed with the package.

The values 0..16 become 0..255. A fixed, class-balanced cut of 500 images is the test set, the other
1,297 are for training.
Source: Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI repository.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np

from raybench.data.source import Decoded, Request, Source
from raybench.data.splits import split

CLASSES = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
MEAN = (0.3054,)
STD = (0.3758,)
TEST_SIZE = 500
BRIGHTEST = 16
TERMS = (
    "scikit-learn ships the digits under its BSD-3-Clause licence; they are the test part of UCI's \"Optical "
    'Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998), whose own terms are at '
    "archive.ics.uci.edu/dataset/80."
)


def load_source(_request: Request, _data_root: Path, _download: bool) -> Source:
    """The embedded digits; they need no file and no network."""
    layout = f"scikit-learn {version('scikit-learn')}"
    return Source("digits", CLASSES, MEAN, STD, files=(), layout=layout, decode=_decode)


def _decode(_folder: Path) -> Decoded:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * 255 / BRIGHTEST).astype(np.uint8)[:, None]  # (1797, 1, 8, 8)
    labels = digits.target.astype(np.int64)
    cut = split(labels, val_size=TEST_SIZE, train_size="all")
    train, test = np.sort(cut.train), np.sort(cut.val)
    return Decoded(images[train], labels[train], images[test], labels[test], variant="embedded")
