"""What a frozen model says of fixed views, computed once for all trials: a memory-mapped file a model and set of views.

So a teacher's logits are kept, and the code of a frozen encoder.

Layout of a folder: `rows.i16`, shape (blocks, views, BLOCK, width): images lie in the order of the split, so that a
smaller train size is a prefix, each row packed as `packing.py` says; `filled.u32`, shape (blocks, views), the CRC-32 of
that part's BLOCK rows (1 for 0), which is set after they are on disk; 0: not filled; `verified.json`, where parts were
last computed again and compared.

A part is the same view slot of BLOCK neighbouring images. In an epoch all images of a block show the same slot, so an
epoch needs one part of each block, and a trial that ends early has asked the model for no more than it used. Parts
are fixed and filled whole and in the same batches, so the same cache holds the same bits whoever fills it, in whatever
order, and a fill that was killed goes on where it stopped. A part has one writer at a time, the whole many readers; a
second trial that needs the same parts computes others meanwhile. Each process looks once whether the rows that it uses
are those that were written; a part that was damaged is filled again, and no trial learns from it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import random
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
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

MARKS = "filled.u32"
MARK_BYTES = 4
HALF_EXPONENT = 0x7C00
"""Bits of a float16 that are all set where it is infinite or no number."""

STRIPES = 64
"""Locks of a cache: blocks whose numbers differ by a multiple of this share one."""
WAIT_S = 0.05
"""Between two looks at parts that another process computes."""

logger = logging.getLogger(__name__)


class Packs(Protocol):
    """How a row is kept in 16-bit words."""

    width: int
    numbers: int
    """So many of a row's words, the first, are float16; the others are no numbers."""

    def pack(self, values: Tensor) -> Tensor:
        """(B, …) -> int16 (B, width)."""
        ...

    def unpack(self, words: Tensor) -> Tensor:
        """int16 (B, width) -> float32 (B, …), on the same device."""
        ...

    def apart(self, known: Tensor, again: Tensor) -> float:
        """By how much two unpacked batches (B, …) of the same rows differ, of their largest value; NaN is allowed."""
        ...


