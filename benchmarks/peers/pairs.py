"""Two ways side by side: they take turns in one run, so that what else the machine does meets both."""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

PAIRS = 5
Way = Callable[[], object]


@dataclass(frozen=True)
class Claim:
    """What was measured of both, in seconds, and how they are to compare."""

    claim: str
    ours: Sequence[float]
    peer: Sequence[float]
    ratio: Literal["peer / ours", "ours / peer"] = "peer / ours"
    """How much faster ours is, or how much longer it takes."""
    bar: float | None = None
    """At least this for `peer / ours`, at most this for `ours / peer`; none where nothing is promised."""
    unit: str = "s"
    details: str = ""

    @property
    def value(self) -> float:
        """The median of the ratios of neighbours in time."""
        return statistics.median(self.ratios)

    @property
    def ratios(self) -> list[float]:
        """One a pair."""
        faster = self.ratio == "peer / ours"
        return [p / o if faster else o / p for o, p in zip(self.ours, self.peer, strict=True)]

    @property
    def holds(self) -> bool | None:
        """Whether it keeps its bar."""
        if self.bar is None:
            return None
        return self.value >= self.bar if self.ratio == "peer / ours" else self.value <= self.bar


def interleaved(ours: Way, peer: Way, pairs: int = PAIRS, warm_up: int = 1) -> tuple[list[float], list[float]]:
    """Seconds of each counted turn of both, who comes first alternating. `warm_up` turns of each are not counted."""
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(warm_up + pairs):
        order = [(ours, taken[0]), (peer, taken[1])]
        for way, found in order if turn % 2 == 0 else reversed(order):
            seconds = timed(way)
            if turn >= warm_up:
                found.append(seconds)
    return taken


def timed(way: Way) -> float:
    """Wall seconds of one turn; what the turn before left to collect is not its cost."""
    gc.collect()
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """The command line every benchmark has."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--json", action="store_true", help="one object a claim")
    found.add_argument("--pairs", type=int, default=PAIRS, help=f"counted turns of each side (default: {PAIRS})")
    return found


def show(claims: Iterable[Claim], as_json: bool, threads: int) -> None:
    """Print each claim as it comes."""
    for each in claims:
        found = as_dict(each, threads)
        print(json.dumps(found) if as_json else in_words(each, found["hardware"]), flush=True)


def as_dict(claim: Claim, threads: int) -> dict[str, Any]:
    """The claim's object."""
    ratios = claim.ratios
    return {
        "claim": claim.claim,
        "ours": statistics.median(claim.ours),
        "peer": statistics.median(claim.peer),
        "unit": claim.unit,
        "ratio": round(claim.value, 3),
        "ratio_is": claim.ratio,
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "bar": claim.bar,
        "holds": claim.holds,
        "n": len(ratios),
        "details": claim.details,
        "hardware": hardware(threads),
    }


def in_words(claim: Claim, where: str) -> str:
    """The claim as a line or two."""
    found = as_dict(claim, 0)
    low, high = found["ratio_range"]
    least = "at least" if claim.ratio == "peer / ours" else "at most"
    bar = "" if claim.bar is None else f"; bar {least} {claim.bar:g}: {'holds' if claim.holds else 'MISSED'}"
    return (
        f"{claim.claim}\n"
        f"  {claim.ratio} = {claim.value:.3g} ({low:.3g} to {high:.3g}, n = {found['n']}){bar}\n"
        f"  ours {found['ours']:.4g} {claim.unit}, peer {found['peer']:.4g} {claim.unit}; {where}"
        + (f"\n  {claim.details}" if claim.details else "")
    )


def hardware(threads: int) -> str:
    """The processor, torch's threads, and what else the machine was doing."""
    from raybench.results.manifest import environment

    env = environment()
    load = os.getloadavg()[0]
    return f"{env['cpu']}, {env['cpu_count']} cores, {threads} threads, torch {env['torch']}, load {load:.1f}"
