"""From a sweep to cells, settings and trials.

A cell is one point of the grid of factors and is never pruned away; a setting is one choice of what is tuned inside it;
a trial is a setting with a seed.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pydantic import ValidationError

from raybench.config.faults import COMMAND_LINE, Faults, messages
from raybench.config.keys import get, put
from raybench.config.space import axis_values, corners, draw, grid
from raybench.config.sweep import SweepConfig
from raybench.config.trial import ModelConfig, TrialConfig, trial_keys
from raybench.errors import ConfigError

OfModel = TypeVar("OfModel", bound=ModelConfig)

MAX_TRIALS = 100_000
"""A plan larger than this is a mistake rather than a sweep."""


@dataclass(frozen=True)
class Setting:
    """One choice of the tuned hyperparameters in a cell, with one trial a seed."""

    tuned: dict[str, Any]
    trials: tuple[TrialConfig, ...]


@dataclass(frozen=True)
class Cell:
    """One point of the grid of factors."""

    label: str
    factors: dict[str, Any]
    """Dotted key -> value; keys that cannot matter here (the kind of distillation at alpha 0) are left out."""
    baseline: str | None
    """Label of the cell of the student alone with the same other factors; none for that cell itself."""
    settings: tuple[Setting, ...]
    point: dict[str, Any] = field(default_factory=dict)
    """Every factor with its value as the sweep file has it, from which more settings can be made."""
    asked: int | None = None
    """Seeds that were asked for of each setting; none where only trials that were run are known."""
    aside: tuple[TrialConfig, ...] = ()
    """Trials that were run of settings that do not compete: they count, and cost what they cost."""


@dataclass(frozen=True)
class Plan:
    """Everything a sweep wants. With `tpe` a cell's settings are suggested one by one and are not here."""

    sweep: SweepConfig
    cells: tuple[Cell, ...]

    @property
    def task(self) -> str:
        """The kind of task of every trial."""
        return str(self.sweep.base.get("task", TrialConfig.model_fields["task"].default))

    def trials(self) -> Iterator[TrialConfig]:
        """Every trial once, cell by cell."""
        for cell in self.cells:
            for setting in cell.settings:
                yield from setting.trials


def make_plan(sweep: SweepConfig) -> Plan:
    """Every cell of the grid with its settings. Raises ConfigError with each distinct fault of any point."""
    _check_size(sweep)
    # Faults that many points share are said once, with the first of them.
    faults: dict[tuple[str, str], str] = {}
    cells: dict[str, Cell] = {}
    baselines: dict[str, str | None] = {}
    for values in itertools.product(*sweep.factors.values()):
        point = dict(zip(sweep.factors, values, strict=True))
        try:
            cell, baseline = make_cell(sweep, point)
        except PointError as error:
            for fault in messages(error.cause, trial_keys()):
                faults.setdefault(fault, ", ".join(f"{key} = {show(value)}" for key, value in error.point.items()))
            continue
        key = _key(cell.factors)
        if key not in cells:
            cells[key], baselines[key] = cell, baseline
    _raise_any(sweep, faults)
    labels = _distinct_labels(cells)
    return Plan(
        sweep,
        tuple(
            replace(cell, label=labels[key], baseline=labels.get(baselines[key] or "")) for key, cell in cells.items()
        ),
    )


class PointError(Exception):
    """One point of the grid is no valid trial."""

    def __init__(self, point: dict[str, Any], cause: ValidationError) -> None:
        self.point = point
        self.cause = cause
        super().__init__(point)


def _check_size(sweep: SweepConfig) -> None:
    points = math.prod(len(values) for values in sweep.factors.values())
    if sweep.tune.algorithm == "grid":
        settings = math.prod(len(axis_values(values)) for values in sweep.tune.space.values())
    else:
        settings = sweep.tune.num_samples or 1
    if (total := points * settings * len(sweep.seeds)) > MAX_TRIALS:
        shorter = "Shorten an axis, or use algorithm: random" if sweep.tune.algorithm == "grid" else "Ask for fewer"
        parts = f"{points:,} cells x {settings:,} settings x {len(sweep.seeds):,} seeds"
        raise ConfigError([f"{sweep.name}: {parts} = {total:,} trials; at most {MAX_TRIALS:,} are allowed. {shorter}"])


def _raise_any(sweep: SweepConfig, faults: dict[tuple[str, str], str]) -> None:
    found = Faults()
    for (key, text), where in faults.items():
        found.add(_place(sweep, key, text), f"{text} (at {where})" if where else text)
    found.raise_any()


