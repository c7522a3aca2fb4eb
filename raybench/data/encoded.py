"""Images and labels in a Parquet file: encoded images as `bytes`, or as the struct of the Hugging Face hub."""

from __future__ import annotations

import io
import logging
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raybench.data.source import Images, Labels
from raybench.errors import DataError

if TYPE_CHECKING:
    import pyarrow
    from PIL.Image import Image as PillowImage

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label")
OTHER_COLUMNS = ("label_name", "official_split", "official_index")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
UNDECODABLE = (OSError, SyntaxError, ValueError, TypeError, EOFError, struct.error, zlib.error)
FEW = 5
"""Corrupt images that are left out even where they are more than 1 %."""
LISTED = 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ImageTable:
    """A decoded file: images uint8 (N, C, H, W), labels int64 (N,), and where each row comes from, if known.

    Rows whose image is corrupt are left out.
    """

    images: Images
    labels: Labels
    official_split: tuple[str | None, ...] | None
    official_index: tuple[int | None, ...] | None
    corrupt: int
    """Rows left out."""


def tolerated(count: int) -> int:
    """How many of `count` images may be corrupt and are then left out; with more of them the data are damaged.

    1 %, or a few of a small set as long as three quarters are left.
    """
    return max(count // 100, min(FEW, count // 4))


class CorruptError(Exception):
    """One image cannot be decoded. Caught here or by `photos`: never shown as it is."""


def read(path: Path, shape: tuple[int, int, int], classes: Sequence[str]) -> ImageTable:
    """Read and decode a file; its corrupt images, as many as are `tolerated`, are left out, counted and logged.

    shape: (channels, height, width) that every image must have once it is RGB (3 channels) or grey (1).

    Raises DataError that names the file and the row: missing columns, too many corrupt images, other sizes, labels out
    of range or with another name than `classes` gives them, a class without an image.
    """
    columns = _columns(path)
    image_column, label_column = (_first(columns, names, path) for names in (IMAGE_COLUMNS, LABEL_COLUMNS))
    labels = _labels(columns[label_column], path, label_column, classes)
    if "label_name" in columns:
        _check_names(labels, columns["label_name"].to_pylist(), path, classes)
    images, corrupt = _images(columns[image_column].to_pylist(), shape, path)
    kept = [row for row in range(len(labels)) if row not in corrupt]
    labels = labels[kept]
    _check_classes(labels, path, classes)
    splits, indices = (columns[name].to_pylist() if name in columns else None for name in OTHER_COLUMNS[1:])
    return ImageTable(
        np.ascontiguousarray((images[kept] if corrupt else images).transpose(0, 3, 1, 2)),
        labels,
        official_split=None if splits is None else tuple(splits[row] for row in kept),
        official_index=None if indices is None else tuple(indices[row] for row in kept),
        corrupt=len(corrupt),
    )


def _images(
    encoded: list[Any], shape: tuple[int, int, int], path: Path
) -> tuple[npt.NDArray[np.uint8], dict[int, str]]:
    """Images (N, H, W, C), and row -> what is wrong of those that are corrupt."""
    channels, height, width = shape
    images = np.empty((len(encoded), height, width, channels), dtype=np.uint8)
    corrupt: dict[int, str] = {}
    for row, content in enumerate(encoded):
        try:
            images[row] = _decode(content, shape, f"{path}, row {row}")
        except CorruptError as error:
            corrupt[row] = str(error)
            if len(corrupt) > tolerated(len(encoded)):
                raise DataError(_too_many(path, corrupt, row + 1, len(encoded))) from error
    if corrupt:
        logger.warning(
            f"{path}: {len(corrupt)} of {len(encoded)} images are corrupt and left out: {_rows(corrupt)}; "
            "copy or download the file again to have them all"
        )
    return images, corrupt


def _too_many(path: Path, corrupt: dict[int, str], looked_at: int, rows: int) -> str:
    row, why = next(iter(corrupt.items()))
    if len(corrupt) == 1:  # as many as a small file may have
        return f"{path}, row {row}: {why}; copy or download the file again"
    return (
        f"{path}: {len(corrupt)} of the first {looked_at} images are corrupt ({_rows(corrupt)}; row {row}: {why}); at "
        f"most {tolerated(rows)} of its {rows} images may be, which are then left out. Copy or download the file again"
    )


def _rows(corrupt: dict[int, str]) -> str:
    shown = ", ".join(str(row) for row in list(corrupt)[:LISTED])
    more = f" and {len(corrupt) - LISTED} more" if len(corrupt) > LISTED else ""
    return f"row{'s' if len(corrupt) > 1 else ''} {shown}{more}"


def _columns(path: Path) -> dict[str, pyarrow.ChunkedArray]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            present = file.schema_arrow.names
            wanted = [name for name in (*IMAGE_COLUMNS, *LABEL_COLUMNS, *OTHER_COLUMNS) if name in present]
            table = file.read(columns=wanted)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}; copy or download the file again") from error
    if table.num_rows == 0:
        raise DataError(f"{path} has no rows; copy or download the file again")
    return {name: table.column(name) for name in table.column_names}


