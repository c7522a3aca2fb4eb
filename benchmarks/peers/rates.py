"""A figure with nothing to compete with, in the form of a claim: a rate, and of what limit it is a part."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.peers.pairs import hardware


@dataclass(frozen=True)
class Figure:
    """What was measured, some times over."""

    claim: str
    ours: Sequence[float]
    unit: str
    limit: float | None = None
    """What there is at most, in the same unit; none where that is not known."""
    details: str = ""


def as_dict(figure: Figure, threads: int) -> dict[str, Any]:
    """The figure as a claim's object: the peer is the limit, and no bar is promised."""
    median = statistics.median(figure.ours)
    return {
        "claim": figure.claim,
        "ours": median,
        "peer": figure.limit,
        "unit": figure.unit,
        "ratio": None if figure.limit is None else round(median / figure.limit, 3),
        "ratio_is": "ours / peer",
        "ratio_range": None if figure.limit is None else [round(f(figure.ours) / figure.limit, 3) for f in (min, max)],
        "bar": None,
        "holds": None,
        "n": len(figure.ours),
        "details": figure.details,
        "hardware": where(threads),
    }


def where(threads: int) -> str:
    """The GPU, where there is one, before what a CPU's benchmarks say."""
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return gpu + hardware(threads)


def show(figures: Iterable[Figure], as_json: bool, threads: int) -> None:
    """Print each figure as it comes."""
    for each in figures:
        found = as_dict(each, threads)
        if as_json:
            print(json.dumps(found), flush=True)
            continue
        low, high = min(each.ours), max(each.ours)
        part = "" if each.limit is None else f"; {found['ratio']:.1%} of {each.limit:.4g}"
        print(
            f"{each.claim}\n  {found['ours']:.4g} {each.unit} ({low:.4g} to {high:.4g}, n = {found['n']}){part}"
            + (f"\n  {each.details}" if each.details else "")
            + f"\n  {found['hardware']}",
            flush=True,
        )
