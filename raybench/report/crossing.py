"""Where two curves meet, with the uncertainty of both; or that they do not within a horizon."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from raybench.report.fits import LogFit, PowerFit
from raybench.report.spread import ROUNDING, Array
from raybench.report.statistics import Estimate

STEPS = 600
"""Epochs, evenly spaced in the logarithm, between which a crossing is looked for."""


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
        return curve.value(np.exp(logs))
    return np.full_like(logs, curve.mean if isinstance(curve, Estimate) else curve)


def _band(curve: Side, logs: Array) -> tuple[Array, Array, Array]:
    if isinstance(curve, LogFit | PowerFit):
        return curve.band(np.exp(logs))
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
