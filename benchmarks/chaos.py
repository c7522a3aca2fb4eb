"""kill -9 of drivers, workers and raylets at random moments of a real sweep: what is lost, and what it costs.

    python benchmarks/chaos.py [--rounds 3] [--peer] [--when any] [--kills 1] [--report FILE] [--summary]

A round runs `python -m raybench.sweep smoke`, kills one of its processes, runs the same command again until it exits
with 0, and compares rows, tables, processes and seconds with a run that nobody disturbed. Rounds are added to a report
(JSON lines, results/chaos.jsonl), so batches add up; --summary prints the table over all of them and runs nothing.

A batch begins with two undisturbed runs: the first prepares the teacher, whose cache all rounds share; the second is
the reference in seconds; their tables must be equal. With --when any each round has a cache of its own, the kill may
also meet the start or the teacher, and the first run is the reference. --peer does the same to the same sweep as a
script on plain Ray Tune with `Tuner.restore` (benchmarks/peers/plain_tune.py).

Needs a quiet machine for its seconds: at 2 cores a round takes about 1 min, one of Ray Tune up to 4 min.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.peers.chaos_report import hardware, print_summary, read_report
from benchmarks.peers.contestant import Contestant, Rows
from benchmarks.peers.family import Family, asked, environment, wait
from benchmarks.peers.raybench_tables import Raybench
from benchmarks.peers.tune_results import PlainTune
from raybench.results import manifest

ROOT = Path(__file__).parents[1]
VICTIMS = ("driver", "worker", "raylet")
MORE_RUNS = 3
"""Runs that a round may take beyond one a kill."""
BETWEEN_S = 0.5
BAR = 1.5


@dataclass(frozen=True)
class Reference:
    """An undisturbed run."""

    folder: Path
    epochs: int
    total_s: float
    startup_s: float
    """Until the first epoch's row is there."""
    training_s: float
    """From there to the last one's."""


@dataclass
class Kill:
    """One kill -9 and what it met."""

    victim: str
    wanted: str
    """Whom the round meant to kill; the driver is taken where there is no such process."""
    after_s: float
    """Since the start of the run it met."""
    unfinished: int = 0
    """Trials that were begun and not settled, so that the kill interrupted them."""
    epochs: int = 0
    """Epochs whose rows were there."""
    phase: str = "training"
    """start, teacher, training, or that no trial was running."""
    driver_ended_s: float | None = None
    """From the kill of the driver or the raylet to the end of the driver."""


@dataclass
class Round:
    """A sweep, interrupted and gone on with; its processes end with it, whatever happens."""

    contestant: Contestant
    folder: Path
    variables: dict[str, str]
    timeout_s: float
    families: list[Family] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    before: list[Rows] = field(default_factory=list)

    def __enter__(self) -> Round:
        self.folder.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        for family in self.families:
            family.close()

    @property
    def now(self) -> Family:
        """The run that goes on."""
        return self.families[-1]

    def start(self) -> None:
        """The command, for the first time or again."""
        self.known: set[Hashable] = self.contestant.marks(self.folder)
        self.runs.append({"startup_s": None, "hung": False})
        variables = environment(self.folder.parent, **self.variables, CHAOS_RUN=str(len(self.runs)))
        self.families.append(
            Family(
                self.contestant.command(self.folder), variables, ROOT, self.folder.parent / f"{self.folder.name}.log"
            )
        )

    def begun(self) -> bool:
        """Whether this run has finished an epoch since its start or the last kill."""
        return bool(self.contestant.marks(self.folder) - self.known)

    def wait(self, until: Callable[[], bool] = lambda: False, at_most_s: float | None = None) -> bool:
        """Wait for something or the end of the driver; False when neither came.

        Without `at_most_s` a run that hangs, that is without a new epoch for too long, is ended.
        """
        begun, written = time.monotonic(), 0.0

        def over() -> bool:
            nonlocal begun, written
            self._notice_start()
            if at_most_s is None and (latest := self.contestant.written(self.folder)) != written:
                begun, written = time.monotonic(), latest
            return not self.now.running or until() or time.monotonic() - begun > (at_most_s or self.timeout_s)

        wait(self.families, over)
        came = not self.now.running or until()
        if not came and at_most_s is None:
            self.runs[-1]["hung"] = True
            self.now.close()
        return came

    def _notice_start(self) -> None:
        if self.runs[-1]["startup_s"] is None and self.begun():
            self.runs[-1]["startup_s"] = round(time.monotonic() - self.now.started, 2)

    def finish(self) -> int:
        """Wait for the end of the driver; its exit code."""
        self.wait()
        self.now.look()
        run = self.runs[-1]
        run |= {"seconds": round(self.now.seconds, 2), "exit": self.now.driver.wait()}
        return int(run["exit"])

    def kill(self, wanted: str, chance: random.Random) -> None:
        """Look at the rows, then kill; where there is nobody to kill for 2 seconds, the driver."""
        worker = self.contestant.workers
        self.wait(lambda: bool(self.now.victims(wanted, worker)), at_most_s=2.0)
        rows = self.contestant.read(self.folder)
        after = self.now.seconds
        victim = next((each for each in (wanted, "driver") if self.now.kill_one(each, worker, chance)), "nobody")
        self.before.append(rows)
        self.kills.append(Kill(victim, wanted, round(after, 2), rows.unfinished, rows.epochs, self._phase(rows)))
        self.known = self.contestant.marks(self.folder)
        if victim in ("driver", "raylet"):
            killed = time.monotonic()
            self.finish()
            self.kills[-1].driver_ended_s = round(time.monotonic() - killed, 2)

    def _phase(self, rows: Rows) -> str:
        if rows.unfinished:
            return "training"
        if rows.rows:
            return "no trial running"
        teachers = Path(self.variables["RAYBENCH_CACHE"]) / "teachers"
        begun, ready = any(teachers.glob("*")), any(teachers.glob("*/teacher.json"))
        return "teacher" if begun and not ready else "start"


