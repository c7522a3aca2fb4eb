"""`python -m raybench.sweep NAME`: plan, run, table."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raybench.commands.arguments import add_plugin, duration, positive, price, seed_count
from raybench.commands.endings import EXIT_BAD_INPUT, EXIT_COMPLETE, ended
from raybench.config.folders import at_home, named_data_root, results_root
from raybench.errors import ConfigError


def parser(prog: str = "python -m raybench.sweep") -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(
        prog=prog,
        description="Run a sweep: what is missing of it, if it was begun before; then print its comparison table.",
        epilog="exit codes: 0 all trials settled and none failed; 1 some failed or diverged, or the time budget ended; "
        "2 bad input, nothing started; 130 or 143 stopped by a signal (the same command goes on).",
    )
    parse.add_argument("name", nargs="?", metavar="NAME|FILE", help="a sweep by name (--list) or a .yaml file")
    parse.add_argument(
        "overrides", nargs="*", metavar="key=value", help="override a key; for an axis, replace the axis"
    )
    parse.add_argument(
        "--preset", default="auto", help="paper, small, quick; auto: paper where there is a GPU, else quick"
    )
    parse.add_argument(
        "--data-root", type=Path, metavar="DIR", help="folder of the data sets (RAYBENCH_DATA, else ./data)"
    )
    parse.add_argument(
        "--weights-root", type=Path, metavar="DIR", help="folder of weight files (default: where the data are)"
    )
    parse.add_argument(
        "--results", default=results_root(), metavar="ROOT", help="folder of the sweeps' folders, or s3://BUCKET/PREFIX"
    )
    add_plugin(parse)
    parse.add_argument("--num-samples", type=positive, metavar="N", help="settings a cell, for random and tpe")
    parse.add_argument("--seeds", type=seed_count, metavar="N", help="seeds 0 … N-1")
    parse.add_argument("--max-concurrent", type=positive, metavar="N", help="trials at a time, at most")
    parse.add_argument(
        "--time-budget",
        type=duration,
        metavar="TIME",
        help="stop after so long (90, 90s, 30m, 2h); the same command goes on",
    )
    parse.add_argument("--address", help="join a running Ray cluster (auto, or host:port)")
    parse.add_argument("--yes", action="store_true", help="start without asking, however long it takes")
    parse.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parse.add_argument(
        "--probe",
        action="store_true",
        help="estimate from a few real steps of each model that no stored row tells of, each in a process of its own",
    )
    parse.add_argument(
        "--price-per-hour",
        type=price,
        metavar="PRICE",
        help="of a device, for the cost of the plan (default: provider.price_per_hour of ./cluster.yaml, where it is)",
    )
    parse.add_argument("--list", action="store_true", help="list the sweeps with their questions")
    parse.add_argument(
        "--rerun", action="append", default=[], metavar="failed|diverged|ID", help="run settled trials again"
    )
    parse.add_argument(
        "--profile", action="store_true", help="leave a profiler's trace of a few steps of each trial in profiles/"
    )
    said = parse.add_mutually_exclusive_group()
    said.add_argument("-q", "--quiet", action="store_true", help="say the results only, and what went wrong")
    said.add_argument("-v", "--verbose", action="store_true", help="show what Ray and the workers say, too")
    said.add_argument("--log-json", action="store_true", help="print JSON lines, one an event, and nothing else")
    return parse


def main(argv: Sequence[str] | None = None, prog: str = "python -m raybench.sweep") -> int:
    """Run the command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = parser(prog).parse_intermixed_args(arguments)
    # Ctrl-C comes here only before the sweep handles signals itself, that is before anything started.
    return ended(lambda: _command(args, shlex.join([*shlex.split(prog), *arguments])), "stopped, nothing started")


def run(arguments: Sequence[str], command: str) -> int:
    """The same without its end: raises RaybenchError instead of printing it. `command` is said to go on with."""
    return _command(parser().parse_intermixed_args(arguments), command)


def _command(args: argparse.Namespace, command: str) -> int:
    if args.list:
        from raybench.commands.list import print_sweeps

        print_sweeps()
        return EXIT_COMPLETE
    if not args.name:
        raise ConfigError(["command line: a sweep's NAME is missing (--list names them)"])
    return _sweep(args, command)


def _sweep(args: argparse.Namespace, command: str) -> int:
    from raybench.commands.loading import Asked, load
    from raybench.config.price import Price, price_in

    options: dict[str, Any] = {}
    if args.seeds:
        options["seeds"] = list(range(args.seeds))
    if args.num_samples:
        options["tune.num_samples"] = args.num_samples
    data_root = named_data_root(args.data_root)
    asked = Asked(
        name=args.name,
        preset=args.preset,
        overrides=args.overrides,
        options=options,
        results=args.results,
        data_root=at_home(data_root).absolute() if data_root else None,
        weights_root=at_home(args.weights_root).absolute() if args.weights_root else None,
        address=args.address,
        max_concurrent=args.max_concurrent,
        rerun=args.rerun,
        dry_run=args.dry_run,
        profile=args.profile,
        plugins=args.plugin,
        quiet=args.quiet,
        log_json=args.log_json,
    )
    given = args.price_per_hour
    known = price_in(Path("cluster.yaml")) if given is None else Price(given, "--price-per-hour")
    sweep = load(asked)
    # torch comes with these, after everything that can be said without it has been said.
    from raybench.commands.estimating import estimate
    from raybench.commands.plan_text import plan_lines, tell_plan
    from raybench.commands.results_text import nothing_to_do
    from raybench.commands.running import run_sweep

    cost = estimate(sweep, probe=args.probe, price=known)
    lines = plan_lines(sweep, cost)
    if args.dry_run or not args.quiet:
        for line in lines:
            sweep.say(line)
    tell_plan(sweep, cost, lines)
    if args.dry_run:
        return EXIT_COMPLETE
    if not sweep.due:
        return nothing_to_do(sweep)
    if not confirmed(cost.device_hours, args.yes):
        return EXIT_BAD_INPUT
    return run_sweep(
        sweep,
        command=command,
        estimate=cost,
        started=datetime.now(UTC),
        time_budget_s=args.time_budget,
        verbose=args.verbose,
    )


def confirmed(device_hours: float, yes: bool) -> bool:
    """Whether a plan above one device-hour may start: asked for with --yes, or by a person at a terminal."""
    if yes or device_hours <= 1:
        return True
    what = f"about {device_hours:.1f} device-hours"
    if not sys.stdin.isatty():
        print(f"{what}: more than one device-hour is not started without --yes", file=sys.stderr)
        return False
    try:
        return input(f"{what}. Start? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


if __name__ == "__main__":
    sys.exit(main())
