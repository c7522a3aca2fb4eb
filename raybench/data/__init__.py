"""Data sets in memory. The folder is the registry: `digits` is `raybench/data/digits.py`.

A module of this folder is a data set of images when it defines `load_source(request, data_root, download) -> Source`;
it names in `OPTIONS` which options of a request it takes (none where it has no `OPTIONS`). It is one of sentence pairs
when it defines `load_pairs(data_root) -> TextSource`.
"""

from __future__ import annotations

import ast
import difflib
import importlib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from raybench.config.folders import cache_root
from raybench.data.cache import open_decoded
from raybench.data.source import ImageData, Request
from raybench.data.text import TextData, encode
from raybench.errors import DataError

__all__ = ["ImageData", "Kind", "Request", "TextData", "kind_of", "load", "load_text", "names"]

Kind = Literal["image", "text"]
DECLARED_BY: dict[str, Kind] = {"load_source": "image", "load_pairs": "text"}


def names(kind: Kind | None = None) -> tuple[str, ...]:
    """Every data set, of one kind or all, sorted."""
    return tuple(sorted(name for name, own in _kinds().items() if kind in (None, own)))


def kind_of(name: str) -> Kind:
    """What a data set holds. Raises DataError for an unknown name."""
    if name not in _kinds():
        raise DataError(_unknown(name, names()))
    return _kinds()[name]


@lru_cache(maxsize=1)
def _kinds() -> dict[str, Kind]:
    """Kind of each data set. Files are parsed, not imported, so that listing stays quick."""
    kinds: dict[str, Kind] = {}
    for path in Path(__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name in DECLARED_BY:
                kinds[path.stem] = DECLARED_BY[node.name]
    return kinds


def load(what: str | Request, data_root: Path | None = None, *, download: bool = True) -> ImageData:
    """A data set of images, decoded once a machine and opened from the cache after that.

    what: its name, or a request that says more. data_root: the folder that holds the files; none means `./data`. What
    is not there is downloaded into it, if `download` allows and the data set can be.

    Raises DataError for an unknown name, for an option that the data set does not take, for data that are absent, and
    for files that cannot be read.
    """
    request = Request(what) if isinstance(what, str) else what
    _check(request.name, "image")
    taken = _options(request.name)
    if refused := [option for option in request.options if option not in taken]:
        others = [name for name in names("image") if refused[0] in _options(name)]
        raise DataError(
            f"{request.name} takes no dataset.{refused[0]} (it is {request.options[refused[0]]}); leave it out, or "
            f"name one of the data sets that do: {', '.join(others)}"
        )
    if "decode_size" not in taken:
        request = replace(request, image_size=None)
    return _load(request, _absolute(data_root), download, cache_root())


def _options(name: str) -> tuple[str, ...]:
    """What a data set takes beside its name."""
    return tuple(getattr(importlib.import_module(f"{__name__}.{name}"), "OPTIONS", ()))


def load_text(name: str, data_root: Path | None = None) -> TextData:
    """A data set of sentence pairs by its name; read and tokenized once a process, which takes seconds.

    data_root: the folder that holds the files; none means `./data`. Nothing is downloaded.

    Raises DataError for an unknown name, for data that are absent or cannot be read, and where spaCy is needed but not
    installed.
    """
    _check(name, "text")
    return _load_text(name, _absolute(data_root))


def _absolute(data_root: Path | None) -> Path:
    return (Path("data") if data_root is None else data_root).expanduser().absolute()


def _check(name: str, kind: Kind) -> None:
    if name not in names(kind):
        if name in names():
            held, wanted = ("sentence pairs", "images") if kind == "image" else ("images", "sentence pairs")
            raise DataError(f"{name} holds {held}, not {wanted}; data sets of {wanted}: {', '.join(names(kind))}")
        raise DataError(_unknown(name, names(kind)))


def _unknown(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
    return f'unknown data set "{name}"; did you mean {" or ".join(close)}? All: {", ".join(known)}'


@lru_cache(maxsize=8)
def _load(request: Request, data_root: Path, download: bool, cache: Path) -> ImageData:  # noqa: ARG001  (cache: part of the memo's key)
    source = importlib.import_module(f"{__name__}.{request.name}").load_source(request, data_root, download)
    return open_decoded(source)


@lru_cache(maxsize=2)
def _load_text(name: str, data_root: Path) -> TextData:
    # Not kept on disk: a process reads it once, and 31,014 pairs take 3 s.
    return encode(importlib.import_module(f"{__name__}.{name}").load_pairs(data_root))
