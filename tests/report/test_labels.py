"""Labels keep clear of each other, of points and of the rim where there is room."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from raybench.report.labels import Box, dots, place_labels

ROOM = Box(0, 0, 800, 500)


def around(x: float, y: float, r: float = 5) -> Box:
    return Box(x - r, y - r, x + r, y + r)


def test_shared_area() -> None:
    one = Box(0, 0, 4, 2)
    assert one.area == 8
    assert one.shared(one) == 8
    assert one.shared(Box(3, 1, 9, 9)) == 1
    assert one.shared(Box(4, 0, 5, 1)) == 0
    assert one.nearest((9, 1)) == (4, 1)
    assert one.nearest((1, 1)) == (1, 1)


@pytest.mark.parametrize("seed", range(5))
def test_nothing_covers_anything_where_there_is_room(seed: int) -> None:
    generator = np.random.default_rng(seed)
    points = [(float(x), float(y)) for x, y in generator.uniform((20, 20), (780, 480), (12, 2))]
    sizes = [(float(w), 14.0) for w in generator.uniform(30, 110, 12)]
    markers = [around(*point) for point in points]
    boxes = place_labels(points, sizes, markers, ROOM)
    for (width, height), box in zip(sizes, boxes, strict=True):
        assert (box.right - box.left, box.high - box.low) == pytest.approx((width, height))
        # Rounding of the box's own sides.
        assert box.shared(ROOM) == pytest.approx(box.area)
        assert not any(box.shared(marker) for marker in markers)
    assert not any(one.shared(other) for one, other in combinations(boxes, 2))


def test_the_nearest_place_is_taken() -> None:
    (box,) = place_labels([(400, 250)], [(50, 14)], [], ROOM, gap=8)
    assert (box.left, box.low) == pytest.approx((408, 243))
    # At the right rim it stands on the other side.
    (box,) = place_labels([(790, 250)], [(50, 14)], [around(790, 250)], ROOM, gap=8)
    assert box.right <= 785


def test_without_room_every_label_still_has_a_place() -> None:
    points = [(5.0, 5.0)] * 6
    boxes = place_labels(points, [(40, 14)] * 6, [], Box(0, 0, 10, 10))
    assert len(boxes) == 6


def test_leaders_are_drawn_to_far_labels_only() -> None:
    assert dots((0, 0), (10, 0), 8) == []
    line = dots((0, 0), (30, 40), 8)
    assert all(math.isclose((box.left + 2) * 4, (box.low + 2) * 3, abs_tol=1e-9) for box in line)
    with pytest.raises(ValueError, match="shorter"):
        place_labels([(0, 0)], [], [], ROOM)
