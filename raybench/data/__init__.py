"""Data sets as uint8 arrays in memory. The folder is the registry: `digits` is `raybench/data/digits.py`.

A module of this folder is a data set when it defines `load_source(data_root, download) -> Source`.
"""

from __future__ import annotations

import ast
import difflib
import importlib
from functools import lru_cache
from pathlib import Path

from raybench.config.folders import cache_root
from raybench.data.cache import open_decoded
from raybench.data.source import ImageData
from raybench.errors import DataError

__all__ = ["ImageData", "load", "names"]


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """Every data set, sorted. Files are parsed, not imported, so that listing stays quick."""
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("*.py") if _is_data_set(path)))


def _is_data_set(path: Path) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == "load_source" for node in tree.body)


def load(name: str, data_root: Path | None = None, *, download: bool = True) -> ImageData:
    """A data set by its name, decoded once a machine and opened from the cache after that.

    data_root: the folder that holds the files; none means `./data`. What is not there is downloaded into it, if
    `download` allows.

    Raises DataError for an unknown name, for data that are absent, and for files that cannot be read.
    """
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=3, cutoff=0.4) or names()
        raise DataError(f'unknown data set "{name}"; did you mean {" or ".join(close)}? All: {", ".join(names())}')
    root = Path("data") if data_root is None else data_root
    return _load(name, root.expanduser().absolute(), download, cache_root())


@lru_cache(maxsize=8)
def _load(name: str, data_root: Path, download: bool, cache: Path) -> ImageData:  # noqa: ARG001  (cache: part of the memo's key)
    source = importlib.import_module(f"{__name__}.{name}").load_source(data_root, download)
    return open_decoded(source)
