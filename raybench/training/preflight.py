"""What can only be checked with the data and the models at hand, all of it before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from raybench.config.faults import brief, reason
from raybench.config.names import nearest
from raybench.config.plan import Plan, example_trials, show, weights_key
from raybench.config.trial import ModelConfig, TrialConfig
from raybench.data.views import endless
from raybench.errors import ConfigError, DataError, RaybenchError
from raybench.models import check_weights, count_parameters, weights_available
from raybench.models.ci2p import FROZEN_ENCODERS
from raybench.training.batches import views_of
from raybench.training.ingredients import located, weights_digest, weights_root
from raybench.training.kinds import MODULES, kind_of, metric_names
from raybench.training.recorder import Setup

Where = Callable[[str], str]
"""Dotted key -> where it was set: the command line, or file and line."""
Faults = dict[str, bool]
"""Each distinct fault, in order, and whether it is only that data are not here."""


@dataclass(frozen=True)
class Look:
    """What one look at a model with its weights told."""

    parameters: int | None = None
    """With this sweep's number of classes; none where it cannot be built."""
    misfit: str = ""
    """What is wrong with its weights."""
    unbuilt: str = ""
    """Why it cannot be built, in words; empty where it can."""
    digest: str = ""
    """Of its weight file."""


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
    unlent: Mapping[str, str] = field(default_factory=dict)
    """Weights that no trial has yet, and of which nothing could be learned -> that in words."""
    digests: dict[str, str] = field(default_factory=dict)
    """As `SweepConfig.digests`."""
    looks: dict[str, Look] = field(default_factory=dict)
    """Each distinct model with its weights, at the data set's size: it is looked at once, however many trials share it.
    """


def check(
    plan: Plan, setup: Setup, where: Where, download: bool = True, unlent: Mapping[str, str] | None = None
) -> Checked:
    """Check data, splits, models, weights and the metric of every trial. Raises one error with all that is wrong.

    `setup` says where data, weights and results are; `download`: whether data that are not there may be fetched.
    `unlent`: weights that no trial of another sweep has yet -> that in words, which is told with all else that is wrong
    and, where nothing else is, left to the caller.
    """
    faults: Faults = {}
    checked = Checked(unlent=unlent or {})
    data: dict[str, Any] = {}
    trials = _distinct(plan)
    for task in dict.fromkeys(trial.task for trial in trials):
        _named("metric.name", plan.sweep.metric.name, task, faults, where)
        if (reported := plan.sweep.metric.reported) is not None:
            _reported(reported, task, faults, where)
    for trial in {(trial.task, trial.dataset.data_key): trial for trial in trials}.values():
        _open(trial, setup.data_root, data, faults, where, download)
    for trial in trials:
        if (found := data.get(trial.dataset.data_key)) is None:
            continue
        _sizes(trial, found, checked, faults, where)
        _cache(trial, faults, where)
        _latents(trial, faults, where)
        for key, model in _models(trial):
            _model(key, model, trial, found, setup, checked, faults, where)
    _told_apart(trials, faults, where)
    if faults:
        if all(faults.values()) and not checked.unlent:
            raise DataError("\n".join(faults))
        raise ConfigError([*checked.unlent.values(), *faults])
    checked.fingerprints = {name: each.fingerprint for name, each in data.items()}
    checked.variants = {name: each.variant for name, each in data.items()}
    return checked


def unknown(key: str, name: str, task: str | None = None) -> str | None:
    """What is wrong with the name of a metric, data set or model at `key`, with the nearest known; none if known.

    Without a task: known to any kind of task.
    """
    kinds = [kind_of(each) for each in ([task] if task else MODULES)]
    if key == "metric.name":
        known = tuple(
            dict.fromkeys(name for each in ([task] if task else MODULES) for name in metric_names("eval", each))
        )
        near = nearest(name, known) or list(known)
        return None if name in known else f"unknown metric; nearest: {', '.join(near)}"
    if key == "dataset.name":
        known = tuple(dict.fromkeys(name for kind in kinds for name in kind.datasets()))
        near = nearest(name, known) or list(known)
        return None if name in known else f"unknown data set; nearest: {', '.join(near)} (raybench list datasets)"
    faults = [kind.unknown_model(name) for kind in kinds]
    return None if None in faults else faults[0]


def _named(key: str, name: str, task: str, faults: Faults, where: Where) -> bool:
    if fault := unknown(key, name, task):
        faults[f'{where(key)}: {key} = "{name}": {fault}'] = False
        return False
    return True


def _reported(name: str, task: str, faults: Faults, where: Where) -> None:
    known = (*metric_names("test", task), *(f"test_{each}" for each in kind_of(task).MEASURES.final))
    if name not in known:
        near = nearest(name, known) or list(known)
        fault = f"unknown metric of a test set; nearest: {', '.join(near)}"
        faults[f'{where("metric.reported")}: metric.reported = "{name}": {fault}'] = False


def _distinct(plan: Plan) -> list[TrialConfig]:
    """One trial for each distinct part that is checked here, since seeds and learning rates change none of it."""
    seen: dict[str, TrialConfig] = {}
    for trial in example_trials(plan):
        parts = (trial.dataset, trial.model, trial.canonical().distillation.teacher)
        key = " ".join(part.model_dump_json() if part else "" for part in parts)
        seen.setdefault(f"{key} {trial.canonical().distillation.cache} {trial.canonical().latents}", trial)
    return list(seen.values())


