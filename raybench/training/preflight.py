"""What can only be checked with the data and the models at hand, all of it before anything starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from raybench.config.names import nearest
from raybench.config.plan import Plan, first_values, make_setting, show
from raybench.config.trial import DatasetConfig, ModelConfig, TrialConfig
from raybench.data import ImageData, Request, load
from raybench.data import names as dataset_names
from raybench.data.splits import split
from raybench.data.views import endless, view_table
from raybench.errors import ConfigError, DataError, RaybenchError, WeightsError
from raybench.models import count_parameters, exists, weights_available
from raybench.models import names as model_names
from raybench.models import nearest as nearest_models
from raybench.training.batches import views_of
from raybench.training.ingredients import make_model
from raybench.training.metrics import names as metric_names
from raybench.training.recorder import Setup

Where = Callable[[str], str]
"""Dotted key -> where it was set: the command line, or file and line."""
Faults = dict[str, bool]
"""Each distinct fault, in order, and whether it is only that data are not here."""


@dataclass
class Checked:
    """What the checks learned."""

    fingerprints: dict[str, str] = field(default_factory=dict)
    variants: dict[str, str] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    """Training images a data set has, validation included."""
    students: dict[str, int] = field(default_factory=dict)
    """Model -> parameters with this sweep's number of classes."""
    teachers: dict[str, int] = field(default_factory=dict)


def check(plan: Plan, data_root: Path | None, where: Where, download: bool = True) -> Checked:
    """Check data, splits, models, weights and the metric of every trial. Raises one error with all that is wrong.

    `download`: whether data that are not there may be fetched.
    """
    faults: Faults = {}
    _named("metric.name", plan.sweep.metric.name, faults, where)
    checked = Checked()
    data: dict[str, ImageData] = {}
    trials = _distinct(plan)
    for dataset in {trial.dataset.data_key: trial.dataset for trial in trials}.values():
        _open(dataset, data_root, data, faults, where, download)
    for trial in trials:
        if (found := data.get(trial.dataset.data_key)) is None:
            continue
        _split(trial.dataset, found, faults, where)
        _cache(trial, faults, where)
        for key, model in _models(trial):
            _model(key, model, trial.dataset, found, data_root, checked, faults, where)
    if faults:
        raise DataError("\n".join(faults)) if all(faults.values()) else ConfigError(list(faults))
    checked.fingerprints = {name: each.fingerprint for name, each in data.items()}
    checked.variants = {name: each.variant for name, each in data.items()}
    checked.images = {name: len(each.train_labels) for name, each in data.items()}
    return checked


def unknown(key: str, name: str) -> str | None:
    """What is wrong with the name of a metric, data set or model at `key`, with the nearest known; none if known."""
    if key == "metric.name":
        known = metric_names("eval")
        near = nearest(name, known) or list(known)
        return None if name in known else f"unknown metric; nearest: {', '.join(near)}"
    if key == "dataset.name":
        near = nearest(name, dataset_names()) or list(dataset_names())
        return (
            None
            if name in dataset_names()
            else f"unknown data set; nearest: {', '.join(near)} (raybench list datasets)"
        )
    if exists(name):
        return None
    near = nearest_models(name)
    return "unknown model" + (f"; nearest: {', '.join(near)}" if near else "") + " (raybench list models)"


def _named(key: str, name: str, faults: Faults, where: Where) -> bool:
    if fault := unknown(key, name):
        faults[f'{where(key)}: {key} = "{name}": {fault}'] = False
        return False
    return True


def _distinct(plan: Plan) -> list[TrialConfig]:
    """One trial for each distinct part that is checked here, since seeds and learning rates change none of it."""
    seen: dict[str, TrialConfig] = {}
    for cell in plan.cells:
        settings = cell.settings or (make_setting(plan.sweep, cell.point, first_values(plan.sweep)),)
        for setting in settings:
            trial = setting.trials[0]
            parts = (trial.dataset, trial.model, trial.canonical().distillation.teacher)
            key = " ".join(part.model_dump_json() if part else "" for part in parts)
            seen.setdefault(f"{key} {trial.canonical().distillation.cache}", trial)
    return list(seen.values())


def _open(
    dataset: DatasetConfig,
    data_root: Path | None,
    data: dict[str, ImageData],
    faults: Faults,
    where: Where,
    download: bool,
) -> None:
    if not _named("dataset.name", dataset.name, faults, where):
        return
    try:
        found = load(Request.of(dataset), data_root, download=download)
    except DataError as error:
        faults[str(error)] = True
        return
    if dataset.fingerprint and dataset.fingerprint != found.fingerprint:
        faults[f"{dataset.name}: fingerprint {found.fingerprint} here, {dataset.fingerprint} asked for"] = False
        return
    data[dataset.data_key] = found


def _split(dataset: DatasetConfig, data: ImageData, faults: Faults, where: Where) -> None:
    try:
        split(data.train_labels, dataset.val_size, dataset.train_size)
    except DataError as error:
        faults[f"{where('dataset.train_size')}: dataset.train_size = {dataset.train_size}: {error}"] = False
    try:
        if not (endless(dataset.augment) and dataset.views == "all"):
            view_table(1, dataset.augment, dataset.views)
    except DataError as error:
        faults[f"{where('dataset.views')}: dataset.views = {dataset.views}: {error}"] = False


def _cache(trial: TrialConfig, faults: Faults, where: Where) -> None:
    """Logits that are computed beforehand need views that are known beforehand."""
    distillation = trial.canonical().distillation
    if distillation.teacher is None or distillation.cache == "off" or not endless(trial.dataset.augment):
        return
    try:
        views_of(trial.dataset)
    except DataError as error:
        faults[f"{where('dataset.views')}: distillation.cache = prefill: {error}"] = False


def _models(trial: TrialConfig) -> list[tuple[str, ModelConfig]]:
    models: list[tuple[str, ModelConfig]] = [("model", trial.model)]
    own = trial.teacher_trial()
    if own is not None:
        models.append(("distillation.teacher", own.model))
    return models


def _model(
    key: str,
    model: ModelConfig,
    dataset: DatasetConfig,
    data: ImageData,
    data_root: Path | None,
    checked: Checked,
    faults: Faults,
    where: Where,
) -> None:
    place = where(f"{key}.name")
    if not _named(f"{key}.name", model.name, faults, where):
        return
    counted = checked.students if key == "model" else checked.teachers
    try:
        weights_available(model, data_root / "weights" if data_root else None)
        # Without memory for what may be large; our own are small, and the meta device takes 3 s to load what it needs.
        with torch.device("cpu" if model.name in model_names() else "meta"):
            bare = model.model_copy(update={"weights": "none"})
            built = make_model(bare, dataset, data, Setup(data_root=data_root))
        counted[model.name] = count_parameters(built.module)
    except WeightsError as error:
        faults[f"{where(f'{key}.weights')}: {key}.weights = {show(model.weights)}: {error}"] = False
    except RaybenchError as error:
        faults[f"{place}: {key}: {error}"] = False
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        faults[f"{place}: {key}.name = {model.name} cannot be built for {dataset.name}: {text}"] = False
