"""`raybench watch SWEEP`: how a sweep goes, read from its rows, on whichever machine can see them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raybench.commands.endings import EXIT_COMPLETE, ended
from raybench.config.folders import results_root
from raybench.errors import ResultsError
from raybench.report.progress import STYLES, seconds_text, value_text
from raybench.report.sparkline import sparkline
from raybench.results.manifest import read_runs
from raybench.results.schema import Status
from raybench.results.storage import Folder, folder_at, read
from raybench.results.store import Store

EVERY_S = 2.0
RECENT = 6
COLUMNS = ("trial_id", "cell", "seed", "status", "epochs", "node", "attempt", "failures", "started", "ended")
MORE = ("train_time", "device_hours", "test_top1")


def parser(prog: str = "raybench watch") -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(
        prog=prog,
        description=(__doc__ or "").partition(": ")[2],
        epilog="From another machine: raybench cluster watch SWEEP",
    )
    parse.add_argument("sweep", metavar="SWEEP", help="a sweep that was begun")
    parse.add_argument("--results", default=results_root(), metavar="ROOT", help="folder, or s3://BUCKET/PREFIX")
    parse.add_argument("--once", action="store_true", help="print it once, as it also is without a terminal")
    return parse


def main(argv: Sequence[str]) -> int:
    """Draw it until the sweep ends, or once; exit code 0. Ctrl-C ends the watching, not the sweep."""
    args = parser().parse_args(argv)
    return ended(lambda: _watch(folder_at(args.results) / args.sweep, args.once), "no longer watched; it goes on")


def _watch(folder: Folder, once: bool) -> int:
    console = Console()
    store = Store(folder)
    if not store.trials(["trial_id"]).height and not read_runs(folder):
        raise ResultsError(f"{folder}: no such sweep was begun (--results ROOT says where its folder lies)")
    if once or not console.is_terminal:
        console.print(render(Look.at(store)))
        return EXIT_COMPLETE
    look = Look.at(store)
    with Live(render(look), console=console, refresh_per_second=1) as live:
        while not (look := Look.at(store, look)).over:
            live.update(render(look))
            time.sleep(EVERY_S)
        live.update(render(look))
    return EXIT_COMPLETE


@dataclass(frozen=True)
class Look:
    """One look at a sweep's folder."""

    trials: pl.DataFrame
    """The rows, those that ended last at the end."""
    curves: dict[str, list[float]]
    """Trial id -> the metric of each epoch, of those shown."""
    metric: str
    run: dict[str, Any] | None
    """The latest run of its manifest."""

    @classmethod
    def at(cls, store: Store, before: Look | None = None) -> Look:
        """Read what there is now. A manifest that cannot be read counts as it did `before`."""
        metric = _metric(store.folder)
        trials = store.trials([*COLUMNS, *MORE]).sort("ended", "started", nulls_last=True)
        shown = [*_recent(trials)["trial_id"], *_running(trials)["trial_id"]]
        curves: dict[str, list[float]] = {}
        epochs = store.epochs(shown, ["trial_id", "epoch", metric]) if shown else pl.DataFrame()
        if metric in epochs.columns:
            for trial_id, value in epochs.select("trial_id", metric).iter_rows():
                if value is not None:
                    curves.setdefault(trial_id, []).append(value)
        try:
            run = next(reversed(read_runs(store.folder)), None)
        except ResultsError:  # on a network file system perhaps for a moment
            if before is None:
                raise
            run = before.run
        return cls(trials, curves, metric, run)

    @property
    def over(self) -> bool:
        """Whether the driver has ended; one that was killed did not say so."""
        return self.run is not None and self.run.get("ended") is not None


def _running(trials: pl.DataFrame) -> pl.DataFrame:
    return trials.filter(pl.col("status") == Status.RUNNING).sort("trial_id")


def _recent(trials: pl.DataFrame) -> pl.DataFrame:
    return trials.filter(pl.col("status") != Status.RUNNING).tail(RECENT)


def _metric(folder: Folder) -> str:
    """The metric the sweep selects by, as its folder tells it."""
    import yaml

    from raybench.config.document import load

    try:
        content = load(read(folder / "sweep.yaml"))
        return str(content["metric"]["name"])
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return "eval_top1"


def render(look: Look) -> RenderableType:
    """What runs, what ended last, and what each machine does and has done."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("trial", "cell", "seed", "epoch", "", look.metric, "node", "state"):
        table.add_column(name, justify="right" if name in ("seed", "epoch", look.metric) else "left", no_wrap=True)
    for row in (*_recent(look.trials).iter_rows(named=True), *_running(look.trials).iter_rows(named=True)):
        curve = look.curves.get(row["trial_id"], [])
        table.add_row(
            row["trial_id"],
            row["cell"] or "",
            str(row["seed"]),
            str(max(len(curve), row["epochs"] or 0)),
            sparkline(curve) if curve else "",
            value_text(look.metric, curve[-1]) if curve else "",
            row["node"] or "",
            Text(row["status"], style=STYLES.get(row["status"], "default")),
        )
    return Group(table, Text(""), _nodes(look.trials), Text(_summary(look)))


def _nodes(trials: pl.DataFrame) -> RenderableType:
    """A line a machine: what runs there, what it has finished, and how long that took."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("node", "running", "settled", "worker lost", "device-hours"):
        table.add_column(name, justify="left" if name == "node" else "right", no_wrap=True)
    running = (pl.col("status") == Status.RUNNING).sum().alias("running")
    settled = (pl.col("status") != Status.RUNNING).sum().alias("settled")
    sums = [pl.col(name).sum() for name in ("failures", "device_hours") if name in trials.columns]
    by_node = trials.filter(pl.col("node").is_not_null()).group_by("node").agg(running, settled, *sums).sort("node")
    for row in by_node.iter_rows(named=True):
        hours = row.get("device_hours") or 0.0
        table.add_row(row["node"], str(row["running"]), str(row["settled"]), str(row["failures"] or 0), f"{hours:.2f}")
    return table


def _summary(look: Look) -> str:
    counts = dict(look.trials["status"].value_counts().iter_rows())
    parts = [f"{count} {status}" for status, count in sorted(counts.items())]
    if look.run is not None:
        code = look.run.get("exit_code")
        began = f"begun {str(look.run.get('started', ''))[:16].replace('T', ' ')} UTC"
        parts.append(f"ended, exit code {code}" if look.over else began)
    if spent := sum(value or 0.0 for value in look.trials.get_column("train_time", default=pl.Series([0.0]))):
        parts.append(f"{seconds_text(spent)} of training")
    return "  " + " · ".join(parts)
