"""Covariances against dense algebra, and what intervals promise against simulated curves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from raybench.report import spread
from raybench.report.crossing import Crossing, crossover
from raybench.report.fits import LogFit, log_fit_of_runs, power_fit_of_runs
from raybench.report.spread import Undetermined
from tests.report.made_curves import (
    EPOCHS,
    NOISE,
    PUBLISHED_A,
    PUBLISHED_B,
    RISING,
    TREND,
    C,
    K,
    P,
    autoregression,
    holds,
    logs_of,
    runs_of,
)


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
