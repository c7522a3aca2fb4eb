"""`raybench reproduce TRIAL_ID`: run a trial again from its row, and say whether its metrics come out the same."""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from raybench.commands.arguments import add_plugin
from raybench.commands.endings import EXIT_COMPLETE, EXIT_TROUBLE, ended
from raybench.commands.given import load_plugins
from raybench.commands.one_trial import OneTrial, find_trial
from raybench.config.folders import at_home, named_data_root, results_root
from raybench.config.trial import RECIPE_VERSION
from raybench.errors import ResultsError
from raybench.results.manifest import environment
from raybench.results.schema import Status
from raybench.results.storage import folder_at
from raybench.results.store import Store

METRICS = ("train_", "eval_", "test_", "part/")
"""Beginnings of the columns whose values a seed decides."""
NOT_METRICS = ("train_time", "eval_time", "train_samples_per_sec")
DECIDE_BITS = ("git_commit", "torch", "cpu", "gpu", "precision", "threads", "compiled")
"""Of the environment: what may change the last bits."""


@dataclass(frozen=True)
class Apart:
    """One number that came out differently."""

    where: str
    """Column, and the epoch where it has one."""
    then: float | None
    now: float | None


def parser(prog: str = "raybench reproduce") -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(
        prog=prog,
        description=(__doc__ or "").partition(": ")[2],
        epilog="exit codes: 0 every metric of every epoch is equal; 1 some differ, or the trial did not end the same "
        "way; 2 bad input.",
    )
    parse.add_argument("trial", metavar="TRIAL_ID", help="12 hex digits, or the first few")
    add_plugin(parse)
    parse.add_argument("--results", default=results_root(), metavar="ROOT", help="folder, or s3://BUCKET/PREFIX")
    parse.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the data sets (RAYBENCH_DATA, ./data)")
    parse.add_argument("--weights-root", type=Path, metavar="DIR", help="folder of weight files")
    parse.add_argument("--keep", type=Path, metavar="DIR", help="leave the new rows and weights there")
    return parse


def main(argv: Sequence[str]) -> int:
    """Run it and say; exit code 0 where everything is equal, 1 where not."""
    args = parser().parse_args(argv)
    return ended(lambda: _reproduce(args))


def _reproduce(args: argparse.Namespace) -> int:
    load_plugins(args.plugin)
    found = find_trial(folder_at(args.results), args.trial)
    if found.row["status"] != Status.COMPLETE:
        raise ResultsError(f"{found.trial_id} is {found.row['status']}: only complete trials can be compared")
    root = named_data_root(args.data_root)
    with tempfile.TemporaryDirectory(prefix="raybench-reproduce-") as name:
        folder = args.keep or Path(name)
        again = run_again(found, folder, root, args.weights_root)
        apart = differences(found, again)
    for line in said(found, again, apart):
        print(line)
    return EXIT_TROUBLE if apart else EXIT_COMPLETE


@dataclass(frozen=True)
class Again:
    """The same trial, run now."""

    row: dict[str, Any]
    epochs: pl.DataFrame


def run_again(found: OneTrial, folder: Path, data_root: Path | None, weights_root: Path | None) -> Again:
    """Run a trial from its row, on so many threads as then, into a folder that has no rows of it.

    Raises ResultsError where the folder has, or where it does not complete.
    """
    from raybench.training.recorder import Setup
    from raybench.training.trial import run_trial

    config = found.config
    store = Store(folder)
    if store.next_attempt(found.trial_id) > 1:
        raise ResultsError(f"{folder} has rows of {found.trial_id} already; give --keep another folder")
    setup = Setup(
        sweep=found.sweep,
        preset=str(found.row["preset"]),
        results=folder,
        lenders=found.store.folder.parent,
        data_root=at_home(data_root).absolute() if data_root else None,
        weights_root=at_home(weights_root).absolute() if weights_root else None,
        cpu=float(found.row.get("env/threads") or 1),
        gpu=1.0 if found.row.get("env/gpu") else 0.0,
        env=dict(environment()),
        **_metric_of(found),
    )
    outcome = run_trial(config, setup, cell=str(found.row["cell"]))
    if outcome.status != Status.COMPLETE:
        raise ResultsError(f"{found.trial_id} is {outcome.status} this time: {outcome.reason}")
    row = store.trials().filter(pl.col("trial_id") == found.trial_id).row(0, named=True)
    return Again(row, store.epochs([found.trial_id]))


def _metric_of(found: OneTrial) -> dict[str, Any]:
    """What the best epoch was selected by."""
    from raybench.commands.comparing import sweep_as_run

    config = sweep_as_run(found.store, found.sweep, str(found.row["preset"]))
    if config is None:
        return {}
    return {"metric": config.metric.name, "shown": config.metric.shown, "mode": config.metric.mode}


def differences(found: OneTrial, again: Again) -> list[Apart]:
    """Every metric that is not equal to the last bit: of the trial's row, and of each epoch."""
    then = found.store.epochs([found.trial_id])
    apart = [
        Apart(name, found.row[name], again.row.get(name))
        for name in _metrics(found.row)
        if _unlike(found.row[name], again.row.get(name))
    ]
    if then.height != again.epochs.height:
        return [*apart, Apart("epochs", then.height, again.epochs.height)]
    new = again.epochs.to_dicts()
    for before, now in zip(then.to_dicts(), new, strict=True):
        apart += [
            Apart(f"{name} of epoch {before['epoch']}", before[name], now.get(name))
            for name in _metrics(before)
            if _unlike(before[name], now.get(name))
        ]
    return apart


def _unlike(then: float, now: float | None) -> bool:
    return then != now and not (now is not None and math.isnan(then) and math.isnan(now))


def _metrics(row: dict[str, Any]) -> list[str]:
    return [
        name
        for name, value in row.items()
        if name.startswith(METRICS) and name not in NOT_METRICS and isinstance(value, float)
    ]


def said(found: OneTrial, again: Again, apart: Sequence[Apart]) -> list[str]:
    """The verdict, what differs most, and what may have changed it."""
    epochs = found.store.epochs([found.trial_id])
    count = len(_metrics(found.row)) + sum(len(_metrics(row)) for row in epochs.iter_rows(named=True))
    if not apart:
        return [f"{found.trial_id}: equal, all {count} metrics of {epochs.height} epochs to the last bit"]
    lines = [f"{found.trial_id}: {len(apart)} of {count} metrics differ; the first: "]
    lines += [f"  {each.where}: {each.then!r} then, {each.now!r} now" for each in apart[:5]]
    changed = [
        f"{name} {found.row.get(f'env/{name}')} then, {again.row.get(f'env/{name}')} now"
        for name in DECIDE_BITS
        if found.row.get(f"env/{name}") != again.row.get(f"env/{name}")
    ]
    cause = "; ".join(changed) or "nothing in the environment that is recorded: on a GPU, sums in another order"
    if not found.same_recipe:
        cause = f"the recipe, which is another one since (version {RECIPE_VERSION} now); {cause}"
    return [*lines, f"what differs between the runs: {cause}"]
