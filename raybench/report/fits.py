"""Curves as formulas: y = a + b ln(epoch), y = c - k epoch^-p, where two of them cross, and how far to trust them.

The fit is to the mean per epoch over the runs (seeds) of one setting, by least squares. Successive points of a curve
are not independent, so the intervals, all of 95 %, do not come from the count of points:

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

The power law is found by variable projection (Golub and Pereyra 1973, "The differentiation of pseudo-inverses and
nonlinear least squares problems whose variables separate"): for a given p it is a straight line in
(1 - (epoch / first)^-p) / p, which at p = 0 is ln(epoch / first), so a search over p alone finds the best. Its
intervals are profile intervals (Bates and Watts 1988, "Nonlinear regression analysis and its applications", section
6.1): all values for which the best of the other two parameters leaves a sum of squares within a limit, scaled for
dependence as Chandler and Bate 2007, "Inference for clustered data using the independence loglikelihood", do. They need
not be symmetric; where the data do not bound the ceiling c, there is no fit.

An interval says how well the formula is known, if the curve is of that formula; `holdout_error` asks whether it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from raybench.report.statistics import CONFIDENCE, Estimate

Array = npt.NDArray[np.float64]
Curve = tuple[Sequence[float], Sequence[float]]
"""Epochs, from 1, and the values at them of one run."""
Kind = Literal["log", "power"]
MIN_RUNS = 3
"""Below it the spread comes from the residuals: the t interval of two runs is nine times their distance."""
CORRELATIONS = np.linspace(0.0, 0.99, 100)
ROUNDING = 1e-9
"""What is smaller than so much of the values is taken for 0."""
POWERS = 160
"""Of p tried before the search begins between the best one's neighbours; and on either side for an interval."""
LEAST_BEND = 1e-3
"""Of p ln(last / first): a power law with less is a straight line in ln(epoch) and has no ceiling to tell."""
STEPS = 600
"""Epochs, evenly spaced in the logarithm, between which a crossing is looked for."""


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Undetermined:
    """The data do not determine what was asked for."""

    reason: str


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
    basis: Literal["runs", "residuals"]
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
        value, low, high = self._band(_checked(np.array([epoch], dtype=np.float64)))
        return Interval(float(value[0]), float(low[0]), float(high[0]))

    def predict(self, epoch: float) -> Interval:
        """A point of the mean of as many runs at `epoch`, from 1: the curve's uncertainty and the points' scatter.

        Of at least three runs it is a little wide where they differ by much the same at every epoch.
        """
        curve = self.at(epoch)
        scatter = self.quantile * self.sd
        low, high = math.hypot(curve.value - curve.low, scatter), math.hypot(curve.high - curve.value, scatter)
        return Interval(curve.value, curve.value - low, curve.value + high)

    def _value(self, epochs: Array) -> Array:
        raise NotImplementedError

    def _band(self, epochs: Array) -> tuple[Array, Array, Array]:
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

    def _value(self, epochs: Array) -> Array:
        return self.a + self.b * np.log(epochs)

    def _band(self, epochs: Array) -> tuple[Array, Array, Array]:
        value, columns = self._value(epochs), np.stack([np.ones_like(epochs), np.log(epochs)], axis=1)  # (epochs, 2)
        half = self.quantile * np.sqrt(_quadratic(columns, np.array(self.covariance)))
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
    _profile: _Profile = field(repr=False, compare=False)

    def _value(self, epochs: Array) -> Array:
        return self._profile.value(np.log(epochs / self.first))

    def _band(self, epochs: Array) -> tuple[Array, Array, Array]:
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
    points = _points(curves, least=3)
    if isinstance(points, Undetermined):
        return points
    logs = np.log(points.epochs)
    line = _line(logs, points.mean)
    a, b = line.mean - line.slope * line.centre, line.slope
    columns = np.stack([np.ones_like(logs), logs], axis=1)  # (n, 2)
    spread = _spread(points, columns, points.mean - a - b * logs)
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
    points = _points(curves, least=4)
    if isinstance(points, Undetermined):
        return points
    logs = np.log(points.epochs / points.epochs[0])
    # At the largest, a thousandth of the change is left at the second epoch. A curve that begins late gives k, what the
    # formula would lack at epoch 1, a factor of first^p, whose square must still be a number.
    largest = min(math.log(1000) / logs[1], 300 / max(math.log(points.epochs[0]), 1.0))
    powers = np.concatenate([[0.0], np.geomspace(LEAST_BEND / logs[-1], largest, POWERS)])
    p = _best_power(powers, logs, points.mean)
    if p * logs[-1] <= LEAST_BEND:
        return Undetermined("no ceiling in sight: no power law fits better than a straight line in ln(epoch)")
    if p >= largest * (1 - 1e-3):
        return Undetermined("the curve is level from its second epoch on, which leaves the power open")
    profile = _profile(points, logs, p, powers)
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


