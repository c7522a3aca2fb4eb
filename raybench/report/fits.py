"""Curves as formulas: y = a + b ln(epoch) and y = c - k epoch^-p, with how well they are known.

The fit is to the mean per epoch over the runs (seeds) of one setting, by least squares; where its intervals, all of
95 %, come from is told in `spread.py` and `power_profile.py`. They say how well the formula is known, if the curve is
of that formula; `holdout.py` asks whether it is, `crossing.py` where two curves meet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raybench.report.power_profile import POWERS, Interval, Profile, best_power, profile_of
from raybench.report.spread import (
    Array,
    Basis,
    Curve,
    Points,
    Spread,
    Undetermined,
    checked,
    line_of,
    points_of,
    quadratic,
    spread_of,
    unfit,
)

LEAST_OF_LOG, LEAST_OF_POWER = 3, 4
"""Distinct epochs that a fit takes: one more than it has parameters."""
LEAST_BEND = 1e-3
"""Of p ln(last / first): a power law with less is a straight line in ln(epoch) and has no ceiling to tell."""


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """What both fits share; the values are in the unit of the curve."""

    r2: float
    """1 - rss / (sum of squares about the mean), of the mean per epoch."""
    n: int
    """Distinct epochs."""
    rss: float
    """Sum of squares of the residuals of the mean per epoch."""
    sd: float
    """Of a point about the curve."""
    runs: int
    basis: Basis
    """What the intervals come from."""
    correlation: float | None
    """Of successive points about the curve, where the intervals come from them."""
    quantile: float
    """Standard errors that a 95 % interval reaches to either side."""
    first: float
    """First epoch measured."""
    last: float
    """Last epoch measured."""

    def at(self, epoch: float) -> Interval:
        """The curve at `epoch`, from 1, with the interval of the curve itself. Raises ValueError at 0 or below."""
        value, low, high = self.band(checked(np.array([epoch], dtype=np.float64)))
        return Interval(float(value[0]), float(low[0]), float(high[0]))

    def predict(self, epoch: float) -> Interval:
        """A point of the mean of as many runs at `epoch`, from 1: the curve's uncertainty and the points' scatter.

        Of at least three runs it is a little wide where they differ by much the same at every epoch.
        """
        curve = self.at(epoch)
        scatter = self.quantile * self.sd
        low, high = math.hypot(curve.value - curve.low, scatter), math.hypot(curve.high - curve.value, scatter)
        return Interval(curve.value, curve.value - low, curve.value + high)

    def value(self, epochs: Array) -> Array:
        raise NotImplementedError

    def band(self, epochs: Array) -> tuple[Array, Array, Array]:
        """Values and both limits of the curve, each (epochs,)."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class LogFit(_Fit):
    """y = a + b ln(epoch); b is the gain per e-fold of epochs."""

    a: float
    b: float
    a_interval: tuple[float, float]
    b_interval: tuple[float, float]
    covariance: tuple[tuple[float, float], tuple[float, float]]
    """Of (a, b), dependence included."""

    def value(self, epochs: Array) -> Array:
        return self.a + self.b * np.log(epochs)

    def band(self, epochs: Array) -> tuple[Array, Array, Array]:
        value, columns = self.value(epochs), np.stack([np.ones_like(epochs), np.log(epochs)], axis=1)  # (epochs, 2)
        half = self.quantile * np.sqrt(quadratic(columns, np.array(self.covariance)))
        return value, value - half, value + half


@dataclass(frozen=True, kw_only=True)
class PowerFit(_Fit):
    """y = c - k epoch^-p with p > 0: accuracy that rises to c where k > 0, a loss that falls to c where k < 0."""

    c: float
    k: float
    p: float
    c_interval: tuple[float, float]
    k_interval: tuple[float, float]
    p_interval: tuple[float, float]
    """Up to inf where a curve that is level from its second epoch on fits, too."""
    _profile: Profile = field(repr=False, compare=False)

    def value(self, epochs: Array) -> Array:
        return self._profile.value(np.log(epochs / self.first))

    def band(self, epochs: Array) -> tuple[Array, Array, Array]:
        return self._profile.band(np.log(epochs / self.first))


def log_fit(epochs: Sequence[float], values: Sequence[float]) -> LogFit | Undetermined:
    """Fit y = a + b ln(epoch) to one run; see `log_fit_of_runs`."""
    return log_fit_of_runs([(epochs, values)])


