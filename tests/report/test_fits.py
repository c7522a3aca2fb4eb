"""Fits against numpy, scipy and dense algebra, crossings against closed forms, intervals against simulated curves."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybench.report import spread
from raybench.report.crossing import Crossing, NoCrossing, crossover
from raybench.report.fits import LogFit, PowerFit, log_fit, log_fit_of_runs, power_fit, power_fit_of_runs
from raybench.report.holdout import Holdout, holdout_error, holdout_error_of_runs
from raybench.report.spread import Array, Curve, Undetermined
from raybench.report.statistics import Estimate, estimate

PUBLISHED_A, PUBLISHED_B, PUBLISHED_R2 = -0.112, 0.139, 0.962
"""The trend printed for the reversed DeiT, accuracy as a fraction, over about 150 epochs."""
EPOCHS = np.arange(1.0, 151.0)
TREND = PUBLISHED_A + PUBLISHED_B * np.log(EPOCHS)
NOISE = math.sqrt(float(TREND.var()) * (1 / PUBLISHED_R2 - 1))
C, K, P = 0.8, 0.7, 0.6
RISING = C - K * EPOCHS**-P


def autoregression(generator: np.random.Generator, size: tuple[int, int], correlation: float) -> Array:
    """Stationary AR(1) noise of variance 1, a row a curve."""
    noise = generator.normal(0, 1, size)
    for index in range(1, size[1]):
        noise[:, index] = correlation * noise[:, index - 1] + math.sqrt(1 - correlation**2) * noise[:, index]
    return noise


def logs_of(epochs: Array, values: Array) -> LogFit:
    found = log_fit(epochs.tolist(), values.tolist())
    assert isinstance(found, LogFit)
    return found


def power_of(epochs: Array, values: Array) -> PowerFit:
    found = power_fit(epochs.tolist(), values.tolist())
    assert isinstance(found, PowerFit), found
    return found


def runs_of(epochs: Array, rows: Array) -> list[Curve]:
    return [(epochs.tolist(), row) for row in rows.tolist()]


def holds(interval: tuple[float, float], truth: float) -> bool:
    return interval[0] <= truth <= interval[1]


@pytest.fixture
def independent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points taken as independent, which every textbook formula does."""
    monkeypatch.setattr(spread, "CORRELATIONS", np.zeros(1))


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


def test_covariance_under_one_correlation_is_dense_algebra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "CORRELATIONS", np.array([0.6]))
    epochs = np.arange(1.0, 21.0)
    noise = autoregression(np.random.default_rng(1), (1, 20), 0.6)[0]
    found = logs_of(epochs, TREND[:20] + NOISE * noise)
    x = np.stack([np.ones(20), np.log(epochs)], axis=1)
    residuals = TREND[:20] + NOISE * noise - x @ [found.a, found.b]
    correlations = 0.6 ** np.abs(np.subtract.outer(np.arange(20), np.arange(20)))
    inverse, precise = np.linalg.inv(x.T @ x), np.linalg.inv(correlations)
    left = residuals - x @ np.linalg.solve(x.T @ precise @ x, x.T @ precise @ residuals)
    variance = float(left @ precise @ left) / 18
    # Rounding only.
    assert np.array(found.covariance) == pytest.approx(variance * inverse @ x.T @ correlations @ x @ inverse, rel=1e-9)
    assert found.sd == pytest.approx(math.sqrt(variance), rel=1e-9)


def test_weights_of_correlations_are_the_restricted_likelihood() -> None:
    epochs = np.arange(1.0, 16.0)
    x = np.stack([np.ones(15), np.log(epochs)], axis=1)
    residuals = np.random.default_rng(2).normal(0, 1, 15)
    residuals -= x @ np.linalg.lstsq(x, residuals, rcond=None)[0]
    # Contrasts free of a and b, whose density is normal with the scale left out.
    contrasts = np.linalg.svd(x)[0][:, 2:]
    logs = []
    for correlation in spread.CORRELATIONS.tolist():
        apart = contrasts.T @ correlation ** np.abs(np.subtract.outer(np.arange(15), np.arange(15))) @ contrasts
        seen = contrasts.T @ residuals
        logs.append(-np.linalg.slogdet(apart)[1] / 2 - 13 / 2 * math.log(seen @ np.linalg.solve(apart, seen)))
    weights = np.exp(np.array(logs) - max(logs))
    # Condition numbers of up to 1e3 at a correlation of 0.99.
    assert spread._autoregressions(x, residuals)[1] == pytest.approx(weights / weights.sum(), rel=1e-8)


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


