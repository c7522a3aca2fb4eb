"""How far to trust a formula beyond what was trained: fitted to two thirds of a curve and held against the last."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from raybench.report.fits import LEAST_OF_LOG, LogFit, PowerFit, log_fit_at, power_fit_at
from raybench.report.spread import Curve, Points, Undetermined, points_of, unfit

Kind = Literal["log", "power"]


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
    points = points_of(curves)
    return points if isinstance(points, Undetermined) else holdout_error_at(points, fit)


def holdout_error_at(points: Points, fit: Kind = "log") -> Holdout | Undetermined:
    """`holdout_error_of_runs` of runs that are points already."""
    if fault := unfit(points, LEAST_OF_LOG):
        return fault
    hidden = len(points.epochs) // 3
    seen = points.before(float(points.epochs[-hidden]))
    found = log_fit_at(seen) if fit == "log" else power_fit_at(seen)
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
