"""Which hyperparameters matter: shares of the variance between settings, by fANOVA on the stored rows.

Source: Hutter, Hoos and Leyton-Brown 2014, "An Efficient Approach for Assessing Hyperparameter Importance", as Optuna
computes it. The forest is grown on settings, the seeds of each averaged first.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, pvariance, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from raybench.config.sweep import better
from raybench.report.figures import ALONE, COLOURS, INK, drawing, title_panel
from raybench.report.naming import key_title, metric_words, population_titles
from raybench.report.scale import make_scale, normal
from raybench.report.settings import (
    SPEEDS,
    TRAIN_SIZE,
    Population,
    SettingRow,
    log_of,
    row_facts,
    settings_of,
    varying_keys,
)

if TYPE_CHECKING:
    import optuna

MIN_SETTINGS = 6
"""Fewer settings than this tell no share of anything."""
MAX_SETTINGS = 300
"""More are thinned at random: the time grows faster than their number."""
MAX_NAMES = 6
"""Names of a key that get a column each, as they must; time doubles with each of them."""
TREES = 64
REDRAWS = 8
REDRAW_TREES = 16
SEED = 0
MAX_PANELS = 4


class Importance(NamedTuple):
    """How much of the variance between settings a key explains by itself, whatever the others are."""

    key: str
    mean: float
    """From 0 to 1. What all keys together leave is interactions between them."""
    spread: float
    """Sample sd over bootstrap draws of the settings: how far the share hangs on which settings were tried."""


def importance(trials: pl.DataFrame, keys: Sequence[str] | None, metric: str) -> list[Importance]:
    """Share of the variance of `metric` that each key explains alone, the largest first.

    keys: dotted, such as `optimizer.lr`; None: all that vary. Left out are keys that do not vary and those that tell
    settings apart just as another does. The train size is always among them where it varies, so that it is not taken
    for noise. Rates and what spans a decade count by their logarithm. Empty below `MIN_SETTINGS` settings or where the
    metric does not vary. The same rows give the same numbers. Raises ValueError for rows of several sweeps, presets or
    data variants, whose differences are no hyperparameter's.
    """
    panels = populations(trials, metric)
    if len(panels) > 1:
        titles = population_titles(list(panels))
        raise ValueError(f"importance is told within one population of rows, not {'; '.join(titles.values())}")
    return next((importances(settings, keys, metric) for settings in panels.values()), [])


def populations(trials: pl.DataFrame, metric: str) -> dict[Population, list[SettingRow]]:
    """The settings of each sweep, preset and data; train sizes together."""
    panels: dict[Population, list[SettingRow]] = {}
    for each in settings_of(trials, metric, by_device=metric in SPEEDS):
        panels.setdefault(replace(each.population, train_size=None), []).append(each)
    return panels


def importances(settings: Sequence[SettingRow], keys: Sequence[str] | None, metric: str) -> list[Importance]:
    """As `importance`, of settings that are one population."""
    chosen = _chosen(settings, keys)
    settings = thinned(settings)
    scores = [each.estimate.mean for each in settings]
    if not chosen or len(settings) < MIN_SETTINGS or pvariance(scores) == 0:
        return []
    columns = {key: _coded(key, [normal(each.values.get(key)) for each in settings], scores) for key in chosen}
    whole = _shares(columns, range(len(settings)), scores, metric, TREES)
    source = random.Random(SEED)
    drawn: list[dict[str, float]] = []
    while len(drawn) < REDRAWS:
        draw = source.choices(range(len(settings)), k=len(settings))
        if len({scores[index] for index in draw}) > 1:
            drawn.append(_shares(columns, draw, scores, metric, REDRAW_TREES))
    found = [Importance(key, share, stdev(each[key] for each in drawn)) for key, share in whole.items()]
    return sorted(found, key=lambda each: -each.mean)


def _chosen(settings: Sequence[SettingRow], keys: Sequence[str] | None) -> list[str]:
    if keys is None:
        return varying_keys(settings)
    asked = dict.fromkeys([TRAIN_SIZE, *keys])
    return varying_keys([replace(each, values={key: each.values.get(key) for key in asked}) for each in settings])


def thinned(settings: Sequence[SettingRow], most: int = MAX_SETTINGS) -> list[SettingRow]:
    """At most so many, drawn at random once for all, in their order."""
    if len(settings) <= most:
        return list(settings)
    return [settings[index] for index in sorted(random.Random(SEED).sample(range(len(settings)), most))]


def _coded(
    key: str, values: Sequence[float | str], scores: Sequence[float]
) -> tuple[optuna.distributions.BaseDistribution, list[Any]]:
    """A key as Optuna takes it: a range with the values in it, or names.

    fANOVA weighs every part of a range by its width and knows no logarithm, so that numbers are given by their position
    on their scale, each with the room halfway to its neighbours.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    scale = make_scale(values, log_of(key))
    if scale.kind != "names":
        return FloatDistribution(*scale.bounds), [scale.position(value) for value in values]
    names = sorted(set(map(str, values)))
    if len(names) <= MAX_NAMES:
        return CategoricalDistribution(names), list(map(str, values))
    # By rising mean a tree finds the best split of names as of numbers (Breiman et al. 1984, section 4.2).
    means = {name: fmean(s for v, s in zip(values, scores, strict=True) if str(v) == name) for name in names}
    ranks = {name: float(rank) for rank, name in enumerate(sorted(names, key=lambda name: means[name]))}
    return FloatDistribution(-0.5, len(names) - 0.5), [ranks[str(value)] for value in values]


