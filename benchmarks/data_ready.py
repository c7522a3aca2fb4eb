"""From nothing to the first batch of a trial, data decoded before: ours against unpickling CIFAR's python version.

    python benchmarks/data_ready.py [--json] [--pairs 5]

Both sides get the training images of CIFAR-10's shape (50,000 of 3x32x32) and a batch of 128 of them, in the order of
their epoch. Ours opens the decoded cache, memory-mapped, as each trial does. The peer reads five pickled batches as
torchvision's CIFAR10 does, joins and transposes them. The images are random bytes, in the page cache on both sides, and
the batches are compared. A worker remembers the split of its trial before, as most trials of a sweep have the same;
what a worker's first trial takes is told too.
"""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers.pairs import Claim, arguments, interleaved, show

IMAGES, BATCHES, CLASSES = 50_000, 5, 10
BAR = 100.0


def pickled(folder: Path, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> None:
    """CIFAR-10's python version: five batches of rows of 3,072 bytes."""
    flat = images.reshape(len(images), -1)
    for number, (rows, known) in enumerate(zip(np.split(flat, BATCHES), np.split(labels, BATCHES), strict=True), 1):
        content = {"data": rows, "labels": known.tolist()}
        (folder / f"data_batch_{number}").write_bytes(pickle.dumps(content, protocol=2))


def unpickled(folder: Path) -> tuple[Any, Any]:
    """(N, 32, 32, 3) uint8 and labels, as torchvision has them after its constructor."""
    rows, labels = [], []
    for number in range(1, BATCHES + 1):
        with (folder / f"data_batch_{number}").open("rb") as file:
            content = pickle.load(file, encoding="latin1")
        rows.append(content["data"])
        labels.extend(content["labels"])
    return np.vstack(rows).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def main() -> int:
    """Measure and print."""
    args = arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    from raybench.config.trial import DatasetConfig
    from raybench.data import ImageData, splits
    from raybench.data.cache import open_decoded
    from raybench.data.source import Decoded, Source
    from raybench.data.splits import split
    from raybench.data.views import epoch_order
    from raybench.training.batches import TrainingImages

    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (IMAGES, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(IMAGES, dtype=np.int64) % CLASSES
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["RAYBENCH_CACHE"] = str(folder / "cache")
        pickled(folder, images, labels)
        config = DatasetConfig(name="cifar10", val_size=CLASSES)
        source = Source(
            name="cifar10",
            layout="benchmark",
            classes=tuple(str(number) for number in range(CLASSES)),
            files=tuple(folder / f"data_batch_{number}" for number in range(1, BATCHES + 1)),
            decode=lambda _: Decoded(images, labels, images[:CLASSES], labels[:CLASSES], variant="random"),
            mean=(0.5,) * 3,
            std=(0.25,) * 3,
        )
        order = epoch_order(IMAGES - CLASSES, 0, 0)[:128]

        def ours() -> torch.Tensor:
            data: ImageData = open_decoded(source)
            parts = split(data.train_labels, config.val_size, "all")
            training = TrainingImages(data, parts.train, config, torch.device("cpu"))
            return training.render(order, torch.zeros_like(order))

        def first() -> torch.Tensor:
            splits._order.cache_clear()
            return ours()

        chosen = split(labels, config.val_size, "all").train

        def peer() -> torch.Tensor:
            found, _ = unpickled(folder)
            batch = found[chosen[order.numpy()]]
            return torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2)))

        assert torch.equal(ours(), peer())
        claim = "a trial's data ready, decoded before, against unpickling CIFAR-10"
        warm = Claim(f"{claim}: a worker's next trial", *interleaved(ours, peer, args.pairs), bar=BAR)
        fresh = Claim(f"{claim}: a worker's first trial", *interleaved(first, peer, args.pairs))
    show([warm, fresh], args.json, threads=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
