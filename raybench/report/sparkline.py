"""A curve in one line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float | None], width: int = 8) -> str:
    """`values` as at most `width` bars between their lowest and highest; of more values each bar shows its last.

    A missing or non-finite value is a space; equal values are the lowest bar.
    """
    count = min(width, len(values))
    # The last value of each stretch, so that the newest one is always shown.
    shown = [values[(index + 1) * len(values) // count - 1] for index in range(count)]
    known = [value for value in shown if value is not None and math.isfinite(value)]
    if not known:
        return " " * count
    low, span = min(known), max(known) - min(known)

    def bar(value: float | None) -> str:
        if value is None or not math.isfinite(value):
            return " "
        return BARS[round((value - low) / span * (len(BARS) - 1))] if span else BARS[0]

    return "".join(map(bar, shown))
