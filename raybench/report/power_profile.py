"""The power law y = c - k epoch^-p as straight lines in its shape, one for each p, and the limits of what follows.

It is found by variable projection (Golub and Pereyra 1973, "The differentiation of pseudo-inverses and nonlinear least
squares problems whose variables separate"): for a given p it is a straight line in (1 - (epoch / first)^-p) / p, which
at p = 0 is ln(epoch / first), so a search over p alone finds the best. Its intervals are profile intervals (Bates and
Watts 1988, "Nonlinear regression analysis and its applications", section 6.1): all values for which the best of the
other two parameters leaves a sum of squares within a limit, scaled for dependence as Chandler and Bate 2007, "Inference
for clustered data using the independence loglikelihood", do. They need not be symmetric; where the data do not bound
the ceiling c, there is no fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from raybench.report.spread import Array, Line, Points, Spread, line_of, quadratic, spread_of

POWERS = 160
"""Of p tried before the search begins between the best one's neighbours; and on either side for an interval."""


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Profile:
    """Straight lines y = start + slope (1 - (epoch / first)^-p) / p for many p, the best among them, and their limits.

    A quantity that is linear in start and slope for each p has its limits in closed form: at each p the sum of squares
    that the limit leaves over goes into start and slope, and the outermost over all p counts.
    """

    powers: Array
    """Rising, all that an interval can hold, (powers,)."""
    line: Line
    """A row for each power."""
    best: int
    """Index of the best power."""
    spread: Spread
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


def profile_of(points: Points, logs: Array, p: float, tried: Array) -> Profile:
    """The profile around the best power `p`; `tried` are powers from 0 to the largest that can be told."""
    line = line_of(_shape(np.array([[p]]), logs), points.mean)
    slope = float(line.slope[0])
    jacobian = _gradients(p, slope, logs)  # (n, 3)
    spread = spread_of(points, jacobian, points.mean - line.mean - slope * (jacobian[:, 1] - line.centre[0]))
    plain = np.linalg.inv(jacobian.T @ jacobian)
    # No quantity has more slack than the largest eigenvalue gives.
    most = float(np.linalg.eigvals(spread.covariance @ jacobian.T @ jacobian).real.max())
    lowest, highest = _edges(points.mean, logs, p, tried, spread.quantile**2 * most)
    steps = np.linspace(0.0, 1.0, POWERS) ** 2
    powers = np.unique(np.concatenate([p - (p - lowest) * steps, p + (highest - p) * steps]))
    within = _edges(points.mean, logs, p, tried, float(_slack(spread, plain, np.array([0.0, 0.0, 1.0]))))
    return Profile(
        powers=powers,
        line=line_of(_shape(powers[:, None], logs), points.mean),
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


def _slack(spread: Spread, plain: Array, gradients: Array) -> Array:
    """How much the sum of squares may rise for quantities with these gradients (…, 3)."""
    return spread.quantile**2 * quadratic(gradients, spread.covariance) / quadratic(gradients, plain)


def _rss(p: float, logs: Array, values: Array) -> float:
    return float(line_of(_shape(np.array([[p]]), logs), values).rss[0])


def best_power(tried: Array, logs: Array, values: Array) -> float:
    """The p with the least sum of squares, near the best of those `tried`."""
    from scipy.optimize import minimize_scalar

    index = int(np.argmin(line_of(_shape(tried[:, None], logs), values).rss))
    around = float(tried[max(index - 1, 0)]), float(tried[min(index + 1, len(tried) - 1)])
    found = minimize_scalar(_rss, bounds=around, args=(logs, values), method="bounded", options={"xatol": 1e-10})
    return float(found.x)


def _edges(values: Array, logs: Array, p: float, tried: Array, slack: float) -> tuple[float, float]:
    """The outermost powers whose sum of squares is at most `slack` above that of `p`; the ends of `tried` if none."""
    from scipy.optimize import bisect

    limit = _rss(p, logs, values) + slack
    rss = line_of(_shape(tried[:, None], logs), values).rss
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
