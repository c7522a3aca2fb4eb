"""Photos of any size as squares of one size, decoded by a pool of threads and written to a file block by block.

A photo becomes RGB as it is stored (the rotation that its EXIF data ask for is not done, as in torchvision), its short
edge is resized to the side of the square (Pillow, bicubic with antialiasing), and the centre is cut out: what
torchvision's `Resize` and `CenterCrop` do. A photo of that very size keeps its pixels.
"""

from __future__ import annotations

import io
import logging
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from raybench.data.encoded import LISTED, UNDECODABLE, CorruptError, check_png, converted, tolerated
from raybench.data.progress import tell
from raybench.data.source import Decoded, Images, Labels
from raybench.errors import DataError

BLOCK_BYTES = 32 * 2**20
"""Decoded bytes in memory at once."""
CHANNELS = 3
LAYOUT = "photos 1"
"""Raised when photos are turned into squares in another way."""
UNREADABLE = (
    *(OSError, EOFError, ValueError, RuntimeError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
)
"""What a damaged file, or member of a zip file, raises."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Photo:
    """An encoded photo: where it is for messages, its class, and how its bytes are had."""

    where: str
    label: int
    read: Callable[[], Any]


@dataclass(frozen=True)
class Part:
    """The train or the test part before it is decoded; `photos` gives all `count` of them, in order."""

    name: str
    place: str
    count: int
    photos: Callable[[], Iterator[Photo]]


@dataclass
class _Written:
    """What was written of a part."""

    labels: list[int] = field(default_factory=list)
    corrupt: dict[str, str] = field(default_factory=dict)
    histogram: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((CHANNELS, 256), dtype=np.int64))


def decode(parts: tuple[Part, Part], classes: tuple[str, ...], side: int, variant: str, folder: Path) -> Decoded:
    """Decode the train and the test part into `<part>_images.npy` in `folder`, and map them from there.

    Corrupt photos, as many of a part as are `tolerated`, are left out, logged and counted in the variant. Mean and
    standard deviation of each channel are those of the training squares, to four decimals.

    Raises DataError that names the photos when more are corrupt, and for a class of which no photo is left.
    """
    images: list[Images] = []
    written: list[_Written] = []
    for part in parts:
        path = folder / f"{part.name}_images.npy"
        written.append(_write(part, side, path))
        _check_classes(part, written[-1], classes)
        images.append(np.load(path, mmap_mode="r"))
    mean, std = _statistics(written[0].histogram)
    labels: list[Labels] = [np.asarray(each.labels, dtype=np.int64) for each in written]
    lost = {"training": len(written[0].corrupt), "test": len(written[1].corrupt)}
    said = " and ".join(f"{count} {name}" for name, count in lost.items() if count)
    without = f" without {said} image{'s' if sum(lost.values()) != 1 else ''} (corrupt)" if said else ""
    return Decoded(images[0], labels[0], images[1], labels[1], variant + without, mean, std)


def square(encoded: Any, side: int) -> npt.NDArray[np.uint8]:
    """One encoded photo as uint8 (3, side, side). Raises CorruptError where it is none."""
    from PIL import Image

    if not isinstance(encoded, bytes):
        raise CorruptError("no encoded image here")
    try:
        check_png(encoded)
        with Image.open(io.BytesIO(encoded)) as image:
            photo = converted(image, "RGB")
            width, height = photo.size
            short = min(width, height)
            if short != side:
                # The long edge is cut off, not rounded: so does torchvision.
                photo = photo.resize((side * width // short, side * height // short), Image.Resampling.BICUBIC)
            left, top = (round((edge - side) / 2) for edge in photo.size)
            pixels = np.asarray(photo.crop((left, top, left + side, top + side)))  # (side, side, 3)
    except (*UNDECODABLE, Image.DecompressionBombError) as error:
        raise CorruptError(f"the image cannot be decoded: {error}") from error
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _write(part: Part, side: int, path: Path) -> _Written:
    """Decode a part into an .npy file of (N, 3, side, side), of which no more than a block is in memory."""
    written = _Written()
    block = max(1, BLOCK_BYTES // (CHANNELS * side * side))
    photos = part.photos()
    with path.open("wb") as file, ThreadPoolExecutor(_threads()) as pool:
        header = _header(file, part.count, side)
        seen = 0
        while chunk := list(islice(photos, block)):
            squares = [_keep(written, *each) for each in pool.map(lambda photo: _attempt(photo, side), chunk)]
            seen += len(chunk)
            tell(f"decoding the {part.name} part", seen, part.count)
            if len(written.corrupt) > tolerated(part.count):
                raise DataError(_too_many(part, written.corrupt, seen))
            if kept := [square for square in squares if square is not None]:
                pixels = np.stack(kept)  # (n, 3, side, side)
                for channel in range(CHANNELS):
                    written.histogram[channel] += np.bincount(pixels[:, channel].ravel(), minlength=256)
                file.write(pixels.data)
        file.seek(0)
        # The header reserves room for any number of rows.
        assert _header(file, len(written.labels), side) == header
        file.flush()
        os.fsync(file.fileno())
    if written.corrupt:
        logger.warning(
            f"{part.place}: {len(written.corrupt)} of {part.count} images are corrupt and left out: "
            f"{_listed(written.corrupt)}; copy or download them again to have them all"
        )
    return written


def _threads() -> int:
    """Pillow decodes without holding the interpreter, so that threads share the work."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _header(file: BinaryIO, rows: int, side: int) -> int:
    about = {"descr": "|u1", "fortran_order": False, "shape": (rows, CHANNELS, side, side)}
    np.lib.format.write_array_header_1_0(file, about)  # type: ignore[no-untyped-call]
    return file.tell()


def _attempt(photo: Photo, side: int) -> tuple[Photo, npt.NDArray[np.uint8] | str]:
    """The square, or why there is none."""
    try:
        return photo, square(photo.read(), side)
    except CorruptError as error:
        return photo, str(error)
    except UNREADABLE as error:
        return photo, f"it cannot be read: {error}"


def _keep(written: _Written, photo: Photo, found: npt.NDArray[np.uint8] | str) -> npt.NDArray[np.uint8] | None:
    if isinstance(found, str):
        written.corrupt[photo.where] = found
        return None
    written.labels.append(photo.label)
    return found


def _too_many(part: Part, corrupt: dict[str, str], seen: int) -> str:
    where, why = next(iter(corrupt.items()))
    if len(corrupt) == 1:  # as many as a small data set may have
        return f"{where}: {why}; copy or download it again, or remove it"
    return (
        f"{part.place}: {len(corrupt)} of the first {seen} images are corrupt ({_listed(corrupt)}; {where}: {why}); "
        f"at most {tolerated(part.count)} of its {part.count} images may be, which are then left out. "
        "Copy or download it again"
    )


def _listed(corrupt: Iterable[str]) -> str:
    names = list(corrupt)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _check_classes(part: Part, written: _Written, classes: tuple[str, ...]) -> None:
    """What has no image can be neither learned nor scored, and the accuracy would be that of another question."""
    empty = [classes[label] for label in sorted(set(range(len(classes))) - set(written.labels))]
    if empty:
        raise DataError(
            f"{part.place}: no image of class {_listed(empty)} is left in the {part.name} part; each of the "
            f"{len(classes)} classes must have one. Copy or download it again"
        )


def _statistics(histogram: npt.NDArray[np.int64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, pixels in [0, 1], from exact sums."""
    levels = np.arange(256, dtype=np.int64)
    count = histogram.sum(1)
    mean = (histogram * levels).sum(1) / count
    variance = (histogram * levels**2).sum(1) / count - mean**2
    # One colour only would have no spread to divide by.
    std = np.maximum(np.sqrt(np.maximum(variance, 0.0)) / 255, 1e-4)
    return tuple(round(float(x) / 255, 4) for x in mean), tuple(round(float(x), 4) for x in std)
