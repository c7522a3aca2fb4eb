"""Sweep files, presets and overrides, with every fault found in one go and a place for each."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from raybench.config.names import nearest, nearest_key
from raybench.config.sweep import SweepConfig
from raybench.config.trial import TrialConfig, put, sections, trial_keys
from raybench.errors import ConfigError

PRESETS = ("paper", "small", "quick")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
COMMAND_LINE = "command line"
TOP_KEYS = tuple(
    name for name in SweepConfig.model_fields if name not in ("name", "question", "preset", "fingerprints")
)
MAX_ERRORS = 50


class SweepLoader(yaml.SafeLoader):
    """Plain YAML data only; numbers as YAML 1.2 reads them (`1e-3` is a number); a key twice is a fault."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} must be a plain word", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f'key "{key}" stands here twice', key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


SweepLoader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in rules if tag in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
SweepLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"true|false|True|False"), list("tfTF"))
SweepLoader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9_]*)\Z"), list("-+0123456789"))
SweepLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"([-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"),
    list("-+.0123456789"),
)


@dataclass
class Faults:
    """Collects what is wrong; `raise_any` says all of it at once."""

    found: dict[str, None] = field(default_factory=dict)

    def add(self, where: str, what: str) -> None:
        self.found[f"{where}: {what}"] = None

    def raise_any(self) -> None:
        if self.found:
            lines = list(self.found)
            more = [f"… and {len(lines) - MAX_ERRORS} more"] if len(lines) > MAX_ERRORS else []
            raise ConfigError(lines[:MAX_ERRORS] + more)


@dataclass(frozen=True)
class Document:
    """A sweep file as read: its content, the line of each key, and the question in its first comment."""

    path: Path
    content: dict[str, Any]
    lines: dict[tuple[str, ...], int]
    question: str

    def place(self, path: Sequence[str]) -> str:
        """`file:line` of a key, or of the nearest key above it."""
        for end in range(len(path), 0, -1):
            if line := self.lines.get(tuple(path[:end])):
                return f"{self.path.name}:{line}"
        return self.path.name


def sweep_folders() -> list[Path]:
    """Where sweeps are looked for by name, in order."""
    folders = [Path("sweeps")]
    folders += [Path(part) for part in os.environ.get("RAYBENCH_SWEEPS", "").split(os.pathsep) if part]
    shipped = Path(str(resources.files("raybench") / "sweeps"))
    return [*folders, shipped, Path(__file__).parents[2] / "sweeps"]


def list_sweeps() -> dict[str, Path]:
    """Every sweep that can be run by name; where two folders have one of a name, the first counts."""
    found: dict[str, Path] = {}
    for folder in sweep_folders():
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def find_sweep(name: str) -> Path:
    """The file of a sweep given by name or by path. Raises ConfigError naming where it looked and the nearest names."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError([f"{COMMAND_LINE}: {name}: no such file"])
        if not NAME.fullmatch(path.stem):
            raise ConfigError(
                [
                    f"{COMMAND_LINE}: {name}: a sweep's file name names its results folder; use letters, digits, _ and - only"
                ]
            )
        return path
    if not NAME.fullmatch(name):
        raise ConfigError(
            [f"{COMMAND_LINE}: {name!r}: a sweep's name has letters, digits, _ and - only (a file ends in .yaml)"]
        )
    known = list_sweeps()
    if name not in known:
        near = nearest(name, known)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise ConfigError(
            [
                f'{COMMAND_LINE}: "{name}": unknown sweep{hint}. Known: {", ".join(known) or "none"} (raybench list sweeps)'
            ]
        )
    return known[name]


def read_document(path: Path) -> Document:
    """Read a sweep file as plain data. Raises ConfigError with file and line for anything that is not."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8 text'}"]) from None
    try:
        node = yaml.compose(text, Loader=SweepLoader)
        content = yaml.load(text, Loader=SweepLoader)
    except yaml.YAMLError as error:
        raise ConfigError([_yaml_fault(path.name, error)]) from None
    except (RecursionError, ValueError) as error:
        raise ConfigError([f"{path.name}: cannot be read as YAML: {type(error).__name__}"]) from None
    if not isinstance(content, dict):
        raise ConfigError([f"{path.name}: a sweep file is a mapping with the keys {', '.join(TOP_KEYS)}"])
    first = text.lstrip().splitlines()[0]
    question = first.lstrip("# ").strip() if first.startswith("#") else ""
    return Document(path, content, dict(_lines(node, ())), question)


