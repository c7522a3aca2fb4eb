"""Tables of 100,000 trials of 300 epochs: how quickly they answer, what they take on disk and in memory.

    python benchmarks/results_scale.py [--trials N] [--folder DIR] [--json]

The 30 million rows are made up (`benchmarks/peers/made_sweep.py`), written by raybench's own encoder as compaction
leaves them, and kept where --folder is given (1.2 GB for 100,000 trials, some minutes to make; without it they go when
the run ends). Everything is read in fresh processes, one after the other. Of each question the median of five is given,
each asked by a `Store` that knows nothing yet; what the files hold is in the kernel's cache, modules are imported.

- Comparison by the last epoch: the last epoch's validation accuracy of every trial, mean and spread of each cell.
- One curve: a metric of one trial over its epochs.
- Summary: how many trials of each cell there are, mean and spread of their test accuracy.

The peer is Ray Tune's own way, a `result.json` a trial with a line an epoch, of 1,000 trials, read as its
`ExperimentAnalysis` does: every line of every file through `json`. For the summary only the last line of each file is
read, the least that JSON allows. Times and memory of the peer are 100 times those of 1,000 trials where all trials are
read; a curve is one file for both.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.peers.made_sweep import EPOCHS, RAY_TRIALS, Trial, make, make_ray
from benchmarks.peers.pairs import hardware

TRIALS = 100_000
RUNS = 5
METRIC = "eval_top1"
BARS = {"compare": 0.5, "curve": 0.02, "summary": 0.01, "bytes": 20.0, "memory": 1024.0}
"""Seconds, bytes a row, MiB: at most."""
ROOT = Path(__file__).parents[1]


# --- what is asked ---


def ours(folder: Path) -> dict[str, Callable[[], pl.DataFrame]]:
    """Each question, asked of raybench's tables by one who has not read them before."""
    from raybench.results import queries
    from raybench.results.store import Store

    def compare() -> pl.DataFrame:
        store = Store(folder)
        cells = store.trials(["trial_id", "cell"])
        rows = queries.final_epochs(store, METRIC).join(cells, on="trial_id")
        return rows.group_by("cell").agg(pl.len(), pl.mean(METRIC), pl.std(METRIC).alias("sd")).sort("cell")

    some, known = Trial(0).trial_id, Store(folder)
    return {
        "compare": compare,
        "curve": lambda: queries.curve(Store(folder), some, METRIC),
        "another curve": lambda: queries.curve(known, some, METRIC),
        "summary": lambda: queries.summary(Store(folder)),
    }


def rays(folder: Path) -> dict[str, Callable[[], pl.DataFrame]]:
    """The same questions, asked of Tune's files."""

    def table(path: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in path.read_text().rstrip("\n").split("\n")]

    def last_line(path: Path) -> dict[str, Any]:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8192))
            found: dict[str, Any] = json.loads(file.read().rstrip(b"\n").rsplit(b"\n", 1)[-1])
        return found

    def by_setting(rows: list[dict[str, Any]]) -> pl.DataFrame:
        keys = ("alpha", "kind", "train_size")
        frame = pl.DataFrame([{**{key: row["config"][key] for key in keys}, METRIC: row[METRIC]} for row in rows])
        return frame.group_by(keys).agg(pl.len(), pl.mean(METRIC), pl.std(METRIC).alias("sd")).sort(keys)

    paths = sorted(folder.glob("*/result.json"))
    one = folder / f"train_{Trial(0).trial_id[:8]}" / "result.json"
    return {
        "compare": lambda: by_setting([table(path)[-1] for path in paths]),
        "curve": lambda: pl.DataFrame([(row["training_iteration"], row[METRIC]) for row in table(one)], orient="row"),
        "summary": lambda: by_setting([last_line(path) for path in paths]),
    }


# --- processes of their own ---


