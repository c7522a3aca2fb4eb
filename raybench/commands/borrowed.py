"""Weights that another sweep has trained: which trial `best` is, before anything is planned."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

import polars as pl

from raybench.config.folders import results_root
from raybench.config.sweep import SweepConfig
from raybench.config.trial import OF_A_SWEEP, ModelConfig
from raybench.errors import ConfigError, RaybenchError
from raybench.results.schema import Status
from raybench.results.storage import Folder, folder_at
from raybench.results.store import Store


@dataclass(frozen=True)
class Unlent:
    """A sweep whose best trial is asked for and that has none yet."""

    key: str
    """The first key that asks for it, such as `model.weights`."""
    place: str
    """Where that is set: the command line, or file and line."""
    sweep: str
    why: str
    command: str
    """What makes one."""

    @property
    def weights(self) -> str:
        """As it stands in a model's configuration."""
        return f"{OF_A_SWEEP}{self.sweep}/best"

    def __str__(self) -> str:
        asked = f"{self.key} = {{sweep: {self.sweep}, trial: best}}"
        return f"{self.place}: {asked}: {self.why}; run  {self.command}  first"


def with_best_trials(config: SweepConfig, root: Folder) -> tuple[SweepConfig, tuple[Unlent, ...]]:
    """The sweep with every `weights: {sweep, trial: best}` naming a trial; `root` holds the sweeps' folders.

    The best is the complete trial of the same preset with the best validation metric of its sweep. Where there is none,
    `best` stays, and the sweep is among those that must be run first, each once. Raises ResultsError where rows cannot
    be read.
    """
    best: dict[str, str] = {}
    unlent: list[Unlent] = []

    def named(value: Any, key: str, axis: str) -> Any:
        sweep, trial = _asked(value)
        if sweep is None:
            return value
        if trial == "best" and sweep not in best:
            try:
                best[sweep] = best_trial(root / sweep, config.preset)
            except ConfigError as error:
                best[sweep] = trial
                place = config.places.get(axis or key, config.name)
                unlent.append(Unlent(key, place, sweep, str(error), _command(sweep, config.preset, root)))
        return f"{OF_A_SWEEP}{sweep}/{best[sweep] if trial == 'best' else trial}"

    def walked(value: Any, key: str = "", axis: str = "") -> Any:
        if isinstance(value, list):
            return [walked(each, key, axis) for each in value]
        if key.rpartition(".")[2] == "weights":
            return named(value, key, axis)
        if isinstance(value, dict):
            return {name: walked(inner, f"{key}.{name}".lstrip("."), axis) for name, inner in value.items()}
        return value

    def along(axis: str, values: Any) -> Any:
        if isinstance(values, dict) and "choice" in values:
            return {"choice": walked(values["choice"], axis, axis)}
        return walked(values, axis, axis)

    changed = {
        "base": walked(config.base),
        "factors": {axis: along(axis, values) for axis, values in config.factors.items()},
        "tune": config.tune.model_copy(
            update={"space": {axis: along(axis, values) for axis, values in config.tune.space.items()}}
        ),
    }
    return config.model_copy(update=changed), tuple(unlent)


def _command(sweep: str, preset: str, root: Folder) -> str:
    elsewhere = [] if str(root) == str(folder_at(results_root())) else ["--results", str(root)]
    return shlex.join(["python", "-m", "raybench.sweep", sweep, "--preset", preset, *elsewhere])


def _asked(value: Any) -> tuple[str | None, str]:
    """(sweep, trial) where weights are a trial's; (none, "") for any other."""
    if isinstance(value, dict) and "sweep" in value:
        return str(value["sweep"]), str(value.get("trial", "best"))
    if isinstance(value, str) and value.startswith(OF_A_SWEEP):
        return ModelConfig(name="any", weights=value).of_sweep or (None, "")
    return None, ""


def best_trial(folder: Folder, preset: str | None = None) -> str:
    """The id of a sweep's best trial, of the preset that was run last where none is given.

    The best is the complete trial with the best metric on validation. Raises ConfigError where there is none yet.
    """
    from raybench.config.changes import read_resolved
    from raybench.results.storage import read

    try:
        last = read_resolved(read(folder / "sweep.yaml"))
    except (OSError, RaybenchError) as error:
        raise ConfigError([f"no results in {folder}"]) from error
    metric, preset = last.metric, preset or last.preset
    trials = Store(folder).trials()
    if metric.name not in trials.columns:
        raise ConfigError([f"no trial in {folder} has {metric.name}"])
    done = trials.filter(
        (pl.col("status") == Status.COMPLETE.value)
        & (pl.col("preset") == preset)
        & pl.col(metric.name).is_finite()
        & pl.col("deviation").is_null()
    ).sort(metric.name, "trial_id", descending=[metric.mode == "max", False])
    if not done.height:
        raise ConfigError([f"no complete trial of preset {preset} in {folder}"])
    return str(done["trial_id"][0])
