"""Arguments of the commands: what is taken, and what is refused in words."""

from __future__ import annotations

import argparse

import pytest

from raybench.commands.arguments import MAX_SEEDS, duration, positive, price, seed_count


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90.0), ("90s", 90.0), ("30m", 1800.0), ("2h", 7200.0), ("1.5h", 5400.0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-3", "0", "nan", "inf", "infh", "3 days", "2hh"])
def test_no_durations(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be a duration above 0"):
        duration(text)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", ""])
def test_not_positive(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be"):
        positive(text)


def test_seeds_are_counted_up_to_a_bound() -> None:
    assert seed_count(str(MAX_SEEDS)) == MAX_SEEDS
    with pytest.raises(argparse.ArgumentTypeError, match="at most"):
        seed_count(str(MAX_SEEDS + 1))


@pytest.mark.parametrize(("text", "number"), [("0", 0.0), ("1.10", 1.1), ("1e3", 1000.0)])
def test_prices(text: str, number: float) -> None:
    assert price(text) == number


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "1,10", "2 EUR"])
def test_no_prices(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be a number of at least 0"):
        price(text)
