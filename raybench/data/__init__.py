"""Data sets in memory. The folder is the registry: `digits` is `raybench/data/digits.py`.

A module of this folder is a data set of images when it defines `load_source(request, data_root, download) -> Source`;
it names in `OPTIONS` which options of a request it takes (none where it has no `OPTIONS`). It is one of sentence pairs
when it defines `load_pairs(data_root) -> TextSource`. `TERMS` says on which terms its data are to be had. Plugins and
installed packages bring such functions by name (`raybench.config.plugins`).
"""

from __future__ import annotations

import ast
import difflib
import importlib
import sys
from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

from raybench.config import plugins
from raybench.config.folders import at_home, cache_root
from raybench.config.plugins import Extra, Plugin
from raybench.data.cache import decoded_files, open_decoded, open_fetched
from raybench.data.source import ImageData, Request, Source
from raybench.data.text import TextData, TextSource, encode
from raybench.errors import ConfigError, DataError
from raybench.results.depot import depot

__all__ = [
    "ImageData",
    "Kind",
    "Request",
    "TextData",
    "fetch",
    "find_pairs",
    "find_source",
    "kind_of",
    "load",
    "load_text",
    "names",
    "terms",
]

Kind = Literal["image", "text"]
DECLARED_BY: dict[str, Kind] = {"load_source": "image", "load_pairs": "text"}
BROUGHT_BY: dict[str, Kind] = {"DATASETS": "image", "TEXT_DATASETS": "text"}


def names(kind: Kind | None = None) -> tuple[str, ...]:
    """Every data set, of one kind or all, sorted."""
    return tuple(sorted(name for name, own in _all().items() if kind in (None, own)))


def kind_of(name: str) -> Kind:
    """What a data set holds. Raises DataError for an unknown name."""
    if name not in _all():
        raise DataError(_unknown(name, names()))
    return _all()[name]


def terms(name: str) -> str:
    """On which terms the data of a data set are to be had, in a sentence. Raises DataError for an unknown one."""
    kind_of(name)
    module = None if _extra(name) is not None else importlib.import_module(f"{__name__}.{name}")
    return getattr(module, "TERMS", f"{name} is data of your own, or from outside raybench: you know their terms.")


def check_extras(names: Collection[str]) -> None:
    """Raise ConfigError where a data set from outside, of these names, has that of one of ours."""
    extras = [extra for group in BROUGHT_BY for extra in plugins.extras(group).values()]
    if faults := [
        f"{extra}: raybench has a data set of that name; give yours another"
        for extra in extras
        if extra.name in names and extra.name in _kinds()
    ]:
        raise ConfigError(faults)


def _all() -> dict[str, Kind]:
    brought = {name: kind for group, kind in BROUGHT_BY.items() for name in plugins.extras(group)}
    return brought | _kinds()