@dataclass(frozen=True)
class Holdout:
    """A fit to the first two thirds of a curve against its hidden last third; errors in the unit of the values."""

    fit: LogFit | PowerFit
    """The one that did not see the last third."""
    epochs: tuple[float, ...]
    """Hidden ones."""
    errors: tuple[float, ...]
    """Predicted - measured, at each hidden epoch."""
    mean_absolute: float
    bias: float
    """Mean error; above 0 the fit promised more than came."""
    largest: float
    """Absolute error."""
    inside: float
    """Share, 0 to 1, of hidden points within the 95 % interval predicted for them."""


def holdout_error(epochs: Sequence[float], values: Sequence[float], fit: Kind = "log") -> Holdout | Undetermined:
    """Hide the last third of one run, fit the rest, compare; see `holdout_error_of_runs`."""
    return holdout_error_of_runs([(epochs, values)], fit)


def holdout_error_of_runs(curves: Sequence[Curve], fit: Kind = "log") -> Holdout | Undetermined:
    """Fit the first two thirds of the distinct epochs of all runs and compare with the mean per epoch of the rest.

    Undetermined where the whole curve or its first two thirds do not determine the fit. Raises ValueError as the fits
    do.
    """
    points = _points(curves, least=3)
    if isinstance(points, Undetermined):
        return points
    hidden = len(points.epochs) // 3
    cut = float(points.epochs[-hidden])
    seen: list[Curve] = []
    for epochs, values in curves:
        kept = np.asarray(epochs, dtype=np.float64) < cut
        seen.append((np.asarray(epochs)[kept].tolist(), np.asarray(values)[kept].tolist()))
    found = log_fit_of_runs(seen) if fit == "log" else power_fit_of_runs(seen)
    if isinstance(found, Undetermined):
        return Undetermined(f"with the last {hidden} of {len(points.epochs)} epochs hidden: {found.reason}")
    later, measured = points.epochs[-hidden:].tolist(), points.mean[-hidden:].tolist()
    predicted = [found.predict(epoch) for epoch in later]
    errors = [each.value - value for each, value in zip(predicted, measured, strict=True)]
    within = [each.low <= value <= each.high for each, value in zip(predicted, measured, strict=True)]
    return Holdout(
        fit=found,
        epochs=tuple(later),
        errors=tuple(errors),
        mean_absolute=math.fsum(map(abs, errors)) / hidden,
        bias=math.fsum(errors) / hidden,
        largest=max(map(abs, errors)),
        inside=sum(within) / hidden,
    )


@dataclass(frozen=True)
class Crossing:
    """Where two curves meet."""

    epoch: float
    """Between whole epochs: the first that shows it is the next whole one."""
    low: float | None
    """95 % interval of `epoch`; none where it is open before the first epoch of both curves."""
    high: float | None
    """None where it is open beyond the horizon."""
    rises: bool
    """`one` is above `other` after it, below it before; otherwise the reverse."""
    extrapolated: bool
    """Beyond the last measured epoch of one of them."""
    later: tuple[float, ...]
    """Further crossings within the horizon, which a power law may have."""


