"""`raybench doctor`: what is here, what is in the way of a sweep, and what to do about it."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from raybench.commands.endings import EXIT_COMPLETE, EXIT_TROUBLE, ended
from raybench.config.folders import results_root

STYLES = {"ok": "green", "note": "yellow", "fault": "red"}


def parser(prog: str = "raybench doctor") -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(
        prog=prog,
        description="Look at packages, GPUs, memory, disks, data, weights and ports of this machine, and say what to "
        "do about each problem. Nothing is started, fetched or written for good.",
        epilog="exit codes: 0 nothing is in the way of a sweep (notes may stand); 1 something is.",
    )
    parse.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the data sets (RAYBENCH_DATA, ./data)")
    parse.add_argument("--results", default=results_root(), metavar="ROOT", help="folder of the sweeps' folders")
    parse.add_argument("--json", action="store_true", help="print a list of objects: state, area, text, cure")
    return parse


def main(argv: Sequence[str]) -> int:
    """Print it; exit code 1 where something is in the way of a sweep."""
    args = parser().parse_args(argv)
    return ended(lambda: _doctor(args))


def _doctor(args: argparse.Namespace) -> int:
    from raybench.commands.examination import examine
    from raybench.config.folders import data_folder

    findings = examine(data_folder(args.data_root), args.results)
    counts = Counter(finding.state for finding in findings)
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
        return EXIT_TROUBLE if counts["fault"] else EXIT_COMPLETE
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for finding in findings:
        state = Text(f"{finding.state:<6}", style=STYLES[finding.state])
        console.print(state.append(f"{finding.area:<10}{finding.text}", style="default"), soft_wrap=True)
        if finding.cure:
            console.print(Text(f"{'':<16}-> {finding.cure}"), soft_wrap=True)
    told = [
        f"{counts[state]} {state}{'s' if counts[state] != 1 else ''}" for state in ("fault", "note") if counts[state]
    ]
    console.print(Text(", ".join(told) or "nothing is in the way of a sweep"))
    return EXIT_TROUBLE if counts["fault"] else EXIT_COMPLETE
