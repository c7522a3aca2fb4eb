"""Looking up the teacher's logits of an epoch: our cache, one file an image, and seek + read in one file.

    python benchmarks/cache_lookup.py [--json] [--pairs 5] [--images 20000] [--views 8] [--classes 100]

An epoch asks for one view of each image, in batches of 128 in random order. Ours has the epoch's rows at once and takes
a batch by its positions. One file an image is what a naive cache keeps (`numpy.save` of its views); seek + read is what
TinyViT's stored logits do (arXiv 2207.10666): one file, a record a look-up. All files are in the page cache, and all
three answers are compared. A turn of the peers is the first batches of the epoch (--peer-batches), scaled by images.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.pairs import Claim, arguments, interleaved, show
from raybench.data.views import BLOCK, draw_slots, epoch_order
from raybench.distillation.cache import ViewCache
from raybench.distillation.packing import Packing

BATCH = 128
CPU = torch.device("cpu")


class Cached:
    """The same logits three times over."""

    def __init__(self, folder: Path, images: int, views: int, classes: int) -> None:
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(images, views, classes, generator=generator).half()
        self.cache = ViewCache(folder / "ours", images, views, Packing(classes))
        self.cache.fill(images, lambda positions, slot: logits[positions, slot])
        self.files = folder / "files"
        self.files.mkdir()
        for image, rows in enumerate(logits.numpy()):
            np.save(self.files / f"{image}.npy", rows)
        self.records = folder / "records"
        self.records.write_bytes(logits.numpy().tobytes())
        self.images, self.views, self.classes = images, views, classes
        self._epoch = 0

    def epoch(self, epoch: int) -> tuple[Tensor, Tensor]:
        """The order of the images, and the slot of each block."""
        blocks = torch.arange(-(-self.images // BLOCK))
        return epoch_order(self.images, epoch, 0), draw_slots(blocks, epoch, 0, self.views)

    def ours(self, epoch: int) -> Iterator[Tensor]:
        """(B, classes) of each batch."""
        order, slots = self.epoch(epoch)
        rows = self.cache.rows(self.images, slots, CPU)
        for positions in order.split(BATCH):
            yield rows(positions)

    def file_an_image(self, epoch: int, batches: int) -> Iterator[Tensor]:
        """The same, from files."""
        order, slots = self.epoch(epoch)
        for positions in order.split(BATCH)[:batches]:
            chosen = slots[positions // BLOCK]
            rows = [
                np.load(self.files / f"{p}.npy")[s] for p, s in zip(positions.tolist(), chosen.tolist(), strict=True)
            ]
            yield torch.from_numpy(np.stack(rows)).float()

    def seek_and_read(self, epoch: int, batches: int) -> Iterator[Tensor]:
        """The same, from records."""
        order, slots = self.epoch(epoch)
        size = self.classes * 2
        with self.records.open("rb") as file:
            for positions in order.split(BATCH)[:batches]:
                rows = []
                for p, s in zip(positions.tolist(), slots[positions // BLOCK].tolist(), strict=True):
                    file.seek((p * self.views + s) * size)
                    rows.append(np.frombuffer(file.read(size), np.float16))
                yield torch.from_numpy(np.stack(rows)).float()


def look_at(way: Callable[[int], Iterator[Tensor]]) -> None:
    """Every batch of an epoch."""
    for _ in way(1):
        pass


def main() -> int:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--peer-batches", type=int, default=20, help="batches of a peer's turn")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cached = Cached(Path(folder), args.images, args.views, args.classes)
        whole = -(-args.images // BATCH)
        peers = {"one file an image": (cached.file_an_image, 200.0), "seek + read": (cached.seek_and_read, 10.0)}
        claims = []
        for name, (peer, bar) in peers.items():
            theirs = partial(peer, batches=args.peer_batches)
            for a, b in zip(cached.ours(3), theirs(3), strict=False):
                assert torch.equal(a, b), name
            ours_s, peer_s = interleaved(partial(look_at, cached.ours), partial(look_at, theirs), args.pairs)
            scaled = [seconds * args.images / (min(args.peer_batches, whole) * BATCH) for seconds in peer_s]
            claims.append(Claim(f"an epoch's teacher logits looked up, against {name}", ours_s, scaled, bar=bar))
    show(claims, args.json, threads=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
