"""What a frozen model says of fixed views, computed once for all trials: a memory-mapped file a model and set of views.

So a teacher's logits are kept, and the code of a frozen encoder.

Layout of a folder: `rows.i16`, shape (blocks, views, BLOCK, width): images lie in the order of the split, so that a
smaller train size is a prefix, each row packed as `packing.py` says; `filled.u8`, shape (blocks, views), a byte each
that is set after that part's rows are on disk; `verified.json`, where parts were last computed again and compared.

A part is the same view slot of BLOCK neighbouring images. In an epoch all images of a block show the same slot, so an
epoch needs one part of each block, and a trial that ends early has asked the model for no more than it used. Parts
are fixed and filled whole and in the same batches, so the same cache holds the same bits whoever fills it, in whatever
order, and a fill that was killed goes on where it stopped. One writer at a time, many readers.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import filelock
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raybench.data.views import BLOCK
from raybench.errors import RaybenchError, ResultsError

VERSION = 2
"""Raised when views, their order or the layout change."""
ALIKE = 2**-6
"""By how much of the largest logit one may differ when it is computed again elsewhere: twice the last bit of bfloat16,
in which another processor may have summed in another order."""

Compute = Callable[[Tensor, int], Tensor]
"""(positions (B,), slot) -> what the model says of that view of these images, (B, …)."""
Rows = Callable[[Tensor], Tensor]
"""positions (B,) -> float32 rows (B, …), on the device of the positions."""
Part = tuple[int, int]
"""(block, slot)"""

logger = logging.getLogger(__name__)


class Packs(Protocol):
    """How a row is kept in 16-bit words."""

    width: int

    def pack(self, values: Tensor) -> Tensor:
        """(B, …) -> int16 (B, width)."""
        ...

    def unpack(self, words: Tensor) -> Tensor:
        """int16 (B, width) -> float32 (B, …), on the same device."""
        ...


class ViewCache:
    """Rows of (images, views), filled part by part."""

    def __init__(self, folder: Path, images: int, views: int, packing: Packs, what: str = "teacher's logits") -> None:
        """Open the cache in `folder`, or make an empty one; files of another size are foreign or torn and replaced.

        `what` the rows are, for messages.
        """
        self.what = what
        self.folder = folder
        self.images, self.views = images, views
        self.blocks = _blocks(images)
        self.packing = packing
        self._file = folder / "rows.i16"
        self._filled = folder / "filled.u8"
        self._verified = folder / "verified.json"
        self._shape = (self.blocks, views, BLOCK, self.packing.width)
        self._bytes = self.blocks * views * BLOCK * self.packing.width * 2
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".lock"):
            if not (_has_size(self._file, self._bytes) and _has_size(self._filled, self.blocks * views)):
                self._empty()

    @property
    def size_mib(self) -> float:
        """Size when wholly filled, MiB."""
        return self._bytes / 2**20

    def missing(self, images: int, slots: Tensor | None = None) -> list[Part]:
        """The parts still to be filled for the first `images` rows: all, or those of one slot (blocks,) a block."""
        marks = self._marks()
        return [(block, slot) for block, slot in self._wanted(images, slots) if not marks[block, slot]]

    def fill(self, images: int, compute: Compute, slots: Tensor | None = None) -> int:
        """Fill what is `missing`; returns the number of rows computed.

        Raises RaybenchError for values that are not finite and ResultsError when the disk is full; parts filled before
        stay.
        """
        computed = 0
        for block, slot in self.missing(images, slots):
            # Given back after each part, so that who waits for that one goes on.
            with filelock.FileLock(self.folder / ".lock"):
                if not self._marks()[block, slot]:
                    computed += self._fill(block, slot, compute)
        return computed

    def rows(self, images: int, slots: Tensor, device: torch.device) -> Rows:
        """The rows of the first images, each block in its slot (blocks,), for batches on a device.

        On a CPU they are read where they are mapped; to a GPU those of these slots are copied.
        """
        if missing := self.missing(images, slots):
            raise RuntimeError(f"{self.folder}: {len(missing)} parts are not filled yet")
        mapped = torch.from_numpy(np.memmap(self._file, dtype=np.int16, mode="c", shape=self._shape))
        if device.type == "cpu":
            first = (torch.arange(len(slots)) * self.views + slots) * BLOCK  # (blocks,) row of each block's part
            flat = mapped.view(-1, self.packing.width)
            return lambda positions: self.packing.unpack(flat[first[positions // BLOCK] + positions % BLOCK])
        copied = torch.cat([mapped[block, slot] for block, slot in self._wanted(images, slots)]).to(device)
        return lambda positions: self.packing.unpack(copied[positions])

    def verify(self, compute: Compute, where: str) -> None:
        """Compute a part that is filled again, unless that was done `where` since it was last written to.

        Where it differs by more than rounding, whatever made it (another teacher, a damaged file), all is forgotten.
        """
        parts = [(int(block), int(slot)) for block, slot in np.argwhere(self._marks())]
        if not parts or self._stamp(where) == _read(self._verified):
            return
        block, slot = random.Random().choice(parts)
        known, again = self._decoded(block, slot), self._computed(block, slot, compute)
        # A damaged file may hold what is no number, and that is never smaller.
        if (known - again).abs().max() <= ALIKE * again.abs().max():
            self.mark_verified(where)
            return
        logger.warning(
            f"{self.folder}: rows from image {block * BLOCK} on are not the {self.what}; the cache is filled anew"
        )
        with filelock.FileLock(self.folder / ".lock"):
            self._empty()

    def mark_verified(self, where: str) -> None:
        """What is there was computed, or computed again, `where`."""
        draft = self.folder / f".verified.{os.getpid()}"
        draft.write_text(json.dumps(self._stamp(where)))
        draft.replace(self._verified)

    def _wanted(self, images: int, slots: Tensor | None) -> Iterator[Part]:
        for block in range(_blocks(images)):
            for slot in range(self.views) if slots is None else (int(slots[block]),):
                yield block, slot

    def _marks(self) -> npt.NDArray[np.uint8]:
        return np.fromfile(self._filled, dtype=np.uint8).reshape(self.blocks, self.views)

    def _stamp(self, where: str) -> dict[str, object]:
        state = self._file.stat()
        return {"where": where, "changed_ns": state.st_mtime_ns}

    def _empty(self) -> None:
        # The marks go first and come last, so that none ever stands for rows that are not there.
        self._filled.unlink(missing_ok=True)
        self._verified.unlink(missing_ok=True)
        _make_empty(self._file, self._bytes)
        _make_empty(self._filled, self.blocks * self.views)

    def _positions(self, block: int) -> Tensor:
        return torch.arange(block * BLOCK, min((block + 1) * BLOCK, self.images))

    def _fill(self, block: int, slot: int, compute: Compute) -> int:
        """Compute and write one part; the caller holds the lock."""
        positions = self._positions(block)
        values = compute(positions, slot).cpu()
        if not values.half().isfinite().all():
            raise RaybenchError(
                f"{self.folder}: the {self.what} are not finite in 16 bits; train what makes them at a lower rate"
            )
        place = block * self.views + slot
        self._write(self._file, place * BLOCK * self.packing.width * 2, self.packing.pack(values).numpy().tobytes())
        self._write(self._filled, place, b"\x01")
        return len(positions)

    def _decoded(self, block: int, slot: int) -> Tensor:
        mapped = np.memmap(self._file, dtype=np.int16, mode="r", shape=self._shape)
        return self.packing.unpack(torch.from_numpy(mapped[block, slot, : len(self._positions(block))].copy()))

    def _computed(self, block: int, slot: int, compute: Compute) -> Tensor:
        """What `_decoded` should give."""
        return self.packing.unpack(self.packing.pack(compute(self._positions(block), slot).cpu()))

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
                f"disk full: {self.folder} needs {self.size_mib:.0f} MiB for the {self.what}; free some space, "
                "set RAYBENCH_CACHE to a folder with more, or switch this cache off"
            ) from error


def _blocks(images: int) -> int:
    return -(-images // BLOCK)


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _make_empty(path: Path, size: int) -> None:
    """A file of zeros, sparse where the file system can."""
    with path.open("wb") as file:
        file.truncate(size)


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def cache_key(**content: object) -> str:
    """Name of a cache folder: a hash of everything that decides its bits (data, split, views, teacher, precision)."""
    text = json.dumps({"version": VERSION, **content}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
