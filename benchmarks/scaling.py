"""Do twice as many nodes finish twice as many trials? And are GPUs shared exactly, and nodes that go survived?

    python benchmarks/scaling.py [--json] [--trials 500] [--sleep 4]

Ray's own `Cluster` on this machine: a head without CPUs, and 1, 2, 4, 8 nodes with two GPUs each by name only. Trials
sleep (two cores cannot train sixteen at once) and leave their rows; driver, searcher, Tuner and workers are those of a
real sweep. The largest cluster runs all the trials and smaller ones in proportion, so that each takes as long. The rate
is that between two trials: from when every worker has ended two, to when the first finds nothing more to do; the start
of sixteen processes that import torch on two cores is none of it, and told beside it. Then fractions of a GPU, trials
of four workers, and a node that is lost, each checked by the workers' own notes of when they ran and where.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.peers.pairs import hardware
from benchmarks.peers.sleepers import Sleep, Slept, Spec, read

ROOT = Path(__file__).parents[1]
SIZES = (1, 2, 4, 8)
GPUS = 2
BAR = 0.9
WARM = 2
"""Trials that every worker has ended before the clock runs."""


def run(spec: Spec) -> Slept:
    """One measurement, in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers.sleepers", json.dumps(asdict(spec))],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return read(ended.stdout.splitlines()[-1])


def rate(slept: Slept) -> float:
    """Trials a second once all workers work and while all still have work."""
    ends = sorted(slept.ended_s)
    first, last = WARM * slept.width - 1, len(ends) - slept.width
    return (last - first) / (ends[last] - ends[first])


def most_at_a_time(sleeps: Iterable[Sleep]) -> int:
    """The most of them that overlap."""
    moments = sorted([(each.begun, 1) for each in sleeps] + [(each.ended, -1) for each in sleeps])
    found = running = 0
    for _, change in moments:
        running += change
        found = max(found, running)
    return found


def by_gpu(slept: Slept) -> dict[tuple[str, int], int]:
    """(node, GPU) -> the most workers that it had at a time."""
    of: dict[tuple[str, int], list[Sleep]] = defaultdict(list)
    for each in slept.sleeps:
        for gpu in each.gpus:
            of[each.node, gpu].append(each)
    return {place: most_at_a_time(sleeps) for place, sleeps in of.items()}


