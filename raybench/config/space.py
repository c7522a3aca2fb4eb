"""Points of a tuned space: all of a grid, random draws, and the corners between which a search will move."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from typing import Any

MAX_CORNERS = 256
"""Corners that are looked at; a space has two for each axis multiplied, more with lists."""


def axis_values(values: Any) -> list[Any]:
    """The points of an axis of a grid."""
    return list(values["choice"] if isinstance(values, dict) else values)


def grid(space: dict[str, Any]) -> list[dict[str, Any]]:
    """Every point of a space of lists."""
    points = itertools.product(*(axis_values(values) for values in space.values()))
    return [dict(zip(space, point, strict=True)) for point in points]


def corners(space: dict[str, Any]) -> list[dict[str, Any]]:
    """The points at the ends of the axes, every value of a list: what is valid there is valid between them."""
    points = itertools.islice(itertools.product(*map(ends, space.values())), MAX_CORNERS)
    return [dict(zip(space, point, strict=True)) for point in points]


def ends(values: Any) -> list[Any]:
    """The values of an axis that are worth a check: all of a list, the two ends of a distribution."""
    kind, bounds = next(iter(values.items())) if isinstance(values, dict) else ("choice", values)
    return [bounds[0], bounds[1] - 1] if kind == "randint" else list(bounds)


def draw(space: dict[str, Any], index: int) -> dict[str, Any]:
    """The `index`-th random point, a function of key and index alone: a longer search begins with the shorter one."""
    point = {}
    for key, values in space.items():
        source = random.Random(f"{key}:{index}")
        kind, bounds = next(iter(values.items())) if isinstance(values, dict) else ("choice", values)
        if kind == "choice":
            point[key] = source.choice(bounds)
        elif kind == "uniform":
            point[key] = _rounded(source.uniform(*bounds), bounds)
        elif kind == "loguniform":
            point[key] = _rounded(math.exp(source.uniform(math.log(bounds[0]), math.log(bounds[1]))), bounds)
        else:
            point[key] = source.randrange(*bounds)
    return point


def _rounded(value: float, bounds: Sequence[float]) -> float:
    """Six significant digits: the last bits of exp and log differ between machines, and a trial must not."""
    return min(max(float(f"{value:.6g}"), float(bounds[0])), float(bounds[1]))