def _place(sweep: SweepConfig, key: str, text: str) -> str:
    """Where a rule between several keys is broken: the command line if it set a key that is named, else an axis."""
    axes = (*sweep.factors, *sweep.tune.space)
    related = [name for name in (*axes, *sweep.places) if _related(name, key)]
    named = [sweep.places[name] for name in related if name in sweep.places and name.rpartition(".")[2] in text]
    if COMMAND_LINE in named:
        return COMMAND_LINE
    return next((sweep.places[name] for name in related if name in sweep.places), sweep.name)


def _related(axis: str, key: str) -> bool:
    return f"{axis}.".startswith(f"{key}.") or f"{key}.".startswith(f"{axis}.")


def _distinct_labels(cells: dict[str, Cell]) -> dict[str, str]:
    """Key -> label; cells whose labels would read the same are told apart by all that their values hold."""
    readers = Counter(cell.label for cell in cells.values())
    return {key: cell.label if readers[cell.label] == 1 else f"{cell.label} {key}" for key, cell in cells.items()}


def make_cell(sweep: SweepConfig, point: dict[str, Any]) -> tuple[Cell, str | None]:
    """The cell at one point of the factors, and the key of the cell of the student alone.

    Raises PointError where the point is not a valid trial with some choice of what is tuned.
    """
    keys, tuned_keys = list(sweep.factors), list(sweep.tune.space)
    choices = tuned_points(sweep) or corners(sweep.tune.space)
    trials = [_valid_trial(sweep, point | tuned) for tuned in choices]
    settings: dict[str, Setting] = {}
    if sweep.tune.algorithm != "tpe":
        for tuned, trial in zip(choices, trials, strict=True):
            if trial.setting_id not in settings:
                settings[trial.setting_id] = Setting(tuned, _with_seeds(sweep, trial))
    factors = cell_factors(trials, keys, tuned_keys)
    baseline = None
    if any(key.partition(".")[0] == "distillation" for key in keys):
        alone = [trial_at(sweep, point | tuned | {"distillation.alpha": 0.0}) for tuned in choices]
        baseline = _key(cell_factors(alone, keys, tuned_keys))
    own = _key(factors)
    cell = Cell(label(factors), factors, None, tuple(settings.values()), point)
    return cell, baseline if baseline != own else None


def _key(factors: dict[str, Any]) -> str:
    """What makes two cells the same one."""
    return json.dumps(factors, sort_keys=True)


def _valid_trial(sweep: SweepConfig, values: dict[str, Any]) -> TrialConfig:
    try:
        return trial_at(sweep, values)
    except ValidationError as error:
        raise PointError(values, error) from None


def make_setting(sweep: SweepConfig, chosen: dict[str, Any], tuned: dict[str, Any]) -> Setting:
    """One setting of a cell, with a trial a seed."""
    return Setting(tuned, _with_seeds(sweep, trial_at(sweep, chosen | tuned)))


def _with_seeds(sweep: SweepConfig, trial: TrialConfig) -> tuple[TrialConfig, ...]:
    return tuple(trial.model_copy(update={"seed": seed}) for seed in sweep.seeds)


def trial_at(sweep: SweepConfig, values: dict[str, Any]) -> TrialConfig:
    """The trial of the sweep's base with these dotted keys set."""
    content = json.loads(json.dumps(sweep.base))
    # A section set as a whole comes before the keys inside it.
    for key in sorted(values, key=lambda key: key.count(".")):
        put(content, key, json.loads(json.dumps(values[key])))
    return _identified(TrialConfig.model_validate(content), sweep)


def example_trials(plan: Plan) -> Iterator[TrialConfig]:
    """A trial of each setting there is, and of each cell whose settings are not known yet."""
    for cell in plan.cells:
        settings = cell.settings or (make_setting(plan.sweep, cell.point, first_values(plan.sweep)),)
        yield from (setting.trials[0] for setting in settings)


def _identified(trial: TrialConfig, sweep: SweepConfig) -> TrialConfig:
    """The trial with what its data, weight files and the code from outside are, as far as the sweep knows."""
    changed: dict[str, Any] = {}
    fingerprint = trial.dataset.fingerprint or sweep.fingerprints.get(trial.dataset.data_key, "")
    if fingerprint != trial.dataset.fingerprint:
        changed["dataset"] = trial.dataset.model_copy(update={"fingerprint": fingerprint})
    if sweep.codes or sweep.digests:
        distillation = trial.distillation
        of_loss = distillation.code or sweep.codes.get(f"loss {distillation.type}", "")
        own = {"code": of_loss, "teacher": _told(distillation.teacher, sweep) if distillation.teacher else None}
        changed |= {"model": _told(trial.model, sweep), "distillation": distillation.model_copy(update=own)}
    return trial.model_copy(update=changed) if changed else trial


