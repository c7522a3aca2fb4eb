"""CIFAR-100: 50,000 + 10,000 photos of 100 fine classes, 32x32 RGB (Krizhevsky 2009, as for CIFAR-10)."""

from __future__ import annotations

from pathlib import Path

from raybench.data.cifar import TERMS as TERMS
from raybench.data.cifar import Cifar
from raybench.data.source import Request, Source

# fmt: off
CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
    "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
    "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
    "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
    "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
    "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
    "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
    "willow_tree", "wolf", "woman", "worm",
)
# fmt: on
MEAN = (0.5071, 0.4865, 0.4409)
STD = (0.2673, 0.2564, 0.2762)

CIFAR = Cifar("cifar100", CLASSES, MEAN, STD, torchvision_class="CIFAR100", folder="cifar-100-python")


def load_source(_request: Request, data_root: Path, download: bool) -> Source:
    """Found as Parquet, in torchvision's layout, or downloaded. Raises DataError when it is nowhere."""
    return CIFAR.find(data_root, download)
