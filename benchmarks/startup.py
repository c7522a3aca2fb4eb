"""How long a person waits before anything is trained: --help, --list, --dry-run, and a sweep with nothing left to do.

    python benchmarks/startup.py [--json]

Whole processes, one warm-up each, then the median of five. The last line needs a finished quick sweep in ./results and
is left out where there is none.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 5
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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one object a claim")
    args = parser.parse_args()
    quick = ["deit_reverse", "--preset", "quick"]
    with tempfile.TemporaryDirectory() as folder:
        claims = [
            ("--help", ["--help"], 1.0),
            ("--list", ["--list"], 1.0),
            ("--dry-run of the quick preset", [*quick, "--dry-run", "--results", folder], 6.0),
        ]
        if (ROOT / "results" / "deit_reverse" / "trials").is_dir():
            claims.append(("the quick preset with nothing left to do", quick, 15.0))
        for claim, arguments, bar in claims:
            measured = seconds(arguments)
            median = statistics.median(measured)
            hardware = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
            result = {
                "claim": f"{claim}, seconds",
                "ours": round(median, 3),
                "peer": None,
                "ratio": None,
                "bar": bar,
                "holds": median <= bar,
                "n": RUNS,
                "hardware": hardware,
            }
            if args.json:
                print(json.dumps(result))
            else:
                spread = f"{min(measured):.2f} to {max(measured):.2f}"
                verdict = "holds" if result["holds"] else "does not hold"
                print(
                    f"{claim}: median {median:.2f} s ({spread}, n = {RUNS}), at most {bar:g} s: {verdict}; {hardware}"
                )


if __name__ == "__main__":
    main()