def published_curve() -> Array:
    """Points about the published trend whose least squares are that trend and whose R² is the one printed."""
    x = np.stack([np.ones(150), np.log(EPOCHS)], axis=1)
    noise = np.random.default_rng(8).normal(0, 1, 150)
    noise -= x @ np.linalg.lstsq(x, noise, rcond=None)[0]
    values: Array = TREND + noise * NOISE / noise.std()
    return values


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


# Crossings


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


# Holding out


@pytest.mark.parametrize(("count", "hidden"), [(6, 2), (10, 3), (150, 50)])
def test_the_last_third_is_hidden(count: int, hidden: int) -> None:
    values = TREND + np.random.default_rng(15).normal(0, NOISE, 150)
    found = holdout_error(EPOCHS[:count].tolist(), values[:count].tolist())
    assert isinstance(found, Holdout)
    assert found.epochs == tuple(range(count - hidden + 1, count + 1))
    assert found.fit == logs_of(EPOCHS[: count - hidden], values[: count - hidden])
    predicted = (
        found.fit.a + found.fit.b * np.log(EPOCHS[count - hidden : count]) if isinstance(found.fit, LogFit) else 0
    )
    errors = predicted - values[count - hidden : count]
    # Rounding only.
    assert found.errors == pytest.approx(errors, abs=1e-12)
    assert found.mean_absolute == pytest.approx(np.abs(errors).mean())
    assert found.bias == pytest.approx(errors.mean())
    assert found.largest == pytest.approx(np.abs(errors).max())


def test_the_right_formula_predicts_and_the_wrong_one_promises_too_much() -> None:
    values = RISING + np.random.default_rng(16).normal(0, 0.005, 150)
    right, wrong = (holdout_error(EPOCHS.tolist(), values.tolist(), fit) for fit in ("power", "log"))
    assert isinstance(right, Holdout)
    assert isinstance(wrong, Holdout)
    # Mean error of 0.004 for noise of sd 0.005, and a fit that is a little off.
    assert right.mean_absolute < 0.006
    assert abs(right.bias) < 0.003
    # 50 points: 0.95 less four standard errors.
    assert right.inside > 0.82
    # A logarithm goes on rising where the curve bends to its ceiling.
    assert wrong.bias > 0.02


def test_holding_out_of_runs_is_of_their_mean() -> None:
    rows = TREND + np.random.default_rng(17).normal(0, NOISE, (4, 150))
    found = holdout_error_of_runs(runs_of(EPOCHS, rows))
    assert isinstance(found, Holdout)
    assert found.fit == log_fit_of_runs(runs_of(EPOCHS[:100], rows[:, :100]))
    # Rounding only: both errors are linear in the values.
    one = holdout_error(EPOCHS.tolist(), rows.mean(0).tolist())
    assert isinstance(one, Holdout)
    assert found.errors == pytest.approx(one.errors, abs=1e-12)


def test_holding_out_says_what_is_too_short() -> None:
    found = holdout_error([1, 2, 3, 4], [0.1, 0.2, 0.3, 0.35], "power")
    assert isinstance(found, Undetermined)
    assert found.reason == "with the last 1 of 4 epochs hidden: 3 distinct epochs, at least 4 are needed"
    assert isinstance(holdout_error([1, 2], [0.1, 0.2]), Undetermined)


# What intervals promise


