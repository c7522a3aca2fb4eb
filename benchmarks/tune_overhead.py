"""What a trial costs beside its training: no-op trials by raybench's driver, and by Ray Tune as it comes.

    python benchmarks/tune_overhead.py [--json] [--trials 1000] [--default-trials 1000]

Both in this run, each in a process of its own with a Ray of its own, two trials at a time. Tune's are a function that
reports one number, by `Tuner.fit()` with nothing set but the folder and the CPUs of a trial. Ours go through searcher,
Tuner, reused workers and what a sweep says of each trial; once leaving the rows that a real trial leaves (written,
flushed and renamed), and once without any, which is what the bar is about: a no-op has nothing to keep, and what rows
cost is a claim of its own (benchmarks/trial_overhead.py). The start of Ray is in none of them, that of the workers in
all.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers.pairs import hardware
from benchmarks.peers.sleepers import Spec
from benchmarks.scaling import run

ROOT = Path(__file__).parents[1]
BAR = 30.0
CPUS = 2
"""Of either Ray, whatever the machine has: as many trials at a time."""

DEFAULT = """\
import sys, time
import ray
from ray import tune

def nothing(config):
    tune.report({"score": 1.0})

ray.init(num_cpus=int(sys.argv[3]), include_dashboard=False)
tuner = tune.Tuner(
    tune.with_resources(nothing, {"cpu": 1}),
    tune_config=tune.TuneConfig(num_samples=int(sys.argv[1]), metric="score", mode="max"),
    run_config=tune.RunConfig(storage_path=sys.argv[2], verbose=0),
)
begun = time.monotonic()
results = tuner.fit()
taken = time.monotonic() - begun
assert len(results) == int(sys.argv[1]) and not results.errors
print(f"\\nSECONDS {taken}", flush=True)
ray.shutdown()
"""


def default_ms(trials: int) -> float:
    """Wall milliseconds a trial by Tune as it comes."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TUNE_", "RAY_"))}
    with tempfile.TemporaryDirectory(prefix="raybench-default-") as folder:
        access = {"RAY_AUTH_TOKEN_PATH": f"{folder}/token", "RAY_USAGE_STATS_ENABLED": "0"}
        ended = subprocess.run(
            [sys.executable, "-c", DEFAULT, str(trials), folder, str(CPUS)],
            env=kept | access | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    (seconds,) = (line.split()[1] for line in ended.stdout.splitlines() if line.startswith("SECONDS "))
    return 1000 * float(seconds) / trials


def ours_ms(trials: int, rows: bool) -> float:
    """Wall milliseconds a trial by our driver."""
    slept = run(Spec([{"cpu": CPUS, "gpu": 0}], trials=trials, sleep_s=0.0, rows=rows, local=True))
    assert slept.statuses == {"complete": trials}
    return 1000 * slept.wall_s / trials


def claims(trials: int, default_trials: int) -> Iterator[dict[str, Any]]:
    """Ours before and after theirs, so that what else the machine does meets both."""
    before = {rows: ours_ms(trials, rows) for rows in (False, True)}
    peer = default_ms(default_trials)
    after = {rows: ours_ms(trials, rows) for rows in (True, False)}
    for rows, text in ((False, "a no-op trial"), (True, "a no-op trial that leaves its rows")):
        ours = (before[rows] + after[rows]) / 2
        bar = None if rows else BAR
        yield {
            "claim": f"overhead of {text}, against default Ray Tune",
            "ours": ours,
            "peer": peer,
            "unit": "ms",
            "ratio": round(peer / ours, 2),
            "ratio_is": "peer / ours",
            "bar": bar,
            "holds": None if bar is None else peer / ours >= bar,
            "n": trials,
            "details": f"ours {before[rows]:.1f} ms before, {after[rows]:.1f} ms after; peer {default_trials} trials",
            "hardware": hardware(1),
        }


def main() -> int:
    """Measure and print; exit code 1 where the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one object a claim")
    parser.add_argument("--trials", type=int, default=1000, help="of ours, each time (default: 1000)")
    parser.add_argument("--default-trials", type=int, default=1000, help="of Tune's (default: 1000, half an hour)")
    args = parser.parse_args()
    missed = 0
    for each in claims(args.trials, args.default_trials):
        missed += each["holds"] is False
        bar = "" if each["bar"] is None else f"; bar {each['bar']:g}: {'holds' if each['holds'] else 'MISSED'}"
        words = f"{each['claim']}: {each['ours']:.1f} ms against {each['peer']:.0f} ms, {each['ratio']:g} times{bar}"
        print(json.dumps(each) if args.json else f"{words}\n  {each['details']}; {each['hardware']}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
