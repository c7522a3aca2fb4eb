"""The runs of a setting on one axis of epochs, and how well what is fitted to their mean is known.

Successive points of a curve are not independent, so the intervals, all of 95 %, do not come from the count of points:

- From three runs on the spread is that between the runs (cluster-robust covariance with a run as cluster, Liang and
  Zeger 1986, "Longitudinal data analysis using generalized linear models"), with Student's t of runs - 1 degrees of
  freedom. For y = a + b ln(epoch) and runs of the same epochs this is the t interval of the coefficients of each run,
  and it holds whatever the dependence within a run.
- Of one run or two the residuals are taken as a first-order autoregression whose correlation, from 0 to 0.99, is not
  known either: each counts by its marginal likelihood (Levenbach 1972, "Estimation of autoregressive parameters from a
  marginal likelihood function"), and the interval is that of the mixture (as Zellner and Tiao 1964, "Bayesian analysis
  of the regression model with autocorrelated errors"). Short curves tell their correlation badly: the one that
  fits best would make their intervals too narrow, the mixture makes them rather wide where points are independent. It
  takes no random numbers. Such an interval is of this curve: what another seed would change it cannot know.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from raybench.report.statistics import CONFIDENCE, LARGEST

Array = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]
Curve = tuple[Sequence[float], Sequence[float]]
"""Epochs, from 1, and the values at them of one run."""
Basis = Literal["runs", "residuals"]
"""What intervals come from."""
MIN_RUNS = 3
"""Below it the spread comes from the residuals: the t interval of two runs is nine times their distance."""
CORRELATIONS = np.linspace(0.0, 0.99, 100)
ROUNDING = 1e-9
"""What is smaller than so much of the values is taken for 0."""


@dataclass(frozen=True)
class Undetermined:
    """The data do not determine what was asked for."""

    reason: str


@dataclass(frozen=True)
class Points:
    """The runs of one setting on one axis of epochs."""

    epochs: Array
    """Distinct and rising, (n,)."""
    mean: Array
    """Over the runs, (n,)."""
    runs: Array
    """NaN where a run lacks an epoch, (runs, n)."""

    def before(self, epoch: float) -> Points:
        """What is there of the runs before an epoch."""
        kept = self.epochs < epoch
        runs = self.runs[:, kept]
        return Points(self.epochs[kept], self.mean[kept], runs[~np.isnan(runs).all(axis=1)])


def points_of(curves: Sequence[Curve]) -> Points | Undetermined:
    """All runs on one axis of epochs, without those that are empty. An epoch given twice counts by its mean."""
    for epochs, values in curves:
        if len(epochs) != len(values):
            raise ValueError(f"a curve has {len(epochs)} epochs and {len(values)} values")
    counts = [len(epochs) for epochs, _ in curves if len(epochs)]
    whose = np.repeat(np.arange(len(counts)), counts)
    return points_at(whose, _joined([epochs for epochs, _ in curves]), _joined([values for _, values in curves]))


def _joined(parts: Sequence[Sequence[float]]) -> Array:
    return np.concatenate([np.zeros(0), *(np.asarray(part, dtype=np.float64) for part in parts)])


def points_at(whose: Whole, epochs: Array, values: Array) -> Points | Undetermined:
    """The same from values one after the other, run by run: of each the number of its run, from 0 on, and its epoch."""
    if len(wrong := np.flatnonzero(~np.isfinite(values))):
        return Undetermined(f"the value at epoch {epochs[wrong[0]]:g} is {values[wrong[0]]}")
    axis, where = np.unique(checked(epochs), return_inverse=True)
    size = (int(whose[-1]) + 1 if len(whose) else 0, len(axis))
    place = whose * len(axis) + where
    counts = np.bincount(place, minlength=math.prod(size))
    sums = np.bincount(place, values, math.prod(size))
    runs = np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0).reshape(size)
    return Points(axis, np.nanmean(runs, axis=0), runs)


def unfit(points: Points, least: int) -> Undetermined | None:
    """Why points do not determine a curve, which takes `least` distinct epochs; none where they may."""
    if len(points.epochs) < least:
        return Undetermined(f"{len(points.epochs)} distinct epochs, at least {least} are needed")
    if np.ptp(points.mean) <= max(ROUNDING * np.max(np.abs(points.mean)), 1 / LARGEST):
        return Undetermined(f"the curve is flat: {points.mean[0]:.6g} at all {len(points.epochs)} epochs")
    return None


def checked(epochs: Array) -> Array:
    """The epochs themselves. Raises ValueError where one is not above 0."""
    wrong = epochs[~((epochs > 0) & np.isfinite(epochs))]
    if len(wrong):
        raise ValueError(f"an epoch is above 0, they count from 1: {wrong[0]:g}")
    return epochs


@dataclass(frozen=True)
class Line:
    """Straight lines y = mean + slope (x - centre) by least squares, one for each row of x."""

    count: int
    """Points."""
    mean: float
    centre: Array
    slope: Array
    spread: Array
    """Sum of squares of x about its centre."""
    rss: Array


def line_of(x: Array, values: Array) -> Line:
    """x: (…, n), values: (n,); fields (…) or one number."""
    mean = float(values.mean())
    centre = x.mean(axis=-1)
    away = x - centre[..., None]
    spread = (away**2).sum(axis=-1)
    slope = (away * (values - mean)).sum(axis=-1) / spread
    rss = ((values - mean - slope[..., None] * away) ** 2).sum(axis=-1)
    return Line(len(values), mean, centre, slope, spread, rss)


@dataclass(frozen=True)
class Spread:
    """How well the parameters of a fit are known."""

    covariance: Array
    """Of the parameters, dependence included."""
    quantile: float
    """Standard errors that a 95 % interval reaches to either side."""
    sd: float
    """Of a point about the curve."""
    basis: Basis
    correlation: float | None


def spread_of(points: Points, jacobian: Array, residuals: Array) -> Spread:
    """Of parameters fitted to the mean per epoch; jacobian: (n, parameters), residuals: (n,)."""
    count, parameters = jacobian.shape
    inverse = np.linalg.inv(jacobian.T @ jacobian)
    rss = float(residuals @ residuals)
    size = ROUNDING * float(np.max(np.abs(points.mean)))
    seen = ~np.isnan(points.runs)
    apart = float(np.where(seen, np.abs(points.runs - points.mean), 0.0).max())
    if len(seen) >= MIN_RUNS and apart > size:
        # What each run alone adds to the estimate; at the least squares they sum to 0.
        own = np.where(seen, points.runs - points.mean + residuals, 0.0) / seen.sum(axis=0)  # (runs, n)
        shifts = own @ jacobian @ inverse  # (runs, parameters)
        covariance = len(own) / (len(own) - 1) * shifts.T @ shifts
        return Spread(covariance, t_quantile(len(own) - 1), math.sqrt(rss / (count - parameters)), "runs", None)
    if rss <= count * size**2:
        return Spread(np.zeros_like(inverse), t_quantile(count - parameters), 0.0, "residuals", 0.0)
    variances, weights = _autoregressions(jacobian, residuals)
    meat = (CORRELATIONS[:, None] ** np.arange(count) @ _lagged(jacobian)).reshape(-1, parameters, parameters)
    covariances = variances[:, None, None] * (inverse @ meat @ inverse)  # (correlations, parameters, parameters)
    covariance = np.tensordot(weights, covariances, 1)
    quantile = max(
        _mixture_quantile(np.sqrt(own / own_mean), weights, count - parameters)
        for own, own_mean in zip(np.diagonal(covariances, axis1=1, axis2=2).T, np.diag(covariance), strict=True)
    )
    sd = math.sqrt(float(weights @ variances))
    return Spread(covariance, quantile, sd, "residuals", float(weights @ CORRELATIONS))


def _autoregressions(jacobian: Array, residuals: Array) -> tuple[Array, Array]:
    """Variance of the points about the curve for each of `CORRELATIONS`, and the weight of each, which sum to 1."""
    count, parameters = jacobian.shape
    columns = np.concatenate([jacobian, residuals[:, None]], axis=1)
    left = np.sqrt(1 - CORRELATIONS**2)[:, None, None]
    # Made independent, each of variance 1: the first point, then what each adds to its predecessor (Prais-Winsten).
    steps = (columns[1:] - CORRELATIONS[:, None, None] * columns[:-1]) / left
    white = np.concatenate([np.broadcast_to(columns[:1], (len(steps), 1, parameters + 1)), steps], axis=1)
    base, upper = np.linalg.qr(white[:, :, :-1])  # (correlations, n, parameters)
    last = white[:, :, -1:]
    rss = ((last - base @ (base.transpose(0, 2, 1) @ last)) ** 2).sum(axis=(1, 2))
    logs = (
        -(count - 1) / 2 * np.log(1 - CORRELATIONS**2)
        - np.log(np.abs(np.diagonal(upper, axis1=1, axis2=2))).sum(axis=1)
        - (count - parameters) / 2 * np.log(rss)
    )
    weights = np.exp(logs - logs.max())
    return rss / (count - parameters), weights / weights.sum()


def _lagged(columns: Array) -> Array:
    """Sums over all pairs of rows so far apart of the products of their columns; (n, parameters^2) by distance."""
    count, parameters = columns.shape
    products = np.empty((count, parameters, parameters))
    for i in range(parameters):
        for j in range(parameters):
            both = np.correlate(columns[:, i], columns[:, j], "full")
            products[:, i, j] = both[count - 1 :] + both[count - 1 :: -1]
    products[0] /= 2
    return products.reshape(count, -1)


def _mixture_quantile(errors: Array, weights: Array, degrees: float) -> float:
    """Of t distributions with these standard errors and weights: where the upper tail of a 95 % interval begins."""
    from scipy.optimize import brentq
    from scipy.special import stdtr

    def below(quantile: float) -> float:
        return float(weights @ stdtr(degrees, quantile / errors)) - (1 + CONFIDENCE) / 2

    highest = t_quantile(degrees) * float(errors.max())
    return float(brentq(below, 0.0, highest * (1 + ROUNDING)))


def quadratic(rows: Array, matrix: Array) -> Array:
    """row^T matrix row for each row (…, n)."""
    return np.asarray(np.einsum("...i,ij,...j->...", rows, matrix, rows), dtype=np.float64)


def t_quantile(degrees: float) -> float:
    """Standard errors that a 95 % interval reaches to either side, of so many degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + CONFIDENCE) / 2))
