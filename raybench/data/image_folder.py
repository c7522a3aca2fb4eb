"""Photos in folders named after their classes, as torchvision's ImageFolder has them; a folder or a zip file.

`train/<class>/*.jpg` with `test/` or `val/` beside it (Imagenette, ImageNet), or `<class>/*.jpg` alone (Animals-10), of
which a fixed fifth of each class is the test set then; a class may be called `train`. A zip file is read in memory,
nothing of it is unpacked.
"""

from __future__ import annotations

import difflib
import logging
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from raybench.config.folders import at_home
from raybench.data import hashing, photos
from raybench.data.photos import Part, Photo
from raybench.data.source import Decoded, Request, Source
from raybench.data.splits import TEST_SHARE, cut_test
from raybench.errors import DataError

OPTIONS = ("path", "decode_size")
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Those of torchvision's ImageFolder."""
TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation")
"""The first that is there, with folders of classes in it, is the test set."""
LARGEST_MEMBER = 256 * 2**20
"""Bytes of an unpacked member of a zip file; what says it is larger is no photo."""
LISTED = 5

logger = logging.getLogger(__name__)
Read = Callable[[str], bytes]


@dataclass(frozen=True)
class Listing:
    """Names below a folder or in a zip file, with / between their parts; hidden ones left out."""

    files: tuple[str, ...]
    folders: frozenset[str]


@dataclass(frozen=True)
class Arrangement:
    """Which file belongs to which part and class."""

    classes: tuple[str, ...]
    train: tuple[tuple[str, int], ...]
    test: tuple[tuple[str, int], ...]
    variant: str


def load_source(request: Request, data_root: Path, _download: bool) -> Source:
    """The folder or zip file of `request.path`. Raises DataError when it is absent or not laid out as classes."""
    side, path = request.side, find(request, data_root)
    zipped = path.is_file()
    arranged = arrange(_zip_listing(path) if zipped else _folder_listing(path), path)
    logger.info(f"{path}: {len(arranged.train)} training and {len(arranged.test)} test images")
    files = (path,) if zipped else tuple(path / name for name, _ in (*arranged.train, *arranged.test))
    layout = f"{photos.LAYOUT} {side} image_folder {len(arranged.train)} {len(arranged.test)}"
    decode = partial(_decode, path, arranged, side)
    return Source(request.name, arranged.classes, (), (), files, layout, decode, root=None if zipped else path)


def find(request: Request, data_root: Path) -> Path:
    """Where the data of a request lie. Raises DataError that names what is there instead."""
    if request.path is None:
        raise DataError(f"{request.name} needs dataset.path: a folder or file, below {data_root} or absolute")
    path = data_root / at_home(request.path)
    if path.exists():
        return path
    there = sorted(each.name for each in path.parent.iterdir()) if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, there, n=3, cutoff=0.4)
    raise DataError(
        f"{request.name}: {path} is not there{'; did you mean ' + ' or '.join(near) + '?' if near else ''} "
        "(dataset.path counts from --data-root DIR)"
    )


def arrange(listing: Listing, place: Path) -> Arrangement:
    """Parts, classes and the order of a listing: classes by name, files as torchvision's ImageFolder orders them.

    Raises DataError when there is no image, a class is empty, or train and test have other classes.
    """
    images = sorted((name for name in listing.files if name.lower().endswith(SUFFIXES)), key=_walked)
    if not images:
        raise DataError(f"{place} holds no images; photos ({', '.join(SUFFIXES)}) are expected as <class>/<name>")
    root = _root(images)
    tops = sorted({name.split("/")[0] for name in _below(images, root) if "/" in name})
    # A folder whose images lie in it itself is a class of that name, unless the others are parts as well.
    parts = all(top.lower() in (*TRAIN, *TEST) for top in tops)
    train = next((top for top in tops if top.lower() in TRAIN and (parts or _has_folders(images, root, top))), None)
    if train is None and tops and all(top.lower() in TEST for top in tops):
        raise DataError(f"{place} holds {' and '.join(tops)} but no train; training images are expected there")
    base = f"{root}{train}/" if train else root
    classes = _classes(listing, images, base, place)
    if len(classes) < 2:
        count = f"{len(classes)} folder{'s' if len(classes) != 1 else ''}"
        raise DataError(f"{place}: {count} of classes in {base or 'it'}; at least 2 are needed, as <class>/<name>")
    held = _members(images, base, classes)
    chosen = [top for name in TEST for top in tops if train and top.lower() == name]
    chosen = [top for top in chosen if _has_folders(images, root, top)]
    if chosen:
        test = _members(
            images, f"{root}{chosen[0]}/", _same_classes(listing, images, classes, base, root, chosen[0], place)
        )
        unused = f" ({', '.join(chosen[1:])} not used)" if chosen[1:] else ""
        found = Arrangement(classes, held, test, f"unverified{unused}")
    else:
        labels = np.array([label for _, label in held], dtype=np.int64)
        # By name, so that another image more or less changes the place of no other.
        ranks = np.array([hashing.key("test cut", name[len(base) :]) for name, _ in held], dtype=np.int64)
        cut = cut_test(labels, ranks)
        held, test = (
            tuple(each for each, here in zip(held, cut == part, strict=True) if here) for part in (False, True)
        )
        found = Arrangement(classes, held, test, f"own split (test is a fixed {TEST_SHARE:.0%} of each class)")
    if ignored := len(listing.files) - len(found.train) - len(found.test):
        used = {name for name, _ in (*found.train, *found.test)}
        shown = [name for name in listing.files if name not in used][:LISTED]
        logger.info(f"{place}: {ignored} files are no images of a class and not used, such as {', '.join(shown)}")
    return found


