"""A sweep file with its preset and overrides, validated: every fault found in one go, and a place for each."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from raybench.config.document import Document, find_sweep, read_document
from raybench.config.faults import COMMAND_LINE, Faults, brief, messages, no_such_key, no_such_name, not_one_of
from raybench.config.keys import get, put
from raybench.config.overrides import apply_overrides, axes_of, is_trial_key, put_deep
from raybench.config.plugins import losses
from raybench.config.space import ends
from raybench.config.sweep import TOP_KEYS, ResourcesConfig, SweepConfig, space_fault
from raybench.config.trial import TrialConfig, trial_keys

PRESETS = ("paper", "small", "quick")
MAX_AXIS = 1000
"""Values of an axis; more are a mistake, and would be checked for long."""
NAMED = ("dataset.name", "model.name", "distillation.teacher.name")
"""Keys whose values are names that other packages know."""
KIND = "distillation.type"
Unknown = Callable[[str, str], str | None]
"""(key, name) -> what is wrong with the name, or none."""
ABOVE = {"base": ("base",), "factors": ("factors",), "tune": ("tune", "space")}
"""Where in a file the keys of a trial stand."""


def load_sweep(
    name: str,
    preset: str,
    overrides: Sequence[str] = (),
    options: dict[str, Any] | None = None,
    unknown: Unknown | None = None,
) -> SweepConfig:
    """A sweep with its preset, `key=value` overrides and command-line options applied.

    `options` maps a top-level dotted key (`seeds`, `tune.num_samples`) to its value. `unknown` knows the names of data
    sets, models and metrics, which are not this package's. Raises ConfigError with all faults at once.
    """
    document = read_document(find_sweep(name))
    faults = Faults()
    content = _with_preset(document, preset, faults)
    origins = apply_overrides(content, overrides, faults)
    for key, value in (options or {}).items():
        put_deep(content, key, value)
        origins[key] = key
    places = _Places(document, preset, origins)
    sweep = _validate(content, places, faults)
    _check_names(content, places, unknown or (lambda *_: None), faults)
    faults.raise_any()
    assert sweep is not None
    return sweep


def _check_names(content: dict[str, Any], places: _Places, unknown: Unknown, faults: Faults) -> None:
    """Every name of a data set, model or metric, in the base and on the axes."""
    base = content.get("base") or {}
    named = {"base": {key: [get(base, key)] for key in (*NAMED, KIND)}, **axes_of(content)}
    axes = {key for kind in ("factors", "tune") for key in named.get(kind, {})}
    for kind, group in named.items():
        for key, values in group.items():
            if kind == "base" and any(key == axis or key.startswith(f"{axis}.") for axis in axes):
                continue
            for value in ends(values) if not space_fault(values) else []:
                # A whole section as a value names its model, or its kind, inside.
                inside = (
                    {f"{key}.{last}": value.get(last) for last in ("name", "type")} if isinstance(value, dict) else {}
                )
                for dotted, name in (inside or {key: value}).items():
                    if dotted in NAMED and isinstance(name, str) and (fault := unknown(dotted, name)):
                        faults.add(places.of(kind, key), f"{dotted} = {brief(name)}: {fault}")
                    if dotted == KIND and isinstance(name, str) and name not in losses():
                        faults.add(places.of(kind, key), not_one_of(dotted, name, losses()))
    metric = get(content, "metric.name")
    if isinstance(metric, str) and (fault := unknown("metric.name", metric)):
        faults.add(places.top("metric.name"), f"metric.name = {brief(metric)}: {fault}")


def merge(base: dict[str, Any], difference: dict[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """`base` with what differs: mappings are merged; `factors`, `tune` and model `options` are replaced as a whole."""
    merged = dict(base)
    for key, value in difference.items():
        whole = (path == () and key in ("factors", "tune")) or key == "options"
        if isinstance(value, dict) and isinstance(merged.get(key), dict) and not whole:
            merged[key] = merge(merged[key], value, (*path, key))
        else:
            merged[key] = value
    return merged


def _with_preset(document: Document, preset: str, faults: Faults) -> dict[str, Any]:
    content = {key: value for key, value in document.content.items() if key != "presets"}
    _check_top(document, content, (), faults)
    presets = document.content.get("presets", {})
    if not isinstance(presets, dict):
        faults.add(document.place(["presets"]), "presets: must be a mapping of preset to what differs")
        presets = {}
    for name, difference in presets.items():
        place = document.place(["presets", name])
        if name not in PRESETS:
            faults.add(place, no_such_name(f"presets.{name}", name, PRESETS))
        elif isinstance(difference, dict):
            _check_top(document, difference, ("presets", name), faults)
        else:
            faults.add(place, f"presets.{name}: must be a mapping")
    if preset not in PRESETS:
        faults.add(COMMAND_LINE, f"--preset {preset}: no such preset; allowed: {', '.join(PRESETS)}")
    elif preset != "paper" and preset not in presets:
        there = ", ".join(["paper", *presets])
        faults.add(COMMAND_LINE, f"--preset {preset}: {document.path.name} has no such preset; it has {there}")
    difference = presets.get(preset)
    return merge(content, difference) if isinstance(difference, dict) else content


def _check_top(document: Document, content: dict[str, Any], above: tuple[str, ...], faults: Faults) -> None:
    for key in content:
        if key not in TOP_KEYS:
            faults.add(document.place([*above, key]), no_such_name(".".join([*above, key]), key, TOP_KEYS))


def _validate(content: dict[str, Any], places: _Places, faults: Faults) -> SweepConfig | None:
    axes = axes_of(content)
    sound: dict[str, dict[str, Any]] = {kind: {} for kind in axes}
    for kind, named in axes.items():
        for key, values in named.items():
            if fault := _axis_fault(kind, values):
                dotted = ".".join([*ABOVE[kind], key])
                faults.add(places.of(kind, key), f"{dotted}: {fault}")
            else:
                sound[kind][key] = values
    base = content.get("base")
    if not isinstance(base, dict):
        problem = "must be a mapping" if "base" in content else "is missing (dataset, model, optimizer, schedule …)"
        faults.add(places.top("base"), f"base: {problem}")
    else:
        _check_trials(base, sound, places, faults)
    sweep = _sweep(content, sound, places, faults)
    if sweep is None or not isinstance(base, dict):
        return sweep
    return sweep.model_copy(update={"base": _plain(base), "places": places.all(base, axes)})


def _axis_fault(kind: str, values: Any) -> str | None:
    if kind == "factors" and not isinstance(values, list):
        return f"{brief(values)}: must be a list of values"
    if fault := space_fault(values):
        return fault
    if len(ends(values)) > MAX_AXIS:
        return f"has {len(ends(values)):,} values; at most {MAX_AXIS:,} are allowed"
    return None


def _sweep(
    content: dict[str, Any], sound: dict[str, dict[str, Any]], places: _Places, faults: Faults
) -> SweepConfig | None:
    """The sweep without its base; axes whose faults are known stand as empty of meaning, so that each is said once."""
    names = {"name": places.document.path.stem, "question": places.document.question, "preset": places.preset}
    content = {key: value for key, value in content.items() if key in TOP_KEYS}
    for kind, axes in axes_of(content).items():
        repaired = {key: sound[kind].get(key, [None]) for key in axes}
        if repaired:
            content |= {"factors": repaired} if kind == "factors" else {"tune": {**content["tune"], "space": repaired}}
    try:
        return SweepConfig.model_validate({**content, "base": {}, **names})
    except ValidationError as error:
        for key, text in messages(error, TOP_KEYS):
            faults.add(places.top(key, text), text)
    return None


def _check_trials(base: dict[str, Any], axes: dict[str, dict[str, Any]], places: _Places, faults: Faults) -> None:
    """The base with the first value of each axis, then each value of each axis in place of its first."""
    known = {key: values for named in axes.values() for key, values in named.items() if is_trial_key(key)}
    start = _plain(base)
    for key in sorted(known, key=lambda key: key.count(".")):
        put(start, key, _plain(ends(known[key])[0]))
    for key, text in _faults_of(start):
        # What an axis brings in is said with the value that brings it in.
        if not any(key == axis or key.startswith(f"{axis}.") for axis in known):
            faults.add(places.of("base", key, text), text)
    for kind, named in axes.items():
        for key, values in named.items():
            if not is_trial_key(key):
                faults.add(places.of(kind, key), no_such_key(".".join([*ABOVE[kind], key]), key, trial_keys()))
                continue
            for value in ends(values):
                if faults.full:
                    return
                content = _plain(start)
                put(content, key, _plain(value))
                for name, text in _faults_of(content):
                    if name == key or name.startswith(f"{key}."):
                        faults.add(places.of(kind, key), text)


def _faults_of(content: dict[str, Any]) -> list[tuple[str, str]]:
    try:
        TrialConfig.model_validate(content)
    except ValidationError as error:
        return messages(error, trial_keys())
    return []


def _plain(value: Any) -> Any:
    """A copy that shares nothing; NaN and the infinities stay what they are, to be refused."""
    return json.loads(json.dumps(value))


@dataclass(frozen=True)
class _Places:
    """Where a key came from: the command line, the preset, or the file."""

    document: Document
    preset: str
    origins: dict[str, str]
    """Dotted key -> the key as it was written on the command line."""

    def of(self, kind: str, key: str, text: str = "") -> str:
        """Place of a trial's key in the base, among the factors or in the tuned space."""
        dotted = key if kind == "base" else ".".join([*ABOVE[kind], key])
        if self._from_command_line(key, text) or self._from_command_line(dotted, text):
            return COMMAND_LINE
        return self._in_file([*ABOVE[kind], *(key.split(".") if kind == "base" else [key])])

    def top(self, key: str, text: str = "") -> str:
        """Place of a key of the sweep's own."""
        return COMMAND_LINE if self._from_command_line(key, text) else self._in_file(key.split("."))

    def _from_command_line(self, key: str, text: str) -> bool:
        """Whether the command line set a key, or set what `text` says breaks a rule between several keys."""
        for name in self.origins:
            if key == name or key.startswith(f"{name}."):
                return True
            if ("." in name and name in text) or (
                (not key or name.startswith(f"{key}.")) and name.rpartition(".")[2] in text
            ):
                return True
        return False

    def all(self, base: dict[str, Any], axes: dict[str, dict[str, Any]]) -> dict[str, str]:
        """Dotted key -> place, of every key that is set somewhere."""
        found = {key: self.of("base", key) for key in trial_keys() if _has(base, key)}
        found |= {key: self.of(kind, key) for kind, named in axes.items() for key in named}
        resources = (f"resources.{name}" for name in ResourcesConfig.model_fields)
        return found | {key: self.top(key) for key in ("metric.name", *resources)}

    def _in_file(self, path: Sequence[str]) -> str:
        in_preset = ("presets", self.preset, *path)
        if in_preset in self.document.lines:
            return self.document.place(in_preset)
        return self.document.place(path)


def _has(content: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(content, dict) or part not in content:
            return False
        content = content[part]
    return True
