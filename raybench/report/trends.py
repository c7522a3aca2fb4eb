"""Curves of a comparison as formulas: how each cell still rises, and where it would overtake its baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from raybench.report.comparison import CellResult, Mode
from raybench.report.crossing import Crossing, NoCrossing, crossover
from raybench.report.fits import LogFit, PowerFit, log_fit_at, power_fit_at
from raybench.report.holdout import Holdout, holdout_error_at
from raybench.report.selected import selected_epochs
from raybench.report.sheet import Column, Sheet, key_columns, ordered, quantity_title, readable
from raybench.report.spread import Points, Undetermined, points_at

HORIZON = 10
"""Times the longest curve, up to which a crossing is looked for."""


@dataclass(frozen=True)
class Trend:
    """The validation curve of a cell's selected setting, the mean over its seeds."""

    label: str
    runs: int
    log: LogFit | Undetermined
    power: PowerFit | Undetermined
    hidden: Holdout | Undetermined
    """The logarithm fitted to the first two thirds, against the last."""
    crossing: Crossing | NoCrossing | None
    """With the curve of the cell it is compared with; none without such a cell, or without both fits."""


def trends(results: Sequence[CellResult], epochs: pl.DataFrame, metric: str) -> tuple[list[Trend], float]:
    """A trend for each cell that has curves, in the order of `results`, and the horizon of their crossings.

    `epochs` holds one row a trial and epoch (`Store.epochs()`).
    """
    parts = selected_epochs(results, epochs, (metric,))
    curves = {label: found for label, rows in parts.items() if (found := _points(rows, metric)) is not None}
    fits = {label: log_fit_at(found) for label, found in curves.items()}
    longest = max((float(found.epochs[-1]) for found in curves.values()), default=0.0)
    horizon = HORIZON * longest
    trends = []
    for result in results:
        if result.label not in curves:
            continue
        points, log = curves[result.label], fits[result.label]
        base = fits.get(result.baseline) if result.baseline else None
        crossing = None
        if isinstance(log, LogFit) and isinstance(base, LogFit):
            crossing = crossover(log, base, horizon)
        trends.append(
            Trend(
                label=result.label,
                runs=len(points.runs),
                log=log,
                power=power_fit_at(points),
                hidden=holdout_error_at(points),
                crossing=crossing,
            )
        )
    return trends, horizon


def _points(rows: pl.DataFrame, metric: str) -> Points | None:
    """The values of all trials, in order of trial and epoch; those that ended early would bend the mean."""
    rows = rows.filter(pl.col(metric).is_finite())
    rows = rows.filter(pl.col("epoch").max().over("trial_id") == pl.col("epoch").max())
    if not rows.height:
        return None
    epochs, values = (rows[name].cast(pl.Float64).to_numpy() for name in ("epoch", metric))
    found = points_at(rows["trial_id"].rle_id().cast(pl.Int64).to_numpy(), epochs, values)
    assert isinstance(found, Points), "every value is finite"
    return found


def trend_sheet(
    found: Sequence[Trend], horizon: float, results: Sequence[CellResult], metric: str, mode: Mode = "max"
) -> Sheet:
    """The same as a table, in the order of the comparison's."""
    known = {trend.label: trend for trend in found}
    rows = [result for group in ordered(readable(results)) for result in group if result.label in known]
    shown = [known[result.label] for result in rows]
    ceilings = [f"{_ceiling(trend.power)}{' !' * _impossible(trend.power, metric)}" for trend in shown]
    return Sheet.plain(
        title=f"trends of validation {quantity_title(metric)}",
        subtitle="",
        keys=key_columns(rows),
        columns=[
            Column("y = a + b ln(epoch)\na", tuple(_a(trend.log) for trend in shown), right=True),
            Column("\nb, 95 % interval", tuple(_b(trend.log) for trend in shown), right=True),
            Column("\nR²", tuple(_r2(trend.log) for trend in shown), right=True),
            Column("hidden third\nmean error", tuple(_hidden(trend.hidden) for trend in shown), right=True),
            Column("crosses its baseline\nat epoch", tuple(_crossing(trend.crossing, mode) for trend in shown)),
            Column("power law\nceiling, 95 % interval", tuple(ceilings), right=True),
            Column("\nruns", tuple(str(trend.runs) for trend in shown), right=True),
        ],
        labels=[result.label for result in rows],
        footnotes=[
            "fits to the mean curve over the seeds of the selected setting. An interval says how well a formula is "
            "known if the curve is of that formula; the hidden third says whether it is: |predicted - measured| on the "
            "last third of the curve by a fit to the rest, in the metric's unit, and the share inside the 95 % "
            "interval.",
            f"crossing: of both logarithms, looked for up to epoch {horizon:,.0f} ({HORIZON} times the longest curve); "
            "beyond what was trained it is an extrapolation (*).",
            "power law: y = c - k epoch^-p; its ceiling is c; empty where the curve does not tell one.",
            *["! above 100 %, where no accuracy gets: the law holds no further than the curve."]
            * any(_impossible(trend.power, metric) for trend in shown),
        ],
    )


