"""Teacher logits of all trials, computed once: one memory-mapped file a teacher and set of views.

Layout of a folder: `logits.f16`, shape (images, views, classes), rows in the order of the split (so a smaller train
size is a prefix), and `filled.u8`, one byte a block of BLOCK rows, set after the block's logits are on disk. Blocks are
fixed and filled whole and in the same batches, so the same cache holds the same bits whoever fills it, and a fill that
was killed goes on where it stopped. One writer at a time, many readers.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import filelock
import numpy as np
import torch
from torch import Tensor

from raybench.errors import RaybenchError, ResultsError

BLOCK = 256
VERSION = 1
"""Raised when views, their order or the layout change."""

Compute = Callable[[Tensor, int], Tensor]
"""(positions (B,), slot) -> float16 logits (B, classes) of that view of these images."""


class LogitCache:
    """Logits (images, views, classes) in float16, filled block by block."""

    def __init__(self, folder: Path, images: int, views: int, classes: int) -> None:
        """Open the cache in `folder`, or make an empty one; files of another size are foreign or torn and replaced."""
        self.folder = folder
        self.shape = (images, views, classes)
        self.blocks = -(-images // BLOCK)
        self._logits = folder / "logits.f16"
        self._filled = folder / "filled.u8"
        self._bytes = images * views * classes * 2
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".lock"):
            if not (_has_size(self._logits, self._bytes) and _has_size(self._filled, self.blocks)):
                # The marks go first and come last, so that none ever stands for logits that are not there.
                self._filled.unlink(missing_ok=True)
                _make_empty(self._logits, self._bytes)
                _make_empty(self._filled, self.blocks)

    @property
    def size_mib(self) -> float:
        """Size when wholly filled, MiB."""
        return self._bytes / 2**20

    def missing(self, images: int) -> list[int]:
        """The blocks still to be filled for the first `images` rows."""
        filled = np.fromfile(self._filled, dtype=np.uint8)
        return [block for block in range(-(-images // BLOCK)) if not filled[block]]

    def fill(self, images: int, compute: Compute) -> int:
        """Fill what is missing for the first `images` rows; returns the number of logit rows computed.

        Raises RaybenchError for logits that are not finite and ResultsError when the disk is full; blocks filled before
        stay.
        """
        if not self.missing(images):
            return 0
        computed = 0
        with filelock.FileLock(self.folder / ".lock"):
            for block in self.missing(images):
                start, end = block * BLOCK, min((block + 1) * BLOCK, self.shape[0])
                positions = torch.arange(start, end)
                slots = [compute(positions, slot).cpu().numpy() for slot in range(self.shape[1])]
                logits = np.stack(slots, axis=1).astype(np.float16, copy=False)  # (rows, views, classes)
                if not np.isfinite(logits).all():
                    raise RaybenchError(
                        f"{self.folder}: the teacher's logits are not finite in 16 bits; prepare it with a lower rate"
                    )
                self._write(self._logits, start * self.shape[1] * self.shape[2] * 2, logits.tobytes())
                self._write(self._filled, block, b"\x01")
                computed += len(positions) * self.shape[1]
        return computed

    def rows(self, images: int, device: torch.device) -> Tensor:
        """The first `images` rows, (images, views, classes) float16.

        On a CPU they are mapped, so that all trials of a node share them; to a GPU they are copied.
        """
        missing = self.missing(images)
        if missing:
            raise RuntimeError(f"{self.folder}: {len(missing)} blocks are not filled yet")
        mapped = np.memmap(self._logits, dtype=np.float16, mode="c", shape=self.shape)
        return torch.from_numpy(mapped[:images]).to(device)

    def _write(self, path: Path, offset: int, content: bytes) -> None:
        """Write at an offset and wait for the disk. Not through a map: there a full disk would kill the process."""
        try:
            with path.open("r+b", buffering=0) as file:
                file.seek(offset)
                rest = memoryview(content)
                while rest:
                    rest = rest[file.write(rest) or 0 :]
                os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ResultsError(
                f"disk full: {self.folder} needs {self.size_mib:.0f} MiB for the teacher's logits; free some space, "
                "set RAYBENCH_CACHE to a folder with more, or choose distillation.cache=off"
            ) from error


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _make_empty(path: Path, size: int) -> None:
    """A file of zeros, sparse where the file system can."""
    with path.open("wb") as file:
        file.truncate(size)


def cache_key(**content: object) -> str:
    """Name of a cache folder: a hash of everything that decides its bits (data, split, views, teacher, precision)."""
    text = json.dumps({"version": VERSION, **content}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