@dataclass(frozen=True)
class NoCrossing:
    """Two curves do not meet between their first epoch and the horizon."""

    reason: str
    possible_from: float | None
    """First epoch within the horizon at which the 95 % interval of the difference holds 0; none if it never does."""


Side = LogFit | PowerFit | Estimate | float
"""Of a crossing; the last two are plateaus."""


def crossover(one: Side, other: Side, horizon: float) -> Crossing | NoCrossing:
    """The epoch from which one curve is on the other side of another, the first between their start and `horizon`.

    A plateau is a number, or an `Estimate` for one with an interval; at least one of the two is a fit. A lead that is
    there at the first epoch of either, or that the formulas give to an earlier one, is no crossing.

    Its interval is Fieller's (1954, "Some problems in interval estimation"): the epochs around it at which the 95 %
    interval of the difference of the curves holds 0. That interval is put together from those of the curves, taken as
    independent, after Zou and Donner 2008, "Construction of confidence limits about effect measures". Curves of the
    same seeds differ less than independent ones, so for them it is rather too wide. Raises ValueError for two plateaus,
    for one that is not finite and for a horizon below 1.
    """
    fits = [curve for curve in (one, other) if isinstance(curve, LogFit | PowerFit)]
    if not fits:
        raise ValueError("a crossing needs a curve: both sides are plateaus")
    if not horizon >= 1 or math.isinf(horizon):
        raise ValueError(f"the horizon must be an epoch of at least 1: {horizon}")
    for plateau in (each.mean if isinstance(each, Estimate) else each for each in (one, other)):
        if not isinstance(plateau, LogFit | PowerFit) and not math.isfinite(plateau):
            raise ValueError(f"a plateau must be a finite number: {plateau}")
    begin = min(fit.first for fit in fits)
    if horizon <= begin:
        return NoCrossing(f"no crossing within the horizon of {horizon:,.0f} epochs: both begin after it", None)
    logs = np.linspace(math.log(begin), math.log(horizon), STEPS)
    pair = _Pair(one, other)
    reach = pair.reach(logs)
    roots = pair.roots(logs)
    if not roots:
        possible = np.flatnonzero(reach >= 0)
        earliest = None
        if len(possible):
            index = int(possible[0])
            earliest = math.exp(pair.end(logs[index], logs[index - 1]) if index else logs[0])
        return NoCrossing(_why(pair, logs, begin, horizon), earliest)
    root, rises = roots[0]
    limits: list[float | None] = []
    for outward in (np.flatnonzero(logs < root)[::-1], np.flatnonzero(logs > root)):
        ends = np.flatnonzero(reach[outward] < 0)
        if not len(ends):
            limits.append(None)
            continue
        inner = logs[outward[ends[0] - 1]] if ends[0] else root
        limits.append(math.exp(pair.end(inner, logs[outward[ends[0]]])))
    epoch = math.exp(root)
    return Crossing(
        epoch=epoch,
        low=limits[0],
        high=limits[1],
        rises=rises,
        extrapolated=epoch > min(fit.last for fit in fits),
        later=tuple(math.exp(each) for each, _ in roots[1:]),
    )