def _shares(
    columns: dict[str, tuple[Any, list[Any]]], rows: Sequence[int], scores: Sequence[float], metric: str, trees: int
) -> dict[str, float]:
    """Key -> share, of a forest grown on these rows."""
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize" if better(metric) == "max" else "minimize")
    distributions = {key: distribution for key, (distribution, _) in columns.items()}
    study.add_trials(
        [
            optuna.trial.create_trial(
                params={key: values[row] for key, (_, values) in columns.items()},
                distributions=distributions,
                value=scores[row],
            )
            for row in rows
        ]
    )
    with warnings.catch_warnings():
        # Shares of the whole variance are what is wanted; that they are not made to sum to 1 is called experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return get_param_importances(
            study,
            evaluator=FanovaImportanceEvaluator(n_trees=trees, seed=SEED),
            params=list(columns),
            normalize=False,
        )


def noise_share(settings: Sequence[SettingRow]) -> float | None:
    """Share of the variance between settings' means that their seeds alone would make; None without repeated seeds."""
    repeated = [each.estimate for each in settings if each.estimate.sd is not None]
    between = pvariance([each.estimate.mean for each in settings]) if len(settings) > 1 else 0.0
    if not repeated or between == 0:
        return None
    return min(1.0, fmean((each.sd or 0.0) ** 2 / each.n for each in repeated) / between)


def importance_figure(
    trials: pl.DataFrame,
    keys: Sequence[str] | None,
    metric: str,
    path: Path,
    title: str = "",
    source: str = "",
) -> Path | None:
    """A bar a key with its spread, and one of what all keys leave; a panel a population. None where nothing varies.

    The folder of `path` is made; its suffix (.png, .svg, .pdf) decides the format.
    """
    panels = {population: (s, importances(s, keys, metric)) for population, s in populations(trials, metric).items()}
    shown = dict([(population, pair) for population, pair in panels.items() if pair[1]][:MAX_PANELS])
    if not shown:
        return None
    titles = population_titles(list(shown))
    most = max(len(found) for _, found in shown.values())
    with drawing() as new_figure:
        heading = title or f"What explains {metric_words(metric)}"
        axes, close = new_figure(heading, len(shown), max(1.7, 0.3 * (most + 1) + 0.8), 1)
        for axis, (population, (_, found)) in zip(axes, shown.items(), strict=True):
            title_panel(axis, titles[population], 1)
            _draw_bars(axis, found)
        settings = [each for members, _ in shown.values() for each in members]
        close([], f"{_explained(shown)} {row_facts(settings, trials, source)}", path)
    return path


def _draw_bars(axis: Any, found: Sequence[Importance]) -> None:
    left = max(0.0, 1 - math.fsum(each.mean for each in found))
    names = [*(key_title(each.key) for each in found), "together only"]
    shares = [100 * share for share in (*(each.mean for each in found), left)]
    axis.barh(range(len(found)), shares[:-1], color=COLOURS[0], height=0.62)
    axis.barh([len(found)], shares[-1:], color="white", edgecolor=ALONE, hatch="////", height=0.62)
    for row, share in enumerate(shares):
        low, high = share, share
        if row < len(found):
            low, high = max(0.0, share - 100 * found[row].spread), share + 100 * found[row].spread
            axis.plot([low, high], [row, row], color=INK, linewidth=1.5, solid_capstyle="butt")
        axis.annotate(f"{share:.0f}", (high, row), (5, 0), textcoords="offset points", va="center", fontsize=9)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlim(0, 112)
    axis.set_xticks(range(0, 101, 20))
    axis.grid(visible=False, axis="y")
    axis.set_xlabel("share of the variance between settings (%)")


def _explained(shown: dict[Population, tuple[list[SettingRow], list[Importance]]]) -> str:
    said = (
        "Bars: what a key explains by itself (fANOVA); hatched: what only several together do, chance included. "
        f"Lines: one sample sd over {REDRAWS} bootstrap draws of the settings."
    )
    titles = population_titles(list(shown))
    for population, (settings, _) in shown.items():
        count = f"{len(settings):,} settings"
        title = titles[population]
        said += f" {title[0].upper()}{title[1:]}:" if title else ""
        said += f" {MAX_SETTINGS} of {count}, drawn at random" if len(settings) > MAX_SETTINGS else f" {count}"
        if (noise := noise_share(settings)) is not None:
            said += f", whose seeds alone would make {100 * noise:.0f} % of this variance"
        said += "."
    return said
