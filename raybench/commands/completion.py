"""`raybench completion bash|zsh`: what a shell needs to complete commands, options, sweeps and data sets."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from raybench.commands.endings import EXIT_COMPLETE, ended
from raybench.errors import RaybenchError

SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")
PRESETS = ("auto", "paper", "small", "quick")


def parser(prog: str = "raybench completion") -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(
        prog=prog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Print what a shell needs to complete raybench's commands.",
        epilog='bash, in ~/.bashrc:   eval "$(raybench completion bash)"\n'
        'zsh, in ~/.zshrc:     eval "$(raybench completion zsh)"\n'
        "fish:                 raybench completion fish > ~/.config/fish/completions/raybench.fish",
    )
    parse.add_argument("shell", choices=SHELLS)
    return parse


def main(argv: Sequence[str]) -> int:
    """Print it."""
    args = parser().parse_args(argv)
    return ended(lambda: _completion(args.shell))


def _completion(shell: str) -> int:
    print(_argcomplete().shellcode(["raybench"], shell=shell))
    return EXIT_COMPLETE


def _argcomplete() -> Any:
    try:
        import argcomplete
    except ImportError:
        raise RaybenchError('completion needs argcomplete: pip install "raybench[completion]"') from None
    return argcomplete


def complete(commands: Mapping[str, str]) -> None:
    """Answer the shell, and end this process."""
    _argcomplete().autocomplete(whole_parser(commands))


def whole_parser(commands: Mapping[str, str]) -> argparse.ArgumentParser:
    """One parser of all commands: command -> module with its `parser`. Nothing heavy is imported."""
    whole = argparse.ArgumentParser(prog="raybench")
    of_command = whole.add_subparsers()
    for name, module in commands.items():
        own: argparse.ArgumentParser = import_module(module).parser(f"raybench {name}")
        for action in own._actions:
            if (names := COMPLETED.get(action.dest)) is not None and action.choices is None:
                action.completer = names  # type: ignore[attr-defined]  # where argcomplete looks for it
        of_command.add_parser(name, parents=[own], add_help=False, conflict_handler="resolve")
    return whole


def _sweeps(**_: object) -> list[str]:
    from raybench.config.document import list_sweeps

    return list(list_sweeps())


def _data_sets(**_: object) -> list[str]:
    from raybench.data import names

    return list(names())


def _sweep_or_data_set(parser: argparse.ArgumentParser, **_: object) -> list[str]:
    if parser.prog.endswith(" data"):
        return _data_sets()
    return _sweeps() if parser.prog.endswith(" sweep") else []


def _presets(**_: object) -> list[str]:
    return list(PRESETS)


COMPLETED: dict[str, Callable[..., list[str]]] = {
    "name": _sweep_or_data_set,
    "sweeps": _sweeps,
    "sweep": _sweeps,
    "best": _sweeps,
    "preset": _presets,
}
"""Argument -> the words it may be, where only a look tells."""
