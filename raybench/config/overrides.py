"""What the command line changes: `key=value` on top of a sweep file and its preset."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from raybench.config.document import parse, problem_of
from raybench.config.faults import COMMAND_LINE, Faults, brief, no_such_key
from raybench.config.sweep import TOP_KEYS
from raybench.config.trial import trial_keys

OPTION = re.compile(r"(model|distillation\.teacher)\.options\.\w+")
"""Keyword arguments of a model's constructor; only the model knows which there are."""
LIST_KEYS = frozenset(
    ["dataset.augment", *(f"{model}.{key}" for model in ("model", "distillation.teacher") for key in ("mean", "std"))]
)
"""Keys whose value is a list itself."""


def is_trial_key(key: str) -> bool:
    """Whether a dotted key is part of a trial's configuration."""
    return key in trial_keys() or OPTION.fullmatch(key) is not None


def apply_overrides(content: dict[str, Any], overrides: Sequence[str], faults: Faults) -> dict[str, str]:
    """Apply each `key=value` to a sweep's content, in place. Returns dotted key -> the key as it was written.

    A key of an axis replaces that axis, any other key of a trial the base's value; `factors.KEY` and `tune.space.KEY`
    make an axis; the sweep's own keys (`seeds`, `tune.num_samples` …) are set as they are.
    """
    origins: dict[str, str] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            faults.add(COMMAND_LINE, f"{override!r}: must be key=value, such as optimizer.lr=0.1")
            continue
        try:
            value = parse(text)[1]
        except yaml.YAMLError as error:
            faults.add(COMMAND_LINE, f"{key}: {problem_of(error)[1]}")
            continue
        name = _apply(content, key, value, faults)
        if name is not None:
            origins[name] = key
    return origins


def _apply(content: dict[str, Any], key: str, value: Any, faults: Faults) -> str | None:
    """Apply one; returns the dotted key it set, none where there is no such key."""
    for kind, above in (("factors", "factors."), ("tune", "tune.space.")):
        if key.startswith(above):
            name = key.removeprefix(above)
            if not is_trial_key(name):
                faults.add(COMMAND_LINE, no_such_key(key, name, trial_keys()))
                return None
            _replace_axis(content, kind, name, value)
            return name
    if is_trial_key(key):
        _override_trial_key(content, key, value, faults)
    elif key.partition(".")[0] in TOP_KEYS and key not in ("base", "factors") and not key.startswith("base."):
        put_deep(content, key, value)
    else:
        faults.add(COMMAND_LINE, no_such_key(key, key.removeprefix("base."), (*trial_keys(), *TOP_KEYS)))
        return None
    return key


def _override_trial_key(content: dict[str, Any], key: str, value: Any, faults: Faults) -> None:
    for kind, axes in axes_of(content).items():
        if key in axes:
            _replace_axis(content, kind, key, value)
            return
        related = [axis for axis in axes if axis.startswith(f"{key}.") or key.startswith(f"{axis}.")]
        if related:
            faults.add(COMMAND_LINE, f"{key}: {', '.join(related)} is an axis of this sweep; override that key instead")
            return
    if isinstance(value, list) and key not in LIST_KEYS:
        several = f"to compare several write factors.{key}=…, to tune it tune.space.{key}=…"
        faults.add(COMMAND_LINE, f"{key} = {brief(value)}: takes one value; {several}")
        return
    put_deep(content, f"base.{key}", value)


def _replace_axis(content: dict[str, Any], kind: str, key: str, value: Any) -> None:
    several = isinstance(value, list)
    if key in LIST_KEYS:
        several = isinstance(value, list) and all(isinstance(item, list) or item is None for item in value)
    drawn = kind == "tune" and isinstance(value, dict)
    axis = value if several or drawn else [value]
    for other, axes in axes_of(content).items():
        # A key moved from one kind of axis to the other leaves its old place.
        if other != kind:
            axes.pop(key, None)
    if kind == "factors":
        content["factors"] = {**axes_of(content)["factors"], key: axis}
    else:
        tune = content.get("tune")
        space = {**axes_of(content)["tune"], key: axis}
        content["tune"] = {**(tune if isinstance(tune, dict) else {}), "space": space}


def axes_of(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The axes under `factors` and under `tune`; empty where no mapping stands there (a fault found elsewhere)."""
    factors, tune = content.get("factors"), content.get("tune")
    space = tune.get("space") if isinstance(tune, dict) else None
    return {
        "factors": factors if isinstance(factors, dict) else {},
        "tune": space if isinstance(space, dict) else {},
    }


def put_deep(content: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key of nested mappings; the mappings on the way are copied, or made where there are none."""
    *path, last = key.split(".")
    for part in path:
        inner = content.get(part)
        content[part] = dict(inner) if isinstance(inner, dict) else {}
        content = content[part]
    content[last] = value
