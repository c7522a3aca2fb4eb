"""Where the values of a hyperparameter stand on an axis: numbers, plain or logarithmic, and words by name."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from raybench.config.plan import show

DECADE = 10.0
"""A key whose positive values differ by this factor or more is looked at by its logarithm."""
MOST_TICKS = 7
MIN_GAP = 0.055
"""Share of the axis by which two ticks stand apart, at least."""
NOT_SAID = "none"

Kind = Literal["linear", "log", "names"]
Places = dict[float | str, float]


@dataclass(frozen=True)
class Scale:
    """An axis of one key, one position a value."""

    kind: Kind
    numbers: tuple[float, ...]
    """Those along the scale, rising; none where the key is one of names."""
    beside: tuple[float | str, ...]
    """What stands a step apart from the numbers: `all` above them, other words and the 0 of a logarithm below."""
    places: Places
    """Value (as `normal` gives it) -> position."""

    def position(self, value: Any) -> float:
        """Of a value of the key. Raises KeyError for what it was not made for: a word, a number without a logarithm."""
        value = normal(value)
        if value in self.places:
            return self.places[value]
        if self.kind == "names" or isinstance(value, str) or (self.kind == "log" and value <= 0):
            raise KeyError(value)
        return _along(self.kind, value)

    @property
    def span(self) -> tuple[float, float]:
        """The least and the greatest position."""
        return min(self.places.values()), max(self.places.values())

    @property
    def bounds(self) -> tuple[float, float]:
        """The span and half a step more at both ends, so that the outer values hold as much room as the others."""
        places = sorted(self.places.values())
        if len(places) < 2:
            return places[0] - 0.5, places[0] + 0.5
        return places[0] - (places[1] - places[0]) / 2, places[-1] + (places[-1] - places[-2]) / 2

    def ticks(self, most: int = MOST_TICKS, letters: int | None = None) -> list[tuple[float, str]]:
        """Positions with their texts: the values themselves where they are few, else round numbers; all the names.

        letters: how many fit along the axis, where the texts stand side by side.
        """
        if self.kind == "names":
            return [(place, text_of(value)) for value, place in self.places.items()]
        numbers = list(self.numbers) if len(self.numbers) <= most else _round_numbers(self.kind, self.numbers, most)
        along = _apart([(_along(self.kind, each), text_of(each)) for each in numbers], self.span, letters)
        return sorted(along + [(self.places[value], text_of(value)) for value in self.beside])


def make_scale(values: Iterable[Any], log: bool | None = None) -> Scale:
    """The scale on which these values stand. `log`: whether numbers are; None: where they span a decade.

    Numbers as text (`"500"`) are numbers. Where there are none, or one among words, every value is a name, in the order
    given. Numbers of which some are negative have no logarithm. Raises ValueError without a value.
    """
    distinct = list(dict.fromkeys(normal(value) for value in values))
    if not distinct:
        raise ValueError("a scale needs values")
    numbers = sorted(value for value in distinct if isinstance(value, float))
    words = [value for value in distinct if isinstance(value, str)]
    if not numbers or (len(numbers) == 1 and words and words != ["all"]):
        return Scale("names", (), tuple(distinct), {value: float(i) for i, value in enumerate(distinct)})
    positive = [value for value in numbers if value > 0]
    if log is None:
        log = spans_a_decade(numbers)
    kind: Kind = "log" if log and positive and numbers[0] >= 0 else "linear"
    along = positive if kind == "log" else numbers
    above = [word for word in words if word == "all"]
    below = [value for value in numbers if value not in along] + [word for word in words if word != "all"]
    return Scale(kind, tuple(along), (*below, *above), _placed(kind, along, below, above))


def _placed(kind: Kind, along: Sequence[float], below: Sequence[float | str], above: Sequence[str]) -> Places:
    places: Places = {value: _along(kind, value) for value in along}
    steps = [b - a for a, b in pairwise(places.values())]
    low, high = min(places.values()), max(places.values())
    step = max(statistics.median(steps), 0.1 * (high - low)) if steps else 0.3 if kind == "log" else 1.0
    places |= {value: low - step * (1 + rank) for rank, value in enumerate(below)}
    return places | {word: high + step * (1 + rank) for rank, word in enumerate(above)}


def spans_a_decade(numbers: Sequence[float]) -> bool:
    """Whether all are positive and the largest is at least ten times the smallest."""
    return bool(numbers) and min(numbers) > 0 and max(numbers) >= DECADE * min(numbers)


def normal(value: Any) -> float | str:
    """A value of a configuration as one of two kinds: float, or text (flags and `none` are words)."""
    if value is None:
        return NOT_SAID
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        return number if math.isfinite(number) else value
    return show(value)


def broken(text: str, letters: int) -> str:
    """A name in lines of at most so many letters, as even as its places to break allow: spaces, after `_ . , =`."""
    whole = _lines(text, letters)
    even = next(lines for width in range(1, letters + 1) if len(lines := _lines(text, width)) <= len(whole))
    return "\n".join(line.strip() for line in even)


def _lines(text: str, letters: int) -> list[str]:
    lines = [""]
    for part in re.split(r"(?<=[\s_.,=])", text):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > letters:
            lines.append("")
        lines[-1] += part
    return lines


def text_of(value: Any) -> str:
    """A value on an axis: whole numbers with separators of thousands, small numbers as they are written."""
    value = normal(value)
    if isinstance(value, str):
        return value
    if value.is_integer() and abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _along(kind: Kind, value: float) -> float:
    return math.log10(value) if kind == "log" else value


def _round_numbers(kind: Kind, numbers: Sequence[float], most: int) -> list[float]:
    low, high = numbers[0], numbers[-1]
    if kind == "linear":
        from matplotlib.ticker import MaxNLocator

        return [float(each) for each in MaxNLocator(most - 1).tick_values(low, high) if low <= each <= high]
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1, 2, 5), (1, 3), (1,)):
        chosen = [f * 10.0**power for power in range(first, last + 1) for f in factors]
        chosen = [each for each in chosen if low <= each * (1 + 1e-9) and each <= high * (1 + 1e-9)]
        if len(chosen) <= most:
            break
    return chosen[:: -(-len(chosen) // most)] if chosen else [low, high]


def _apart(ticks: list[tuple[float, str]], span: tuple[float, float], letters: int | None) -> list[tuple[float, str]]:
    kept: list[tuple[float, str]] = []
    for place, text in ticks:
        before = kept[-1] if kept else None
        wide = (len(text) + len(before[1])) / 2 + 1 if before else 0.0
        gap = max(MIN_GAP, wide / letters if letters else 0.0) * (span[1] - span[0])
        if before is None or place - before[0] >= gap:
            kept.append((place, text))
    return kept
