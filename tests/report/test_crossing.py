"""Crossings against closed forms."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from raybench.report.crossing import Crossing, NoCrossing, crossover
from raybench.report.statistics import Estimate
from tests.report.made_curves import (
    EPOCHS,
    PUBLISHED_A,
    RISING,
    TREND,
    C,
    K,
    P,
    logs_of,
    power_of,
    published_curve,
)


def test_crossing_with_a_plateau_is_fiellers() -> None:
    from scipy.optimize import brentq

    found = logs_of(EPOCHS, published_curve())
    crossing = crossover(found, 0.72, 5000)
    assert isinstance(crossing, Crossing)
    (aa, ab), (_, bb) = found.covariance

    def excess(log: float) -> float:
        return (found.a + found.b * log - 0.72) ** 2 - found.quantile**2 * (aa + 2 * ab * log + bb * log**2)

    middle = math.log(crossing.epoch)
    expected = [math.exp(brentq(excess, *ends)) for ends in ((1.0, middle), (middle, 9.0))]
    # Bisection ends at 2e-12 in ln(epoch).
    assert [crossing.low, crossing.high] == pytest.approx(expected, rel=1e-9)


def test_crossing_of_two_curves_has_its_closed_form_and_no_direction() -> None:
    generator = np.random.default_rng(13)
    one = logs_of(EPOCHS, TREND + generator.normal(0, 0.01, 150))
    other = logs_of(EPOCHS, 0.2 + 0.05 * np.log(EPOCHS) + generator.normal(0, 0.01, 150))
    found, reverse = crossover(one, other, 500), crossover(other, one, 500)
    assert isinstance(found, Crossing)
    assert isinstance(reverse, Crossing)
    # The root is sought to where the curves differ by 1e-9.
    assert found.epoch == pytest.approx(math.exp((one.a - other.a) / (other.b - one.b)), rel=1e-6)
    assert not found.extrapolated
    assert (found.rises, reverse.rises) == (True, False)
    assert (reverse.epoch, reverse.low, reverse.high) == pytest.approx((found.epoch, found.low, found.high), rel=1e-6)


def test_crossing_of_a_power_law_with_a_plateau() -> None:
    found = crossover(power_of(EPOCHS, RISING), 0.75, 2000)
    assert isinstance(found, Crossing)
    # c, k and p are known to 1e-8 from points without noise.
    assert found.epoch == pytest.approx((K / (C - 0.75)) ** (1 / P), rel=1e-5)
    assert [found.low, found.high] == pytest.approx([found.epoch] * 2, rel=1e-5)
    losses = crossover(power_of(EPOCHS, 1 - RISING), 0.25, 2000)
    assert isinstance(losses, Crossing)
    assert losses.epoch == pytest.approx(found.epoch, rel=1e-5)
    assert not losses.rises


def test_a_ceiling_below_a_plateau_is_never_a_crossing() -> None:
    found = crossover(power_of(EPOCHS, RISING + np.random.default_rng(14).normal(0, 0.005, 150)), 0.9, 1e6)
    assert isinstance(found, NoCrossing)
    assert found.reason == (
        "no crossing within the horizon of 1,000,000 epochs: one is below the other from epoch 1 on"
    )
    assert found.possible_from is None


def test_two_crossings_are_told() -> None:
    # 0.1 ln(epoch) starts below, is above the fast riser never, and passes it in the end.
    slow, fast = logs_of(EPOCHS, 0.35 + 0.08 * np.log(EPOCHS)), power_of(EPOCHS, 0.6 - 0.4 * EPOCHS**-1.0)
    found = crossover(slow, fast, 2000)
    assert isinstance(found, Crossing)
    assert not found.rises
    assert len(found.later) == 1
    for epoch in (found.epoch, *found.later):
        # The root is sought to where the curves differ by 1e-9.
        assert 0.35 + 0.08 * math.log(epoch) == pytest.approx(0.6 - 0.4 / epoch, rel=1e-6)


def test_a_lead_from_the_start_is_no_crossing() -> None:
    ahead = crossover(logs_of(EPOCHS, TREND), -0.2, 2000)
    assert isinstance(ahead, NoCrossing)
    assert "one is above the other from epoch 1 on" in ahead.reason
    meeting = crossover(logs_of(EPOCHS, TREND), PUBLISHED_A, 2000)
    assert isinstance(meeting, NoCrossing)
    assert "one is above the other from epoch 1 on" in meeting.reason


def test_a_crossing_before_both_curves_is_none() -> None:
    later = EPOCHS + 9
    found = crossover(logs_of(later, 0.2 + 0.1 * np.log(later)), logs_of(later, 0.25 + 0.05 * np.log(later)), 2000)
    assert isinstance(found, NoCrossing)
    assert "above the other from epoch 10 on; the fits cross at epoch 2.72, before both curves" in found.reason


def test_one_curve_and_itself_do_not_cross() -> None:
    one = logs_of(EPOCHS, published_curve())
    found = crossover(one, one, 2000)
    assert isinstance(found, NoCrossing)
    assert "the curves are one" in found.reason
    assert found.possible_from == 1


def test_limits_beyond_the_horizon_are_open() -> None:
    found = logs_of(EPOCHS, published_curve())
    late = crossover(found, 0.72, 400)
    assert isinstance(late, Crossing)
    assert late.low is not None
    assert late.high is None
    missed = crossover(found, 0.72, 390)
    assert isinstance(missed, NoCrossing)
    # The same end of the same interval.
    assert missed.possible_from == pytest.approx(late.low, rel=1e-6)
    early = crossover(found, -0.11, 400)
    assert isinstance(early, Crossing)
    assert early.low is None


def test_the_uncertainty_of_a_plateau_widens_the_interval() -> None:
    found = logs_of(EPOCHS, published_curve())
    sharp, known = crossover(found, 0.72, 5000), crossover(found, Estimate(1, 0.72, None, None, None), 5000)
    wide = crossover(found, Estimate(3, 0.72, 0.004, 0.71, 0.73), 5000)
    assert isinstance(sharp, Crossing)
    assert isinstance(wide, Crossing)
    assert known == sharp
    assert wide.epoch == pytest.approx(sharp.epoch)
    limits = [wide.low, sharp.low, sharp.epoch, sharp.high, wide.high]
    assert all(one is not None and other is not None and one < other for one, other in pairwise(limits))


def test_crossing_asked_wrongly_is_an_error() -> None:
    with pytest.raises(ValueError, match="both sides are plateaus"):
        crossover(0.7, 0.8, 100)
    found = logs_of(EPOCHS, TREND)
    with pytest.raises(ValueError, match="horizon must be an epoch of at least 1"):
        crossover(found, 0.8, 0)
    with pytest.raises(ValueError, match="a plateau must be a finite number: nan"):
        crossover(found, math.nan, 100)
    soon = crossover(logs_of(EPOCHS + 9, TREND), 0.8, 5)
    assert isinstance(soon, NoCrossing)
    assert "both begin after it" in soon.reason