def _told(model: OfModel, sweep: SweepConfig) -> OfModel:
    """The model with the identity of its code and of its weight file."""
    code = model.code or sweep.codes.get(f"model {model.name}", "")
    digest = model.digest or sweep.digests.get(weights_key(model), "")
    return model.model_copy(update={"code": code, "digest": digest})


def weights_key(model: ModelConfig) -> str:
    """Key of `SweepConfig.digests`."""
    return f"{model.name} {model.weights}"


def outside(trials: Iterable[TrialConfig]) -> dict[str, str]:
    """What these trials use from outside the repository, by the keys of `SweepConfig.codes`."""
    found: dict[str, str] = {}
    for trial in trials:
        found[f"model {trial.model.name}"] = trial.model.code
        if (teacher := trial.distillation.teacher) is not None:
            found[f"model {teacher.name}"] = teacher.code
        found[f"loss {trial.distillation.type}"] = trial.distillation.code
    return {name: code for name, code in found.items() if code}


def tuned_points(sweep: SweepConfig) -> Sequence[dict[str, Any]]:
    """The settings tried in every cell: the grid, or random draws, the same in each cell; none yet for `tpe`."""
    space = sweep.tune.space
    if sweep.tune.algorithm == "grid":
        return grid(space)
    if sweep.tune.algorithm == "random":
        return [draw(space, index) for index in range(sweep.tune.num_samples or 0)]
    return []


def first_values(sweep: SweepConfig) -> dict[str, Any]:
    """Some valid value of every tuned key, to make an example trial of a cell."""
    return draw(sweep.tune.space, 0)


def cell_factors(trials: Sequence[TrialConfig], keys: Sequence[str], tuned: Sequence[str] = ()) -> dict[str, Any]:
    """The factors that matter for some of a cell's trials, with the values they really have.

    A section is given by what differs from its defaults, without what is a factor or tuned for itself.
    """
    inert = frozenset.intersection(*(trial.inert() for trial in trials))
    trial = trials[0].at_defaults(inert)
    found: dict[str, Any] = {}
    for key in keys:
        if not any(key == name or key.startswith(f"{name}.") for name in inert):
            found[key] = _value(trial, key, [other for other in (*keys, *tuned) if other.startswith(f"{key}.")])
        elif key == "distillation.type" and "distillation.alpha" not in keys:
            found[key] = "none"
    return found


def _value(trial: TrialConfig, key: str, apart: Sequence[str]) -> Any:
    value = get(trial.model_dump(mode="json"), key)
    if not isinstance(value, dict) or key.endswith(".options"):
        return value
    content = trial.model_dump(mode="json", exclude_defaults=True)
    # The name says which model or kind it is; its code and its weights' digest only tell trials apart.
    for other in (*apart, f"{key}.code", f"{key}.digest"):
        section, _, last = other.rpartition(".")
        (get(content, section) or {}).pop(last, None)
    return get(content, key) or {}


def label(factors: dict[str, Any]) -> str:
    """A cell's name, the same wherever the same factors are compared: `alpha=0.5 type=hard train_size=500`."""
    return " ".join(f"{short_key(key)}={show(value)}" for key, value in factors.items()) or "all"


def short_key(key: str) -> str:
    """The last part of a dotted key, or its section where the last part is only `name`."""
    *path, last = key.split(".")
    if path and path[-1] == "teacher" and last in ("name", "prepare"):
        return {"name": "teacher", "prepare": "prepare"}[last]
    if (path and path[-1] == "teacher") or path[:2] == ["distillation", "teacher"]:
        return ".".join(["teacher", *path[2:], last])
    return path[-1] if path and last == "name" else last


def show(value: Any) -> str:
    """A value as it is printed in labels and tables: a section by its name and what else it sets, a float in full."""
    if isinstance(value, dict):
        rest = ",".join(f"{key}={show(inner)}" for key, inner in value.items() if key != "name")
        return f"{value.get('name', '')}({rest})" if rest else str(value.get("name", "default"))
    if isinstance(value, float):
        return short if float(short := f"{value:g}") == value else repr(value)
    if isinstance(value, list | tuple):
        return "+".join(show(item) for item in value) or "none"
    return str(value)
