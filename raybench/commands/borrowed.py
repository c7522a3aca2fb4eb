"""Weights that another sweep has trained: which trial `best` is, before anything is planned."""

from __future__ import annotations

from typing import Any

import polars as pl

from raybench.config.sweep import SweepConfig
from raybench.config.trial import OF_A_SWEEP, ModelConfig
from raybench.errors import ConfigError, RaybenchError
from raybench.results.schema import Status
from raybench.results.storage import Folder
from raybench.results.store import Store


def with_best_trials(config: SweepConfig, root: Folder) -> SweepConfig:
    """The sweep with every `weights: {sweep, trial: best}` naming a trial; `root` holds the sweeps' folders.

    The best is the complete trial of the same preset with the best validation metric of its sweep. Raises ConfigError
    where there is none.
    """
    best: dict[str, str] = {}
    faults: list[str] = []

    def named(value: Any) -> Any:
        sweep, trial = _asked(value)
        if sweep is None:
            return value
        if trial == "best" and sweep not in best:
            try:
                best[sweep] = _best_trial(root / sweep, config.preset)
            except RaybenchError as error:
                best[sweep] = ""
                faults.append(f"{config.name}: weights of sweep {sweep}: {error}")
        return f"{OF_A_SWEEP}{sweep}/{best[sweep] if trial == 'best' else trial}"

    def walked(value: Any, key: str = "") -> Any:
        if key.rpartition(".")[2] == "weights":
            return [named(each) for each in value] if isinstance(value, list) else named(value)
        if isinstance(value, dict):
            return {name: walked(inner, name) for name, inner in value.items()}
        return [walked(each) for each in value] if isinstance(value, list) else value

    changed = {
        "base": walked(config.base),
        "factors": walked(config.factors),
        "tune": config.tune.model_copy(update={"space": walked(config.tune.space)}),
    }
    if faults:
        raise ConfigError(faults)
    return config.model_copy(update=changed)


def _asked(value: Any) -> tuple[str | None, str]:
    """(sweep, trial) where weights are a trial's; (none, "") for any other."""
    if isinstance(value, dict) and "sweep" in value:
        return str(value["sweep"]), str(value.get("trial", "best"))
    if isinstance(value, str) and value.startswith(OF_A_SWEEP):
        return ModelConfig(name="any", weights=value).of_sweep or (None, "")
    return None, ""


def _best_trial(folder: Folder, preset: str) -> str:
    from raybench.config.changes import read_resolved
    from raybench.results.storage import read

    run_it = f"run  python -m raybench.sweep {folder.name} --preset {preset}  first"
    try:
        metric = read_resolved(read(folder / "sweep.yaml")).metric
    except (OSError, RaybenchError) as error:
        raise ConfigError([f"no results in {folder}; {run_it}"]) from error
    trials = Store(folder).trials()
    if metric.name not in trials.columns:
        raise ConfigError([f"no trial in {folder} has {metric.name}; {run_it}"])
    done = trials.filter(
        (pl.col("status") == Status.COMPLETE.value)
        & (pl.col("preset") == preset)
        & pl.col(metric.name).is_finite()
        & pl.col("deviation").is_null()
    ).sort(metric.name, "trial_id", descending=[metric.mode == "max", False])
    if not done.height:
        raise ConfigError([f"no complete trial of preset {preset} in {folder}; {run_it}"])
    return str(done["trial_id"][0])
