"""Curves made up for the tests of fits, with what is asked of each."""

from __future__ import annotations

import math

import numpy as np

from raybench.report.fits import LogFit, PowerFit, log_fit, power_fit
from raybench.report.spread import Array, Curve

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


def published_curve() -> Array:
    """Points about the published trend whose least squares are that trend and whose R² is the one printed."""
    x = np.stack([np.ones(150), np.log(EPOCHS)], axis=1)
    noise = np.random.default_rng(8).normal(0, 1, 150)
    noise -= x @ np.linalg.lstsq(x, noise, rcond=None)[0]
    values: Array = TREND + noise * NOISE / noise.std()
    return values
