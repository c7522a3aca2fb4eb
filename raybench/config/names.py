"""What a name may be, and the nearest known ones to an unknown one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
"""A sweep's name, which names its results folder."""


def nearest(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """Up to `n` of `known` that resemble `name`, the most alike first."""
    candidates = list(known)
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    found = difflib.get_close_matches(name.lower(), by_lower, n=n, cutoff=0.6)
    return [by_lower[match] for match in found]


def nearest_key(key: str, known: Iterable[str]) -> str | None:
    """The one known dotted key most like `key`: by its whole name, else by its last part."""
    candidates = list(known)
    if whole := nearest(key, candidates, n=1):
        return whole[0]
    last = {candidate.rpartition(".")[2]: candidate for candidate in reversed(candidates)}
    tail = nearest(key.rpartition(".")[2], last, n=1)
    return last[tail[0]] if tail else None
