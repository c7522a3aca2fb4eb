"""Optuna's TPE inside a cell, by ask and tell. Each suggestion is stored before it runs, and results are told in the order of suggestion."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raybench.config.plan import Cell, Setting, make_setting
from raybench.config.sweep import SweepConfig
from raybench.config.trial import TrialConfig
from raybench.search.cells import Job
from raybench.search.outcomes import Outcomes

if TYPE_CHECKING:
    import optuna


class Suggestions:
    """The suggestions of one cell, kept in a file so that a sweep that stopped goes on with the same ones."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.points: list[dict[str, Any]] = []
        if path.exists():
            self.points = [json.loads(line) for line in path.read_text().splitlines()]

    def add(self, point: dict[str, Any]) -> None:
        """Store one more, whole or not at all."""
        self.points.append(point)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f".{self.path.name}.tmp")
        with draft.open("w") as file:
            file.writelines(json.dumps(point) + "\n" for point in self.points)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)


class TreeParzen:
    """A study a cell: at most `width` settings open at a time, suggested from all that are settled before them."""

    def __init__(self, cell: Cell, sweep: SweepConfig, suggestions: Suggestions, width: int, number: int) -> None:
        self.cell = cell
        self.sweep = sweep
        self.suggestions = suggestions
        self.width = max(1, width)
        self.number = number
        self.total = sweep.tune.num_samples or 0

    def due(self, outcomes: Outcomes) -> list[Job]:
        """The open settings' trials; asks for more suggestions while there is room."""
        settings = list(self.settings())
        while len(settings) < self.total and sum(not self._closed(s, outcomes) for s in settings) < self.width:
            self.suggestions.add(self._ask(settings, outcomes))
            settings = list(self.settings())
        return [
            Job(self.cell.label, (trial,), (trial.schedule.epochs,))
            for setting in settings
            for trial in setting.trials
            if not outcomes.settled(trial.trial_id)
        ]

    def pruned(self, outcomes: Outcomes) -> list[tuple[TrialConfig, str]]:  # noqa: ARG002
        """Nothing is pruned."""
        return []

    def settings(self) -> tuple[Setting, ...]:
        """Every setting suggested so far, in order."""
        return tuple(self._setting(point) for point in self.suggestions.points[: self.total])

    def _setting(self, point: dict[str, Any]) -> Setting:
        return make_setting(self.sweep, self.cell.factors, point)

    @staticmethod
    def _closed(setting: Setting, outcomes: Outcomes) -> bool:
        return all(outcomes.settled(trial.trial_id) for trial in setting.trials)

    def _ask(self, settings: list[Setting], outcomes: Outcomes) -> dict[str, Any]:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # constant_liar: settings still open count as bad ones nearby, so that two open at once differ.
            sampler = optuna.samplers.TPESampler(
                seed=1_000_003 * self.number + len(settings), n_startup_trials=5, constant_liar=True, multivariate=True
            )
        study = optuna.create_study(sampler=sampler, direction="maximize")
        space = {key: distribution(values) for key, values in self.sweep.tune.space.items()}
        for point, setting in zip(self.suggestions.points, settings, strict=False):
            study.add_trial(self._told(point, setting, space, outcomes))
        trial = study.ask(space)
        return {key: as_written(self.sweep.tune.space[key], value) for key, value in trial.params.items()}

    def _told(
        self, point: dict[str, Any], setting: Setting, space: dict[str, Any], outcomes: Outcomes
    ) -> optuna.trial.FrozenTrial:
        import optuna

        params = {key: as_asked(self.sweep.tune.space[key], value) for key, value in point.items()}
        if not self._closed(setting, outcomes):
            state, value = optuna.trial.TrialState.RUNNING, None
        elif (best := outcomes.mean_best(setting)) == float("-inf"):
            state, value = optuna.trial.TrialState.FAIL, None
        else:
            state, value = optuna.trial.TrialState.COMPLETE, best
        return optuna.trial.create_trial(state=state, params=params, distributions=space, value=value)


def distribution(values: Any) -> Any:
    """A sweep file's axis as an Optuna distribution. Values that Optuna cannot hold (mappings, lists) are named by their JSON."""
    import optuna.distributions as kinds

    kind, bounds = next(iter(values.items())) if isinstance(values, dict) else ("choice", values)
    if kind == "choice":
        return kinds.CategoricalDistribution([as_asked(values, value) for value in bounds])
    if kind == "randint":
        return kinds.IntDistribution(bounds[0], bounds[1] - 1)
    low, high = bounds
    return kinds.FloatDistribution(low, high, log=kind == "loguniform")


def as_asked(values: Any, value: Any) -> Any:
    """A value as Optuna holds it."""
    return json.dumps(value) if isinstance(value, dict | list) and values is not None else value


def as_written(values: Any, value: Any) -> Any:
    """A value from Optuna as the sweep file wrote it."""
    bounds = values["choice"] if isinstance(values, dict) and "choice" in values else values
    if isinstance(bounds, list):
        return next(written for written in bounds if as_asked(values, written) == value)
    return value
