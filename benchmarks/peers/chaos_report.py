"""The report of benchmarks/chaos.py: its lines as one table over all batches."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Line = dict[str, Any]

NOTES = """\
A kill interrupted training when a trial had been begun and was not settled. Lost: a row that could be read before a
kill, or that the undisturbed run has, and that is gone or another at the end; for Ray Tune an epoch that a trial
reported and that is neither in the result grid nor in the trials' result.json. Identical: every number that is not a
time, bit for bit, and the printed comparison. Ratio: seconds of all runs of a round over those of the undisturbed run
and a start-up for each further run.

Ray Tune runs the same trials through the same training loop, and is compared with an undisturbed run of its own.
Against it here: epochs take some 30 ms, so that a report and a checkpoint after each epoch, as its guides show, weigh
much, and its snapshot of the experiment (every 10 s at least) is old when it is needed; in hours of training the same
seconds would be a small share. By default it starts a process for each trial. In its favour: it has a checkpoint of
each epoch, raybench one every 5 epochs; and what stands in its trials' result files counts as found, though the
result grid may miss it."""


def read_report(path: Path) -> list[Line]:
    """The rounds so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def hardware() -> str:
    """The machine in words."""
    return f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def print_summary(lines: Sequence[Line], held: Callable[[Line], bool], as_json: bool) -> None:
    """The table for docs, a column a contestant; or an object a claim."""
    by_name: dict[str, list[Line]] = {}
    for line in sorted(lines, key=lambda line: line["contestant"], reverse=True):
        by_name.setdefault(line["contestant"], []).append(line)
    if as_json:
        for claim in _claims(by_name, held):
            print(json.dumps(claim))
        return
    if not lines:
        print("no rounds yet")
        return
    columns = {name: _figures(found, held) for name, found in by_name.items()}
    print(f"\n| | {' | '.join(columns)} |")
    print("| --- |" + " ---: |" * len(columns))
    for title in next(iter(columns.values())):
        print(f"| {title} | {' | '.join(figures[title] for figures in columns.values())} |")
    print(f"\n{NOTES}")


def _figures(lines: list[Line], held: Callable[[Line], bool]) -> dict[str, str]:
    kills = [kill for line in lines for kill in line["kills"] if kill["victim"] != "nobody"]
    runs = [run for line in lines for run in line["runs"]]
    victims = Counter(kill["victim"] for kill in kills)
    phases = Counter(kill["phase"] for kill in kills)
    ends = [
        kill["driver_ended_s"] for kill in kills if kill["victim"] == "raylet" and kill["driver_ended_s"] is not None
    ]
    killed = [run["last_gone_s"] for run in runs if run["exit"] == -9 and not run["hung"]]
    dates = sorted(line["at"][:10] for line in lines)

    def total(name: str) -> str:
        return str(sum(line[name] for line in lines))

    return {
        "rounds": str(len(lines)),
        "kills: driver, worker, raylet": ", ".join(str(victims[name]) for name in ("driver", "worker", "raylet")),
        "kills that interrupted training": f"{sum(kill['unfinished'] > 0 for kill in kills)} of {len(kills)}",
        "kills by phase": ", ".join(f"{name} {count}" for name, count in sorted(phases.items())) or "none",
        "trials begun more than once": total("restarted"),
        "**lost rows** (bar 0)": total("lost"),
        "**duplicate rows** as read, on disk (bar 0)": f"{total('duplicates')}, {total('duplicates_on_disk')}",
        "**orphan processes** after 30 s (bar 0)": str(sum(run["orphans"] for run in runs)),
        "seconds from a driver's kill to its last process's end, median, max": _spread(killed, 1),
        "**identical tables** (bar: all)": f"{sum(line['identical'] for line in lines)} of {len(lines)}",
        "sweeps finished by running the same command": f"{sum(line['finished'] for line in lines)} of {len(lines)}",
        "**ratio of seconds**, median, max (bar 1.5)": _spread([line["ratio"] for line in lines], 3),
        "trials under new or wrong ids": total("wrong_ids"),
        "epochs trained again, a round": _spread([line["again"] for line in lines], 0),
        "unreadable files": total("unreadable"),
        "runs that could not be taken up again": str(sum(run["broken"] for run in runs)),
        "runs that hung until ended": str(sum(run["hung"] for run in runs)),
        "seconds from a raylet's kill to the driver's end, median, max": _spread(ends, 1),
        "undisturbed, s; of these start-up, s": _reference(lines),
        "rounds in which everything held": f"{sum(map(held, lines))} of {len(lines)}",
        "machine": _machine(lines),
        "versions": _versions(lines),
        "dates": dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}",
    }


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f}, {max(values):.{digits}f}" if values else "none"


def _reference(lines: Sequence[Line]) -> str:
    parts = ((line["reference"]["total_s"], line["reference"]["startup_s"]) for line in lines)
    totals, startups = zip(*parts, strict=True)
    return f"{statistics.median(totals):.1f}; {statistics.median(startups):.1f}"


def _machine(lines: Sequence[Line]) -> str:
    about = lines[-1]["environment"]
    loads = [float(line["hardware"].rpartition(" ")[2]) for line in lines]
    return f"{about['cpu']}, {about['cpu_count']} cores, load {min(loads):.1f} to {max(loads):.1f}"


def _versions(lines: Sequence[Line]) -> str:
    found: dict[str, None] = {}
    for line in lines:
        about = line["environment"]
        commit = f"{(about['git_commit'] or 'unknown')[:8]}{'+' if about['git_dirty'] else ''}"
        found[f"raybench {commit}, ray {about['ray']}, torch {about['torch']}, Python {about['python']}"] = None
    return "; ".join(found)


def _claims(by_name: dict[str, list[Line]], held: Callable[[Line], bool]) -> list[Line]:
    """Each bar with our figure and the peer's."""
    figures: dict[str, tuple[Callable[[list[Line]], float], float]] = {
        "lost rows": (lambda lines: sum(line["lost"] for line in lines), 0),
        "duplicate rows": (lambda lines: sum(line["duplicates"] + line["duplicates_on_disk"] for line in lines), 0),
        "orphan processes": (lambda lines: sum(run["orphans"] for line in lines for run in line["runs"]), 0),
        "rounds whose tables differ": (lambda lines: sum(not line["identical"] for line in lines), 0),
        "largest ratio of seconds": (lambda lines: max(line["ratio"] for line in lines), 1.5),
        "rounds that did not hold": (lambda lines: sum(not held(line) for line in lines), 0),
    }
    ours, peers = by_name.get("raybench", []), by_name.get("Ray Tune", [])
    found = []
    for claim, (figure, bar) in figures.items():
        values = [figure(lines) if lines else None for lines in (ours, peers)]
        found.append(
            {
                "claim": f"{claim}, kill -9 at random moments",
                "ours": values[0],
                "peer": values[1],
                "ratio": None,
                "bar": bar,
                "holds": values[0] is not None and values[0] <= bar,
                "n": len(ours),
                "hardware": _machine(ours or peers) if ours or peers else None,
            }
        )
    return found
