"""From a sweep to cells, settings and trials.

A cell is one point of the grid of factors and is never pruned away; a setting is one choice of what is tuned inside it; a trial is a setting with a seed.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from raybench.config.sweep import SweepConfig
from raybench.config.trial import TrialConfig, get, put
from raybench.errors import ConfigError

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


@dataclass(frozen=True)
class Plan:
    """Everything a sweep wants. With `tpe` a cell's settings are suggested one by one and are not here."""

    sweep: SweepConfig
    cells: tuple[Cell, ...]

    def trials(self) -> Iterator[TrialConfig]:
        """Every trial once, cell by cell."""
        for cell in self.cells:
            for setting in cell.settings:
                yield from setting.trials


def make_plan(sweep: SweepConfig) -> Plan:
    """Every cell of the grid with its settings. Raises ConfigError with each distinct fault of any point."""
    points = math.prod(len(values) for values in sweep.factors.values())
    tuned = math.prod(len(axis_values(v)) for v in sweep.tune.space.values()) if sweep.tune.algorithm == "grid" else 1
    total = points * (tuned if sweep.tune.algorithm == "grid" else (sweep.tune.num_samples or 1)) * len(sweep.seeds)
    if total > MAX_TRIALS:
        raise ConfigError(
            [
                f"{sweep.name}: the grid has {total:,} trials; at most {MAX_TRIALS:,} are allowed. Shorten an axis, or use algorithm: random"
            ]
        )
    faults: dict[str, None] = {}
    cells: dict[str, Cell] = {}
    for values in itertools.product(*sweep.factors.values()):
        chosen = dict(zip(sweep.factors, values, strict=True))
        try:
            cell = make_cell(sweep, chosen)
        except ValidationError as error:
            where = ", ".join(f"{key} = {show(value)}" for key, value in chosen.items())
            faults.update(
                dict.fromkeys(
                    f"{sweep.name}: {where}: {fault['msg'].removeprefix('Value error, ')}" for fault in error.errors()
                )
            )
            continue
        cells.setdefault(cell.label, cell)
    if faults:
        raise ConfigError(list(faults))
    known = set(cells)
    checked = (cell if cell.baseline in known else replace(cell, baseline=None) for cell in cells.values())
    return Plan(sweep, tuple(checked))


def make_cell(sweep: SweepConfig, chosen: dict[str, Any]) -> Cell:
    """The cell at one point of the factors. Raises pydantic's ValidationError where the point is not a valid trial."""
    settings: dict[str, Setting] = {}
    for tuned in tuned_points(sweep):
        setting = make_setting(sweep, chosen, tuned)
        settings.setdefault(setting.trials[0].setting_id, setting)
    example = trial_at(sweep, chosen | first_values(sweep))
    factors = cell_factors(example, list(sweep.factors))
    alone = trial_at(sweep, chosen | first_values(sweep) | {"distillation.alpha": 0.0})
    baseline = label(cell_factors(alone, list(sweep.factors)))
    own = label(factors)
    return Cell(
        own,
        factors,
        baseline if baseline != own and "distillation.alpha" in sweep.factors else None,
        tuple(settings.values()),
    )


def make_setting(sweep: SweepConfig, chosen: dict[str, Any], tuned: dict[str, Any]) -> Setting:
    """One setting of a cell, with a trial a seed."""
    trial = trial_at(sweep, chosen | tuned)
    return Setting(tuned, tuple(trial.model_copy(update={"seed": seed}) for seed in sweep.seeds))


def trial_at(sweep: SweepConfig, values: dict[str, Any]) -> TrialConfig:
    """The trial of the sweep's base with these dotted keys set."""
    content = json.loads(json.dumps(sweep.base))
    # A section set as a whole comes before the keys inside it.
    for key in sorted(values, key=lambda key: key.count(".")):
        put(content, key, json.loads(json.dumps(values[key])))
    trial = TrialConfig.model_validate(content)
    fingerprint = trial.dataset.fingerprint or sweep.fingerprints.get(trial.dataset.name, "")
    return trial.model_copy(update={"dataset": trial.dataset.model_copy(update={"fingerprint": fingerprint})})


def tuned_points(sweep: SweepConfig) -> Sequence[dict[str, Any]]:
    """The settings tried in every cell: the grid, or random draws that are the same in each cell; none yet for `tpe`."""
    space = sweep.tune.space
    if sweep.tune.algorithm == "grid":
        grid = itertools.product(*(axis_values(values) for values in space.values()))
        return [dict(zip(space, point, strict=True)) for point in grid]
    if sweep.tune.algorithm == "random":
        return [draw(space, index) for index in range(sweep.tune.num_samples or 0)]
    return []


def first_values(sweep: SweepConfig) -> dict[str, Any]:
    """Some valid value of every tuned key, to make an example trial of a cell."""
    return draw(sweep.tune.space, 0)


def axis_values(values: Any) -> list[Any]:
    """The points of a tuned axis of a grid."""
    return list(values["choice"] if isinstance(values, dict) else values)


def draw(space: dict[str, Any], index: int) -> dict[str, Any]:
    """The `index`-th random point: a function of the key and the index alone, so a longer search begins with the shorter one."""
    point = {}
    for key, values in space.items():
        source = random.Random(f"{key}:{index}")
        kind, bounds = next(iter(values.items())) if isinstance(values, dict) else ("choice", values)
        if kind == "choice":
            point[key] = source.choice(bounds)
        elif kind == "uniform":
            point[key] = source.uniform(*bounds)
        elif kind == "loguniform":
            point[key] = math.exp(source.uniform(math.log(bounds[0]), math.log(bounds[1])))
        else:
            point[key] = source.randrange(*bounds)
    return point


def cell_factors(trial: TrialConfig, keys: Sequence[str]) -> dict[str, Any]:
    """The factors that matter for this trial, with the values it really has."""
    inert = trial.inert()
    content = trial.canonical().model_dump(mode="json")
    return {
        key: get(content, key) for key in keys if not any(key == name or key.startswith(f"{name}.") for name in inert)
    }


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
    """A value as it is printed in labels and tables: a section by its name, a float without noise."""
    if isinstance(value, dict):
        rest = ",".join(
            f"{key}={show(v)}" for key, v in value.items() if key in ("weights", "prepare") and v not in ("none", None)
        )
        return f"{value.get('name', '…')}({rest})" if rest else str(value.get("name", "…"))
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "+".join(show(item) for item in value) or "none"
    return str(value)