class Batch:
    """Undisturbed runs, then rounds."""

    def __init__(self, contestant: Contestant, scratch: Path, when: str, kills: int, timeout_s: float) -> None:
        self.contestant, self.scratch = contestant, scratch
        self.when, self.kills, self.timeout_s = when, kills, timeout_s
        self.variables = {"RAYBENCH_CACHE": str(scratch / "cache"), **contestant.variables(scratch)}

    def undisturbed(self, name: str) -> Reference:
        """One run to its end. Raises SystemExit when it does not end well."""
        with Round(self.contestant, self.scratch / name, self.variables, self.timeout_s) as whole:
            whole.start()
            written: list[float] = [0.0]

            def follow() -> bool:
                written.append(max(written[-1], self.contestant.written(whole.folder)))
                return False

            whole.wait(follow)
            if (code := whole.finish()) != 0:
                log = (self.scratch / f"{name}.log").read_text()[-2000:]
                raise SystemExit(f"the undisturbed run ended with {code}; nothing was killed:\n{log}")
            first = next(time for time in written if time)
            epochs = self.contestant.read(whole.folder).epochs
            startup: float = whole.runs[0]["startup_s"]
            return Reference(whole.folder, epochs, whole.now.seconds, startup, written[-1] - first)

    def reference(self) -> Reference:
        """The run to compare with. Raises SystemExit when two undisturbed runs differ."""
        cold = self.undisturbed("cold")
        warm = self.undisturbed("warm")
        verdict = self.contestant.judge(cold.folder, [], warm.folder)
        if not verdict.identical:
            raise SystemExit(f"two undisturbed runs differ: {verdict.differences}")
        return warm if self.when == "training" else replace(cold, startup_s=warm.startup_s)

    def round(self, seed: int, reference: Reference) -> dict[str, Any]:
        """One round, as its line of the report."""
        chance = random.Random(seed)
        variables = dict(self.variables)
        if self.when == "any":
            variables["RAYBENCH_CACHE"] = str(self.scratch / f"cache-{seed}")
        with Round(self.contestant, self.scratch / f"round-{seed}", variables, self.timeout_s) as played:
            played.start()
            for number in range(self.kills):
                self._interrupt(played, reference, VICTIMS[(seed + number) % len(VICTIMS)], chance)
            while (code := played.finish()) != 0 and len(played.runs) < self.kills + 1 + MORE_RUNS:
                played.start()
            total = sum(run["seconds"] for run in played.runs)
            wait(played.families, lambda: all(family.gone is not None for family in played.families))
            verdict = self.contestant.judge(played.folder, played.before, reference.folder)
            for run, family in zip(played.runs, played.families, strict=True):
                run |= {"orphans": family.orphans, "last_gone_s": round(family.gone or 0.0, 2)}
                run["broken"] = self.contestant.broken(run["exit"])
        allowed = reference.total_s + (len(played.runs) - 1) * reference.startup_s
        return {
            "contestant": self.contestant.name,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seed": seed,
            "when": self.when,
            "finished": code == 0,
            "kills": [asdict(kill) for kill in played.kills],
            "runs": played.runs,
            **asdict(verdict),
            "total_s": round(total, 2),
            "ratio": round(total / allowed, 3),
            "reference": {name: round(getattr(reference, name), 2) for name in ("total_s", "startup_s", "training_s")},
            "hardware": hardware(),
            "environment": manifest.environment(),
        }

    def _interrupt(self, played: Round, reference: Reference, victim: str, chance: random.Random) -> None:
        if not played.now.running:
            if played.finish() == 0:
                return
            played.start()
        if self.when == "training":
            if not played.wait(played.begun) or not played.now.running:
                return
            # By epochs, which pass however busy the machine is, and then anywhere between two of them.
            done = self.contestant.epochs(played.folder)
            until = chance.uniform(done, reference.epochs)
            played.wait(lambda: self.contestant.epochs(played.folder) >= until)
            played.wait(at_most_s=chance.uniform(0, BETWEEN_S))
        else:
            played.wait(at_most_s=chance.uniform(0, reference.total_s))
        if played.now.running:
            played.kill(victim, chance)