def _impossible(fit: PowerFit | Undetermined, metric: str) -> bool:
    return isinstance(fit, PowerFit) and "%" in quantity_title(metric) and fit.c > 100


def trend_record(found: Trend | None) -> dict[str, Any]:
    """The same for other programs: every number in full, the same keys for each; none where the curve does not tell."""
    log = found.log if found and isinstance(found.log, LogFit) else None
    power = found.power if found and isinstance(found.power, PowerFit) else None
    hidden = found.hidden if found and isinstance(found.hidden, Holdout) else None
    crossing = found.crossing if found and isinstance(found.crossing, Crossing) else None
    without = found.crossing if found and isinstance(found.crossing, NoCrossing) else None
    return {
        "runs": found.runs if found else None,
        **_numbers(log, "log", ("a", "b")),
        "log_r2": log.r2 if log else None,
        **_numbers(power, "power", ("c", "k", "p")),
        "power_r2": power.r2 if power else None,
        "hidden_third_mean_absolute": hidden.mean_absolute if hidden else None,
        "hidden_third_bias": hidden.bias if hidden else None,
        "hidden_third_inside": hidden.inside if hidden else None,
        "crossing_epoch": crossing.epoch if crossing else None,
        "crossing_low": crossing.low if crossing else None,
        "crossing_high": crossing.high if crossing else None,
        "crossing_rises": crossing.rises if crossing else None,
        "crossing_extrapolated": crossing.extrapolated if crossing else None,
        "no_crossing": without.reason if without else None,
        "no_crossing_possible_from": without.possible_from if without else None,
    }


def _numbers(fit: LogFit | PowerFit | None, name: str, parts: Sequence[str]) -> dict[str, float | None]:
    """Each with its 95 % interval."""
    found: dict[str, float | None] = {}
    for part in parts:
        low, high = getattr(fit, f"{part}_interval") if fit else (None, None)
        value = getattr(fit, part) if fit else None
        found |= {f"{name}_{part}": value, f"{name}_{part}_low": low, f"{name}_{part}_high": high}
    return found


def _a(fit: LogFit | Undetermined) -> str:
    return f"{fit.a:.4g}" if isinstance(fit, LogFit) else ""


def _b(fit: LogFit | Undetermined) -> str:
    if not isinstance(fit, LogFit):
        return ""
    low, high = fit.b_interval
    return f"{fit.b:.3g} [{low:.3g}, {high:.3g}]"


def _r2(fit: LogFit | Undetermined) -> str:
    return f"{fit.r2:.3f}" if isinstance(fit, LogFit) else ""


def _hidden(found: Holdout | Undetermined) -> str:
    return f"{found.mean_absolute:.2g} ({100 * found.inside:.0f} %)" if isinstance(found, Holdout) else ""


def _crossing(found: Crossing | NoCrossing | None, mode: Mode) -> str:
    if found is None:
        return ""
    if isinstance(found, NoCrossing):
        return "none within the horizon" if found.possible_from is None else "none; not excluded"
    low, high = (f"{end:,.0f}" if end is not None else "…" for end in (found.low, found.high))
    star = " *" if found.extrapolated else ""
    way = "overtakes" if found.rises == (mode == "max") else "falls behind"
    return f"{found.epoch:,.0f} [{low}, {high}] {way}{star}"


def _ceiling(fit: PowerFit | Undetermined) -> str:
    if not isinstance(fit, PowerFit):
        return ""
    low, high = fit.c_interval
    return f"{fit.c:.4g} [{low:.4g}, {high:.4g}]"
