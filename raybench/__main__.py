"""`raybench COMMAND`: the console script."""

from __future__ import annotations

import sys
from collections.abc import Sequence

USAGE = """usage: raybench COMMAND …

  sweep NAME|FILE …                  run a sweep (raybench sweep --help)
  profile MODEL …                    parameters, multiply-adds, speed and memory of models (raybench profile --help)
  list models|datasets|sweeps        what there is

raybench --version
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    command, rest = arguments[0], arguments[1:]
    if command == "--version":
        from raybench import __version__

        print(f"raybench {__version__}")
        return 0
    if command == "sweep":
        from raybench import sweep

        return sweep.main(rest, prog="raybench sweep")
    if command == "profile":
        from raybench import profile

        return profile.main(rest, prog="raybench profile")
    if command == "list":
        from raybench.commands import list as listing

        return listing.main(rest)
    from raybench.config.names import nearest

    near = nearest(command, ("sweep", "profile", "list"), n=1)
    print(f'raybench: "{command}": no such command' + (f"; did you mean {near[0]}?" if near else ""), file=sys.stderr)
    print(USAGE, end="", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
