"""Decoded data sets on disk: decoded once a machine, memory-mapped by every trial after that.

In `<cache>/data/<name>` lie
- `<key>/`: train_images.npy, train_labels.npy, test_images.npy, test_labels.npy and about.json;
- `<key>.lock`: held while decoding; the kernel frees it when the holder dies;
- `files/`: the SHA-256 of each source file, with the size and time at which it was taken.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from raybench.config.folders import cache_root
from raybench.data.source import Decoded, ImageData, Source
from raybench.errors import DataError
from raybench.results.depot import Depot

DECODER_VERSION = 1
"""Raised when decoding changes what comes out: folders made before are then not used."""
SETTLED_NS = 2_000_000_000
"""A file changed less than this before it was hashed may change again within one tick of the file system's clock."""
SOURCE = "source.json"
"""Beside the arrays of data that are brought to other machines: what else their source knows."""
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def open_decoded(source: Source) -> ImageData:
    """The data of a source: from the cache, else decoded into it. Any number of processes may ask at once; one decodes.

    Raises DataError when the source cannot be read or the cache cannot be written.
    """
    folder = cache_root() / "data" / source.name
    try:
        key = _key(source, folder / "files")
        target = folder / key
        if (data := _open(target, source)) is not None:
            return data
        with FileLock(folder / f"{key}.lock"):
            if (data := _open(target, source)) is not None:
                return data
            _store(source, target)
        data = _open(target, source)
    except OSError as error:
        raise DataError(
            f"decoded {source.name} cannot be kept in {folder}: {error}; "
            "free space there or set RAYBENCH_CACHE to another folder"
        ) from error
    if data is None:
        raise DataError(f"the decoded {source.name} in {target} cannot be read back; delete that folder and try again")
    return data


def decoded_files(source: Source, data: ImageData) -> tuple[str, Path, tuple[str, ...]]:
    """(name in a depot, folder, files) of data that are open, to be brought to other machines."""
    folder = cache_root() / "data" / source.name
    folder = folder / _key(source, folder / "files")
    about = {"classes": data.classes, "mean": data.mean, "std": data.std, "fingerprint": data.fingerprint}
    _write_json(folder / SOURCE, about)
    return _in_depot(source.name, data.fingerprint), folder, (*(f"{name}.npy" for name in ARRAYS), SOURCE, "about.json")


def open_fetched(depot: Depot, name: str, wanted: str) -> ImageData | None:
    """Data of the `wanted` fingerprint, copied from a depot once a machine; none where they were not brought there.

    Raises ResultsError where what lies there was damaged, DataError where it cannot be read.
    """
    target = cache_root() / "data" / name / f"fetched-{wanted}"
    if not (target / "about.json").exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f"{target.name}.lock")):
            if not (target / "about.json").exists() and not depot.fetch(_in_depot(name, wanted), target):
                return None
    about = _read_json(target / SOURCE)
    if about.get("fingerprint") != wanted:
        raise DataError(f"{target} holds other data than its name says; delete that folder and try again")
    classes, mean, std = (tuple(about[part]) for part in ("classes", "mean", "std"))
    data = _open(target, Source(name, classes, mean, std, files=(), layout="fetched", decode=_undecodable))
    if data is None:
        raise DataError(f"the fetched {name} in {target} cannot be read back; delete that folder and try again")
    return data


def _in_depot(name: str, fingerprint: str) -> str:
    return f"data/{name}-{fingerprint}"


def _undecodable(folder: Path) -> Decoded:
    raise DataError(f"{folder}: data that were fetched have no files to decode")


def fingerprint(decoded: Decoded) -> str:
    """First 12 hex digits of the SHA-256 over shape, type and bytes of the four arrays, train then test."""
    digest = hashlib.sha256()
    for name in ARRAYS:
        array: npt.NDArray[Any] = getattr(decoded, name)
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:12]


def _key(source: Source, known: Path) -> str:
    """Names what decoding would give: the content of the files, not where they lie."""
    known.mkdir(parents=True, exist_ok=True)
    parts = [str(DECODER_VERSION), source.layout, *source.classes]
    if source.root is not None:
        parts.append(_tree_hash(source.root, source.files, known))
    else:
        parts += [f"{path.name} {file_hash(path, known)}" for path in source.files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def file_hash(path: Path, known: Path) -> str:
    """SHA-256 of a file's content, remembered in the folder `known` while path, size and time of change stay the same.

    Raises DataError where it cannot be read, OSError where that cannot be remembered.
    """
    path = path.absolute()
    known.mkdir(parents=True, exist_ok=True)
    note = known / f"{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.json"
    try:
        state = path.stat()
        seen = [str(path), state.st_size, state.st_mtime_ns]
        remembered = _read_json(note)
        if remembered.get("seen") == seen and remembered["hashed_ns"] - state.st_mtime_ns > SETTLED_NS:
            return str(remembered["sha256"])
        hashed_ns = time.time_ns()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    _write_json(note, {"seen": seen, "hashed_ns": hashed_ns, "sha256": digest})
    return digest


def _tree_hash(root: Path, files: tuple[Path, ...], known: Path) -> str:
    """SHA-256 over the names below `root` and contents of many files, remembered in one note until one changes."""
    listing, newest = hashlib.sha256(), 0
    for path in files:
        try:
            state = path.stat()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        listing.update(f"{path.relative_to(root).as_posix()}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
        newest = max(newest, state.st_mtime_ns)
    note = known / f"{hashlib.sha256(str(root.absolute()).encode()).hexdigest()[:16]}.json"
    seen, remembered = [str(root.absolute()), listing.hexdigest()], _read_json(note)
    if remembered.get("seen") == seen and remembered["hashed_ns"] - newest > SETTLED_NS:
        return str(remembered["sha256"])
    hashed_ns = time.time_ns()
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        digest.update(f"{path.relative_to(root).as_posix()}\0{content}\n".encode())
    _write_json(note, {"seen": seen, "hashed_ns": hashed_ns, "sha256": digest.hexdigest()})
    return digest.hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(content))
    partial.replace(path)


def _open(folder: Path, source: Source) -> ImageData | None:
    """The data in a cache folder; none when it is absent or was cut off, by a power failure say."""
    about = _read_json(folder / "about.json")
    try:
        # Copy-on-write rather than read-only: torch warns about arrays that it could not write to.
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="c") for name in ARRAYS}
        return ImageData(
            name=source.name,
            classes=source.classes,
            mean=source.mean or tuple(about["mean"]),
            std=source.std or tuple(about["std"]),
            variant=about["variant"],
            fingerprint=about["fingerprint"],
            **arrays,
        )
    except (FileNotFoundError, ValueError, EOFError, KeyError):
        return None


def _store(source: Source, target: Path) -> None:
    """Decode into a folder beside the target, then rename it: others see all or nothing. The caller holds the lock."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed here
    partial.mkdir()
    try:
        decoded = source.decode(partial)
        for name in ARRAYS:
            if (partial / f"{name}.npy").exists():  # left there by the decoder
                continue
            with (partial / f"{name}.npy").open("wb") as file:
                np.save(file, getattr(decoded, name))
                file.flush()
                os.fsync(file.fileno())
        about: dict[str, Any] = {"variant": decoded.variant, "fingerprint": fingerprint(decoded)}
        about |= {"mean": decoded.mean, "std": decoded.std}
        about["files"] = str(source.root) if source.root else ", ".join(path.name for path in source.files)
        _write_json(partial / "about.json", about)
        shutil.rmtree(target, ignore_errors=True)  # there, but it could not be opened
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