class _Pair:
    """The difference of two curves, and how far its interval reaches over 0; both at the logarithm of the epoch."""

    def __init__(self, one: Side, other: Side) -> None:
        self.curves = (one, other)

    def difference(self, logs: Array) -> Array:
        one, other = (_value(curve, logs) for curve in self.curves)
        # Curves that are equal but for rounding do not cross.
        apart: Array = (one - other) * (np.abs(one - other) > ROUNDING * np.maximum(np.abs(one), np.abs(other)))
        return apart

    def reach(self, logs: Array) -> Array:
        """At least 0 where the interval of the difference holds 0: how far the nearer limit lies on the other side."""
        (one, one_low, one_high), (other, other_low, other_high) = (_band(curve, logs) for curve in self.curves)
        low = one - other - np.hypot(one - one_low, other_high - other)
        high = one - other + np.hypot(one_high - one, other - other_low)
        nearer: Array = np.minimum(high, -low)
        return nearer

    def roots(self, logs: Array) -> list[tuple[float, bool]]:
        """Where the difference changes its sign, and whether it rises there."""
        from scipy.optimize import brentq

        difference = self.difference(logs)
        told = np.flatnonzero(difference)
        turns = np.flatnonzero(np.diff(np.sign(difference[told])))
        return [
            (
                float(brentq(lambda log: self.difference(np.array([log]))[0], logs[told[i]], logs[told[i + 1]])),
                bool(difference[told[i]] < 0),
            )
            for i in turns.tolist()
        ]

    def end(self, inside: float, outside: float) -> float:
        """Where the interval of the difference stops holding 0, between two logarithms."""
        from scipy.optimize import bisect

        def reach(log: float) -> float:
            return float(self.reach(np.array([log]))[0])

        # Without any spread the interval is the crossing alone, and rounding may put it on either side.
        return inside if reach(inside) <= 0 else float(bisect(reach, inside, outside))


def _value(curve: Side, logs: Array) -> Array:
    if isinstance(curve, LogFit | PowerFit):
        return curve._value(np.exp(logs))
    return np.full_like(logs, curve.mean if isinstance(curve, Estimate) else curve)


def _band(curve: Side, logs: Array) -> tuple[Array, Array, Array]:
    if isinstance(curve, LogFit | PowerFit):
        return curve._band(np.exp(logs))
    if not isinstance(curve, Estimate):
        level = np.full_like(logs, curve)
        return level, level, level
    limits = (
        curve.mean,
        curve.mean if curve.low is None else curve.low,
        curve.mean if curve.high is None else curve.high,
    )
    mean, low, high = (np.full_like(logs, limit) for limit in limits)
    return mean, low, high


def _why(pair: _Pair, logs: Array, begin: float, horizon: float) -> str:
    said = f"no crossing within the horizon of {horizon:,.0f} epochs: "
    told = np.sign(pair.difference(logs))
    if not told.any():
        return said + "the curves are one"
    said += f"one is {'above' if told[told != 0][0] > 0 else 'below'} the other from epoch {begin:g} on"
    earlier = pair.roots(np.linspace(0.0, math.log(begin), STEPS)) if begin > 1 else []
    return said + (f"; the fits cross at epoch {math.exp(earlier[-1][0]):.3g}, before both curves" if earlier else "")


@dataclass(frozen=True)
class _Points:
    epochs: Array
    """Distinct and rising, (n,)."""
    mean: Array
    """Over the runs, (n,)."""
    runs: Array
    """NaN where a run lacks an epoch, (runs, n)."""


def _points(curves: Sequence[Curve], least: int) -> _Points | Undetermined:
    """All runs on one axis of epochs; `least` distinct ones are needed. An epoch given twice counts by its mean."""
    for epochs, values in curves:
        if len(epochs) != len(values):
            raise ValueError(f"a curve has {len(epochs)} epochs and {len(values)} values")
        if len(wrong := np.flatnonzero(~np.isfinite(np.asarray(values, dtype=np.float64)))):
            return Undetermined(f"the value at epoch {epochs[wrong[0]]:g} is {values[wrong[0]]}")
    curves = [(epochs, values) for epochs, values in curves if len(epochs)]
    axis = np.unique(np.concatenate([np.zeros(0), *(np.asarray(epochs, np.float64) for epochs, _ in curves)]))
    _checked(axis)
    if len(axis) < least:
        return Undetermined(f"{len(axis)} distinct epochs, at least {least} are needed")
    runs = np.full((len(curves), len(axis)), np.nan)
    for row, (epochs, values) in zip(runs, curves, strict=True):
        where = np.searchsorted(axis, np.asarray(epochs, dtype=np.float64))
        counts = np.bincount(where, minlength=len(axis))
        sums = np.bincount(where, np.asarray(values, dtype=np.float64), len(axis))
        row[counts > 0] = sums[counts > 0] / counts[counts > 0]
    mean = np.nanmean(runs, axis=0)
    if np.ptp(mean) <= ROUNDING * np.max(np.abs(mean)):
        return Undetermined(f"the curve is flat: {mean[0]:.6g} at all {len(axis)} epochs")
    return _Points(axis, mean, runs)


