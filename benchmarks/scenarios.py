"""The thirty faults of docs/reliability.md: runs the tests that inject them, and writes the table of their outcomes.

python benchmarks/scenarios.py            every scenario, about half an hour on two cores
python benchmarks/scenarios.py 3 7 12     some of them, in place
python benchmarks/scenarios.py --report FILE   the table alone, from a run of pytest with --scenario-report FILE
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- scenarios: written by benchmarks/scenarios.py -->", "<!-- end of scenarios -->"

FAULTS = {
    1: "a trial's worker is killed with `kill -9`",
    2: "a trial whose worker always dies",
    3: "the driver is killed with `kill -9`, three times; Ray dies beneath it",
    4: "SIGINT, SIGTERM, SIGHUP; to the driver, to every process; a second signal",
    5: "a node dies",
    6: "a node is cut off and its trial writes on",
    7: "the head dies",
    8: "out of memory in a trial",
    9: "a request that no node can ever meet",
    10: "a hanging trial",
    11: "the clock jumps",
    12: "the disk is full, at a checkpoint and at a row",
    13: "the newest checkpoint is truncated or empty",
    14: "half-written Parquet files, stray temporary files",
    15: "killed between writing and renaming",
    16: "two drivers of one sweep; a dead holder's lock",
    17: "several sweeps write into one results folder",
    18: "the results folder is not writable, or a file",
    19: "results on S3-compatible storage and on a network file system",
    20: "the results folder was moved",
    21: "a sweep file with every kind of mistake",
    22: "unknown model, data set, sweep, metric",
    23: "pretrained weights absent, no network",
    24: "`train_size` larger than the data set",
    25: "corrupt, grey, four-channel, CMYK images; an empty class",
    26: "a loss that is not finite",
    27: "a metric missing in some rows",
    28: "a malicious checkpoint, weight file or data set",
    29: "a sweep's name that leaves the folder; shell characters in the cluster file",
    30: "strangers at the ports, the token file and the logs",
}


@dataclass
class Outcome:
    """What became of one test."""

    scenarios: list[int]
    seconds: float = 0.0
    outcomes: list[str] = field(default_factory=list)
    reason: str = ""

    @property
    def verdict(self) -> str:
        """pass, fail, or skip with the reason."""
        if "failed" in self.outcomes:
            return "FAIL"
        return f"skip ({self.reason})" if "skipped" in self.outcomes else "pass"


def run(numbers: Iterable[int]) -> dict[str, Outcome]:
    """Run the tests of these scenarios, one after the other; test -> what became of it."""
    wanted = set(numbers)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.jsonl"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "scenario", "--scenario-report", str(report)]
        command += ["--scenarios", ",".join(str(number) for number in sorted(wanted))]
        ended = subprocess.run(command, cwd=ROOT, check=False).returncode
        if ended not in (0, 1):
            raise SystemExit(f"pytest could not run (exit code {ended}); the page stays as it is")
        return read(report) if report.exists() else {}


def read(report: Path) -> dict[str, Outcome]:
    """Test -> what became of it, from the lines that the tests' `--scenario-report` wrote."""
    tests: dict[str, Outcome] = {}
    for line in map(json.loads, report.read_text().splitlines()):
        test = tests.setdefault(line["test"], Outcome(line["scenarios"]))
        test.seconds += line["seconds"]
        test.outcomes.append(line["outcome"])
        test.reason = test.reason or line["reason"].removeprefix("Skipped: ")
    return tests


def rows(tests: dict[str, Outcome]) -> dict[int, list[str]]:
    """Scenario -> the lines of its tests; parametrised cases of one test are one line."""
    together: dict[tuple[int, str], list[Outcome]] = defaultdict(list)
    for name, test in tests.items():
        for number in test.scenarios:
            together[number, name.partition("[")[0]].append(test)
    found: dict[int, list[str]] = defaultdict(list)
    for (number, name), cases in sorted(together.items()):
        verdicts = [case.verdict for case in cases]
        passed = verdicts.count("pass")
        others = sorted({verdict for verdict in verdicts if verdict != "pass"})
        verdict = "pass" if not others else "; ".join(others)
        if len(cases) > 1:
            verdict += f" ({passed} of {len(cases)} cases)"
        file, _, test_name = name.partition("::")
        seconds = sum(case.seconds for case in cases)
        link = f"`{file.removeprefix('tests/')}::{test_name}`"
        found[number].append(f"| {number} | {FAULTS[number]} | {link} | {verdict} | {seconds:.1f} |")
    return found


def table(found: dict[int, list[str]], before: str) -> str:
    """The page's table: the scenarios that were run, and of the others what it said before."""
    kept: dict[int, list[str]] = defaultdict(list)
    for line in before.splitlines():
        first = line.split("|")[1].strip() if line.startswith("| ") else ""
        if first.isdigit():
            kept[int(first)].append(line)
    lines = ["| # | fault | test | outcome | seconds |", "|---|---|---|---|---|"]
    for number, fault in FAULTS.items():
        lines += found.get(number) or kept.get(number) or [f"| {number} | {fault} | not run yet | | |"]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run, and write the table into the page."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("numbers", nargs="*", type=int, metavar="N", help="scenarios; all when not given")
    parse.add_argument("--report", type=Path, metavar="FILE", help="run nothing, read how the tests fared from here")
    args = parse.parse_args(argv)
    if unknown := sorted(set(args.numbers) - set(FAULTS)):
        parse.error(f"no such scenario: {', '.join(map(str, unknown))}; they are 1 to {max(FAULTS)}")
    tests = read(args.report) if args.report else run(args.numbers or FAULTS)
    page = PAGE.read_text()
    head, _, rest = page.partition(BEGIN)
    before, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}\n\n{table(rows(tests), before)}\n\n{END}{tail}")
    bad = [name for name, test in tests.items() if test.verdict == "FAIL"]
    print(f"{len(tests)} tests, {len(bad)} failed; {PAGE.relative_to(ROOT)} written")
    print("\n".join(bad))
    return 1 if bad or not tests else 0


if __name__ == "__main__":
    sys.exit(main())