def _yaml_fault(where: str, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    line = f":{mark.line + 1}" if mark else ""
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    if "could not determine a constructor" in problem:
        problem = f"{problem.rpartition(' ')[2]} is refused: a sweep file holds plain data only"
    return f"{where}{line}: {problem}"


def _lines(node: yaml.Node | None, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode) and len(path) < 12:
        for key, value in node.value:
            here = (*path, str(key.value))
            yield here, key.start_mark.line + 1
            yield from _lines(value, here)


def load_sweep(
    name: str, preset: str, overrides: Sequence[str] = (), options: dict[str, Any] | None = None
) -> SweepConfig:
    """A sweep with its preset, `key=value` overrides and command-line options applied.

    `options` maps a top-level dotted key (`seeds`, `tune.num_samples`) to its value. Raises ConfigError with all faults at once.
    """
    document = read_document(find_sweep(name))
    faults = Faults()
    content = {key: value for key, value in document.content.items() if key != "presets"}
    origins: dict[str, str] = {}
    _check_top(document, content, (), faults)
    presets = document.content.get("presets", {})
    if not isinstance(presets, dict):
        faults.add(document.place(["presets"]), "presets: must be a mapping of preset to what differs")
        presets = {}
    for unknown in set(presets) - set(PRESETS):
        near = nearest(unknown, PRESETS, n=1)
        faults.add(
            document.place(["presets", unknown]),
            f"presets.{unknown}: no such preset"
            + (f"; did you mean {near[0]}?" if near else f"; allowed: {', '.join(PRESETS)}"),
        )
    if preset not in PRESETS:
        faults.add(COMMAND_LINE, f"--preset {preset}: no such preset; allowed: {', '.join(PRESETS)}")
    elif preset != "paper" and preset not in presets:
        faults.add(
            COMMAND_LINE,
            f"--preset {preset}: {document.path.name} has no such preset; it has {', '.join(['paper', *presets])}",
        )
    difference = presets.get(preset) or {}
    if isinstance(difference, dict):
        _check_top(document, difference, ("presets", preset), faults)
        content = merge(content, difference)
    else:
        faults.add(document.place(["presets", preset]), f"presets.{preset}: must be a mapping")
    faults.raise_any()
    _apply_overrides(content, overrides, origins, faults)
    for key, value in (options or {}).items():
        _put_deep(content, key, value)
        origins[key] = COMMAND_LINE
    sweep = _validate(document, preset, content, origins, faults)
    faults.raise_any()
    assert sweep is not None
    return sweep


def _check_top(document: Document, content: dict[str, Any], above: tuple[str, ...], faults: Faults) -> None:
    for key in content:
        if key not in TOP_KEYS:
            near = nearest(key, TOP_KEYS, n=1)
            dotted = ".".join([*above, key])
            faults.add(
                document.place([*above, key]),
                f"{dotted}: no such key; "
                + (f"did you mean {near[0]}?" if near else f"allowed: {', '.join(TOP_KEYS)}"),
            )
    for key in ("base", "factors", "tune", "scheduler", "resources", "limits", "metric"):
        if key in content and not isinstance(content[key], dict):
            faults.add(document.place([*above, key]), f"{'.'.join([*above, key])}: must be a mapping")


def merge(base: dict[str, Any], difference: dict[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """`base` with what differs: mappings are merged, but `factors`, `tune` and model `options` are replaced as a whole."""
    merged = dict(base)
    for key, value in difference.items():
        whole = (path == () and key in ("factors", "tune")) or key == "options"
        if isinstance(value, dict) and isinstance(merged.get(key), dict) and not whole:
            merged[key] = merge(merged[key], value, (*path, key))
        else:
            merged[key] = value
    return merged


def _apply_overrides(
    content: dict[str, Any], overrides: Sequence[str], origins: dict[str, str], faults: Faults
) -> None:
    known = set(trial_keys())
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            faults.add(COMMAND_LINE, f"{override!r}: must be key=value, such as optimizer.lr=0.1")
            continue
        try:
            value = yaml.load(text, Loader=SweepLoader)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            problem = _yaml_fault(key, error) if isinstance(error, yaml.YAMLError) else f"{key}: not a value"
            faults.add(COMMAND_LINE, problem)
            continue
        head, _, rest = key.partition(".")
        name = (
            rest.removeprefix("space.")
            if key.startswith(("factors.", "tune.space."))
            else rest
            if head == "factors"
            else key
        )
        is_option = ".options." in f".{name}"
        if head in ("factors",) or key.startswith("tune.space."):
            if name not in known and not is_option:
                faults.add(COMMAND_LINE, _no_such_key(key, name, known))
                continue
            _replace_axis(content, "factors" if head == "factors" else "tune", name, value)
        elif key in known or is_option:
            _override_trial_key(content, key, value, faults)
        elif head in TOP_KEYS and head not in ("base", "factors"):
            _put_deep(content, key, value)
        else:
            faults.add(COMMAND_LINE, _no_such_key(key, key, [*known, *TOP_KEYS]))
            continue
        origins[name] = COMMAND_LINE


def _no_such_key(key: str, name: str, known: Any) -> str:
    near = nearest_key(name, sorted(known))
    return f"{key}: no such key" + (f"; did you mean {near}?" if near else "")


def _override_trial_key(content: dict[str, Any], key: str, value: Any, faults: Faults) -> None:
    """An override of an axis replaces that axis; of anything else, the base's value."""
    factors, space = content.get("factors", {}), content.get("tune", {}).get("space", {})
    for place, axes in (("factors", factors), ("tune", space)):
        if isinstance(axes, dict) and key in axes:
            _replace_axis(content, place, key, value)
            return
        inside = [axis for axis in axes if axis.startswith(f"{key}.")] if isinstance(axes, dict) else []
        if inside and isinstance(value, dict):
            faults.add(COMMAND_LINE, f"{key}: {', '.join(inside)} is an axis of this sweep; override that key instead")
            return
    if isinstance(value, list) and key not in (
        "dataset.augment",
        "model.mean",
        "model.std",
        "distillation.teacher.mean",
        "distillation.teacher.std",
    ):
        faults.add(
            COMMAND_LINE,
            f"{key} = {_brief(value)}: takes one value; to compare several write factors.{key}=…, to tune it tune.space.{key}=…",
        )
        return
    base = content.setdefault("base", {})
    if isinstance(base, dict):
        _put_deep(base, key, value)


def _replace_axis(content: dict[str, Any], place: str, key: str, value: Any) -> None:
    axis = value if isinstance(value, list) or (place == "tune" and isinstance(value, dict)) else [value]
    other = "tune" if place == "factors" else "factors"
    # A key moved from one kind of axis to the other leaves its old place.
    old = content.get("tune", {}).get("space", {}) if other == "tune" else content.get("factors", {})
    if isinstance(old, dict):
        old.pop(key, None)
    if place == "factors":
        content["factors"] = {**content.get("factors", {}), key: axis}
    else:
        tune = content.get("tune", {})
        content["tune"] = {**tune, "space": {**tune.get("space", {}), key: axis}}


def _put_deep(content: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        inner = content.get(part)
        content[part] = dict(inner) if isinstance(inner, dict) else {}
        content = content[part]
    content[last] = value


def _validate(
    document: Document, preset: str, content: dict[str, Any], origins: dict[str, str], faults: Faults
) -> SweepConfig | None:
    where = _Places(document, preset, origins)
    try:
        sweep = SweepConfig.model_validate(
            {**content, "base": {}, "name": document.path.stem, "question": document.question, "preset": preset}
        )
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            key = ".".join(str(part) for part in fault["loc"])
            faults.add(where(key, ()), _message(key, fault, TOP_KEYS))
        sweep = None
    base = content.get("base")
    if not isinstance(base, dict):
        faults.add(document.path.name, "base: is missing (dataset, model, optimizer, schedule …)")
        return None
    axes = {**content.get("factors", {}), **content.get("tune", {}).get("space", {})}
    start = _with_first_values(base, axes)
    _check_trial(start, lambda key: where(key, ("base",)), set(axes), faults)
    known = set(trial_keys())
    for kind, group in (("factors", content.get("factors", {})), ("tune", content.get("tune", {}).get("space", {}))):
        above = ("factors",) if kind == "factors" else ("tune", "space")
        for key, values in group.items():
            if key not in known and ".options." not in key:
                faults.add(where(key, above), _no_such_key(f"{'.'.join(above)}.{key}", key, known))
                continue
            for value in _axis_samples(values):
                _check_axis_value(start, key, value, where(key, above), faults)
    if sweep is None or faults.found:
        return sweep
    places = {key: where(key, ("base",)) for key in known if _has(base, key)}
    places |= {key: where(key, ("factors",)) for key in content.get("factors", {})}
    places |= {key: where(key, ("tune", "space")) for key in content.get("tune", {}).get("space", {})}
    places["metric.name"] = where("metric.name", ())
    return sweep.model_copy(update={"base": json.loads(json.dumps(base, default=str)), "places": places})


def _has(content: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(content, dict) or part not in content:
            return False
        content = content[part]
    return True


@dataclass(frozen=True)
class _Places:
    """Where a key came from: the command line, the preset, or the file."""

    document: Document
    preset: str
    origins: dict[str, str]

    def __call__(self, key: str, above: tuple[str, ...]) -> str:
        bare = key.removeprefix("factors.").removeprefix("tune.space.")
        for name, origin in self.origins.items():
            if bare == name or key == name or key.startswith(f"{name}."):
                return origin
        path = [*above, *([key] if above and above[0] != "base" else key.split("."))]
        in_preset = ["presets", self.preset, *path]
        if tuple(in_preset) in self.document.lines:
            return self.document.place(in_preset)
        return self.document.place(path)


def _with_first_values(base: dict[str, Any], axes: dict[str, Any]) -> dict[str, Any]:
    start: dict[str, Any] = json.loads(json.dumps(base, default=str))
    for key in sorted(axes, key=lambda key: key.count(".")):
        if samples := _axis_samples(axes[key]):
            put(start, key, samples[0])
    return start


def _axis_samples(values: Any) -> list[Any]:
    if isinstance(values, list):
        return values
    if isinstance(values, dict) and len(values) == 1:
        inner = next(iter(values.values()))
        return inner if isinstance(inner, list) else []
    return []


def _check_trial(content: dict[str, Any], where: Any, axes: set[str], faults: Faults) -> None:
    try:
        TrialConfig.model_validate(content)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            key = ".".join(str(part) for part in fault["loc"] if not _is_branch(part))
            if any(key == axis or key.startswith(f"{axis}.") for axis in axes):
                continue  # reported with the axis value that causes it
            faults.add(where(key), _message(key, fault, trial_keys()))


def _check_axis_value(start: dict[str, Any], key: str, value: Any, where: str, faults: Faults) -> None:
    content = json.loads(json.dumps(start, default=str))
    if isinstance(value, float) and not math.isfinite(value):
        faults.add(where, f"{key} = {value}: must be a finite number")
        return
    put(content, key, value)
    try:
        TrialConfig.model_validate(content)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            name = ".".join(str(part) for part in fault["loc"] if not _is_branch(part))
            if name == key or name.startswith(f"{key}."):
                faults.add(where, _message(name, fault, trial_keys()))


def _is_branch(part: Any) -> bool:
    """Pydantic names the branch of a union it tried; that is no key of ours."""
    return isinstance(part, str) and (part in ("int", "float", "bool", "str") or "[" in part)


def _message(key: str, fault: Any, known: Sequence[str]) -> str:
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        section = key.rpartition(".")[0]
        inside = [name for name in known if name.rpartition(".")[0] == section] or list(_section_keys(section))
        last = nearest(key.rpartition(".")[2], [name.rpartition(".")[2] for name in inside], n=1)
        near = (f"{section}.{last[0]}" if section else last[0]) if last else nearest_key(key, known)
        return f"{key}: no such key" + (f"; did you mean {near}?" if near else "")
    if kind == "missing":
        return f"{key}: is missing"
    value = f"{key} = {_brief(fault.get('input'))}"
    bounds = {
        "greater_than": ("greater than", "gt"),
        "greater_than_equal": ("at least", "ge"),
        "less_than": ("below", "lt"),
        "less_than_equal": ("at most", "le"),
    }
    if kind in bounds:
        word, name = bounds[kind]
        return f"{value}: must be {word} {context[name]:g}"
    if kind == "literal_error":
        allowed = nearest(
            str(fault.get("input")),
            [part.strip("' ") for part in context["expected"].replace(" or ", ", ").split(",")],
            n=1,
        )
        return f"{value}: allowed are {context['expected']}" + (f"; did you mean {allowed[0]}?" if allowed else "")
    if kind == "value_error":
        text = str(context.get("error", fault["msg"]))
        return f"{key}: {text}" if key else text
    text = fault["msg"].replace("Input should be", "must be")
    return f"{value}: {text[0].lower()}{text[1:]}"


def _section_keys(section: str) -> Sequence[str]:
    owner: type[BaseModel] | None = (sections(TrialConfig) | sections(SweepConfig)).get(section)
    return [f"{section}.{name}" for name in owner.model_fields] if owner else ()


def _brief(value: Any) -> str:
    text = json.dumps(value, default=str) if not isinstance(value, float) or math.isfinite(value) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
