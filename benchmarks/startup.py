"""How long a person waits: --help, --list, --dry-run, the first step of training, and a sweep with nothing left to do.

    python benchmarks/startup.py [--json]

Whole processes, one warm-up each, then the median of five. The first step is that of the first trial of the quick
preset in an empty results folder, its teacher and data in the cache since the warm-up; it is told by that trial's row
(`started` and `setup_time`), and the sweep is then stopped. The last line needs a finished quick sweep in ./results and
is left out where there is none.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers.pairs import hardware
from raybench.results.store import Store

RUNS = 5
QUICK = ["deit_reverse", "--preset", "quick"]
ROOT = Path(__file__).parents[1]


def seconds(arguments: list[str]) -> list[float]:
    """Wall seconds of each counted run."""
    measured = []
    for run in range(RUNS + 1):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "raybench.sweep", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True
        )
        if run:
            measured.append(time.perf_counter() - start)
    return measured


def until_first_step() -> list[float]:
    """Seconds from the command to the first step of training, of each counted run."""
    measured = []
    for run in range(RUNS + 1):
        with tempfile.TemporaryDirectory() as results:
            command = [sys.executable, "-m", "raybench.sweep", *QUICK, "--results", results]
            start = time.time()
            with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
                while not (began := first_steps(Path(results) / QUICK[0])):
                    if process.poll() is not None:
                        raise SystemExit(f"the sweep ended before its first step, exit code {process.returncode}")
                    time.sleep(0.05)
                process.send_signal(signal.SIGINT)
                process.wait()
        if run:
            measured.append(min(began) - start)
    return measured


def first_steps(folder: Path) -> list[float]:
    """When trials took their first step, seconds since the epoch."""
    trials = Store(folder).trials()
    known = trials.filter(trials["setup_time"].is_not_null()) if len(trials) else trials
    return [row["started"].timestamp() + row["setup_time"] for row in known.iter_rows(named=True)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one object a claim")
    args = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed has its modules compiled, by pip or the warm-up
    with tempfile.TemporaryDirectory() as folder:
        claims: list[tuple[str, Callable[[], list[float]], float]] = [
            ("--help", lambda: seconds(["--help"]), 1.0),
            ("--list", lambda: seconds(["--list"]), 1.0),
            ("--dry-run of the quick preset", lambda: seconds([*QUICK, "--dry-run", "--results", folder]), 6.0),
            ("from the command to the first step of training, quick preset", until_first_step, 10.0),
        ]
        if (ROOT / "results" / "deit_reverse" / "trials").is_dir():
            claims.append(("the quick preset with nothing left to do", lambda: seconds(QUICK), 15.0))
        for claim, measure, bar in claims:
            report(claim, measure(), bar, as_json=args.json)


def report(claim: str, measured: list[float], bar: float, *, as_json: bool) -> None:
    """Print one claim."""
    median = statistics.median(measured)
    result = {
        "claim": f"{claim}, seconds",
        "ours": round(median, 3),
        "peer": None,
        "ratio": None,
        "bar": bar,
        "holds": median <= bar,
        "n": len(measured),
        "hardware": hardware(os.cpu_count() or 1),
    }
    if as_json:
        print(json.dumps(result), flush=True)
        return
    spread = f"{min(measured):.2f} to {max(measured):.2f}"
    verdict = "holds" if result["holds"] else "does not hold"
    print(
        f"{claim}: median {median:.2f} s ({spread}, n = {len(measured)}), at most {bar:g} s: {verdict}; "
        f"{result['hardware']}",
        flush=True,
    )


if __name__ == "__main__":
    main()