def log_coverage(seed: int, simulations: int, count: int, correlation: float, runs: int = 1) -> list[float]:
    """Shares of intervals of a, b, the curve at epoch 300 and the crossing with 0.72 that hold the truth."""
    epochs = np.arange(1.0, count + 1)
    trend = PUBLISHED_A + PUBLISHED_B * np.log(epochs)
    noise = autoregression(np.random.default_rng(seed), (simulations * runs, count), correlation)
    held = []
    for rows in (trend + NOISE * noise).reshape(simulations, runs, count):
        found = log_fit_of_runs(runs_of(epochs, rows))
        assert isinstance(found, LogFit)
        curve, crossing = found.at(300), crossover(found, 0.72, 1e6)
        assert isinstance(crossing, Crossing)
        ends = crossing.low or 0.0, crossing.high or math.inf
        held.append(
            [
                holds(found.a_interval, PUBLISHED_A),
                holds(found.b_interval, PUBLISHED_B),
                holds((curve.low, curve.high), PUBLISHED_A + PUBLISHED_B * math.log(300)),
                holds(ends, math.exp((0.72 - PUBLISHED_A) / PUBLISHED_B)),
            ]
        )
    return [float(share) for share in np.mean(held, axis=0)]


def power_coverage(seed: int, simulations: int, correlation: float, runs: int = 1) -> tuple[list[float], int]:
    """Shares of intervals of c, k, p, the curve at epoch 1000 and the crossing with 0.75, and how many were fitted."""
    noise = autoregression(np.random.default_rng(seed), (simulations * runs, 150), correlation)
    held = []
    for rows in (RISING + 0.01 * noise).reshape(simulations, runs, 150):
        found = power_fit_of_runs(runs_of(EPOCHS, rows))
        if isinstance(found, Undetermined):
            continue
        curve, crossing = found.at(1000), crossover(found, 0.75, 1e6)
        ends = (math.inf, math.inf)
        if isinstance(crossing, Crossing):
            ends = crossing.low or 0.0, crossing.high or math.inf
        elif crossing.possible_from is not None:
            ends = crossing.possible_from, math.inf
        held.append(
            [
                holds(found.c_interval, C),
                holds(found.k_interval, K),
                holds(found.p_interval, P),
                holds((curve.low, curve.high), C - K * 1000**-P),
                holds(ends, (K / (C - 0.75)) ** (1 / P)),
            ]
        )
    return [float(share) for share in np.mean(held, axis=0)], len(held)


def test_intervals_cover_the_truth() -> None:
    for runs, correlation in ((1, 0.5), (3, 0.8)):
        # 3.3 standard errors of a share of 0.95 in 150.
        assert log_coverage(0, 150, 150, correlation, runs) == pytest.approx([0.95] * 4, abs=0.059)
    shares, fitted = power_coverage(1, 50, 0.3)
    assert fitted == 50
    # 3.3 standard errors of a share of 0.95 in 50.
    assert min(shares) >= 0.95 - 0.102


@pytest.mark.slow
@pytest.mark.parametrize("runs", [3, 5])
@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_intervals_of_runs_cover_the_truth_95_times_in_100(runs: int, correlation: float) -> None:
    # 3.3 standard errors of a share of 0.95 in 2,000.
    assert log_coverage(1, 2000, 60, correlation, runs) == pytest.approx([0.95] * 4, abs=0.016)


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
def test_intervals_of_one_run_cover_the_truth_95_times_in_100(correlation: float) -> None:
    # 3.3 standard errors of a share of 0.95 in 2,000, and as much again: the correlation is not known, and one below 0
    # counts as 0.
    assert log_coverage(2, 2000, 150, correlation) == pytest.approx([0.95] * 4, abs=0.032)


@pytest.mark.slow
@pytest.mark.parametrize("count", [10, 30])
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
def test_intervals_of_a_short_run_are_wide_rather_than_narrow(count: int, correlation: float) -> None:
    # 3.3 standard errors of a share of 0.95 in 2,000; ten points do not show a strong correlation, which costs 4 %.
    assert min(log_coverage(4, 2000, count, correlation)) >= 0.95 - 0.016 - (0.04 if correlation == 0.8 else 0)


@pytest.mark.slow
@pytest.mark.parametrize(("correlation", "runs"), [(0.0, 1), (0.5, 1), (0.5, 3)])
def test_intervals_of_a_power_law_cover_the_truth_95_times_in_100(correlation: float, runs: int) -> None:
    shares, fitted = power_coverage(3, 1000, correlation, runs)
    assert fitted >= 990
    # 3.3 standard errors of a share of 0.95 in 1,000, and half as much again for the bend of the law.
    assert shares == pytest.approx([0.95] * 5, abs=0.035)
