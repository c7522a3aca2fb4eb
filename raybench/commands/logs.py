"""`raybench logs TRIAL_ID`: what a trial said of itself: each epoch, warnings, tracebacks, the stacks of what hung."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from raybench.commands.endings import EXIT_COMPLETE, ended
from raybench.commands.one_trial import OneTrial, find_trial
from raybench.config.folders import results_root
from raybench.errors import ResultsError
from raybench.results.schema import Status
from raybench.results.storage import Folder, entries, folder_at, read


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
    for line in logged(find_trial(folder_at(args.results), args.trial)):
        print(line)
    return EXIT_COMPLETE


def logged(found: OneTrial) -> Iterator[str]:
    """Its standing, which of its logs are not there and why, then each that is, attempt by attempt."""
    yield _standing(found)
    folder = found.store.folder / "logs"
    names = entries(folder, lambda name: name.startswith(f"{found.trial_id}-a") and name.endswith(".txt"))
    yield from _absent(found, folder, names)
    for name in sorted(names, key=_attempt):
        try:
            text = read(folder / name).decode(errors="replace").rstrip() or "(empty)"
        except (OSError, ResultsError) as error:
            text = f"cannot be read: {error}"
        yield from ("", f"== {folder / name}", *text.splitlines())


def _standing(found: OneTrial) -> str:
    row = found.row
    where = f" on {row['node']}" if row["node"] else ""
    reason = f": {row['reason']}" if row["reason"] else ""
    broken = row["failures"] or 0
    after = f" ({broken} attempt{'s' if broken > 1 else ''} broke)" if broken else ""
    return (
        f"{found.trial_id}: {found.sweep}, {row['cell']}, seed {row['seed']}; {row['status']} "
        f"in attempt {row['attempt']}{where}{reason}{after}"
    )


def _absent(found: OneTrial, folder: Folder, names: Collection[str]) -> Iterator[str]:
    """A line for what has no log, with all that may be behind it: the rows alone do not tell which."""
    row, last = found.row, int(found.row["attempt"])
    lacking = [number for number in range(1, last + 1) if f"{found.trial_id}-a{number}.txt" not in names]
    if not names and row["started"] is None:
        yield f"no log of it in {folder}: no row of it says that it ever began"
        return
    stored = not isinstance(folder, Path)  # an object is put whole
    if row["status"] == Status.RUNNING and last in lacking:
        why = "it is put there when the attempt ends, unless" if stored else "none was written yet, or"
        yield f"no log of attempt {last} in {folder}: {why} its worker is killed before or cannot write"
        lacking.remove(last)
    if lacking:
        which = f"attempt{'s' if len(lacking) > 1 else ''} {', '.join(map(str, lacking))}"
        killed = "its worker was killed before it put it there" if stored else "its worker never got so far"
        yield (
            f"no log of {which} in {folder}: it was removed or not copied with the rows, could not be written, "
            f"{killed}, or it is of a raybench that kept logs of faults alone"
        )


def _attempt(name: str) -> tuple[int, int]:
    number = name.partition("-a")[2].partition("-")[0].removesuffix(".txt")
    return int(number) if number.isdigit() else 0, len(name)
