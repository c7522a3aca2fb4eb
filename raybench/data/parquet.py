"""Photos in Parquet files: encoded bytes, or the struct of the Hugging Face hub, with a label column.

`path` is a file, a pattern of files, or a folder with `train-*.parquet` and `test-*.parquet` or `validation-*.parquet`
as the hub keeps them. The images are in the column of a usual name, else in the only one of encoded bytes. Where no
test images are named or found, a fixed fifth of each class is the test set.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raybench.config.folders import at_home
from raybench.data import hashing, photos
from raybench.data.image_folder import find
from raybench.data.photos import Part, Photo
from raybench.data.source import Decoded, Labels, Request, Source
from raybench.data.splits import TEST_SHARE, cut_test
from raybench.errors import DataError

OPTIONS = ("path", "test_path", "label_column", "decode_size")
IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "cls")
TEST = ("test", "validation", "val", "valid")
"""The first that is in a folder, and is labelled, is the test set."""
FOLDERS = (".", "data", "default")
PATTERNS = ("{}-*.parquet", "{}.parquet", "{}/*.parquet", "*_{}.parquet")
ROWS = 64
"""Rows read at once."""
LISTED = 5


@dataclass(frozen=True)
class Table:
    """The files of one part, read as if they were one."""

    files: tuple[Path, ...]
    image: str
    labels: tuple[Any, ...]
    """As they are written: whole numbers, text, or none where a row has no label."""
    names: tuple[str, ...] | None
    """Of the classes 0, 1, 2 …, where the files say them."""

    @property
    def place(self) -> str:
        """For messages."""
        return str(self.files[0]) if len(self.files) == 1 else f"{self.files[0].parent} ({len(self.files)} files)"

    @property
    def labelled(self) -> bool:
        """Whether any row has a label; sets whose labels are kept secret have -1."""
        return any(label not in (None, -1) for label in self.labels)


def load_source(request: Request, data_root: Path, _download: bool) -> Source:
    """The files of `request.path`. Raises DataError when they are absent or are no tables of labelled photos."""
    side = request.side
    train, test = _tables(request, data_root)
    classes = _classes(train)
    train_labels = _numbered(train, classes)
    if test is None:
        ranks = hashing.bits(np.arange(len(train_labels), dtype=np.int64), hashing.key("test cut"))
        cut = cut_test(train_labels, ranks)
        chosen = [(train, train_labels, ~cut), (train, train_labels, cut)]
        variant = f"own split (test is a fixed {TEST_SHARE:.0%} of each class)"
    else:
        test_labels = _numbered(test, classes)
        everything = [np.ones(len(labels), dtype=np.bool_) for labels in (train_labels, test_labels)]
        chosen = [(train, train_labels, everything[0]), (test, test_labels, everything[1])]
        variant = "unverified"
    first, second = (
        Part(name, table.place, int(rows.sum()), partial(_photos, table, labels, rows))
        for name, (table, labels, rows) in zip(("train", "test"), chosen, strict=True)
    )
    decode = partial(_decode, (first, second), tuple(map(str, classes)), side, variant)
    files = train.files if test is None else (*train.files, *test.files)
    layout = f"{photos.LAYOUT} {side} parquet {train.image} {request.label_column} {first.count} {second.count}"
    return Source(request.name, tuple(map(str, classes)), (), (), files, layout, decode)


def _decode(parts: tuple[Part, Part], classes: tuple[str, ...], side: int, variant: str, folder: Path) -> Decoded:
    return photos.decode(parts, classes, side, variant, folder)


def _tables(request: Request, data_root: Path) -> tuple[Table, Table | None]:
    """The training table, and that of the test images where there is one."""
    column = request.label_column
    candidates: list[tuple[Path, ...]] = []
    if request.path is not None and (folder := data_root / at_home(request.path)).is_dir():
        train = _of_split(folder, "train")
        if not train:
            raise DataError(f"{request.name}: {folder} holds no train-*.parquet; name the files with dataset.path")
        candidates = [files for name in TEST if (files := _of_split(folder, name))]
    else:
        train = _matching(request, data_root)
    if request.test_path is not None:
        candidates = [_matching(Request(request.name, path=request.test_path), data_root)]
    both = {path.resolve() for path in train} & {path.resolve() for files in candidates for path in files}
    if both:
        raise DataError(f"{request.name}: {min(both)} is in dataset.path and in dataset.test_path; a test needs others")
    tables = (_read(files, column) for files in candidates)
    return _read(train, column), next((table for table in tables if table.labelled), None)


def _of_split(folder: Path, name: str) -> tuple[Path, ...]:
    """The files of a split, in the first place where the hub's layouts have some."""
    for below in FOLDERS:
        for pattern in PATTERNS:
            if found := tuple(sorted((folder / below).glob(pattern.format(name)))):
                return found
    return ()


def _matching(request: Request, data_root: Path) -> tuple[Path, ...]:
    if request.path is None or not glob.has_magic(request.path):
        return (find(request, data_root),)
    pattern = at_home(request.path)
    base = Path(pattern.anchor) if pattern.is_absolute() else data_root
    found = tuple(sorted(base.glob(str(pattern.relative_to(pattern.anchor)))))
    if not found:
        raise DataError(f"{request.name}: no file matches {base / pattern} (dataset.path counts from --data-root DIR)")
    return found


