"""Data sets as uint8 arrays in memory. The folder is the registry: `digits` is `raybench/data/digits.py`.

A module of this folder is a data set when it defines `load_source(request, data_root, download) -> Source`. It names in
`OPTIONS` which options of a request it takes; none where it has no `OPTIONS`.
"""

from __future__ import annotations

import ast
import difflib
import importlib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from raybench.config.folders import cache_root
from raybench.data.cache import open_decoded
from raybench.data.source import ImageData, Request
from raybench.errors import DataError

__all__ = ["ImageData", "Request", "load", "names"]


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """Every data set, sorted. Files are parsed, not imported, so that listing stays quick."""
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("*.py") if _is_data_set(path)))


def _is_data_set(path: Path) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == "load_source" for node in tree.body)


def load(what: str | Request, data_root: Path | None = None, *, download: bool = True) -> ImageData:
    """A data set, decoded once a machine and opened from the cache after that.

    what: its name, or a request that says more. data_root: the folder that holds the files; none means `./data`. What
    is not there is downloaded into it, if `download` allows and the data set can be.

    Raises DataError for an unknown name, for an option that the data set does not take, for data that are absent, and
    for files that cannot be read.
    """
    request = Request(what) if isinstance(what, str) else what
    if request.name not in names():
        close = difflib.get_close_matches(request.name, names(), n=3, cutoff=0.4) or names()
        raise DataError(
            f'unknown data set "{request.name}"; did you mean {" or ".join(close)}? All: {", ".join(names())}'
        )
    taken = _options(request.name)
    if refused := [option for option in request.options if option not in taken]:
        others = [name for name in names() if refused[0] in _options(name)]
        raise DataError(
            f"{request.name} takes no dataset.{refused[0]} (it is {request.options[refused[0]]}); leave it out, or "
            f"name one of the data sets that do: {', '.join(others)}"
        )
    if "decode_size" not in taken:
        request = replace(request, image_size=None)
    root = Path("data") if data_root is None else data_root
    return _load(request, root.expanduser().absolute(), download, cache_root())


def _options(name: str) -> tuple[str, ...]:
    """What a data set takes beside its name."""
    return tuple(getattr(importlib.import_module(f"{__name__}.{name}"), "OPTIONS", ()))


@lru_cache(maxsize=8)
def _load(request: Request, data_root: Path, download: bool, cache: Path) -> ImageData:  # noqa: ARG001  (cache: part of the memo's key)
    source = importlib.import_module(f"{__name__}.{request.name}").load_source(request, data_root, download)
    return open_decoded(source)