def _checked(epochs: Array) -> Array:
    wrong = epochs[~((epochs > 0) & np.isfinite(epochs))]
    if len(wrong):
        raise ValueError(f"an epoch is above 0, they count from 1: {wrong[0]:g}")
    return epochs


@dataclass(frozen=True)
class _Line:
    """Straight lines y = mean + slope (x - centre) by least squares, one for each row of x."""

    count: int
    """Points."""
    mean: float
    centre: Array
    slope: Array
    spread: Array
    """Sum of squares of x about its centre."""
    rss: Array


def _line(x: Array, values: Array) -> _Line:
    """x: (…, n), values: (n,); fields (…) or one number."""
    mean = float(values.mean())
    centre = x.mean(axis=-1)
    away = x - centre[..., None]
    spread = (away**2).sum(axis=-1)
    slope = (away * (values - mean)).sum(axis=-1) / spread
    rss = ((values - mean - slope[..., None] * away) ** 2).sum(axis=-1)
    return _Line(len(values), mean, centre, slope, spread, rss)


@dataclass(frozen=True)
class _Spread:
    covariance: Array
    """Of the parameters, dependence included."""
    quantile: float
    """Standard errors that a 95 % interval reaches to either side."""
    sd: float
    """Of a point about the curve."""
    basis: Literal["runs", "residuals"]
    correlation: float | None


def _spread(points: _Points, jacobian: Array, residuals: Array) -> _Spread:
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
        return _Spread(covariance, _t(len(own) - 1), math.sqrt(rss / (count - parameters)), "runs", None)
    if rss <= count * size**2:
        return _Spread(np.zeros_like(inverse), _t(count - parameters), 0.0, "residuals", 0.0)
    variances, weights = _autoregressions(jacobian, residuals)
    meat = (CORRELATIONS[:, None] ** np.arange(count) @ _lagged(jacobian)).reshape(-1, parameters, parameters)
    covariances = variances[:, None, None] * (inverse @ meat @ inverse)  # (correlations, parameters, parameters)
    covariance = np.tensordot(weights, covariances, 1)
    quantile = max(
        _mixture_quantile(np.sqrt(own / own_mean), weights, count - parameters)
        for own, own_mean in zip(np.diagonal(covariances, axis1=1, axis2=2).T, np.diag(covariance), strict=True)
    )
    sd = math.sqrt(float(weights @ variances))
    return _Spread(covariance, quantile, sd, "residuals", float(weights @ CORRELATIONS))


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

    highest = _t(degrees) * float(errors.max())
    return float(brentq(below, 0.0, highest * (1 + ROUNDING)))


