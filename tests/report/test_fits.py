"""Fits against numpy and scipy, the published trend, and curves that determine no fit."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybench.report.crossing import Crossing, NoCrossing, crossover
from raybench.report.fits import LogFit, PowerFit, log_fit, log_fit_of_runs, power_fit, power_fit_of_runs
from raybench.report.holdout import holdout_error
from raybench.report.spread import Array, Undetermined
from raybench.report.statistics import estimate
from tests.report.made_curves import (
    EPOCHS,
    NOISE,
    PUBLISHED_A,
    PUBLISHED_B,
    PUBLISHED_R2,
    RISING,
    TREND,
    C,
    K,
    P,
    autoregression,
    holds,
    logs_of,
    power_of,
    published_curve,
    runs_of,
)

# y = a + b ln(epoch)


@pytest.mark.usefixtures("independent")
def test_log_fit_is_numpys_and_scipys() -> None:
    from scipy import stats

    values = TREND + np.random.default_rng(0).normal(0, NOISE, 150)
    found = logs_of(EPOCHS, values)
    # Two algorithms of least squares: rounding only, here and below.
    assert [found.b, found.a] == pytest.approx(np.polyfit(np.log(EPOCHS), values, 1), rel=1e-9)
    line = stats.linregress(np.log(EPOCHS), values)
    assert found.r2 == pytest.approx(line.rvalue**2, rel=1e-9)
    t = stats.t.ppf(0.975, 148)
    b_interval = (line.slope - t * line.stderr, line.slope + t * line.stderr)
    a_interval = (line.intercept - t * line.intercept_stderr, line.intercept + t * line.intercept_stderr)
    assert found.b_interval == pytest.approx(b_interval, rel=1e-9)
    assert found.a_interval == pytest.approx(a_interval, rel=1e-9)
    assert found.rss == pytest.approx(float(((values - line.intercept - line.slope * np.log(EPOCHS)) ** 2).sum()))


@pytest.mark.usefixtures("independent")
def test_prediction_is_the_textbook_one() -> None:
    from scipy import stats

    epochs = np.array([1.0, 2.0, 5.0, 9.0, 14.0, 30.0])
    values = np.array([0.1, 0.22, 0.3, 0.41, 0.44, 0.61])
    found, x = logs_of(epochs, values), np.log(epochs)
    sd = math.sqrt(found.rss / 4)
    lever = 1 / 6 + (math.log(50) - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()
    value = found.a + found.b * math.log(50)
    half = stats.t.ppf(0.975, 4) * sd * np.sqrt([lever, 1 + lever])
    curve, point = found.at(50), found.predict(50)
    # Rounding only.
    assert (curve.value, curve.low, curve.high) == pytest.approx((value, value - half[0], value + half[0]), rel=1e-9)
    assert (point.value, point.low, point.high) == pytest.approx((value, value - half[1], value + half[1]), rel=1e-9)


def test_interval_of_runs_is_the_t_interval_of_their_coefficients() -> None:
    rows = TREND + 0.02 * autoregression(np.random.default_rng(3), (4, 150), 0.9)
    found = log_fit_of_runs(runs_of(EPOCHS, rows))
    assert isinstance(found, LogFit)
    assert (found.basis, found.runs, found.correlation) == ("runs", 4, None)
    singles = [logs_of(EPOCHS, row) for row in rows]
    for interval, values in (
        (found.a_interval, [one.a for one in singles]),
        (found.b_interval, [one.b for one in singles]),
    ):
        expected = estimate(values)
        assert expected is not None
        # Rounding only: the fit to a mean is the mean of the fits.
        assert interval == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_runs_that_do_not_differ_are_one() -> None:
    values = TREND + np.random.default_rng(4).normal(0, NOISE, 150)
    one, three = logs_of(EPOCHS, values), log_fit_of_runs(runs_of(EPOCHS, np.stack([values] * 3)))
    assert isinstance(three, LogFit)
    assert three.basis == "residuals"
    # The mean of three equal numbers rounds.
    assert three.b_interval == pytest.approx(one.b_interval, rel=1e-9)


def test_order_and_an_epoch_given_twice_do_not_matter() -> None:
    values = TREND + np.random.default_rng(5).normal(0, NOISE, 150)
    found = logs_of(EPOCHS, values)
    assert logs_of(EPOCHS[::-1], values[::-1]) == found
    assert logs_of(np.concatenate([EPOCHS, EPOCHS[:7]]), np.concatenate([values, values[:7]])) == found


def test_a_run_without_some_epochs_counts_where_it_has_them() -> None:
    rows = TREND + np.random.default_rng(6).normal(0, NOISE, (3, 150))
    found = log_fit_of_runs([(EPOCHS[:100].tolist(), rows[0, :100].tolist()), *runs_of(EPOCHS, rows[1:])])
    mean = np.concatenate([rows[:, :100].mean(0), rows[1:, 100:].mean(0)])
    assert isinstance(found, LogFit)
    # Rounding only.
    assert [found.b, found.a] == pytest.approx(np.polyfit(np.log(EPOCHS), mean, 1), rel=1e-9)
    assert found.n == 150


@settings(deadline=None)  # a machine that does other things takes longer
@given(st.floats(0.01, 1e4), st.floats(-100, 100))
def test_unit_and_origin_of_the_values_carry_through(scale: float, shift: float) -> None:
    epochs = np.arange(1.0, 13.0)
    values = np.log(epochs) + np.random.default_rng(7).normal(0, 0.1, 12)
    one, other = logs_of(epochs, values), logs_of(epochs, shift + scale * values)
    # A shift of 100 costs four digits of values of 0.01.
    assert other.b == pytest.approx(scale * one.b, rel=1e-6)
    assert other.r2 == pytest.approx(one.r2, rel=1e-6)
    assert other.b_interval == pytest.approx((scale * one.b_interval[0], scale * one.b_interval[1]), rel=1e-6)


# The published trend


def test_published_trend_and_its_crossing_are_recovered() -> None:
    found = logs_of(EPOCHS, published_curve())
    # Rounding only.
    assert (found.a, found.b, found.r2) == pytest.approx((PUBLISHED_A, PUBLISHED_B, PUBLISHED_R2), rel=1e-9)
    crossing = crossover(found, 0.72, 2000)
    assert isinstance(crossing, Crossing)
    # The root is sought in ln(epoch), to where the curves differ by 1e-9.
    assert crossing.epoch == pytest.approx(math.exp((0.72 - PUBLISHED_A) / PUBLISHED_B), rel=1e-7)
    assert math.ceil(crossing.epoch) == 398
    assert crossing.rises
    assert crossing.extrapolated
    assert crossing.later == ()
    assert crossing.low is not None
    assert crossing.high is not None
    assert 300 < crossing.low < 398 < crossing.high < 2000
    short = crossover(found, 0.72, 300)
    assert isinstance(short, NoCrossing)
    assert short.reason.startswith("no crossing within the horizon of 300 epochs")
    assert short.possible_from is None


def test_published_trend_is_recovered_from_noisy_points() -> None:
    for seed in range(5):
        values = TREND + np.random.default_rng(seed).normal(0, NOISE, 150)
        found = logs_of(EPOCHS, values)
        # Four standard errors: sd of the slope 0.0023, of R² about 0.006.
        assert found.b == pytest.approx(PUBLISHED_B, abs=4 * 0.0023)
        assert found.r2 == pytest.approx(PUBLISHED_R2, abs=4 * 0.006)
        crossing = crossover(found, 0.72, 2000)
        assert isinstance(crossing, Crossing)
        # The crossing has a standard error of 0.036 in ln(epoch).
        assert math.log(crossing.epoch / 397.67) == pytest.approx(0, abs=4 * 0.036)


# y = c - k epoch^-p


@pytest.mark.parametrize("k", [K, -K])
@pytest.mark.parametrize("p", [0.05, 0.6, 2.5])
@pytest.mark.parametrize("first", [1, 40])
def test_power_fit_recovers_its_own_points(k: float, p: float, first: int) -> None:
    epochs = EPOCHS + first - 1
    found = power_of(epochs, C - k * epochs**-p)
    # The search ends at a p whose sum of squares is flat to the last bit; late epochs magnify it for k.
    assert (found.c, found.k, found.p) == pytest.approx((C, k, p), rel=1e-4)
    assert found.r2 == pytest.approx(1, abs=1e-9)
    assert found.at(1000).value == pytest.approx(C - k * 1000.0**-p, rel=1e-6)


@pytest.mark.usefixtures("independent")
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_power_fit_is_scipys(sign: float) -> None:
    from scipy.optimize import curve_fit
    from scipy.stats import t

    values = sign * (RISING + np.random.default_rng(9).normal(0, 0.002, 150))
    found = power_of(EPOCHS, values)

    def law(epoch: Array, c: float, k: float, p: float) -> Array:
        return np.asarray(c - k * epoch**-p)

    best, covariance = curve_fit(law, EPOCHS, values, p0=(sign * C, sign * K, P))
    # Both stop where the sum of squares no longer falls.
    assert (found.c, found.k, found.p) == pytest.approx(best, rel=1e-5)
    assert found.rss == pytest.approx(((values - law(EPOCHS, *best)) ** 2).sum(), rel=1e-9)
    half = t.ppf(0.975, 147) * np.sqrt(np.diag(covariance))
    for interval, value, width in zip((found.c_interval, found.k_interval, found.p_interval), best, half, strict=True):
        # Under so little noise the law is all but straight in its parameters.
        assert (interval[1] - interval[0]) / 2 == pytest.approx(width, rel=0.01)
        assert sum(interval) / 2 == pytest.approx(value, abs=0.05 * width)


def test_limits_of_the_power_law_leave_the_allowed_sum_of_squares() -> None:
    from scipy.optimize import least_squares

    values = RISING + np.random.default_rng(10).normal(0, 0.03, 150)
    found = power_of(EPOCHS, values)
    assert found.c_interval[1] - found.c > 1.05 * (found.c - found.c_interval[0])  # not symmetric
    left = []
    for c in found.c_interval:
        # The best k and p with the ceiling held at its limit.
        rest = least_squares(lambda x, c=c: values - c + x[0] * EPOCHS ** -x[1], [found.k, found.p], xtol=1e-12)
        left.append(2 * rest.cost - found.rss)
    # Both limits by one allowance; the steps of the profile are fine to 0.1 %.
    assert left[0] == pytest.approx(left[1], rel=5e-3)
    assert left[0] > 0


def test_interval_of_runs_of_a_power_law() -> None:
    generator = np.random.default_rng(11)
    rows = RISING + 0.003 * autoregression(generator, (5, 150), 0.7)
    found = power_fit_of_runs(runs_of(EPOCHS, rows))
    assert isinstance(found, PowerFit)
    assert found.basis == "runs"
    singles = [power_of(EPOCHS, row) for row in rows]
    for interval, values in (
        (found.c_interval, [one.c for one in singles]),
        (found.p_interval, [one.p for one in singles]),
    ):
        expected = estimate(values)
        assert expected is not None
        assert expected.low is not None
        assert expected.high is not None
        # The fit to a mean is the mean of the fits but for the law's bend, which is slight under so little noise.
        assert interval[1] - interval[0] == pytest.approx(expected.high - expected.low, rel=0.05)


@pytest.mark.parametrize(
    ("epochs", "values", "reason"),
    [
        ([], [], "0 distinct epochs"),
        ([1, 2], [0.1, 0.2], "2 distinct epochs"),
        ([1, 1, 1, 2, 2], [0.1, 0.2, 0.1, 0.3, 0.2], "2 distinct epochs"),
        ([1, 2, 3, 4, 5], [0.1, 0.2, math.nan, 0.3, 0.3], "the value at epoch 3 is nan"),
        ([1, 2, 3, 4, 5], [9.0, math.inf, 5.0, 4.0, 3.0], "the value at epoch 2 is inf"),
        ([1, 2, 3, 4, 5], [0.1] * 5, "flat"),
        ([1, 2, 3, 4, 5], [0.0] * 5, "flat"),
        ([1, 2, 3, 4, 5], [1e-320, -1e-320, 1e-320, -1e-320, 1e-320], "flat"),
    ],
)
@pytest.mark.parametrize("fit", [log_fit, power_fit])
def test_what_determines_no_fit_is_said(
    fit: Callable[[list[float], list[float]], object], epochs: list[float], values: list[float], reason: str
) -> None:
    found = fit(epochs, values)
    assert isinstance(found, Undetermined)
    assert reason in found.reason


def test_what_determines_no_power_law_is_said() -> None:
    noise = np.random.default_rng(12).normal(0, 1, 150)

    def reason(values: Array) -> str:
        found = power_fit(EPOCHS[: len(values)].tolist(), values.tolist())
        assert isinstance(found, Undetermined)
        return found.reason

    assert "3 distinct epochs, at least 4" in reason(TREND[:3])
    assert "no ceiling in sight" in reason(TREND)
    assert "no ceiling in sight" in reason(TREND + NOISE * noise)
    assert "no ceiling in sight" in reason(TREND**2 * np.sign(TREND))  # bends the other way
    assert "not told from 0" in reason(0.7 + 0.01 * noise)
    assert "level from its second epoch on" in reason(np.array([0.1] + [0.7] * 20))


@given(
    st.lists(st.tuples(st.integers(1, 400), st.floats(-100, 100)), max_size=12),
    st.integers(0, 5000),
    st.sampled_from([None, 0, 1]),
)
@settings(deadline=None, max_examples=60)
def test_any_curve_gives_finite_numbers_or_a_reason(
    points: list[tuple[int, float]], late: int, digits: int | None
) -> None:
    epochs = [float(epoch + late) for epoch, _ in points]
    values = [value if digits is None else round(value / 100, digits) for _, value in points]
    straight, bent = log_fit(epochs, values), power_fit(epochs, values)
    if isinstance(straight, LogFit):
        assert np.isfinite([straight.a, straight.b, straight.r2, *straight.a_interval, *straight.b_interval]).all()
    if isinstance(bent, PowerFit):
        assert isinstance(straight, LogFit)
        assert np.isfinite([bent.c, bent.k, bent.p, bent.r2, *bent.c_interval]).all()
        for interval, value in ((bent.c_interval, bent.c), (bent.k_interval, bent.k), (bent.p_interval, bent.p)):
            assert holds(interval, value)
        # The straight line in ln(epoch) is one of the power laws.
        assert bent.rss <= straight.rss * (1 + 1e-9)
        curve, point = bent.at(epochs[0]), bent.predict(epochs[0])
        assert point.low <= curve.low <= curve.value <= curve.high <= point.high
        assert crossover(bent, straight, 1e4)
    assert holdout_error(epochs, values, "power")


@pytest.mark.parametrize("fit", [log_fit, power_fit, holdout_error])
def test_a_curve_given_wrongly_is_an_error(fit: Callable[[list[float], list[float]], object]) -> None:
    with pytest.raises(ValueError, match="3 epochs and 2 values"):
        fit([1, 2, 3], [0.1, 0.2])
    with pytest.raises(ValueError, match="above 0, they count from 1: 0"):
        fit([0, 1, 2, 3], [0.1, 0.2, 0.3, 0.4])


def test_prediction_before_the_first_epoch_is_an_error() -> None:
    with pytest.raises(ValueError, match="above 0, they count from 1: 0"):
        logs_of(EPOCHS, TREND).at(0)