def _walked(name: str) -> tuple[str, str]:
    folder, _, last = name.rpartition("/")
    return folder, last


def _root(images: list[str]) -> str:
    """The folders that only wrap the others, as `imagenette2/` does in its archive."""
    root = ""
    while True:
        rest = [name[len(root) :].split("/") for name in images]
        first = rest[0][0]
        wraps = all(parts[0] == first and len(parts) > 2 for parts in rest)
        if not wraps or first.lower() in (*TRAIN, *TEST):
            return root
        root = f"{root}{first}/"


def _below(images: list[str], base: str) -> list[str]:
    return [name[len(base) :] for name in images if name.startswith(base)]


def _has_folders(images: list[str], root: str, top: str) -> bool:
    return any("/" in image for image in _below(images, f"{root}{top}/"))


def _classes(listing: Listing, images: list[str], base: str, place: Path) -> tuple[str, ...]:
    """The folders in `base`, sorted; an empty one is a fault, as for torchvision."""
    full = {name.split("/")[0] for name in _below(images, base) if "/" in name}
    named = {name[len(base) :].split("/")[0] for name in listing.folders if name.startswith(base) and name != base}
    if empty := sorted(named - full - {""}):
        shown = ", ".join(base + name for name in empty[:LISTED])
        raise DataError(f"{place}: no image in {shown}; each folder of a class needs one: fill or remove it")
    return tuple(sorted(full))


def _same_classes(
    listing: Listing, images: list[str], classes: tuple[str, ...], base: str, root: str, test: str, place: Path
) -> tuple[str, ...]:
    there = _classes(listing, images, f"{root}{test}/", place)
    for lacking, where, other in (
        (sorted(set(classes) - set(there)), test, base.strip("/")),
        (sorted(set(there) - set(classes)), base.strip("/"), test),
    ):
        if lacking:
            more = f" and {len(lacking) - LISTED} more" if len(lacking) > LISTED else ""
            raise DataError(
                f"{place}: {where} has no folder {', '.join(lacking[:LISTED])}{more}, which {other} has; both need the "
                "same classes"
            )
    return classes


def _members(images: list[str], base: str, classes: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    number = {name: label for label, name in enumerate(classes)}
    found = [
        (name, number[name[len(base) :].split("/")[0]])
        for name in images
        if name.startswith(base) and "/" in name[len(base) :]
    ]
    return tuple(sorted(found, key=lambda member: member[1]))


def _decode(path: Path, arranged: Arrangement, side: int, folder: Path) -> Decoded:
    with _reader(path) as read:
        parts = (
            Part("train", str(path), len(arranged.train), partial(_photos, arranged.train, path, read)),
            Part("test", str(path), len(arranged.test), partial(_photos, arranged.test, path, read)),
        )
        return photos.decode(parts, arranged.classes, side, arranged.variant, folder)


def _photos(members: tuple[tuple[str, int], ...], path: Path, read: Read) -> Iterator[Photo]:
    for name, label in members:
        yield Photo(f"{path.name}/{name}", label, partial(read, name))


@contextmanager
def _reader(path: Path) -> Iterator[Read]:
    if path.is_dir():
        yield lambda name: (path / name).read_bytes()
    else:
        with zipfile.ZipFile(path) as archive:
            yield archive.read


def _folder_listing(path: Path) -> Listing:
    """Links are followed, but into no folder twice."""
    files: list[str] = []
    folders: set[str] = set()
    seen: set[tuple[int, int]] = set()
    for folder, below, names in os.walk(path, followlinks=True):
        state = Path(folder).stat()
        if (state.st_dev, state.st_ino) in seen:
            below.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        below[:] = sorted(name for name in below if not _hidden(name))
        base = Path(folder).relative_to(path).as_posix()
        prefix = "" if base == "." else f"{base}/"
        folders |= {f"{prefix}{name}/" for name in below}
        files += [f"{prefix}{name}" for name in names if not _hidden(name)]
    return Listing(tuple(sorted(files)), frozenset(folders))


def _zip_listing(path: Path) -> Listing:
    """The members of a zip file. Raises DataError for what is none, and for members that no archive of photos has."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a zip file: {error}; copy or download it again") from error
    files: set[str] = set()
    folders: set[str] = set()
    for member in members:
        name = member.filename
        parts = PurePosixPath(name).parts
        if name.startswith(("/", "\\")) or ".." in parts or "\\" in name or name[1:2] == ":":
            raise DataError(f"{path}: the member {name!r} points out of the archive; it is not read. Take another file")
        if any(_hidden(part) for part in parts):
            continue
        if member.is_dir():
            folders.add(name)
            continue
        if member.flag_bits & 1:
            raise DataError(f"{path}: the member {name!r} is encrypted; unpack it and name the folder")
        if member.file_size > LARGEST_MEMBER:
            raise DataError(
                f"{path}: the member {name!r} would unpack to {member.file_size / 2**20:.0f} MiB; a photo has at most "
                f"{LARGEST_MEMBER // 2**20} MiB"
            )
        files.add(name)
    return Listing(tuple(sorted(files)), frozenset(folders))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
