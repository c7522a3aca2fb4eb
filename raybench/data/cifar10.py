"""CIFAR-10: 50,000 + 10,000 photos of 10 classes, 32x32 RGB.

Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".
"""

from __future__ import annotations

from pathlib import Path

from raybench.data.cifar import TERMS as TERMS
from raybench.data.cifar import Cifar
from raybench.data.source import Request, Source

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)

CIFAR = Cifar("cifar10", CLASSES, MEAN, STD, torchvision_class="CIFAR10", folder="cifar-10-batches-py")


def load_source(_request: Request, data_root: Path, download: bool) -> Source:
    """Found as Parquet, in torchvision's layout, or downloaded. Raises DataError when it is nowhere."""
    return CIFAR.find(data_root, download)
