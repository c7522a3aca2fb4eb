"""Where labels of points may stand so that none covers another, a point, or the rim; plain geometry in pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

DIRECTIONS = 16
DISTANCES = (1.0, 1.7, 2.6, 3.8, 5.2, 7.0, 9.0)
"""Of a label's near edge from its point, in units of `gap`."""
ROUNDING = 1e-3
"""Areas that differ by less are equal, on whatever machine."""


@dataclass(frozen=True)
class Box:
    """A rectangle along the axes."""

    left: float
    low: float
    right: float
    high: float

    def shared(self, other: Box) -> float:
        """The area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.high, other.high) - max(self.low, other.low)
        return width * height if width > 0 and height > 0 else 0.0

    def nearest(self, point: tuple[float, float]) -> tuple[float, float]:
        """The point of the box that is nearest to `point`."""
        return min(max(point[0], self.left), self.right), min(max(point[1], self.low), self.high)

    @property
    def area(self) -> float:
        """Of the rectangle itself."""
        return (self.right - self.left) * (self.high - self.low)


def place_labels(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    obstacles: Sequence[Box],
    room: Box,
    gap: float = 8.0,
) -> list[Box]:
    """A box of each label's size near its point, clear of the obstacles and of each other where that can be.

    points: (x, y); sizes: (width, height) of their labels, same length. Each label takes, in the order given, the place
    that covers least, the nearer of equals: the most important comes first. Raises ValueError for lengths that differ.
    """
    placed: list[Box] = []
    leaders: list[Box] = []
    for point, size in zip(points, sizes, strict=True):
        least, best = math.inf, (Box(*point, *point), list[Box]())
        for place in _places(point, size, gap):
            # Being cut at the rim is worse than anything.
            cost = 10 * (place.area - place.shared(room)) + 4 * sum(map(place.shared, leaders))
            cost += sum(place.shared(other) for other in (*placed, *obstacles))
            if cost >= least - ROUNDING:
                continue
            # A leader through a name hides it.
            leader = dots(point, place.nearest(point), gap)
            cost += sum(4 * dot.shared(other) for dot in leader for other in placed)
            cost += sum(dot.shared(other) for dot in leader for other in obstacles)
            if cost < least - ROUNDING:
                least, best = cost, (place, leader)
        placed.append(best[0])
        leaders += best[1]
    return placed


def dots(start: tuple[float, float], end: tuple[float, float], gap: float) -> list[Box]:
    """The line from a point to its label as small boxes; none where it is so short that none is drawn."""
    length = math.dist(start, end)
    if length <= 2 * gap:
        return []
    steps = math.ceil(length / 4)
    places = [[a + (b - a) * step / steps for a, b in zip(start, end, strict=True)] for step in range(2, steps)]
    return [Box(x - 2, y - 2, x + 2, y + 2) for x, y in places]


def _places(point: tuple[float, float], size: tuple[float, float], gap: float) -> list[Box]:
    """Nearest first; at each distance to the right, then above, left and below, then between them."""
    turns = sorted(range(DIRECTIONS), key=lambda turn: (turn % 4 != 0, turn % 2 != 0, turn))
    places = []
    for distance in DISTANCES:
        for turn in turns:
            angle = 2 * math.pi * turn / DIRECTIONS
            across, up = math.cos(angle), math.sin(angle)
            # The box's own edge, not its middle, is `distance` away: wide labels stand no further than short ones.
            x = point[0] + across * gap * distance + round(across + math.copysign(0.3, across)) * size[0] / 2
            y = point[1] + up * (gap * distance + size[1] / 2)
            places.append(Box(x - size[0] / 2, y - size[1] / 2, x + size[0] / 2, y + size[1] / 2))
    return places
