"""Where the two CIFARs are looked for: Parquet, torchvision's own layout, then a download by torchvision."""

from __future__ import annotations

import hashlib
import socket
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from raybench.config.folders import cache_root
from raybench.data.encoded import ImageTable, read
from raybench.data.fetching import SILENT_SERVER_S, fetch
from raybench.data.progress import tell
from raybench.data.source import Decoded, Images, Labels, Source
from raybench.errors import DataError

SHAPE = (3, 32, 32)
OFFICIAL_SIZES = {"train": 50_000, "test": 10_000}
TERMS = (
    "CIFAR's authors state no licence; they ask to cite Krizhevsky 2009, \"Learning Multiple Layers of Features from "
    'Tiny Images" (cs.toronto.edu/~kriz/cifar.html).'
)


@dataclass(frozen=True)
class Cifar:
    """One of the two data sets: its constants, and the names under which it is found."""

    name: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    torchvision_class: str
    folder: str
    """What torchvision calls the folder it unpacks."""

    def find(self, data_root: Path, download: bool) -> Source:
        """The first that is there of the Parquet pair and torchvision's folder; else a download into `data_root`.

        Raises DataError that says what was looked for and where.
        """
        root = data_root.absolute()
        pair = tuple(root / f"{self.name}_{part}.parquet" for part in OFFICIAL_SIZES)
        present = [path.name for path in pair if path.is_file()]
        if len(present) == len(pair):
            return self._source(pair, "parquet", partial(_decode_parquet, pair, self.classes))
        folder = root / self.folder
        if not folder.is_dir():
            reason = f"only {present[0]} is there" if present else "nothing was downloaded"
            if download and not present:
                reason = self._download(root)
            if reason:
                raise DataError(
                    f"{self.name} was not found: looked in {root} for {pair[0].name} with {pair[1].name}, and for "
                    f"the folder {self.folder}; {reason}. Name the folder that holds them with --data-root DIR, fetch "
                    f"them (raybench data get {self.name}), or do without files: --preset quick"
                )
        files = tuple(sorted(path for path in folder.iterdir() if path.is_file()))
        return self._source(files, "torchvision", partial(self._decode_torchvision, root))

    def _source(self, files: tuple[Path, ...], layout: str, decode: Any) -> Source:
        return Source(self.name, self.classes, self.mean, self.std, files, layout, decode)

    def _torchvision(self) -> Any:
        import torchvision.datasets

        return getattr(torchvision.datasets, self.torchvision_class)

    def _decode_torchvision(self, root: Path, _folder: Path) -> Decoded:
        data_set = self._torchvision()
        try:
            with warnings.catch_warnings():
                # The pickled arrays are of 2009; how NumPy feels about their headers changes nothing in their bytes.
                warnings.simplefilter("ignore")
                parts = [data_set(root, train=train) for train in (True, False)]
        except (RuntimeError, OSError) as error:
            folder = root / self.folder
            raise DataError(
                f"{folder} is incomplete or not the official release (torchvision compares MD5 sums: {error}); delete "
                "that folder to have it downloaded again, or name another with --data-root DIR"
            ) from error
        (train_images, train_labels), (test_images, test_labels) = (_as_arrays(part) for part in parts)
        return Decoded(train_images, train_labels, test_images, test_labels, variant="official")

    def _download(self, root: Path) -> str:
        """Download into `root`, or unpack the archive that lies there; empty when the folder is there afterwards, else
        the reason why not.

        It is unpacked beside its place and renamed, so no other process sees half of it.
        """
        place = hashlib.sha256(str(root / self.folder).encode()).hexdigest()[:16]
        lock = cache_root() / "data" / f"download-{place}.lock"
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(lock):
                if (root / self.folder).is_dir():
                    return ""
                with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as unpacked, _impatient():
                    if reason := self._archive(root, Path(unpacked)):
                        return reason
                    self._torchvision()(unpacked, download=True)  # compares MD5 sums and unpacks
                    (Path(unpacked) / self.folder).rename(root / self.folder)
        except (OSError, RuntimeError, EOFError) as error:
            return f"the download failed ({error})"
        return ""

    def _archive(self, root: Path, folder: Path) -> str:
        """Put the official archive into `folder`, from `root` where it lies there; why not, where not."""
        from torchvision.datasets.utils import check_integrity

        official = self._torchvision()
        there = root / official.filename
        if not there.is_file():
            fetch(official.url, folder / official.filename)
            return ""
        tell(f"checking {there.name}", 0, 0)
        if not check_integrity(str(there), official.tgz_md5):
            return f"{there} is damaged or another file (its MD5 sum is not {official.tgz_md5}); fetch it again"
        (folder / official.filename).symlink_to(there)
        return ""


def _as_arrays(data_set: Any) -> tuple[Images, Labels]:
    images = np.ascontiguousarray(data_set.data.transpose(0, 3, 1, 2))  # (N, H, W, C) -> (N, C, H, W)
    return images, np.asarray(data_set.targets, dtype=np.int64)


@contextmanager
def _impatient() -> Iterator[None]:
    """torchvision sets no time limit of its own: behind a silent firewall a download would hang for minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENT_SERVER_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _decode_parquet(pair: tuple[Path, ...], classes: tuple[str, ...], _folder: Path) -> Decoded:
    train, test = (read(path, SHAPE, classes) for path in pair)
    said = variant({"train": train, "test": test}) + _without(train, test)
    return Decoded(train.images, train.labels, test.images, test.labels, variant=said)


def _without(train: ImageTable, test: ImageTable) -> str:
    """What a reader of the rows must know of images that were left out."""
    lost = {"training": train.corrupt, "test": test.corrupt}
    said = " and ".join(f"{count} {part}" for part, count in lost.items() if count)
    return f" without {said} image{'s' if sum(lost.values()) != 1 else ''} (corrupt)" if said else ""


def variant(tables: dict[str, ImageTable]) -> str:
    """How a train and a test table relate to the official release, by what their columns say.

    `own split`: a row is not known to come from the official part of that name; `unverified`: nothing, or something
    impossible, is said; `official`: every row of both parts; else `subset of official`.
    """
    for part, table in tables.items():
        if table.official_split is not None and set(table.official_split) != {part}:
            return "own split"
    complete = True
    for part, table in tables.items():
        size = OFFICIAL_SIZES[part]
        rows = table.official_index
        if rows is None:
            return "unverified"
        distinct = {row for row in rows if row is not None and 0 <= row < size}
        if len(distinct) != len(rows):
            return "unverified"
        complete = complete and len(rows) == size
    return "official" if complete else "subset of official"
