"""A sweep on its way from this machine to a cluster: what is checked here, and the files that go along."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from raybench.config.folders import at_home
from raybench.errors import ConfigError, RaybenchError

if TYPE_CHECKING:
    from raybench.cluster.ssh import Host

Parser = Callable[[str], argparse.ArgumentParser]
"""prog -> the command line of `raybench.sweep`, which lies above the commands."""
Word = tuple[str, str | None]
"""An option and its value, or none where it takes none; NAME and the sweep's name; key=value and none."""
NAME = "NAME"
FOLDERS = {
    "--data-root": "their RAYBENCH_DATA",
    "--weights-root": "the folder of their data",
    "--results": "their RAYBENCH_RESULTS",
}
"""Options that name a folder of the machines where the sweep runs, and what counts there without."""
PLAN_S = 900.0
"""To plan a sweep on the head: data may be fetched and decoded, and two steps of each model are timed."""
ASKED_ABOVE_H = 1.0
"""Device-hours above which a sweep asks before it starts."""


@dataclass(frozen=True)
class Wanted:
    """A sweep that is to run on a cluster, its file and keys in order."""

    sweep: str
    words: tuple[Word, ...]
    """What `raybench.sweep` is given."""
    files: dict[Word, Path]
    """Those of them that name a file of this machine, which the cluster is to have."""
    settled: bool = False
    """Whether it may start however long it takes, or nothing is to start at all: nobody is asked then."""

    def arguments(self, folder: str) -> list[str]:
        """What `raybench.sweep` is given there, the files being in a folder of that machine."""
        found: list[str] = []
        for word in self.words:
            option, value = word
            found += [option] if option != NAME else []
            if word in self.files:
                found.append(f"{folder}/{sent_as(self.files[word])}")
            elif value is not None:
                found.append(value)
        return found


def asked_for(rest: Sequence[str], sweep_parser: Parser) -> Wanted:
    """What a command line asks for. Raises ConfigError with every fault, before anybody is asked for anything.

    What only data and models tell is told on the cluster.
    """
    from raybench.commands.given import load_plugins
    from raybench.config.document import find_sweep
    from raybench.config.load import PRESETS, load_sweep

    parse = sweep_parser("raybench cluster submit")
    args = parse.parse_intermixed_args(list(rest))
    if not args.name:
        raise ConfigError(["command line: a sweep's NAME is missing (raybench list sweeps names them)"])
    if args.address:
        raise ConfigError([f"command line: --address {args.address}: the cluster file says which cluster"])
    words = tuple(_words(rest, parse))
    faults = list(_of_this_machine(words))
    try:
        load_plugins(args.plugin)
        load_sweep(args.name, args.preset if args.preset in PRESETS else "paper", args.overrides)
    except ConfigError as error:
        faults += error.problems
    if faults:
        raise ConfigError(faults)
    file = find_sweep(args.name)
    files = {("--plugin", each): at_home(each) for each in args.plugin if each.endswith(".py")}
    return Wanted(file.stem, words, {(NAME, args.name): file, **files}, args.yes or args.dry_run)


def _of_this_machine(words: Sequence[Word]) -> Iterator[str]:
    """A fault for each folder that is named as from the folder one is in here, where the cluster's machines are not."""
    for option, value in words:
        there = value is None or value.startswith(("/", "~/")) or "://" in value
        if option in FOLDERS and not there:
            yield (
                f"command line: {option} {value}: is a folder of the cluster's machines; name it from their root "
                f"(/mnt/…), or leave it out for {FOLDERS[option]}"
            )


def _words(rest: Sequence[str], parse: argparse.ArgumentParser) -> Iterator[Word]:
    """The words of a command line that was parsed."""
    takes = {name for action in parse._actions if action.nargs != 0 for name in action.option_strings}
    named, words = False, iter(rest)
    for word in words:
        option, equals, value = word.partition("=")
        if word in takes:
            yield word, next(words)
        elif word.startswith("-"):
            yield option, value if equals else None
        else:
            yield (word, None) if named else (NAME, word)
            named = True


def sent_as(file: Path) -> str:
    """The name of a file on the cluster; that of a sweep's file ends in .yaml."""
    return f"{file.stem}.yaml" if file.suffix == ".yml" else file.name


def job_name(sweep: str, now: datetime, mark: str) -> str:
    """A name that says what and when, and is no other's."""
    return f"{sweep}-{now:%Y%m%d-%H%M%S}-{mark}"


def hand_over(head: Host, wanted: Wanted, job: str) -> list[str]:
    """Put the files on the head, each job's in a folder of its own; the arguments of `raybench.sweep` there.

    The sweep's file is always among them: the one that the head has may be older. Raises RaybenchError, also where a
    folder that is to be there is not.
    """
    from raybench.cluster.ssh import run, send, words

    for option, value in wanted.words:
        if option in ("--data-root", "--weights-root") and value is not None:
            answer = run(head, f"test -d {words([value])}", timeout_s=PLAN_S)
            if answer.code != 0:
                why = "no such folder there" if answer.reached else answer.last_error
                raise RaybenchError(f"{option} {value}: {why} ({head.address}); {FOLDERS[option]} counts without")
    folder = f"~/.raybench/sent/{job}"
    for file in wanted.files.values():
        try:
            text = file.read_bytes().decode("utf-8")  # with its ends of lines: a plugin's identity is its text
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError([f"{file}: cannot be read: {error}"]) from None
        send(head, text, f"{folder}/{sent_as(file)}")
    return [*wanted.arguments(folder), "--address", "auto"]


def agreed(head: Host, arguments: Sequence[str]) -> bool:
    """Whether a person at this terminal wants what the head plans, where it takes more than a device-hour.

    A job has no terminal to be asked at. The head plans, for its data, rows and GPUs decide; so its estimate is timed
    there. Raises RaybenchError with what the head finds wrong.
    """
    from raybench.cluster.ssh import in_project, run, words

    said = {"-q", "--quiet", "-v", "--verbose", "--log-json"}
    plain = [each for each in arguments if each not in said]
    command = words(["python", "-m", "raybench.sweep", *plain, "--dry-run", "--log-json"])
    print(f"the plan, as {head.address} makes it:", flush=True)
    answer = run(head, in_project(command), timeout_s=PLAN_S)
    events = [json.loads(line) for line in answer.output.splitlines() if line.startswith("{")]
    plan = next((event for event in events if event.get("event") == "plan"), None)
    if plan is None or answer.code != 0:
        raise RaybenchError(f"{head.address} does not plan it:\n{answer.errors.strip() or answer.last_error}")
    print("\n".join(plan["text"]), flush=True)
    hours = math.inf if plan["device_hours"] is None else float(plan["device_hours"])
    if hours <= ASKED_ABOVE_H:
        return True
    try:
        answered = input(f"about {hours:.1f} device-hours, as {head.address} estimates. Start? [y/N] ")
    except EOFError:
        return False
    return answered.strip().lower() in ("y", "yes")