def power_fit(epochs: Sequence[float], values: Sequence[float]) -> PowerFit | Undetermined:
    """Fit y = c - k epoch^-p to one run; see `power_fit_of_runs`."""
    return power_fit_of_runs([(epochs, values)])


def log_fit_of_runs(curves: Sequence[Curve]) -> LogFit | Undetermined:
    """Fit y = a + b ln(epoch) to the mean per epoch of runs that differ in their seed alone.

    Epochs count from 1, in any order. Undetermined below three distinct epochs, where a value is not finite, and where
    all means are equal, which leave R² undefined. Runs that ended early shift the mean from one epoch to the next:
    leave them out. Raises ValueError where epochs and values differ in number and for an epoch of 0 or below.
    """
    points = points_of(curves)
    return points if isinstance(points, Undetermined) else log_fit_at(points)


def log_fit_at(points: Points) -> LogFit | Undetermined:
    """`log_fit_of_runs` of runs that are points already."""
    if fault := unfit(points, LEAST_OF_LOG):
        return fault
    logs = np.log(points.epochs)
    line = line_of(logs, points.mean)
    a, b = line.mean - line.slope * line.centre, line.slope
    columns = np.stack([np.ones_like(logs), logs], axis=1)  # (n, 2)
    spread = spread_of(points, columns, points.mean - a - b * logs)
    half = spread.quantile * np.sqrt(np.diag(spread.covariance))
    (aa, ab), (ba, bb) = spread.covariance.tolist()
    return LogFit(
        a=float(a),
        b=float(b),
        a_interval=(float(a - half[0]), float(a + half[0])),
        b_interval=(float(b - half[1]), float(b + half[1])),
        covariance=((aa, ab), (ba, bb)),
        **_shared(points, spread, float(line.rss)),
    )


def power_fit_of_runs(curves: Sequence[Curve]) -> PowerFit | Undetermined:
    """Fit y = c - k epoch^-p, p > 0, to the mean per epoch of runs that differ in their seed alone.

    Undetermined below four distinct epochs, where a value is not finite, where all means are equal or the change from
    first to last epoch is not told from 0, where the interval of p holds 0 (a straight line in ln(epoch), which has no
    ceiling) and where the best p is so large that all change is over by the second epoch. Epochs, early ends and errors
    as for `log_fit_of_runs`.
    """
    points = points_of(curves)
    return points if isinstance(points, Undetermined) else power_fit_at(points)


def power_fit_at(points: Points) -> PowerFit | Undetermined:
    """`power_fit_of_runs` of runs that are points already."""
    if fault := unfit(points, LEAST_OF_POWER):
        return fault
    logs = np.log(points.epochs / points.epochs[0])
    # At the largest, a thousandth of the change is left at the second epoch. A curve that begins late gives k, what the
    # formula would lack at epoch 1, a factor of first^p, whose square must still be a number.
    largest = min(math.log(1000) / logs[1], 300 / max(math.log(points.epochs[0]), 1.0))
    powers = np.concatenate([[0.0], np.geomspace(LEAST_BEND / logs[-1], largest, POWERS)])
    p = best_power(powers, logs, points.mean)
    if p * logs[-1] <= LEAST_BEND:
        return Undetermined("no ceiling in sight: no power law fits better than a straight line in ln(epoch)")
    if p >= largest * (1 - 1e-3):
        return Undetermined("the curve is level from its second epoch on, which leaves the power open")
    profile = profile_of(points, logs, p, powers)
    rise = profile.rise(float(logs[-1]))
    if rise.low <= 0 <= rise.high:
        return Undetermined("the change from first to last epoch is not told from 0")
    c, k = profile.parameters(float(points.epochs[0]))
    if profile.within[0] == 0 or math.isinf(c.low) or math.isinf(c.high):
        return Undetermined("no ceiling in sight: a straight line in ln(epoch) is within the 95 % interval")
    return PowerFit(
        c=c.value,
        k=k.value,
        p=p,
        c_interval=(c.low, c.high),
        k_interval=(k.low, k.high),
        p_interval=profile.within,
        _profile=profile,
        **_shared(points, profile.spread, profile.rss),
    )


def _shared(points: Points, spread: Spread, rss: float) -> dict[str, Any]:
    return {
        "r2": 1 - rss / float(((points.mean - points.mean.mean()) ** 2).sum()),
        "n": len(points.epochs),
        "rss": rss,
        "sd": spread.sd,
        "runs": len(points.runs),
        "basis": spread.basis,
        "correlation": spread.correlation,
        "quantile": spread.quantile,
        "first": float(points.epochs[0]),
        "last": float(points.epochs[-1]),
    }
