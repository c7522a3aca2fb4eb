"""`raybench list models|datasets|sweeps`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from raybench.commands.arguments import add_plugin
from raybench.commands.endings import EXIT_COMPLETE, ended
from raybench.commands.given import load_plugins
from raybench.config.document import list_sweeps, read_document
from raybench.config.plugins import find
from raybench.errors import RaybenchError


def parser(prog: str = "raybench list") -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(prog=prog, description="What there is, a line each.")
    parse.add_argument("kind", choices=("models", "datasets", "sweeps"))
    parse.add_argument("filter", nargs="?", default="", help="only names that contain this")
    add_plugin(parse)
    return parse


def main(argv: Sequence[str]) -> int:
    """Print what there is of a kind, a line each."""
    args = parser().parse_args(argv)
    return ended(lambda: _list(args))


def _list(args: argparse.Namespace) -> int:
    load_plugins(args.plugin)
    if args.kind == "sweeps":
        print_sweeps(args.filter)
    elif args.kind == "datasets":
        _print_data_sets(args.filter)
    else:
        _print_models(args.filter)
    return EXIT_COMPLETE


def print_sweeps(wanted: str = "") -> None:
    """Each sweep with its question."""
    sweeps = {name: path for name, path in list_sweeps().items() if wanted in name}
    width = max((len(name) for name in sweeps), default=0)
    for name, path in sweeps.items():
        try:
            question = read_document(path).question
        except RaybenchError as error:
            question = f"(unreadable: {str(error).splitlines()[0]})"
        print(f"{name:<{width}}  {question}")


def _print_data_sets(wanted: str = "") -> None:
    from raybench.data import kind_of, names

    for name in names():
        if wanted in name:
            print(_with_origin(f"{name}  (sentence pairs)" if kind_of(name) == "text" else name, name, "DATASETS"))


def _with_origin(line: str, name: str, kind: str) -> str:
    """The line of a model or data set, and where one from outside comes from."""
    extra = find(kind, name) or find(f"TEXT_{kind}", name)
    return f"{line}  ({extra.origin})" if extra else line


def _print_models(wanted: str) -> None:
    from raybench.models import names

    own = [name for name in names() if wanted in name]
    print("\n".join(_with_origin(name, name, "MODELS") for name in own))
    from timm import list_models

    others = [name for name in list_models() if wanted in name]
    if wanted:
        print("\n".join(others))
    else:
        print(f"and {len(others)} timm models by their timm names (raybench list models WORD shows those with WORD)")