def _first(columns: dict[str, Any], names: tuple[str, ...], path: Path) -> str:
    for name in names:
        if name in columns:
            return name
    raise DataError(f"{path} has no column {' or '.join(names)}; an image and a label column are needed")


def _labels(column: pyarrow.ChunkedArray, path: Path, name: str, classes: Sequence[str]) -> Labels:
    import pyarrow as pa

    if not pa.types.is_integer(column.type):
        allowed = f"whole numbers from 0 to {len(classes) - 1}"
        raise DataError(f"{path}: column {name} holds {column.type}; labels are {allowed}")
    for row, label in enumerate(column.to_pylist()):
        if label is None or not 0 <= label < len(classes):
            raise DataError(f"{path}, row {row}: label {label} is out of range; allowed are 0 to {len(classes) - 1}")
    labels: Labels = column.to_numpy().astype(np.int64)
    return labels


def _check_names(labels: Labels, names: list[str | None], path: Path, classes: Sequence[str]) -> None:
    """A file whose numbers mean other classes would train well and compare wrongly."""
    for row, (label, name) in enumerate(zip(labels, names, strict=True)):
        if name is not None and name.replace(" ", "_") != classes[label]:
            raise DataError(
                f'{path}, row {row}: label {label} is called "{name}" but is "{classes[label]}" in this data set; '
                "the labels are numbered differently"
            )


def _check_classes(labels: Labels, path: Path, classes: Sequence[str]) -> None:
    """What has no image can be neither learned nor scored, and the accuracy would be that of another question."""
    empty = sorted(set(range(len(classes))) - set(labels.tolist()))
    if empty:
        shown = ", ".join(f"{label} ({classes[label]})" for label in empty[:LISTED])
        more = f" and {len(empty) - LISTED} more" if len(empty) > LISTED else ""
        raise DataError(
            f"{path}: no image of class {shown}{more}; each of the {len(classes)} classes must have one. Copy or "
            "download the file again"
        )


def _decode(content: Any, shape: tuple[int, int, int], where: str) -> npt.NDArray[np.uint8]:
    """One encoded image as uint8 (H, W, C). Raises CorruptError where it is none, DataError for another size."""
    from PIL import Image

    encoded = content.get("bytes") if isinstance(content, dict) else content
    if not isinstance(encoded, bytes):
        raise CorruptError("no encoded image here; the image column holds bytes, or a struct with a field bytes")
    channels, height, width = shape
    try:
        check_png(encoded)
        with Image.open(io.BytesIO(encoded)) as image:
            if image.size != (width, height):
                raise DataError(f"{where}: the image has {image.width}x{image.height} pixels, not {width}x{height}")
            pixels = np.asarray(converted(image, "RGB" if channels == 3 else "L"))  # (H, W, 3) or (H, W)
    except (*UNDECODABLE, Image.DecompressionBombError) as error:
        raise CorruptError(f"the image cannot be decoded: {error}") from error
    return pixels.reshape(height, width, channels)


def check_png(encoded: bytes) -> None:
    """Checksums of a PNG's chunks: Pillow alone decodes about 1 % of the PNGs with a flipped bit without complaint."""
    if not encoded.startswith(PNG_SIGNATURE):
        return
    start = len(PNG_SIGNATURE)
    while start < len(encoded):
        (length,) = struct.unpack_from(">I", encoded, start)
        end = start + 8 + length
        (checksum,) = struct.unpack_from(">I", encoded, end)
        if zlib.crc32(encoded[start + 4 : end]) != checksum:
            raise ValueError("a checksum of the PNG is wrong")
        if encoded[start + 4 : start + 8] == b"IEND":
            return
        start = end + 4


def converted(image: PillowImage, mode: str) -> PillowImage:
    """The image as `RGB` or `L`: palettes looked up, alpha dropped, the upper 8 of 16 bits kept.

    Raises ValueError for floating-point pixels.
    """
    if image.mode == mode:
        return image
    if image.mode.startswith("I"):  # 16 bits a pixel: Pillow would clip what is above 255
        from PIL import Image

        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert(mode)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, of which nobody knows the range")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)