@lru_cache(maxsize=1)
def _kinds() -> dict[str, Kind]:
    """Kind of each data set. Files are parsed, not imported, so that listing stays quick."""
    kinds: dict[str, Kind] = {}
    for path in Path(__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name in DECLARED_BY:
                kinds[path.stem] = DECLARED_BY[node.name]
    return kinds


def load(
    what: str | Request, data_root: Path | None = None, *, download: bool = True, fingerprint: str | None = None
) -> ImageData:
    """A data set of images, decoded once a machine and opened from the cache after that.

    what: its name, or a request that says more. data_root: the folder that holds the files; none means `./data`. What
    is not there is copied decoded from the cluster's depot, if data of that `fingerprint` were brought there, else
    downloaded, if `download` allows and the data set can be.

    Raises DataError for an unknown name, for an option that the data set does not take, for data that are absent, and
    for files that cannot be read.
    """
    return _load(_asked(what), _absolute(data_root), download, fingerprint, cache_root(), plugins.loaded())


def find_source(what: str | Request, data_root: Path | None = None, *, download: bool = False) -> Source:
    """Where a data set of images was found; nothing is decoded. Raises DataError as `load` does."""
    request = _asked(what)
    data_root = _absolute(data_root)
    if (extra := _extra(request.name)) is not None:
        return _from_outside(extra, plugins.called(extra, extra.load(), request, data_root, download))
    module = importlib.import_module(f"{__name__}.{request.name}")
    source: Source = module.load_source(request, data_root, download)
    return source


def _asked(what: str | Request) -> Request:
    """The request, with what its data set takes. Raises DataError for what it does not take."""
    request = Request(what) if isinstance(what, str) else what
    _check(request.name, "image")
    taken = _options(request.name)
    if refused := [option for option in request.options if option not in taken]:
        others = [name for name in names("image") if refused[0] in _options(name)]
        raise DataError(
            f"{request.name} takes no dataset.{refused[0]} (it is {request.options[refused[0]]}); leave it out, or "
            f"name one of the data sets that do: {', '.join(others)}"
        )
    return request if "decode_size" in taken else replace(request, image_size=None)


def _options(name: str) -> tuple[str, ...]:
    """What a data set takes beside its name."""
    if (extra := _extra(name)) is not None:
        module = sys.modules.get(getattr(extra.load(), "__module__", ""))
        return tuple(getattr(module, "OPTIONS", ()))
    return tuple(getattr(importlib.import_module(f"{__name__}.{name}"), "OPTIONS", ()))


def _extra(name: str) -> Extra | None:
    """The data set where it comes from outside."""
    if name in _kinds():
        return None
    return next((extra for group in BROUGHT_BY if (extra := plugins.find(group, name)) is not None), None)


def load_text(name: str, data_root: Path | None = None) -> TextData:
    """A data set of sentence pairs by its name; read and tokenized once a process, which takes seconds.

    data_root: the folder that holds the files; none means `./data`. Nothing is downloaded.

    Raises DataError for an unknown name, for data that are absent or cannot be read, and where spaCy is needed but not
    installed.
    """
    _check(name, "text")
    return _load_text(name, _absolute(data_root), plugins.loaded())


def find_pairs(name: str, data_root: Path | None = None) -> TextSource:
    """Where a data set of sentence pairs was found; nothing is read. Raises DataError as `load_text` does."""
    _check(name, "text")
    if (extra := _extra(name)) is not None:
        found = plugins.called(extra, extra.load(), _absolute(data_root))
        if not isinstance(found, TextSource):
            raise DataError(f"{extra}: must return a raybench.data.text.TextSource, not {type(found).__name__}")
        return replace(found, name=name, read=partial(plugins.called, extra, found.read))
    source: TextSource = importlib.import_module(f"{__name__}.{name}").load_pairs(_absolute(data_root))
    return source


def fetch(name: str, data_root: Path | None = None) -> None:
    """Fetch what is missing of a data set of sentence pairs, where it can be. Raises DataError where that fails."""
    _check(name, "text")
    if _extra(name) is None:
        module = importlib.import_module(f"{__name__}.{name}")
        getattr(module, "fetch_files", lambda _: None)(_absolute(data_root))


def _absolute(data_root: Path | None) -> Path:
    return at_home(Path("data") if data_root is None else data_root).absolute()


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
def _load(  # cache and known are parts of the memo's key
    request: Request,
    data_root: Path,
    download: bool,
    fingerprint: str | None,
    cache: Path,  # noqa: ARG001
    known: tuple[Plugin, ...],  # noqa: ARG001
) -> ImageData:
    store = depot() if fingerprint else None
    if fingerprint is None or store is None:
        return open_decoded(find_source(request, data_root, download=download))
    try:
        return open_decoded(find_source(request, data_root))
    except DataError:
        fetched = open_fetched(store, request.name, fingerprint)
        return fetched if fetched is not None else open_decoded(find_source(request, data_root, download=download))


def share(what: Request, data_root: Path | None) -> None:
    """Bring a data set, decoded, to the cluster's depot, unless it is there or there is no depot.

    Machines that lack its files copy it from there, so only this one needs them. Raises as `load` does, and
    ResultsError where the depot cannot be written.
    """
    store = depot()
    if store is None:
        return
    data = load(what, data_root)
    source = find_source(what, data_root)
    if source.files:  # what is embedded in a package is on every machine
        name, folder, files = decoded_files(source, data)
        store.publish(name, folder, files)


def _from_outside(extra: Extra, source: Source) -> Source:
    """Under the name it was asked for by, decoded anew where its code has changed."""
    if not isinstance(source, Source):
        raise DataError(f"{extra}: must return a raybench.data.source.Source, not {type(source).__name__}")
    decode = partial(plugins.called, extra, source.decode)
    return replace(source, name=extra.name, layout=f"{source.layout} {extra.code}", decode=decode)


@lru_cache(maxsize=2)
def _load_text(name: str, data_root: Path, known: tuple[Plugin, ...]) -> TextData:  # noqa: ARG001  (part of the memo's key)
    # Not kept on disk: a process reads it once, and 31,014 pairs take 3 s.
    return encode(find_pairs(name, data_root))
