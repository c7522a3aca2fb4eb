"""`python -m raybench.compare [SWEEP…]`: tables from the rows of sweeps, wherever they were run."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raybench.commands.arguments import duration, positive, price
from raybench.commands.endings import EXIT_COMPLETE, ended
from raybench.config.folders import results_root
from raybench.errors import ResultsError

if TYPE_CHECKING:
    from raybench.commands.comparing import Compared
    from raybench.report.sheet import Sheet

SUFFIXES = {"latex": "tex"}
PLAIN_WIDTH = 160
"""Columns of a table printed where there is no terminal."""


def parser(prog: str = "python -m raybench.compare") -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(
        prog=prog,
        description="Compare the cells of sweeps by their rows: which setting is better, at what cost, and what was "
        "published. Needs only the results folder: no data, no torch, no Ray.",
        epilog="exit codes: 0 tables were made; 2 bad input, or nothing to compare.",
    )
    parse.add_argument("sweeps", nargs="*", metavar="SWEEP", help="sweeps of the results folder (default: all)")
    parse.add_argument(
        "--by",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY",
        help="compare by these keys, over all sweeps named; whatever else differs is tuned (selected on validation), "
        "but for the data",
    )
    parse.add_argument("--metric", metavar="M", help="validation metric to select by (default: the sweep's)")
    parse.add_argument("--preset", help="paper, small or quick (default: a table each)")
    parse.add_argument("--results", default=results_root(), metavar="ROOT", help="folder, or s3://BUCKET/PREFIX")
    parse.add_argument(
        "--format", choices=("md", "html", "csv", "latex", "json"), help="default: a table for the terminal"
    )
    parse.add_argument("--out", type=Path, metavar="DIR", help="write files there instead of printing")
    parse.add_argument(
        "--examples",
        nargs=2,
        metavar="TRIAL",
        help="two trials over the test images instead: how sure the difference of these two models is, whatever other "
        "seeds would give",
    )
    parse.add_argument("--at-epoch", type=positive, metavar="N", help="compare validation after N epochs")
    parse.add_argument(
        "--at-time", type=duration, metavar="TIME", help="and after so long on a whole device (90, 30m, 2h)"
    )
    parse.add_argument("--target", type=float, metavar="VALUE", help="epochs and device time to this validation metric")
    parse.add_argument(
        "--price-per-hour",
        type=price,
        metavar="PRICE",
        help="of a device, for the cost of each cell (default: provider.price_per_hour of ./cluster.yaml, where it is)",
    )
    return parse


def main(argv: Sequence[str] | None = None, prog: str = "python -m raybench.compare") -> int:
    """Run the command; returns its exit code."""
    args = parser(prog).parse_args(argv)
    return ended(lambda: _command(args))


def _command(args: argparse.Namespace) -> int:
    from raybench.commands.comparing import Asked, compare_sweeps, compare_trials
    from raybench.config.price import Price, price_in
    from raybench.results.storage import folder_at

    root = folder_at(args.results)
    if args.examples:
        if args.format is not None or args.out is not None:
            raise ResultsError("--examples prints one table for the terminal; leave --format and --out away")
        _print_sheets([compare_trials(root, args.sweeps, *args.examples)])
        return EXIT_COMPLETE
    given = args.price_per_hour
    asked = Asked(
        by=tuple(args.by),
        metric=args.metric,
        preset=args.preset,
        at_epoch=args.at_epoch,
        at_device_seconds=args.at_time,
        target=args.target,
        price=price_in(Path("cluster.yaml")) if given is None else Price(given, "--price-per-hour"),
    )
    tables = compare_sweeps(root, args.sweeps, asked)
    if args.out is not None:
        _write(tables, args.format or "md", args.out)
    elif args.format is not None:
        print(together(tables, args.format), end="")
    else:
        _print_sheets([sheet for table in tables for sheet in table.sheets()])
    return EXIT_COMPLETE


def together(tables: Sequence[Compared], form: str) -> str:
    """Several tables as one text: of JSON a list, of CSV one table of all records.

    Raises ResultsError for several pages, which are no page together.
    """
    from raybench.report.export import as_csv

    if form == "csv":
        return as_csv([record for table in tables for record in table.records()])
    if form == "html" and len(tables) > 1:
        named = ", ".join(f"{table.name} {table.preset}" for table in tables)
        raise ResultsError(f"{len(tables)} pages ({named}) make no one page; add --out DIR, or name one with --preset")
    texts = [table.text(form) for table in tables]
    if form != "json" or len(texts) == 1:
        return "\n".join(texts)
    return "[\n" + ",\n".join(text.rstrip("\n") for text in texts) + "\n]\n"


def _write(tables: Sequence[Compared], form: str, folder: Path) -> None:
    from raybench.results.storage import write_atomically

    for table in tables:
        # Both may come from a foreign row or folder.
        stem = re.sub(r"[^A-Za-z0-9_.+-]", "_", f"{table.name.replace(' + ', '+')}-{table.preset}")
        path = folder / f"{stem}.{SUFFIXES.get(form, form)}"
        write_atomically(path, table.text(form).encode())
        print(os.path.relpath(path))


def _print_sheets(sheets: Sequence[Sheet]) -> None:
    from rich.console import Console

    from raybench.report.tables import sheet_lines, sheet_table

    console = Console()
    for sheet in sheets:
        if console.is_terminal:
            console.print(sheet_table(sheet, width=console.width))
        else:
            print("\n".join(sheet_lines(sheet, width=PLAIN_WIDTH)), end="\n\n")


if __name__ == "__main__":
    sys.exit(main())
