"""`raybench data get|check NAME [key=value …]`: fetch a data set, verify it, and decode it for all trials to come."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raybench.commands.arguments import add_plugin
from raybench.commands.endings import EXIT_COMPLETE, ended
from raybench.errors import ConfigError

if TYPE_CHECKING:
    from raybench.data import Request

KEYS = ("path", "test_path", "label_column", "decode_size", "image_size")
"""Of `dataset`: what may be said behind the name."""
NUMBERS = ("decode_size", "image_size")


def parser(prog: str = "raybench data") -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(
        prog=prog,
        description="Fetch, verify and decode a data set. Decoded once, it is opened by every trial on this machine.",
        epilog="`get` downloads what is not there, `check` never does; with files in place neither needs a network. "
        "exit codes: 0 the data can be used; 2 they cannot, with where they were looked for.",
    )
    parse.add_argument("action", choices=("get", "check"))
    parse.add_argument("name", metavar="NAME", help="a data set (raybench list datasets)")
    parse.add_argument(
        "options", nargs="*", metavar="key=value", help=f"as in a sweep's dataset: {', '.join(KEYS)} (of photos)"
    )
    parse.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the data sets (RAYBENCH_DATA, ./data)")
    add_plugin(parse)
    return parse


def main(argv: Sequence[str]) -> int:
    """Do it; exit code 0 where the data can be used."""
    args = parser().parse_intermixed_args(argv)
    return ended(lambda: _data(args))


def _data(args: argparse.Namespace) -> int:
    from raybench.commands.given import load_plugins
    from raybench.config.folders import data_folder
    from raybench.data import kind_of

    load_plugins(args.plugin)
    root = data_folder(args.data_root)
    options = _options(args.options)
    text = kind_of(args.name) == "text"
    if text and options:
        raise ConfigError([f"command line: {args.name} holds sentence pairs and takes no {', '.join(options)}"])
    with _shown():
        lines = _text(args.name, root, args.action) if text else _images(args.name, options, root, args.action)
    for line in lines:
        print(line)
    return EXIT_COMPLETE


def _options(given: Sequence[str]) -> dict[str, Any]:
    """What stands behind the name. Raises ConfigError with all that is wrong."""
    found: dict[str, Any] = {}
    faults = []
    for entry in given:
        key, equals, value = entry.removeprefix("dataset.").partition("=")
        if not equals or key not in KEYS:
            faults.append(f"command line: {entry}: must be key=value, and key one of {', '.join(KEYS)}")
        elif key in NUMBERS and not (value.isdecimal() and int(value) > 0):
            faults.append(f"command line: {entry}: must be a whole number of pixels")
        else:
            found[key] = int(value) if key in NUMBERS else value
    if faults:
        raise ConfigError(faults)
    return found


def _images(name: str, options: dict[str, Any], root: Path, action: str) -> list[str]:
    from raybench.data import Request, load

    request = Request(name, **options)
    data = load(request, root, download=action == "get")
    counted = f"{len(data.train_images):,} training and {len(data.test_images):,} test images"
    _, channels, height, width = data.train_images.shape
    shape = f"{width}x{height}, {channels} channel{'s' if channels != 1 else ''}, {len(data.classes)} classes"
    return [
        f"{request} ({data.variant}): {counted}, {shape}",
        f"found {_place(request, root)}; fingerprint {data.fingerprint}",
        f"decoded in {_cache(name)}",
    ]


def _text(name: str, root: Path, action: str) -> list[str]:
    from raybench.data import fetch, load_text

    if action == "get":
        fetch(name, root)
    data = load_text(name, root)
    counted = ", ".join(
        f"{len(part):,} {word}"
        for word, part in (("training", data.train), ("validation", data.val), ("test", data.test))
    )
    words = f"{len(data.source_vocabulary.words):,} and {len(data.target_vocabulary.words):,} words"
    return [
        f"{name} ({data.variant}): {counted} sentence pairs, {words}",
        f"looked in {root}; fingerprint {data.fingerprint}",
    ]


def _place(request: Request, root: Path) -> str:
    """Where the files lie."""
    from raybench.data import find_source

    source = find_source(request, root)
    if not source.files:
        return "embedded in a package" if request.name == "digits" else "without files"
    if source.root is not None:
        return f"in {source.root}"
    folders = list(dict.fromkeys(path.parent for path in source.files))
    return f"{', '.join(path.name for path in source.files)} in {', '.join(map(str, folders))}"


def _cache(name: str) -> Path:
    from raybench.config.folders import cache_root

    return cache_root() / "data" / name


@contextmanager
def _shown() -> Iterator[None]:
    """A bar of each download and decoding inside, on a terminal; elsewhere nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from raybench.data.progress import told

    console = Console(file=sys.stderr)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total or None)
            progress.update(tasks[what], completed=done)

        with told(show):
            yield
