"""Teacher logits of all trials, computed once: one memory-mapped file a teacher and set of views.

Layout of a folder: `logits.f16`, shape (images, views, classes), rows in the order of the split (so a smaller train size is a prefix), and `filled.u8`,
one byte a block of BLOCK rows, set after the block's logits are on disk. Blocks are fixed and filled whole and in the same batches, so the same cache
holds the same bits whoever fills it, and a fill that was killed goes on where it stopped. One writer at a time, many readers.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import filelock
import numpy as np
import torch
from torch import Tensor

BLOCK = 256
VERSION = 1
"""Raised when views, their order or the layout change."""

Compute = Callable[[Tensor, int], Tensor]
"""(positions (B,), slot) -> float16 logits (B, classes) of that view of these images."""


class LogitCache:
    """Logits (images, views, classes) in float16, filled block by block."""

    def __init__(self, folder: Path, images: int, views: int, classes: int) -> None:
        self.folder = folder
        self.shape = (images, views, classes)
        self.blocks = -(-images // BLOCK)
        folder.mkdir(parents=True, exist_ok=True)
        self._logits = folder / "logits.f16"
        self._filled = folder / "filled.u8"
        with filelock.FileLock(folder / ".lock"):
            _make_sized(self._logits, images * views * classes * 2)
            _make_sized(self._filled, self.blocks)

    @property
    def size_mib(self) -> float:
        """Size when wholly filled, MiB."""
        images, views, classes = self.shape
        return images * views * classes * 2 / 2**20

    def missing(self, images: int) -> list[int]:
        """The blocks still to be filled for the first `images` rows."""
        filled = np.fromfile(self._filled, dtype=np.uint8)
        return [block for block in range(-(-images // BLOCK)) if not filled[block]]

    def fill(self, images: int, compute: Compute) -> int:
        """Fill what is missing for the first `images` rows; returns the number of logit rows computed."""
        if not self.missing(images):
            return 0
        computed = 0
        with filelock.FileLock(self.folder / ".lock"):
            logits = np.memmap(self._logits, dtype=np.float16, mode="r+", shape=self.shape)
            for block in self.missing(images):
                start, end = block * BLOCK, min((block + 1) * BLOCK, self.shape[0])
                positions = torch.arange(start, end)
                for slot in range(self.shape[1]):
                    logits[start:end, slot] = compute(positions, slot).cpu().numpy()
                    computed += end - start
                logits.flush()
                self._mark(block)
        return computed

    def rows(self, images: int, device: torch.device) -> Tensor:
        """The first `images` rows, (images, views, classes) float16: mapped on a CPU (shared by all trials of a node), copied to a GPU."""
        missing = self.missing(images)
        if missing:
            raise RuntimeError(f"{self.folder}: {len(missing)} blocks are not filled yet")
        mapped = np.memmap(self._logits, dtype=np.float16, mode="c", shape=self.shape)
        return torch.from_numpy(mapped[:images]).to(device)

    def _mark(self, block: int) -> None:
        with self._filled.open("r+b") as file:
            file.seek(block)
            file.write(b"\x01")
            file.flush()
            os.fsync(file.fileno())


def _make_sized(path: Path, size: int) -> None:
    """A file of zeros of exactly this size (sparse where the file system can); another size is an unfinished or foreign file."""
    if not path.exists() or path.stat().st_size != size:
        with path.open("wb") as file:
            file.truncate(size)


def cache_key(**content: object) -> str:
    """Name of a cache folder: a hash of everything that decides its bits (data, split, views, teacher, precision)."""
    text = json.dumps({"version": VERSION, **content}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