@dataclass(frozen=True)
class _Profile:
    """Straight lines y = start + slope (1 - (epoch / first)^-p) / p for many p, the best among them, and their limits.

    A quantity that is linear in start and slope for each p has its limits in closed form: at each p the sum of squares
    that the limit leaves over goes into start and slope, and the outermost over all p counts.
    """

    powers: Array
    """Rising, all that an interval can hold, (powers,)."""
    line: _Line
    """A row for each power."""
    best: int
    """Index of the best power."""
    spread: _Spread
    """Of (start, slope, p)."""
    plain: Array
    """Inverse of jacobian^T jacobian of the same."""
    within: tuple[float, float]
    """Interval of p; 0 and inf where it is open."""

    @property
    def p(self) -> float:
        return float(self.powers[self.best])

    @property
    def slope(self) -> float:
        return float(self.line.slope[self.best])

    @property
    def rss(self) -> float:
        return float(self.line.rss[self.best])

    def value(self, logs: Array) -> Array:
        """The curve at ln(epoch / first)."""
        away = _shape(np.array(self.p), logs) - self.line.centre[self.best]
        return np.asarray(self.line.mean + self.slope * away, dtype=np.float64)

    def band(self, logs: Array) -> tuple[Array, Array, Array]:
        """The curve and its limits at ln(epoch / first)."""
        return self.limits(np.ones_like(logs), _shape(self.powers[:, None], logs), _gradients(self.p, self.slope, logs))

    def rise(self, log: float) -> Interval:
        """How far the curve is above its start at ln(epoch / first)."""
        gradient = _gradients(self.p, self.slope, np.array([log])) * np.array([0.0, 1.0, 1.0])
        found = self.limits(np.zeros(1), _shape(self.powers[:, None], np.array([log])), gradient)
        return Interval(*(float(each[0]) for each in found))

    def limits(self, weight: Array, column: Array, gradients: Array) -> tuple[Array, Array, Array]:
        """weight start + column slope and its limits; weight: (m,), column: (powers, m), gradients: (m, 3)."""
        line = self.line
        left = self.rss + _slack(self.spread, self.plain, gradients) - line.rss[:, None]  # (powers, m)
        away = column - weight * line.centre[:, None]  # (powers, m)
        value = weight * line.mean + line.slope[:, None] * away
        half = np.sqrt(np.maximum(left, 0.0) * (weight**2 / line.count + away**2 / line.spread[:, None]))
        low, high = np.where(left >= 0, value - half, np.inf), np.where(left >= 0, value + half, -np.inf)
        return value[self.best], low.min(axis=0), high.max(axis=0)

    def parameters(self, first: float) -> tuple[Interval, Interval]:
        """c and k of c - k epoch^-p, with `first` the first epoch."""
        straight = bool(self.powers[0] == 0)
        # At p = 0, a straight line in ln(epoch), c and k are infinite; the least p stands in for it in the array.
        powers = self.powers.copy()
        powers[0] = powers[1] if straight else powers[0]
        inverse = 1 / powers
        scale = first**powers * inverse
        factor = first**self.p / self.p
        gradients = np.array(
            [
                [1.0, 1 / self.p, -self.slope / self.p**2],
                [0.0, factor, self.slope * factor * (math.log(first) - 1 / self.p)],
            ]
        )
        values, low, high = self.limits(np.array([1.0, 0.0]), np.stack([inverse, scale], axis=1), gradients)
        left = self.rss + _slack(self.spread, self.plain, gradients)
        endless = [(0, 0), (1, 0)] if straight else []
        endless += [(1, -1)] if math.isinf(self.within[1]) and first > 1 else []
        for quantity, row in endless:
            over = float(left[quantity] - self.line.rss[row])
            if over < 0:
                continue
            slope, half = float(self.line.slope[row]), math.sqrt(over / float(self.line.spread[row]))
            low[quantity] = -math.inf if slope - half < 0 else low[quantity]
            high[quantity] = math.inf if slope + half > 0 else high[quantity]
        c, k = (Interval(float(values[i]), float(low[i]), float(high[i])) for i in (0, 1))
        return c, k


