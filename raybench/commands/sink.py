"""`raybench sink mlflow|wandb|optuna SWEEP`: the settled trials of a sweep shown elsewhere, as often as one likes."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from raybench.commands.arguments import add_plugin, positive
from raybench.commands.endings import EXIT_COMPLETE, ended
from raybench.commands.given import load_plugins
from raybench.config.folders import made_at, results_root
from raybench.errors import ConfigError, ResultsError
from raybench.results.storage import Folder, folder_at
from raybench.results.store import Store
from raybench.sinks.runs import Sent, Sink, need, send

if TYPE_CHECKING:
    from raybench.sinks.optuna_study import Study

SINKS = {
    "mlflow": "runs of an MLflow server: --to http://127.0.0.1:5000, or MLFLOW_TRACKING_URI (extra mlflow)",
    "wandb": "offline runs of Weights & Biases below --to DIR (.), for `wandb sync` (extra wandb)",
    "optuna": "studies: served by Optuna Dashboard on this machine (extra dashboard), or written --to sqlite:///FILE",
}
PORT = 8080


def parser(prog: str = "raybench sink") -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(
        prog=prog,
        description=(__doc__ or "").partition(": ")[2],
        epilog="\n".join(
            [
                "SINK",
                *(f"  {name:<7} {text}" for name, text in SINKS.items()),
                "",
                "Only what is missing there is written: run it while a sweep runs, after it, and again.",
                "exit codes: 0 it is up to date; 2 bad input, or it does not answer.",
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parse.add_argument("sink", metavar="SINK", choices=SINKS, help=", ".join(SINKS))
    parse.add_argument("sweep", metavar="SWEEP", help="a sweep that was begun")
    parse.add_argument("--to", metavar="WHERE", help="see below")
    parse.add_argument("--name", metavar="NAME", help="of the experiment or project (default: the sweep's)")
    parse.add_argument("--preset", help="of the studies: paper, small or quick (default: the one that was run last)")
    parse.add_argument("--port", type=positive, default=PORT, metavar="N", help=f"of Optuna Dashboard ({PORT})")
    add_plugin(parse)
    parse.add_argument("--results", default=results_root(), metavar="ROOT", help="folder, or s3://BUCKET/PREFIX")
    return parse


def main(argv: Sequence[str]) -> int:
    """Bring it up to date; exit code 0."""
    args = parser().parse_args(argv)
    return ended(
        lambda: _sink(args), "no longer served" if args.sink == "optuna" else "stopped; the same command goes on"
    )


def _sink(args: argparse.Namespace) -> int:
    load_plugins(args.plugin)
    store = _store(folder_at(args.results), args.sweep)
    if args.sink == "optuna":
        return _optuna(args, store)
    name = args.name or args.sweep
    sink, where, then = _mlflow(args, name) if args.sink == "mlflow" else _wandb(args, name)
    print(said(send(store, sink), where))
    if then:
        print(then)
    return EXIT_COMPLETE


def _store(root: Folder, sweep: str) -> Store:
    from raybench.commands.comparing import check_known

    check_known(root, sweep)
    return Store(root / sweep)


def _mlflow(args: argparse.Namespace, name: str) -> tuple[Sink, str, str]:
    from raybench.sinks.mlflow_runs import MlflowRuns

    uri = args.to or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise ConfigError(["--to URI: where MLflow is, such as http://127.0.0.1:5000, or set MLFLOW_TRACKING_URI"])
    return MlflowRuns(uri, name), f"experiment {name} at {uri}", ""


def _wandb(args: argparse.Namespace, name: str) -> tuple[Sink, str, str]:
    from raybench.sinks.wandb_runs import WandbRuns

    folder = made_at(args.to or ".")
    command = f"wandb sync --include-offline {shlex.quote(str(folder / 'wandb'))}/offline-run-*"
    return WandbRuns(folder.absolute(), name), f"project {name} in {folder / 'wandb'}", f"to upload them:  {command}"


def said(sent: Sent, where: str) -> str:
    """What came of it, in a line."""
    runs = f"{sent.written} run{'s' * (sent.written != 1)}"
    running = f"; {sent.unsettled} not settled yet, for the next time" if sent.unsettled else ""
    return f"{where}: {runs} written, {sent.there} there already{running}"


def _optuna(args: argparse.Namespace, store: Store) -> int:
    from raybench.sinks import optuna_study

    if args.name is not None:
        raise ConfigError([f"--name {args.name}: a study has the name of its sweep"])
    if args.to is None:
        need("optuna_dashboard", "optuna-dashboard", "dashboard")  # before all rows are read
    found = _studies(args, store)
    if args.to is None:
        print(
            f"{len(found)} stud{'ies' if len(found) > 1 else 'y'} of the rows as they are now; Ctrl-C ends it",
            flush=True,
        )
        optuna_study.serve(found, args.port)
        return EXIT_COMPLETE
    made = optuna_study.write(found, args.to)
    counts = {study.name: len(study.told) for study in found}
    for name, anew in made.items():
        print(f"{args.to}: study {name}: {counts[name]} settings, {'written' if anew else 'there already'}")
    print(f"to look at them:  optuna-dashboard {shlex.quote(args.to)}")
    return EXIT_COMPLETE


def _studies(args: argparse.Namespace, store: Store) -> list[Study]:
    from raybench.commands.comparing import sweep_as_run
    from raybench.commands.sweeping import read_outcomes
    from raybench.config.changes import read_resolved
    from raybench.config.plan import make_plan
    from raybench.results.storage import read
    from raybench.sinks.optuna_study import studies

    try:
        preset = args.preset or read_resolved(read(store.folder / "sweep.yaml")).preset
    except OSError:
        raise ResultsError(
            f"{store.folder}: no sweep.yaml, so that its axes are not known; name its --preset"
        ) from None
    config = sweep_as_run(store, args.sweep, preset)
    if config is None:
        raise ResultsError(f"{args.sweep}: was not run with preset {preset}, and none of that name is shipped with it")
    found = studies(make_plan(config), read_outcomes(store, config), store)
    if not found:
        raise ResultsError(f"{args.sweep}: no setting of preset {preset} is settled yet")
    return found