def throughput(trials: int, sleep_s: float) -> Iterator[dict[str, Any]]:
    """Each size of cluster against the smallest. Raises SystemExit at once where the trials are too few for a rate."""
    least = (WARM + 1) * GPUS * SIZES[-1]
    if trials < least:
        raise SystemExit(f"--trials {trials}: too few for {GPUS * SIZES[-1]} at a time; at least {least}")
    base = 0.0
    for size in SIZES:
        nodes: list[dict[str, float]] = [{"cpu": GPUS, "gpu": GPUS}] * size
        slept = run(Spec(nodes, trials=trials * size // SIZES[-1], sleep_s=sleep_s, gpu=1.0))
        found = rate(slept)
        base = base or found
        ideal = slept.width / sleep_s
        count, busy = len(slept.ended_s), slept.driver_cpu_s / len(slept.ended_s)
        yield claim(
            f"throughput, {size} node{'s' if size > 1 else ''} with {GPUS} GPUs each, {count} trials of {sleep_s:g} s",
            found,
            base * size,
            "trials/s",
            found / (base * size),
            BAR,
            f"{found / ideal:.3f} of {slept.width} workers that never wait; whole run {slept.wall_s:.0f} s, the start "
            f"of workers included; driver {1000 * busy:.0f} ms of processor time a trial; {slept.statuses}",
        )  # fmt: skip


def packing(sleep_s: float) -> Iterator[dict[str, Any]]:
    """Fractions: as many a GPU as Ray has room for, no more and no fewer."""
    for gpu, a_gpu in ((0.5, 2), (0.3, 3), (0.6, 1)):
        nodes: list[dict[str, float]] = [{"cpu": 8, "gpu": 2}]
        slept = run(Spec(nodes, trials=8 * a_gpu, sleep_s=sleep_s, gpu=gpu))
        seen = by_gpu(slept)
        exact = len(seen) == 2 and set(seen.values()) == {a_gpu} and slept.width == 2 * a_gpu
        yield claim(
            f"trials at a time on each of two GPUs, at {gpu:g} GPU each", max(seen.values()), a_gpu, "", None, a_gpu,
            f"least {min(seen.values())}, driver reckoned {slept.width} in all", exact,
        )  # fmt: skip


def groups(sleep_s: float) -> Iterator[dict[str, Any]]:
    """Trials of four workers with a GPU each, on nodes of two, three and four: three places for two at a time."""
    nodes: list[dict[str, float]] = [{"cpu": 4, "gpu": 4}, {"cpu": 3, "gpu": 3}, {"cpu": 2, "gpu": 2}]
    slept = run(Spec(nodes, trials=6, sleep_s=sleep_s, gpu=1.0, workers=4))
    of: dict[str, list[Sleep]] = defaultdict(list)
    for each in slept.sleeps:
        of[each.trial].append(each)
    whole = all(len({(each.node, *each.gpus) for each in sleeps}) == 4 for sleeps in of.values())
    alone = set(by_gpu(slept).values()) == {1}
    at_once = most_at_a_time(
        [Sleep(t, "", [], max(s.begun for s in w), min(s.ended for s in w)) for t, w in of.items()]
    )
    spread = sorted(len({each.node for each in sleeps}) for sleeps in of.values())
    yield claim(
        "trials of 4 workers at a time on nodes of 4, 3 and 2 GPUs", at_once, 2, "", None, 2,
        f"{len(of)} trials, each on 4 GPUs of its own: {whole and alone}; on {spread} nodes; {slept.statuses}; "
        f"run {slept.wall_s:.0f} s",
        at_once == 2 and whole and alone and slept.statuses == {"complete": 6},
    )  # fmt: skip


def loss(sleep_s: float) -> Iterator[dict[str, Any]]:
    """One of four nodes is lost; what ran there runs elsewhere."""
    nodes: list[dict[str, float]] = [{"cpu": 2, "gpu": 2}] * 4
    slept = run(Spec(nodes, trials=64, sleep_s=sleep_s, gpu=1.0, lost_after=16))
    again = slept.attempts - 64
    done = slept.statuses.get("complete", 0)
    yield claim(
        "trials complete of 64 although one of four nodes was lost", done, 64, "", None, 64,
        f"{again} begun again; {slept.statuses}", slept.statuses == {"complete": 64} and 0 < again <= 2,
    )  # fmt: skip


def claim(
    text: str,
    ours: float,
    peer: float,
    unit: str,
    ratio: float | None,
    bar: float,
    details: str,
    holds: bool | None = None,
) -> dict[str, Any]:
    """A claim's object, as benchmarks print it."""
    held = holds if ratio is None else ratio >= bar
    return {
        "claim": text,
        "ours": ours,
        "peer": peer,
        "unit": unit,
        "ratio": None if ratio is None else round(ratio, 3),
        "ratio_is": "ours / linear",
        "bar": bar,
        "holds": held,
        "n": 1,
        "details": details,
        "hardware": hardware(1),
    }


Part = Callable[[int, float], Iterator[dict[str, Any]]]
PARTS: dict[str, Part] = {
    "throughput": throughput,
    "packing": lambda _, sleep_s: packing(sleep_s),
    "groups": lambda _, sleep_s: groups(sleep_s),
    "loss": lambda _, sleep_s: loss(sleep_s),
}


def main() -> int:
    """Measure and print; exit code 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one object a claim")
    parser.add_argument("--trials", type=int, default=500, help="of the largest cluster (default: 500)")
    parser.add_argument("--sleep", type=float, default=4.0, metavar="S", help="of each trial, s (default: 4)")
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part; may be given several times")
    args = parser.parse_args()
    missed = 0
    for name in args.only or PARTS:
        for each in PARTS[name](args.trials, args.sleep):
            missed += not each["holds"]
            print(json.dumps(each) if args.json else in_words(each), flush=True)
    return 1 if missed else 0


def in_words(found: dict[str, Any]) -> str:
    """A claim as lines."""
    ratio = "" if found["ratio"] is None else f", {found['ratio']:g} of linear"
    verdict = "holds" if found["holds"] else "MISSED"
    return (
        f"{found['claim']}: {found['ours']:.4g} {found['unit']}{ratio}; bar {found['bar']:g}: {verdict}\n"
        f"  {found['details']}; {found['hardware']}"
    )


if __name__ == "__main__":
    sys.exit(main())
