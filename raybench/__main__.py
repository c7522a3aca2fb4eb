"""`raybench COMMAND`: the console script."""

from __future__ import annotations

import sys
from collections.abc import Sequence

USAGE = """usage: raybench COMMAND …

  sweep NAME|FILE …                  run a sweep (raybench sweep --help)
  compare [SWEEP …]                  tables of sweeps that were run (raybench compare --help)
  show TRIAL_ID [WHAT …]             its score again, its predictions, attention, merged patches; its run as files
  why TRIAL_ID                       how a trial stands, and what it can be compared with
  reproduce TRIAL_ID                 run a trial again from its row, and say whether its metrics are equal
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
    if command == "compare":
        from raybench import compare

        return compare.main(rest, prog="raybench compare")
    if command == "profile":
        from raybench import profile

        return profile.main(rest, prog="raybench profile")
    if command in ("list", "show", "why", "reproduce"):
        from importlib import import_module

        return int(import_module(f"raybench.commands.{command}").main(rest))
    from raybench.config.names import nearest

    near = nearest(command, ("sweep", "compare", "show", "why", "reproduce", "profile", "list"), n=1)
    print(f'raybench: "{command}": no such command' + (f"; did you mean {near[0]}?" if near else ""), file=sys.stderr)
    print(USAGE, end="", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
