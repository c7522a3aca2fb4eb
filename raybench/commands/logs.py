"""`raybench logs TRIAL_ID`: what a trial left of its faults: tracebacks, stacks of what hung, and its reasons."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from raybench.commands.endings import EXIT_COMPLETE, ended
from raybench.commands.one_trial import OneTrial, find_trial
from raybench.config.folders import results_root
from raybench.errors import ResultsError


def parser(prog: str = "raybench logs") -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(
        prog=prog,
        description=(__doc__ or "").partition(": ")[2],
        epilog="From another machine: raybench cluster logs TRIAL_ID",
    )
    parse.add_argument("trial", metavar="TRIAL_ID", help="12 hex digits, or the first few")
    parse.add_argument("--results", default=results_root(), metavar="ROOT", help="folder, or s3://BUCKET/PREFIX")
    return parse


def main(argv: Sequence[str]) -> int:
    """Print it; exit code 0 where the trial is known, whether or not anything went wrong."""
    args = parser().parse_args(argv)
    return ended(lambda: _logs(args))


def _logs(args: argparse.Namespace) -> int:
    from raybench.results.storage import folder_at

    for line in logged(find_trial(folder_at(args.results), args.trial)):
        print(line)
    return EXIT_COMPLETE


def logged(found: OneTrial) -> Iterator[str]:
    """Its standing, then each of its logs, attempt by attempt."""
    from raybench.results.storage import entries, read

    row = found.row
    where = f" on {row['node']}" if row["node"] else ""
    reason = f": {row['reason']}" if row["reason"] else ""
    yield (
        f"{found.trial_id}: {found.sweep}, {row['cell']}, seed {row['seed']}; {row['status']} "
        f"in attempt {row['attempt']}{where}{reason}"
    )
    folder = found.store.folder / "logs"
    names = entries(folder, lambda name: name.startswith(f"{found.trial_id}-a") and name.endswith(".txt"))
    if not names:
        broken = row["failures"] or 0
        yield (
            f"no log of it in {folder}: "
            + (f"{broken} of its workers died without a word" if broken else "nothing went wrong in it")
            + (" (killed, or their machine was lost)" if broken else "")
        )
    for name in sorted(names, key=_attempt):
        try:
            text = read(folder / name).decode(errors="replace")
        except (OSError, ResultsError) as error:
            text = f"cannot be read: {error}"
        yield from ("", f"== {folder / name}", *text.rstrip().splitlines())


def _attempt(name: str) -> tuple[int, int]:
    number = name.partition("-a")[2].partition("-")[0].removesuffix(".txt")
    return int(number) if number.isdigit() else 0, len(name)
