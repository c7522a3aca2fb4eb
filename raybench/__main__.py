"""`raybench COMMAND`: the console script."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "init": "raybench.commands.init",
    "sweep": "raybench.sweep",
    "compare": "raybench.compare",
    "show": "raybench.commands.show",
    "why": "raybench.commands.why",
    "reproduce": "raybench.commands.reproduce",
    "export": "raybench.commands.export",
    "sink": "raybench.commands.sink",
    "watch": "raybench.commands.watch",
    "logs": "raybench.commands.logs",
    "cluster": "raybench.commands.cluster",
    "profile": "raybench.profile",
    "list": "raybench.commands.list",
    "data": "raybench.commands.data",
    "doctor": "raybench.commands.doctor",
    "completion": "raybench.commands.completion",
}
"""Command -> module with its `parser(prog)` and `main`."""
MODULES = ("sweep", "compare", "profile")
"""Those that also run as `python -m raybench.NAME`, and are told under which name."""

USAGE = """usage: raybench COMMAND …

  init NAME                          write a commented sweep to start from
  sweep NAME|FILE …                  run a sweep (raybench sweep --help)
  compare [SWEEP …]                  tables of sweeps that were run (raybench compare --help)
  show TRIAL_ID [WHAT …]             its score again, its predictions, attention, merged patches; its run as files
  why TRIAL_ID                       how a trial stands, and what it can be compared with
  reproduce TRIAL_ID                 run a trial again from its row, and say whether its metrics are equal
  export TRIAL_ID|--best SWEEP       its weights for others: safetensors, timm, ONNX, with a model card
  sink mlflow|wandb|optuna SWEEP     the rows of a sweep shown in MLflow, Weights & Biases, Optuna Dashboard
  watch SWEEP                        how a running sweep goes, and what each machine does
  logs TRIAL_ID                      what a trial left of its faults
  cluster check|submit|follow|…      a cluster of machines, from the laptop (raybench cluster --help)
  profile MODEL …                    parameters, multiply-adds, speed and memory of models (raybench profile --help)
  list models|datasets|sweeps        what there is
  data get|check NAME                fetch, verify and decode a data set
  doctor                             what is here, what is in the way of a sweep, and what to do about it
  completion bash|zsh                completion in a shell

raybench --version
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what the word under its cursor may become
        from raybench.commands.completion import complete

        complete(COMMANDS)
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    command, rest = arguments[0], arguments[1:]
    if command == "--version":
        from raybench import __version__

        print(f"raybench {__version__}")
        return 0
    if command == "cluster":
        from raybench import sweep
        from raybench.commands import cluster

        return cluster.main(rest, sweep.parser)
    if command in COMMANDS:
        run = import_module(COMMANDS[command]).main
        return int(run(rest, prog=f"raybench {command}") if command in MODULES else run(rest))
    from raybench.config.names import nearest

    near = nearest(command, COMMANDS, n=1)
    print(f'raybench: "{command}": no such command' + (f"; did you mean {near[0]}?" if near else ""), file=sys.stderr)
    print(USAGE, end="", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