class NotFilledError(RuntimeError):
    """Rows are asked for that nobody has computed."""


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
        self._filled = folder / MARKS
        self._verified = folder / "verified.json"
        self._shape = (self.blocks, views, BLOCK, self.packing.width)
        self._marks_bytes = self.blocks * views * MARK_BYTES
        self._bytes = self.blocks * views * BLOCK * self.packing.width * 2
        folder.mkdir(parents=True, exist_ok=True)
        if not self._fits():
            with self._alone():
                if not self._fits():
                    self._empty()

    @property
    def size_mib(self) -> float:
        """Size when wholly filled, MiB."""
        return self._bytes / 2**20

    def missing(self, images: int, slots: Tensor | None = None) -> list[Part]:
        """The parts still to be filled for the first `images` rows: all, or those of one slot (blocks,) a block."""
        marks = self._marks()
        return [(block, slot) for block, slot in self._wanted(images, slots) if not marks[block, slot]]

    def fill(
        self,
        images: int,
        compute: Compute,
        slots: Tensor | None = None,
        check: Callable[[], None] = lambda: None,
        workers: int = 0,
    ) -> int:
        """Fill what is `missing`; returns the number of rows computed here.

        What others compute at the moment is waited for, after everything else. `check` is called before each part and
        while waiting. With `workers` so many threads compute, each by itself, so that no bit depends on their number;
        0: the caller's, as torch is set there (for a GPU). Raises RaybenchError for values that are not finite and
        ResultsError when the disk is full; parts filled before stay.
        """
        if not self.missing(images, slots):
            return 0
        if workers == 0:
            return self._fill_missing(images, compute, slots, check)
        threads = torch.get_num_threads()
        faults: list[BaseException] = []

        def checked() -> None:
            if faults:
                raise RuntimeError("another thread has failed")
            check()

        def work() -> int:
            try:
                return self._fill_missing(images, compute, slots, checked)
            except BaseException as error:
                faults.append(error)
                return 0

        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            computed = sum(each.result() for each in [pool.submit(work) for _ in range(workers)])
        torch.set_num_threads(threads)  # threads to come take their number from the last that was set anywhere
        if faults:
            raise faults[0]
        return computed

    def _fill_missing(self, images: int, compute: Compute, slots: Tensor | None, check: Callable[[], None]) -> int:
        computed = 0
        parts = self.missing(images, slots)
        # Who begins elsewhere meets others later.
        start = random.Random().randrange(len(parts)) if parts else 0
        parts = parts[start:] + parts[:start]
        while parts:
            busy = []
            for block, slot in parts:
                check()
                lock = self._lock(block)
                try:
                    lock.acquire(timeout=0)
                except filelock.Timeout:
                    busy.append((block, slot))
                    continue
                try:
                    if not self._marks()[block, slot]:
                        computed += self._fill(block, slot, compute)
                finally:
                    lock.release()
            if len(busy) == len(parts):
                time.sleep(WAIT_S)
            marks = self._marks()
            parts = [(block, slot) for block, slot in busy if not marks[block, slot]]
        return computed

    def take(
        self,
        images: int,
        compute: Compute,
        slots: Tensor,
        device: torch.device,
        check: Callable[[], None] = lambda: None,
        workers: int = 0,
    ) -> tuple[Rows, int]:
        """The `rows`, of which what is missing is filled first, and how many were computed here."""
        computed = 0
        while True:
            computed += self.fill(images, compute, slots, check, workers)
            with contextlib.suppress(NotFilledError):
                return self.rows(images, slots, device), computed

    def rows(self, images: int, slots: Tensor, device: torch.device) -> Rows:
        """The rows of the first images, each block in its slot (blocks,), for batches on a device.

        On a CPU they are read where they are mapped; to a GPU those of these slots are copied. Raises NotFilledError
        where some are missing: nobody has filled them, somebody has emptied the cache, or they were damaged and have
        to be filled again; RaybenchError where they were written as they are and are not finite.
        """
        rows = np.memmap(self._file, dtype=np.int16, mode="c", shape=self._shape)
        mapped = torch.from_numpy(rows)
        # In this order: whoever empties it puts the empty marks first. Rows that are mapped stay what they were.
        if missing := self.missing(images, slots):
            raise NotFilledError(f"{self.folder}: {len(missing)} parts are not filled yet")
        if damaged := self._damaged(self._wanted(images, slots), rows):
            raise NotFilledError(f"{self.folder}: {len(damaged)} parts are not what was written")
        if device.type == "cpu":
            first = (torch.arange(len(slots)) * self.views + slots) * BLOCK  # (blocks,) row of each block's part
            places = (first[:, None] + torch.arange(BLOCK)).flatten()  # of each image's row
            flat = mapped.view(-1, self.packing.width)
            return lambda positions: self.packing.unpack(flat.index_select(0, places[positions]))
        copied = torch.cat([mapped[block, slot] for block, slot in self._wanted(images, slots)]).to(device)
        return lambda positions: self.packing.unpack(copied[positions])

    def part(self, block: int, slot: int) -> Tensor | None:
        """The rows of a part; none where it is not filled."""
        rows = self._mapped()
        if not self._marks()[block, slot] or self._damaged([(block, slot)], rows):
            return None
        return self._decoded(block, slot, rows)

    def verify(self, compute: Compute, where: str) -> None:
        """Compute a part that is filled again, unless that was done `where` since it was last written to.

        Where it differs by more than rounding, whatever made it (another teacher, a damaged file), all is forgotten.
        """
        parts = [(int(block), int(slot)) for block, slot in np.argwhere(self._marks())]
        if not parts or self._stamp(where) == _read(self._verified):
            return
        random.Random().shuffle(parts)
        rows, file = self._mapped(), self._file.stat().st_ino
        sound = next((part for part in parts if not self._damaged([part], rows)), None)
        if sound is None:
            return
        block, slot = sound
        if self._same(block, slot, again := self._computed(block, slot, compute)):
            self.mark_verified(where)
            return
        with self._alone():
            # It may have been emptied, and this part filled anew, while we computed.
            if self._file.stat().st_ino != file or self._same(block, slot, again):
                return
            logger.warning(
                f"{self.folder}: rows from image {block * BLOCK} on are not the {self.what}; the cache is filled anew"
            )
            self._empty()

    def _same(self, block: int, slot: int, again: Tensor) -> bool:
        return self.packing.apart(self._decoded(block, slot, self._mapped()), again) <= ALIKE

    def mark_verified(self, where: str) -> None:
        """What is there was computed, or computed again, `where`."""
        draft = self.folder / f".verified.{os.getpid()}"
        draft.write_text(json.dumps(self._stamp(where)))
        draft.replace(self._verified)

    def _wanted(self, images: int, slots: Tensor | None) -> Iterator[Part]:
        for block in range(_blocks(images)):
            for slot in range(self.views) if slots is None else (int(slots[block]),):
                yield block, slot

    def _marks(self) -> npt.NDArray[np.uint32]:
        return np.fromfile(self._filled, dtype=np.uint32).reshape(self.blocks, self.views)

    def _mapped(self) -> npt.NDArray[np.int16]:
        return np.memmap(self._file, dtype=np.int16, mode="r", shape=self._shape)

    def _damaged(self, parts: Iterable[Part], rows: npt.NDArray[np.int16]) -> list[Part]:
        """Those of these filled parts whose mapped rows are not what was written; they have to be filled again now.

        Raises RaybenchError where rows are what was written and hold what is no number.
        """
        marks, file, found = self._marks(), self._file.stat().st_ino, []
        for part in parts:
            mark = int(marks[part])
            if (seen := (str(self.folder), file, *part, mark)) in _SEEN:
                continue
            if _mark(rows[part]) != mark:
                self._unfill(part)
                found.append(part)
            elif ((rows[part][:, : self.packing.numbers] & HALF_EXPONENT) == HALF_EXPONENT).any():
                raise RaybenchError(f"{self.folder}: the {self.what} there are not finite; remove that folder")
            else:
                _SEEN.add(seen)
        return found

    def _unfill(self, part: Part) -> None:
        """Forget a part that was damaged, unless others have filled it anew meanwhile."""
        block, slot = part
        with self._lock(block):
            mark = self._marks()[part]
            if mark and _mark(self._mapped()[part]) != mark:
                first = block * BLOCK
                logger.warning(f"{self.folder}: rows from image {first} on were damaged; they are filled anew")
                self._write(self._filled, (block * self.views + slot) * MARK_BYTES, bytes(MARK_BYTES))

    def _stamp(self, where: str) -> dict[str, object]:
        state = self._file.stat()
        return {"where": where, "changed_ns": state.st_mtime_ns}

    def _lock(self, block: int) -> filelock.BaseFileLock:
        """Held by whoever fills parts of this block."""
        return filelock.FileLock(self.folder / ".locks" / str(block % STRIPES), is_singleton=False)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else fills anything."""
        (self.folder / ".locks").mkdir(exist_ok=True)
        with contextlib.ExitStack() as held:
            for stripe in range(STRIPES):
                held.enter_context(self._lock(stripe))
            yield

    def _fits(self) -> bool:
        return _has_size(self._file, self._bytes) and _has_size(self._filled, self._marks_bytes)

    def _empty(self) -> None:
        """Begin anew, in new files: who has mapped the old ones keeps them."""
        self._verified.unlink(missing_ok=True)
        # The marks first, so that none ever stands for rows that are not there.
        _put_empty(self._filled, self._marks_bytes)
        _put_empty(self._file, self._bytes)

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
        rows = np.zeros((BLOCK, self.packing.width), np.int16)
        rows[: len(positions)] = self.packing.pack(values).numpy()
        self._write(self._file, place * rows.nbytes, rows.tobytes())
        self._write(self._filled, place * MARK_BYTES, np.uint32(_mark(rows)).tobytes())
        return len(positions)

    def _decoded(self, block: int, slot: int, rows: npt.NDArray[np.int16]) -> Tensor:
        return self.packing.unpack(torch.from_numpy(rows[block, slot, : len(self._positions(block))].copy()))

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


_SEEN: set[tuple[str, int, int, int, int]] = set()
"""(folder, inode of its rows, block, slot, mark) of parts that this process has found to be what was written."""


def _mark(rows: npt.NDArray[np.int16]) -> int:
    """CRC-32 of a part's rows, which is never 0, for that is what is not filled."""
    return zlib.crc32(np.ascontiguousarray(rows).data) or 1


def _blocks(images: int) -> int:
    return -(-images // BLOCK)


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _put_empty(path: Path, size: int) -> None:
    """A new file of zeros in this place, sparse where the file system can."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("wb") as file:
        file.truncate(size)
    draft.replace(path)


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None


def cache_key(**content: object) -> str:
    """Name of a cache folder: a hash of everything that decides its bits (data, split, views, teacher, precision)."""
    text = json.dumps({"version": VERSION, **content}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
