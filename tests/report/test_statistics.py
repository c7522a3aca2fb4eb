"""Statistics against scipy.stats and against what they promise on simulated data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybench.report.statistics import (
    binomial_interval,
    detectable_difference,
    estimate,
    holm,
    p_value,
    power,
    seeds_needed,
    welch,
)

SIMULATIONS = 2000


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_estimate_and_p_are_scipys(n: int) -> None:
    from scipy import stats

    generator = np.random.default_rng(n)
    ours, alone = generator.normal(71, 1, n), generator.normal(70, 1, n)
    differences = [float(value) for value in ours - alone]
    found = estimate(differences)
    assert found is not None
    low, high = stats.t.interval(0.95, n - 1, loc=np.mean(differences), scale=stats.sem(differences))
    # Two implementations of the same quantile: rounding only.
    assert found.low == pytest.approx(low, rel=1e-9)
    assert found.high == pytest.approx(high, rel=1e-9)
    assert found.sd == pytest.approx(np.std(differences, ddof=1), rel=1e-12)
    assert p_value(differences) == pytest.approx(stats.ttest_rel(ours, alone).pvalue, rel=1e-9)


def test_few_or_equal_values_leave_blank_what_they_cannot_give() -> None:
    assert estimate([]) is None
    one = estimate([70.0])
    assert one is not None
    assert (one.n, one.mean, one.sd, one.low, one.high) == (1, 70.0, None, None, None)
    # 71.3 - 71.0 and 70.3 - 70.0 differ in the last bit only.
    equal = estimate([71.3 - 71.0, 70.3 - 70.0, 0.3])
    assert equal is not None
    assert (equal.sd, equal.low) == (0.0, None)
    assert p_value([70.0]) is None


def test_equal_differences_use_the_sign_test() -> None:
    assert p_value([0.0, 0.0, 0.0]) == 1.0
    assert p_value([0.3, 71.3 - 71.0, 70.3 - 70.0]) == 0.25
    assert p_value([-0.2] * 6) == 2**-5


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 5), (9, 4)])
def test_welch_is_scipys(n: int, m: int) -> None:
    from scipy import stats

    numbers = np.random.default_rng(n)
    ours, theirs = numbers.normal(70, 1, n), numbers.normal(71, 3, m)
    found = welch(ours.tolist(), theirs.tolist())
    test = stats.ttest_ind(ours, theirs, equal_var=False)
    interval = test.confidence_interval(0.95)
    # Two implementations of the same sums: rounding only.
    assert (found.p, found.low, found.high) == pytest.approx((test.pvalue, interval.low, interval.high), rel=1e-9)
    assert found.mean == pytest.approx(ours.mean() - theirs.mean())


def test_welch_of_samples_without_spread_or_of_one() -> None:
    equal = welch([71.0, 71.0, 71.0], [71.0, 71.0, 71.0])
    assert (equal.p, equal.low, equal.sd) == (1.0, None, 0.0)
    apart = welch([72.0, 72.0, 72.0], [71.0, 71.0, 71.0])
    # All of one above all of the other: 2 of the 20 orders.
    assert apart.mean == 1.0
    assert apart.p == pytest.approx(0.1)
    assert welch([72.0], [71.0, 73.0]).p is None


def test_holm_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 = 0.02, 0.03, 0.06, 0.04; never falling: 0.02, 0.03, 0.06, 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_p_and_keeps_the_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(p <= c <= 1 for p, c in zip(p_values, corrected, strict=True))
    ranked = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [corrected[i] for i in ranked] == sorted(corrected)


@pytest.mark.parametrize("n", [3, 5])
def test_interval_covers_the_truth_95_times_in_100(n: int) -> None:
    draws = np.random.default_rng(n).normal(1.5, 0.7, (SIMULATIONS, n))
    found = [estimate(row) for row in draws.tolist()]
    covered = [e is not None and e.low is not None and e.high is not None and e.low <= 1.5 <= e.high for e in found]
    # 3.3 standard errors of a share of 0.95 in 2,000.
    assert np.mean(covered) == pytest.approx(0.95, abs=0.016)


@pytest.mark.parametrize("n", [3, 8])
def test_no_effect_is_called_one_5_times_in_100(n: int) -> None:
    draws = np.random.default_rng(n).normal(0, 0.7, (SIMULATIONS, n)).tolist()
    # 3.3 standard errors of a share of 0.05 in 2,000.
    assert np.mean([(p_value(row) or 0) < 0.05 for row in draws]) == pytest.approx(0.05, abs=0.016)


@pytest.mark.parametrize("size", [4, 20])
def test_holm_keeps_any_false_finding_of_a_family_to_5_in_100(size: int) -> None:
    draws = np.random.default_rng(0).normal(0, 1, (SIMULATIONS, size, 4)).tolist()
    false = [min(holm([p_value(cell) or 0 for cell in family])) < 0.05 for family in draws]
    # Holm promises at most 0.05; 3.3 standard errors above it.
    assert np.mean(false) <= 0.05 + 0.016


@pytest.mark.parametrize(("n", "effect"), [(3, 1.0), (5, 2.0), (30, 0.5)])
def test_power_is_scipys_and_the_simulated_one(n: int, effect: float) -> None:
    from scipy import stats

    critical = stats.t.ppf(0.975, n - 1)
    shift = effect * math.sqrt(n)
    exact = stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)
    # Two algorithms of the noncentral t.
    assert power(n, effect) == pytest.approx(exact, rel=1e-6)
    draws = np.random.default_rng(n).normal(effect, 1, (SIMULATIONS, n))
    told = np.abs(draws.mean(1) / (draws.std(1, ddof=1) / math.sqrt(n))) > critical
    # 3.3 standard errors of a share of at most 0.5 in 2,000.
    assert told.mean() == pytest.approx(exact, abs=0.037)


@pytest.mark.parametrize("n", [2, 3, 5, 12, 50])
def test_detectable_difference_has_80_percent_power(n: int) -> None:
    found = detectable_difference(n, 0.4)
    # Bisection stops at the last bit.
    assert power(n, found / 0.4) == pytest.approx(0.8, abs=1e-9)
    assert seeds_needed(found * 1.0001, 0.4) == n


def test_limits_of_planning() -> None:
    assert detectable_difference(1, 0.4) == math.inf
    assert detectable_difference(3, 0.0) == 0.0
    assert seeds_needed(0.0, 0.5) is None
    assert seeds_needed(1.0, 0.0) is None
    assert seeds_needed(0.001, 1.0) is None
    # Cohen 1988: an effect of one half needs 34 pairs.
    assert seeds_needed(0.5, 1.0) == 34


def test_binomial_interval_is_scipys_wilson() -> None:
    from scipy import stats

    expected = stats.binomtest(118, 500).proportion_ci(method="wilson")
    assert binomial_interval(23.6, 500) == pytest.approx((100 * expected.low, 100 * expected.high), rel=1e-9)
    assert binomial_interval(100.0, 500)[1] == pytest.approx(100.0)
