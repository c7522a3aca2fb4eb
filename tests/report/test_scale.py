"""Positions, ticks and names of an axis."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

from raybench.report.scale import broken, make_scale, normal, spans_a_decade, text_of


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0.001, 0.003, 0.01], "log"),
        ([0.001, 0.003], "linear"),
        ([0.0, 0.5, 0.9], "linear"),
        ([0.0, 1e-4, 1e-2], "linear"),
        ([-1.0, 100.0], "linear"),
        (["500", "10000", "all"], "log"),
        (["500", "all"], "linear"),
        (["hard", "soft"], "names"),
        ([True, False], "names"),
        ([None, 1.0], "names"),
        ([None, 1.0, 20.0], "log"),
    ],
)
def test_the_kind_follows_from_the_values(values: list[Any], kind: str) -> None:
    assert make_scale(values).kind == kind


@pytest.mark.parametrize("values", [[3, 1, 2], [0.1, 10, 1e-3], ["b", "a"], ["500", "all", "20"], [None, 1, 30, 0]])
def test_every_value_has_a_place_of_its_own(values: list[Any]) -> None:
    scale = make_scale(values)
    places = [scale.position(value) for value in values]
    assert len(set(places)) == len(values)
    assert (min(places), max(places)) == scale.span
    low, high = scale.bounds
    assert low < min(places) <= max(places) < high


def test_numbers_keep_their_order_and_ratios() -> None:
    scale = make_scale([0.1, 0.001, 0.01])
    assert scale.numbers == (0.001, 0.01, 0.1)
    # log10 of decimal fractions: the last bit.
    assert [scale.position(value) for value in scale.numbers] == pytest.approx([-3, -2, -1])
    assert scale.position(0.0316) == pytest.approx(math.log10(0.0316))
    assert scale.bounds == pytest.approx((-3.5, -0.5))


def test_what_has_no_place_is_refused() -> None:
    with pytest.raises(KeyError):
        make_scale([0.1, 1.0, 10.0]).position("all")
    with pytest.raises(KeyError):
        make_scale([0.1, 1.0, 10.0]).position(0)
    with pytest.raises(ValueError, match="needs values"):
        make_scale([])


def test_all_stands_above_and_zero_below() -> None:
    scale = make_scale(["all", "100", "1000"])
    assert scale.position("100") < scale.position("1000") < scale.position("all")
    assert scale.beside == ("all",)
    assert make_scale([0, 0.001, 0.1], log=True).position(0) < math.log10(0.001)


@pytest.mark.parametrize("values", [[10.0**power for power in range(-6, 3)], list(range(40)), [1, 1.001, 50, 100]])
@pytest.mark.parametrize("letters", [None, 24])
def test_ticks_are_few_apart_and_within(values: list[float], letters: int | None) -> None:
    scale = make_scale(values)
    ticks = scale.ticks(letters=letters)
    low, high = scale.span
    assert 2 <= len(ticks) <= 7
    # Round numbers end on the ends, up to rounding.
    assert all(low - 1e-9 <= place <= high + 1e-9 for place, _ in ticks)
    assert all(b - a >= 0.055 * (high - low) for (a, _), (b, _) in pairwise(ticks))


def test_few_values_are_their_own_ticks() -> None:
    assert [text for _, text in make_scale(["500", "10000", "all"]).ticks()] == ["500", "10,000", "all"]
    assert [text for _, text in make_scale(["soft", "hard"]).ticks()] == ["soft", "hard"]


def test_texts_of_values() -> None:
    assert [text_of(value) for value in (True, None, 3, 0.25, 2e-5, 20000.0)] == [
        "true",
        "none",
        "3",
        "0.25",
        "2e-05",
        "20,000",
    ]
    assert normal("5e-3") == 0.005
    assert normal("inf") == "inf"
    assert not spans_a_decade([])


def test_names_break_evenly_and_lose_nothing() -> None:
    name = "tiny_vit_5m_224.dist_in22k_ft_in1k"
    for letters in range(4, 40):
        lines = broken(name, letters).split("\n")
        assert "".join(lines) == name
        # Where a part between two places to break is longer than a line, it stays whole.
        assert max(map(len, lines)) <= max(letters, len("in22k_"))
    assert broken(name, 30).count("\n") == 1
    assert max(map(len, broken(name, 30).split("\n"))) < 24
    assert broken("a b", 1) == "a\nb"
