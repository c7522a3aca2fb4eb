"""Curves in a line of text."""

from __future__ import annotations

import pytest

from raybench.report.sparkline import sparkline


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], ""),
        ([5.0], "▁"),
        ([1, 2, 3, 4, 5, 6, 7, 8], "▁▂▃▄▅▆▇█"),
        ([0.0, None, float("nan"), 1.0], "▁  █"),
        ([None, None], "  "),
        ([2.0, 2.0], "▁▁"),
        ([1.0, 0.0], "█▁"),
    ],
)
def test_bars(values: list[float | None], text: str) -> None:
    assert sparkline(values) == text


def test_long_curves_end_with_their_newest_value() -> None:
    text = sparkline([*range(99), -1.0], width=8)
    assert len(text) == 8
    assert text[-1] == "▁"
    assert text[-2] == "█"