def _read(files: tuple[Path, ...], label_column: str | None) -> Table:
    """The labels of all files, and in which column the images are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels: list[Any] = []
    names: tuple[str, ...] | None = None
    image = ""
    for path in files:
        try:
            with pq.ParquetFile(path) as file:
                present = file.schema_arrow.names
                image = _image_column(file.schema_arrow, path)
                label = _label_column(present, (label_column,) if label_column else LABEL_COLUMNS, path)
                named = [label, *(["label_name"] if "label_name" in present and label != "label_name" else [])]
                table = file.read(columns=named)
                said = file.schema_arrow.metadata or {}
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path} cannot be read as Parquet: {error}; copy or download the file again") from error
        column = table.column(label)
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_boolean(kind):
            column, kind = column.cast(pa.int8()), pa.int8()
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        if not (text or pa.types.is_integer(kind)):
            raise DataError(f"{path}: column {label} holds {column.type}; labels are whole numbers or text")
        labels += column.to_pylist()
        names = names or _hub_names(said.get(b"huggingface"), label)
        if names is None and len(named) == 2 and pa.types.is_integer(kind):
            names = _named(column.to_pylist(), table.column("label_name").to_pylist())
    if not labels:
        raise DataError(f"{files[0]} has no rows; copy or download the file again")
    return Table(files, image, tuple(labels), names)


def _image_column(schema: Any, path: Path) -> str:
    """The column of photos: of a usual name, else the only one that holds encoded bytes."""
    import pyarrow as pa

    for name in IMAGE_COLUMNS:
        if name in schema.names:
            return name

    def holds_bytes(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return any(field.name == "bytes" and holds_bytes(field.type) for field in kind)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))

    found = [field.name for field in schema if holds_bytes(field.type)]
    if len(found) == 1:
        return str(found[0])
    raise DataError(
        f"{path} has no column {' or '.join(IMAGE_COLUMNS)} for the image, and "
        + (
            f"{len(found)} columns of bytes ({', '.join(found)})"
            if found
            else "no column of encoded bytes, nor a struct"
        )
        + f" (there are {', '.join(schema.names)}); rename the column of the photos to image"
    )


def _label_column(present: list[str], wanted: tuple[str, ...], path: Path) -> str:
    for name in wanted:
        if name in present:
            return name
    raise DataError(
        f"{path} has no column {' or '.join(wanted)} for the label, or name the label column with dataset.label_column "
        f"(there are {', '.join(present)})"
    )


def _hub_names(metadata: bytes | None, label: str) -> tuple[str, ...] | None:
    """The names of a ClassLabel column, as the hub's files carry them."""
    try:
        names = json.loads(metadata or b"")["info"]["features"][label]["names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None


def _named(labels: list[int | None], names: list[str | None]) -> tuple[str, ...] | None:
    """Names from a column beside the labels, where it has one for each of 0, 1, 2 …"""
    known = {label: name for label, name in zip(labels, names, strict=True) if label is not None and name is not None}
    return (
        tuple(known[label] for label in range(len(known))) if set(known) == set(range(len(known))) and known else None
    )


def _classes(train: Table) -> tuple[int | str, ...]:
    """The classes in order: by the names the files give them, else the values of the training labels, sorted."""
    values = {label for label in train.labels if label not in (None, -1)}
    if len({type(value) for value in values}) > 1:
        raise DataError(f"{train.place}: labels are whole numbers in one file and text in another")
    if train.names is not None and all(isinstance(value, int) for value in values):
        return train.names
    if len(values) < 2:
        raise DataError(f"{train.place}: {len(values)} class; at least 2 are needed")
    return tuple(sorted(values))


def _numbered(table: Table, classes: tuple[int | str, ...]) -> Labels:
    """Each row's class from 0. Raises DataError for a row without one, and for one that the training rows lack."""
    number: dict[Any, int] = {value: label for label, value in enumerate(classes)}
    if table.names is not None and all(isinstance(label, int | None) for label in table.labels):
        if table.names != tuple(classes):
            raise DataError(f"{table.place}: its classes are named or ordered in another way than the training images'")
        number = {label: label for label in range(len(classes))}
    for row, label in enumerate(table.labels):
        if label not in number:
            allowed = ", ".join(map(str, list(number)[:LISTED])) + (" …" if len(number) > LISTED else "")
            raise DataError(f"{table.place}, row {row}: label {label} is no class of the training images ({allowed})")
    return np.array([number[label] for label in table.labels], dtype=np.int64)


def _photos(table: Table, labels: Labels, wanted: npt.NDArray[np.bool_]) -> Iterator[Photo]:
    """The wanted rows, in order; a few rows of a file are in memory at once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    for path in table.files:
        try:
            with pq.ParquetFile(path, pre_buffer=False) as file:
                start = row
                for batch in file.iter_batches(batch_size=ROWS, columns=[table.image]):
                    column = batch.column(0)
                    for place in range(len(column)):
                        if wanted[row]:
                            content = column[place].as_py()
                            encoded = content.get("bytes") if isinstance(content, dict) else content
                            yield Photo(f"{path.name}, row {row - start}", int(labels[row]), partial(_same, encoded))
                        row += 1
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path} cannot be read as Parquet: {error}; copy or download the file again") from error


def _same(encoded: Any) -> Any:
    return encoded
