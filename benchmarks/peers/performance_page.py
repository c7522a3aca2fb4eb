"""Runs benchmarks and writes what they found into docs/performance.md.

    python -m benchmarks.peers.performance_page benchmarks/tome.py …

Each file runs by itself with `--json`, in the order given. What it prints replaces that file's lines of the table; the
others stay. A file that fails is named at the end, its lines stay too, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "performance.md"
REPORT = ROOT / "benchmarks" / "reports" / "performance.jsonl"
BEGIN, END = "<!-- claims: written by `make bench` -->", "<!-- end of claims -->"


def measured(file: Path) -> list[dict[str, Any]] | None:
    """What a benchmark printed; none where it failed."""
    print(f"== {file.name}", flush=True)
    ended = subprocess.run(
        [sys.executable, str(file), "--json"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    print(ended.stdout, end="", flush=True)
    if ended.returncode != 0:
        return None
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    return [{"file": file.stem, "date": today, **json.loads(line)} for line in ended.stdout.splitlines() if line]


def number(value: object) -> str:
    """A figure as it is printed."""
    return f"{value:.4g}" if isinstance(value, int | float) and not isinstance(value, bool) else ""


def line(found: dict[str, Any]) -> str:
    """A row of the table."""
    kinds = {"ours / peer": "at most ", "ours - peer": "interval holds "}
    least = "" if found.get("bar") is None else kinds.get(str(found.get("ratio_is")), "at least ")
    if found.get("bar") is not None and (found.get("peer") is None or found.get("bar_is") == "ours at most"):
        least = "at most "
    holds = {True: "holds", False: "**missed**", None: ""}[found.get("holds")]
    unit = found.get("unit", "")
    cells = [
        f"`{found['file']}`",
        found["claim"],
        f"{number(found['ours'])} {unit}".strip(),
        f"{number(found.get('peer'))} {unit}".strip() if found.get("peer") is not None else "",
        number(found.get("ratio")),
        f"{least}{number(found.get('bar'))}",
        holds,
        str(found.get("n", "")),
        f"{found['hardware']}; {found['date']}",
    ]
    return "| " + " | ".join(cells) + " |"


def table(found: Sequence[dict[str, Any]]) -> str:
    """All lines, in the order of the files' names."""
    head = ["benchmark", "claim", "ours", "peer", "ratio", "bar", "", "n", "where and when"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(line(each) for each in sorted(found, key=lambda each: str(each["file"])))])


def main(argv: Sequence[str] | None = None) -> int:
    """Run, keep, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    known = [json.loads(each) for each in REPORT.read_text().splitlines()] if REPORT.exists() else []
    failed = []
    for file in args.files:
        found = measured(file)
        if found is None:
            failed.append(file.name)
            continue
        known = [each for each in known if each["file"] != file.stem] + found
        # After each file, so that an interruption loses nothing.
        REPORT.write_text("".join(json.dumps(each) + "\n" for each in known))
        page = PAGE.read_text()
        head, _, rest = page.partition(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}\n\n{table(known)}\n\n{END}{rest.partition(END)[2]}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
