"""Optuna's TPE inside a cell, by ask and tell.

Each suggestion is stored before it runs, and results are told in the order of suggestion.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from raybench.config.plan import Cell, Setting, first_values, make_setting
from raybench.config.sweep import SweepConfig
from raybench.config.trial import TrialConfig
from raybench.errors import ResultsError
from raybench.results.storage import Folder, read, write_atomically
from raybench.search.cells import Job, Stages, Stretch
from raybench.search.outcomes import Outcomes

if TYPE_CHECKING:
    import optuna


def suggestions_name(sweep: SweepConfig, cell: Cell) -> str:
    """12 hex digits naming a cell's suggestions: they are for this space, this metric and this trial otherwise."""
    example = make_setting(sweep, cell.point, first_values(sweep)).trials[0].setting_id
    searched = json.dumps([sweep.tune.space, sweep.metric.name, sweep.metric.mode, example], sort_keys=True)
    return hashlib.sha256(searched.encode()).hexdigest()[:12]


class Suggestions:
    """The suggestions of one cell, kept in a file so that a sweep that stopped goes on with the same ones."""

    def __init__(self, path: Folder) -> None:
        self.path = path
        self.points: list[dict[str, Any]] = []
        try:
            self.points = [_point(line) for line in read(path).decode().splitlines()]
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, ValueError, RecursionError) as error:
            raise ResultsError(f"{path}: suggestions cannot be read ({error}); remove the file to begin anew") from None

    def add(self, point: dict[str, Any]) -> None:
        """Store one more, whole or not at all. Raises ResultsError when it cannot be written."""
        self.points.append(point)
        try:
            write_atomically(self.path, "".join(json.dumps(point) + "\n" for point in self.points).encode())
        except ResultsError as error:
            raise ResultsError(f"a suggestion cannot be stored: {error}") from error


def _point(line: str) -> dict[str, Any]:
    point = json.loads(line)
    if not isinstance(point, dict):
        raise ValueError(f"{line.strip()[:40]!r} is no setting")
    return point


class TreeParzen:
    """A study a cell: at most `width` settings open at a time, suggested from all that are settled before them.

    The search is Optuna's (Bergstra et al. 2011, section 4; multivariate as in Falkner et al. 2018).
    """

    eager = True

    def __init__(self, cell: Cell, sweep: SweepConfig, suggestions: Suggestions, width: int, seed: int) -> None:
        self.cell = cell
        self.sweep = sweep
        self.suggestions = suggestions
        self.width = max(1, width)
        self.seed = seed
        self.total = sweep.tune.num_samples or 0
        self._settings: list[Setting] = []

    def due(self, outcomes: Outcomes) -> list[Job]:
        """The open settings' trials; asks for more suggestions while there is room."""
        while len(self.suggestions.points) < self.total and len(self._open(outcomes)) < self.width:
            self.suggestions.add(self._ask(outcomes))
        return self.suggested(outcomes)

    def suggested(self, outcomes: Outcomes) -> list[Job]:
        """The open settings' trials, of what is suggested so far."""
        return [
            Job(self.cell.label, (trial,), (trial.schedule.epochs,))
            for setting in self._open(outcomes)
            for trial in setting.trials
            if not outcomes.settled(trial.trial_id)
        ]

    @property
    def to_come(self) -> int:
        """Trials whose settings are not suggested yet."""
        return max(0, self.total - len(self.suggestions.points)) * len(self.sweep.seeds)

    def ahead(self, outcomes: Outcomes) -> Stages:
        """What was suggested, and as many trials of an example as are not yet. Suggests nothing by itself."""
        now = [Stretch.of(job, outcomes) for job in self.suggested(outcomes)]
        if not self.to_come:
            return [now]
        example = make_setting(self.sweep, self.cell.point, first_values(self.sweep))
        jobs = [Job(self.cell.label, (trial,), (trial.schedule.epochs,)) for trial in example.trials]
        return [now + [Stretch(job, 0) for job in jobs] * (self.to_come // len(jobs))]

    def done(self, outcomes: Outcomes) -> bool:
        """Whether there are as many suggestions as wanted, all settled. Suggests nothing by itself."""
        return len(self.suggestions.points) >= self.total and not self._open(outcomes)

    def pruned(self, outcomes: Outcomes) -> list[tuple[TrialConfig, str]]:  # noqa: ARG002
        """Nothing is pruned."""
        return []

    def settings(self, outcomes: Outcomes) -> tuple[Setting, ...]:  # noqa: ARG002
        """Every setting suggested so far, in order; one suggested again is one."""
        return tuple({setting.trials[0].setting_id: setting for setting in reversed(self._suggested())}.values())[::-1]

    def _suggested(self) -> list[Setting]:
        """The setting of each suggestion."""
        for point in self.suggestions.points[len(self._settings) : self.total]:
            if point.keys() != self.sweep.tune.space.keys():
                wanted = ", ".join(self.sweep.tune.space)
                raise ResultsError(
                    f"{self.suggestions.path}: {json.dumps(point)} is no setting of tune.space: {wanted}"
                )
            try:
                self._settings.append(make_setting(self.sweep, self.cell.point, point))
            except ValidationError as error:
                fault = error.errors()[0]["msg"]
                raise ResultsError(
                    f"{self.suggestions.path}: {json.dumps(point)} is no valid setting: {fault}"
                ) from None
        return self._settings

    def _open(self, outcomes: Outcomes) -> list[Setting]:
        return [setting for setting in self.settings(outcomes) if not self._closed(setting, outcomes)]

    @staticmethod
    def _closed(setting: Setting, outcomes: Outcomes) -> bool:
        return all(outcomes.settled(trial.trial_id) for trial in setting.trials)

    def _ask(self, outcomes: Outcomes) -> dict[str, Any]:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        settings = self._suggested()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # constant_liar: settings still open count as bad ones nearby, so that two open at once differ.
            sampler = optuna.samplers.TPESampler(
                seed=(self.seed + len(settings)) % 2**32, n_startup_trials=5, constant_liar=True, multivariate=True
            )
        study = optuna.create_study(sampler=sampler, direction="maximize")
        space = {key: distribution(values) for key, values in self.sweep.tune.space.items()}
        told = zip(self.suggestions.points, settings, strict=True)
        try:
            study.add_trials([self._told(point, setting, space, outcomes) for point, setting in told])
        except ValueError as error:
            raise ResultsError(
                f"{self.suggestions.path}: a suggestion is none of tune.space ({str(error).splitlines()[0]}); "
                "move the file away, and the cell is tuned anew beside its rows"
            ) from None
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
    """A sweep file's axis as an Optuna distribution; listed values are named by their JSON, which tells 1 from true."""
    import optuna.distributions as kinds

    if listed := _listed(values):
        return kinds.CategoricalDistribution(list(dict.fromkeys(map(json.dumps, listed))))
    kind, (low, high) = next(iter(values.items()))
    if kind == "randint":
        return kinds.IntDistribution(low, high - 1)
    return kinds.FloatDistribution(low, high, log=kind == "loguniform")


def as_asked(values: Any, value: Any) -> Any:
    """A value of an axis as Optuna holds it."""
    return json.dumps(value) if _listed(values) else value


def as_written(values: Any, value: Any) -> Any:
    """A value from Optuna as the sweep file wrote it."""
    return json.loads(value) if _listed(values) else value


def _listed(values: Any) -> list[Any] | None:
    choices = values.get("choice") if isinstance(values, dict) else values
    return choices if isinstance(choices, list) else None
