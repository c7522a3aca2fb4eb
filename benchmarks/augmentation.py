"""An epoch of augmented batches: ours against DataLoader, PIL and torchvision with two workers.

    python benchmarks/augmentation.py [--json] [--pairs 5] [--images 10000]

Zero-padded crops and flips of 32x32 images in batches of 128, uint8 in memory on both sides. The peer is what the
papers' scripts do: a Dataset of PIL images with RandomCrop(32, padding=4), RandomHorizontalFlip and PILToTensor (which
leaves out the division by 255 and the normalisation: ours does them with the model's forward pass). Before that, views
with the same codes are compared with torchvision's, bit for bit.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from benchmarks.peers.pairs import Claim, arguments, interleaved, show
from raybench.config.trial import DatasetConfig
from raybench.data import ImageData
from raybench.data.views import render
from raybench.training.batches import TrainingImages

PADDING, BATCH, WORKERS = 4, 128, 2
CONFIG = DatasetConfig(name="cifar10", augment=(f"crop{PADDING}", "hflip"))
BAR = 15.0


class Photos(Dataset[torch.Tensor]):
    """The peer's images, as torchvision's CIFAR10 hands them out."""

    def __init__(self, images: np.ndarray[Any, Any]) -> None:
        self.images = images.transpose(0, 2, 3, 1)
        crop = v2.RandomCrop(32, padding=PADDING)
        self.transform = v2.Compose([crop, v2.RandomHorizontalFlip(), v2.PILToTensor()])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        found: torch.Tensor = self.transform(Image.fromarray(self.images[index]))
        return found


def same_bits(images: np.ndarray[Any, Any]) -> None:
    """Ours and torchvision's views of the same codes are the same bytes."""
    codes = torch.arange(2 * (2 * PADDING + 1) ** 2)
    batch = torch.from_numpy(images[: len(codes)])
    found = render(batch, torch.arange(len(codes)), codes, CONFIG.augment)
    for image, code, view in zip(images, codes.tolist(), found, strict=False):
        offset, flip = divmod(code, 2)
        dy, dx = divmod(offset, 2 * PADDING + 1)
        photo = F.pad(Image.fromarray(image.transpose(1, 2, 0)), [PADDING])
        photo = F.crop(photo, dy, dx, 32, 32)
        expected = F.pil_to_tensor(F.hflip(photo) if flip else photo)
        assert torch.equal(view, expected), f"code {code}"


def main() -> int:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    args = parser.parse_args()
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    images = np.random.default_rng(0).integers(0, 256, (args.images, 3, 32, 32), dtype=np.uint8)
    same_bits(images)
    labels = np.zeros(args.images, dtype=np.int64)
    data = ImageData(
        name="cifar10",
        train_images=images,
        train_labels=labels,
        test_images=images[:1],
        test_labels=labels[:1],
        classes=("any",),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        variant="random",
        fingerprint="",
    )
    training = TrainingImages(data, np.arange(args.images), CONFIG, torch.device("cpu"))
    loader: DataLoader[torch.Tensor] = DataLoader(
        Photos(images), BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True
    )

    def ours() -> int:
        return sum(len(batch.views) for batch in training.epoch(0, 0, BATCH))

    def peer() -> int:
        return sum(len(batch) for batch in loader)

    assert ours() == peer() == args.images
    claim = f"an epoch of {args.images:,} augmented images, against DataLoader with PIL and {WORKERS} workers"
    show([Claim(claim, *interleaved(ours, peer, args.pairs), bar=BAR)], args.json, threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