def measure(folder: Path, which: str) -> dict[str, Any]:
    """Seconds of each question, of a first asking and five more, and the most memory that this process has had, MiB.

    `cpu` is what all its threads worked: on a machine that does other things, less than what passed meanwhile.
    """
    asked = (ours if which == "ours" else rays)(folder)
    found: dict[str, Any] = {}
    for name, ask in asked.items():
        taken, worked = [], []
        for _ in range(1 + RUNS):
            start, before = time.perf_counter(), time.process_time()
            ask()
            taken.append(time.perf_counter() - start)
            worked.append(time.process_time() - before)
        found[name] = {"first": taken[0], "seconds": taken[1:], "cpu": statistics.median(worked[1:])}
    return found | {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def hold(folder: Path) -> dict[str, Any]:
    """MiB that the tables of all trials take, held as Tune's `ExperimentAnalysis` holds them: a DataFrame a trial."""
    import pandas as pd  # type: ignore[import-untyped]

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    held = []
    for path in sorted(folder.glob("*/result.json")):
        rows = [json.loads(line) for line in path.read_text().rstrip("\n").split("\n")]
        held.append(pd.json_normalize(rows, sep="/"))
    return {"base": before, "growth": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before}


def in_child(step: str, folder: Path, trials: int) -> dict[str, Any]:
    """What a step found in a process of its own."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder), "--trials", str(trials)]
    ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def step(name: str, folder: Path, trials: int) -> dict[str, Any]:
    """One of the steps, in this process."""
    if name == "make":
        make(folder / "ours", trials)
        make_ray(folder / "rays", min(RAY_TRIALS, trials))
        return {}
    return hold(folder / "rays") if name == "hold" else measure(folder / name, name)


# --- claims ---


def claims(folder: Path, trials: int) -> Iterator[dict[str, Any]]:
    """Make what is not there yet, read it, and say what came out."""
    made = folder / "made.json"
    wanted = {"trials": trials, "epochs": EPOCHS}
    if not made.exists() or json.loads(made.read_text()) != wanted:
        for name in ("ours", "rays"):
            shutil.rmtree(folder / name, ignore_errors=True)
        in_child("make", folder, trials)
        made.write_text(json.dumps(wanted))
    mine, theirs, held = (in_child(name, folder, trials) for name in ("ours", "rays", "hold"))
    more = trials / min(RAY_TRIALS, trials)
    told = f"peer: {min(RAY_TRIALS, trials):,} trials, times {more:g}" if more > 1 else ""
    texts = {
        "compare": f"comparison by the last epoch of {trials:,} trials x {EPOCHS} epochs",
        "curve": f"one curve of {trials:,} trials",
        "summary": f"summary of {trials:,} trials",
    }
    for name, text in texts.items():
        seconds = mine[name]["seconds"]
        theirs_s = statistics.median(theirs[name]["seconds"]) * (1 if name == "curve" else more)
        details = [f"{min(seconds):.4f} to {max(seconds):.4f} s, the first time {mine[name]['first']:.4f} s"]
        if name == "curve":
            details += [f"by a Store that was asked before {statistics.median(mine['another curve']['seconds']):.4f} s"]
        details += [f"of the processors {mine[name]['cpu']:.4f} s"]
        details += [told] if told and name != "curve" else []
        yield claim(text, statistics.median(seconds), theirs_s, "s", BARS[name], RUNS, "; ".join(details))
    rows = trials * EPOCHS
    taken = size(folder / "ours" / "epochs") / rows
    rays_taken = size(folder / "rays") / (min(RAY_TRIALS, trials) * EPOCHS)
    costs = ", ".join(f"{name} {cost:.2f}" for name, cost in columns(folder / "ours" / "epochs").items())
    yield claim("a row of epochs on disk", taken, rays_taken, "bytes", BARS["bytes"], 1, costs)
    total = held["base"] + more * held["growth"]
    yield claim("memory of the process that asks all of it", mine["memory"], total, "MiB", BARS["memory"], 1, told)


def claim(text: str, own: float, peer: float, unit: str, bar: float, n: int, details: str) -> dict[str, Any]:
    """A claim's object; `bar` is what ours may be at most."""
    return {
        "claim": text,
        "ours": own,
        "peer": peer,
        "unit": unit,
        "ratio": round(peer / own, 3),
        "ratio_is": "peer / ours",
        "bar": bar,
        "bar_is": "ours at most",
        "holds": own <= bar,
        "n": n,
        "details": details,
        "hardware": hardware(1),
    }


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def columns(folder: Path) -> dict[str, float]:
    """Bytes a row that each column takes, over all compact files, the most expensive first."""
    import pyarrow.parquet as pq

    taken: dict[str, int] = {}
    rows = 0
    for path in folder.glob("*.parquet"):
        metadata = pq.read_metadata(path)
        rows += metadata.num_rows
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            for chunk in map(group.column, range(group.num_columns)):
                taken[chunk.path_in_schema] = taken.get(chunk.path_in_schema, 0) + chunk.total_compressed_size
    return {name: taken[name] / rows for name in sorted(taken, key=lambda name: -taken[name])}


def words(found: dict[str, Any]) -> str:
    """A claim for people."""
    verdict = "holds" if found["holds"] else "MISSED"
    return (
        f"{found['claim']}\n  {found['ours']:.4g} {found['unit']}, at most {found['bar']:g}: {verdict}; "
        f"Ray Tune's way {found['peer']:.4g} {found['unit']}, {found['ratio']:.3g} times ours; n = {found['n']}\n"
        f"  {found['details']}\n  {found['hardware']}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one object a claim")
    parser.add_argument("--trials", type=int, default=TRIALS, help=f"how many (default: {TRIALS:,})")
    parser.add_argument("--folder", type=Path, help="where the tables are made, or are already")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        print(json.dumps(step(args.step, args.folder, args.trials)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for found in claims(folder, args.trials):
            print(json.dumps(found) if args.json else words(found), flush=True)


if __name__ == "__main__":
    main()