def _open(
    trial: TrialConfig, data_root: Path | None, data: dict[str, Any], faults: Faults, where: Where, download: bool
) -> None:
    dataset = trial.dataset
    if not _named("dataset.name", dataset.name, trial.task, faults, where):
        return
    try:
        found = kind_of(trial.task).load(dataset, data_root, download)
    except DataError as error:
        faults[str(error)] = True
        return
    except OSError as error:  # a name too long, or what this user may not see
        place = where("dataset.path" if dataset.path else "dataset.name")
        file = f": {brief(str(error.filename))}" if error.filename else ""
        faults[f"{place}: {dataset.name}: {error.strerror or error}{file}"] = False
        return
    if dataset.fingerprint and dataset.fingerprint != found.fingerprint:
        faults[f"{dataset.name}: fingerprint {found.fingerprint} here, {dataset.fingerprint} asked for"] = False
        return
    data[dataset.data_key] = found


def _sizes(trial: TrialConfig, data: Any, checked: Checked, faults: Faults, where: Where) -> None:
    kind, dataset = kind_of(trial.task), trial.dataset
    try:
        whole = kind.sizes(dataset.model_copy(update={"train_size": "all", "augment": (), "views": "all"}), data)
        checked.images[dataset.data_key] = whole.train + whole.validation
    except DataError:
        pass  # told below
    said = set()
    for key in ("train_size", "views"):
        rest = {"views": "all", "augment": ()} if key == "train_size" else {"train_size": "all"}
        try:
            kind.sizes(dataset.model_copy(update=rest), data)
        except DataError as error:
            if str(error) not in said:
                faults[f"{where(f'dataset.{key}')}: dataset.{key} = {getattr(dataset, key)}: {error}"] = False
            said.add(str(error))


def _cache(trial: TrialConfig, faults: Faults, where: Where) -> None:
    """Logits that are computed beforehand need views that are known beforehand."""
    distillation = trial.canonical().distillation
    if distillation.teacher is None or distillation.cache == "off" or not endless(trial.dataset.augment):
        return
    try:
        views_of(trial.dataset)
    except DataError as error:
        faults[f"{where('dataset.views')}: distillation.cache = {distillation.cache}: {error}"] = False


def _latents(trial: TrialConfig, faults: Faults, where: Where) -> None:
    """Code that is kept needs an encoder that stays as it is, and views that come again."""
    if trial.canonical().latents == "off":
        return
    place = f"{where('latents')}: latents = {trial.latents}"
    if trial.model.name not in FROZEN_ENCODERS:
        faults[f"{place}: {trial.model.name} has no frozen encoder; {', '.join(FROZEN_ENCODERS)} have"] = False
    elif endless(trial.dataset.augment) and trial.dataset.views == "all":
        faults[
            f"{place}: augment = {list(trial.dataset.augment)} has no end of views; set dataset.views to how many "
            "fixed ones each image has, or latents=off"
        ] = False


def _told_apart(trials: list[TrialConfig], faults: Faults, where: Where) -> None:
    """Weight files go by their name in tables, where two of one name would look like one."""
    named: dict[str, set[str]] = {}
    for trial in trials:
        for _, model in _models(trial):
            if model.from_file:
                named.setdefault(Path(model.weights).name, set()).add(model.weights)
    for name, paths in named.items():
        if len(paths) > 1:
            both = ", ".join(sorted(paths))
            faults[f"{where('model.weights')}: {both}: different files called {name}; give each a name of its own"] = (
                False
            )


def _models(trial: TrialConfig) -> list[tuple[str, ModelConfig]]:
    models: list[tuple[str, ModelConfig]] = [("model", trial.model)]
    own = trial.teacher_trial()
    if own is not None:
        models.append(("distillation.teacher", own.model))
    return models


def _model(
    key: str,
    model: ModelConfig,
    trial: TrialConfig,
    data: Any,
    setup: Setup,
    checked: Checked,
    faults: Faults,
    where: Where,
) -> None:
    if not _named(f"{key}.name", model.name, trial.task, faults, where):
        return
    asked = f"{trial.task} {trial.dataset.data_key} {trial.dataset.image_size} {model.model_dump_json()}"
    if asked not in checked.looks:
        checked.looks[asked] = _look(model, trial, data, setup)
    look = checked.looks[asked]
    if look.unbuilt:
        faults[f"{where(f'{key}.name')}: {key}: {look.unbuilt}"] = False
    if look.misfit and model.weights not in checked.unlent:
        faults[f"{where(f'{key}.weights')}: {key}.weights = {show(model.weights)}: {look.misfit}"] = False
    if look.digest:
        checked.digests[weights_key(model)] = look.digest
    if look.parameters is not None:
        counted = checked.students if key == "model" else checked.teachers
        counted[model.name] = look.parameters


def _look(model: ModelConfig, trial: TrialConfig, data: Any, setup: Setup) -> Look:
    """Build a model without its weights, and see whether those are there and fit it."""
    try:
        module = kind_of(trial.task).bare_model(model, trial.dataset, data, setup)
    except RaybenchError as error:
        return Look(unbuilt=str(error), misfit=_misfit(model, None, setup))
    except Exception as error:  # a constructor given options that it never thought of raises almost anything
        given = f" with options {brief(model.options)}" if model.options else ""
        why = f"{model.name}{given} cannot be built for {trial.dataset.name}: {reason(error)}"
        return Look(unbuilt=why, misfit=_misfit(model, None, setup))
    misfit = _misfit(model, module, setup)
    return Look(count_parameters(module), misfit, digest="" if misfit else weights_digest(model, setup))


def _misfit(model: ModelConfig, module: nn.Module | None, setup: Setup) -> str:
    """What is wrong with a model's weights; without a module, whether they are there is all that can be told."""
    try:
        found, root = located(model, setup), weights_root(setup)
        weights_available(found, root) if module is None else check_weights(found, module, root)
    except RaybenchError as error:
        return str(error)
    return ""