def _profile(points: _Points, logs: Array, p: float, tried: Array) -> _Profile:
    """The profile around the best power `p`; `tried` are powers from 0 to the largest that can be told."""
    line = _line(_shape(np.array([[p]]), logs), points.mean)
    slope = float(line.slope[0])
    jacobian = _gradients(p, slope, logs)  # (n, 3)
    spread = _spread(points, jacobian, points.mean - line.mean - slope * (jacobian[:, 1] - line.centre[0]))
    plain = np.linalg.inv(jacobian.T @ jacobian)
    # No quantity has more slack than the largest eigenvalue gives.
    most = float(np.linalg.eigvals(spread.covariance @ jacobian.T @ jacobian).real.max())
    lowest, highest = _edges(points.mean, logs, p, tried, spread.quantile**2 * most)
    steps = np.linspace(0.0, 1.0, POWERS) ** 2
    powers = np.unique(np.concatenate([p - (p - lowest) * steps, p + (highest - p) * steps]))
    within = _edges(points.mean, logs, p, tried, float(_slack(spread, plain, np.array([0.0, 0.0, 1.0]))))
    return _Profile(
        powers=powers,
        line=_line(_shape(powers[:, None], logs), points.mean),
        best=int(np.searchsorted(powers, p)),
        spread=spread,
        plain=plain,
        within=(within[0], math.inf if within[1] == tried[-1] else within[1]),
    )


def _shape(powers: Array, logs: Array) -> Array:
    """(1 - ratio^-p) / p of the logarithms of the ratios, which is the logarithm itself at p = 0."""
    divisor = np.where(powers > 0, powers, 1.0)
    return np.where(powers > 0, -np.expm1(-powers * logs) / divisor, logs)


def _gradients(p: float, slope: float, logs: Array) -> Array:
    """Of start + slope (1 - ratio^-p) / p by (start, slope, p), (…, 3)."""
    column = _shape(np.array(p), logs)
    return np.stack([np.ones_like(logs), column, slope * (logs * np.exp(-p * logs) - column) / p], axis=-1)


def _slack(spread: _Spread, plain: Array, gradients: Array) -> Array:
    """How much the sum of squares may rise for quantities with these gradients (…, 3)."""
    return spread.quantile**2 * _quadratic(gradients, spread.covariance) / _quadratic(gradients, plain)


def _rss(p: float, logs: Array, values: Array) -> float:
    return float(_line(_shape(np.array([[p]]), logs), values).rss[0])


def _best_power(tried: Array, logs: Array, values: Array) -> float:
    from scipy.optimize import minimize_scalar

    index = int(np.argmin(_line(_shape(tried[:, None], logs), values).rss))
    around = float(tried[max(index - 1, 0)]), float(tried[min(index + 1, len(tried) - 1)])
    found = minimize_scalar(_rss, bounds=around, args=(logs, values), method="bounded", options={"xatol": 1e-10})
    return float(found.x)


def _edges(values: Array, logs: Array, p: float, tried: Array, slack: float) -> tuple[float, float]:
    """The outermost powers whose sum of squares is at most `slack` above that of `p`; the ends of `tried` if none."""
    from scipy.optimize import bisect

    limit = _rss(p, logs, values) + slack
    rss = _line(_shape(tried[:, None], logs), values).rss
    edges = []
    for powers, sums in ((tried[tried < p], rss[tried < p]), (tried[tried > p][::-1], rss[tried > p][::-1])):
        held = np.flatnonzero(sums <= limit)
        first = int(held[0]) if len(held) else len(powers)
        if first == 0:
            edges.append(float(powers[0]))
            continue
        inside = float(powers[first]) if len(held) else p
        # Without any scatter the limit is the least itself.
        outside = float(powers[first - 1])
        edges.append(float(bisect(lambda q: _rss(q, logs, values) - limit, inside, outside)) if slack > 0 else p)
    return edges[0], edges[1]


def _shared(points: _Points, spread: _Spread, rss: float) -> dict[str, Any]:
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


def _quadratic(rows: Array, matrix: Array) -> Array:
    """row^T matrix row for each row (…, n)."""
    return np.asarray(np.einsum("...i,ij,...j->...", rows, matrix, rows), dtype=np.float64)


def _t(degrees: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + CONFIDENCE) / 2))