def play(args: argparse.Namespace, contestant: Contestant) -> None:
    """A batch of rounds, each added to the report once it is over."""
    earlier = [each["seed"] for each in read_report(args.report) if each["contestant"] == contestant.name]
    first = args.seed if args.seed is not None else 1 + max(earlier, default=-1)
    args.report.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        batch = Batch(contestant, scratch, args.when, args.kills, args.timeout)
        reference = batch.reference()
        print(
            f"{contestant.name} undisturbed: {reference.total_s:.1f} s, of these {reference.startup_s:.1f} s until the "
            f"first epoch and {reference.training_s:.1f} s until the last",
            flush=True,
        )
        for seed in range(first, first + args.rounds):
            line = batch.round(seed, reference)
            with args.report.open("a") as report:
                report.write(json.dumps(line) + "\n")
            print(said(line), flush=True)
            folder = scratch / f"round-{seed}"
            if args.keep and not held(line):
                shutil.copytree(folder, args.keep / folder.name, dirs_exist_ok=True)
                shutil.copy(folder.with_suffix(".log"), args.keep)
            for left in (folder, scratch / "ray", scratch / f"cache-{seed}"):
                shutil.rmtree(left, ignore_errors=True)


def held(line: dict[str, Any]) -> bool:
    """Whether nothing was lost in a round and it took its time."""
    faults = ("lost", "duplicates", "duplicates_on_disk", "wrong_ids", "unreadable")
    runs = line["runs"]
    spoilt = any(line[name] for name in faults) or any(run["orphans"] or run["hung"] for run in runs)
    return bool(line["finished"] and line["identical"] and line["ratio"] <= BAR and not spoilt)


def said(line: dict[str, Any]) -> str:
    """A round in one line."""
    met = ", ".join(
        f"{kill['victim']} at {kill['after_s']:.1f} s ({kill['phase']}, {kill['unfinished']} trials unfinished)"
        for kill in line["kills"]
    )
    runs = line["runs"]
    parts = [
        f"{line['contestant']} round {line['seed']}: killed {met or 'nobody, it had ended'}",
        f"{len(runs)} runs, exits {' '.join(str(run['exit']) for run in runs)}",
        f"lost {line['lost']}, twice {line['duplicates']}+{line['duplicates_on_disk']}, "
        f"trained again {line['again']} epochs",
        f"orphans {sum(run['orphans'] for run in runs)} (last gone after {max(r['last_gone_s'] for r in runs):.1f} s)",
        f"tables {'identical' if line['identical'] else 'differ: ' + line['differences'][:300]}",
        f"{line['total_s']:.1f} s, ratio {line['ratio']:.2f}",
    ]
    if line["wrong_ids"]:
        parts.append(f"wrong ids {line['wrong_ids']}")
    if hung := sum(run["hung"] for run in runs):
        parts.append(f"{hung} runs hung and were ended")
    return "; ".join(parts) + ("" if held(line) else "  <-- does not hold")


def main() -> int:
    """Run a batch, print the summary; exit code 1 when a round of raybench's in it did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", action="store_true", help="plain Ray Tune instead of raybench")
    parser.add_argument("--when", choices=("training", "any"), default="training")
    parser.add_argument("--kills", type=int, default=1, help="kills a round")
    parser.add_argument("--seed", type=int, help="of the first round; default: the next that the report does not have")
    parser.add_argument(
        "--timeout",
        type=float,
        default=150.0,
        metavar="SECONDS",
        help="without a new epoch, after which a run has hung",
    )
    parser.add_argument("--report", type=Path, default=ROOT / "results" / "chaos.jsonl")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the folders of rounds that did not hold")
    parser.add_argument("--summary", action="store_true", help="print the table over the whole report, and run nothing")
    parser.add_argument("--json", action="store_true", help="one object a claim instead of the table")
    args = parser.parse_args()
    # However this script is ended, each round ends its processes.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, asked)
    if not args.summary:
        contestant: Contestant = PlainTune() if args.peer else Raybench()
        play(args, contestant)
    lines = read_report(args.report)
    print_summary(lines, held, as_json=args.json)
    return 0 if all(held(line) for line in lines if line["contestant"] == Raybench.name) else 1


if __name__ == "__main__":
    sys.exit(main())
