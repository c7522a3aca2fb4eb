"""What differs between two configurations of a sweep, such as that of the last run in a folder and that to run now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from raybench.config.document import MAX_BYTES, WrittenLoader, dump, parse, problem_of
from raybench.config.faults import brief, messages, printable
from raybench.config.keys import get
from raybench.config.overrides import is_trial_key
from raybench.config.plan import Plan, first_values, outside, trial_at, weights_key
from raybench.config.sweep import SweepConfig
from raybench.errors import ConfigError

UNSAID = {"name", "question", "assumed", "preset", "places", "base", "factors", "fingerprints", "codes", "digests"}
"""What decides nothing, and what is compared in its own way."""
CODE = "code of "
WEIGHTS = "weights of "
LOOKED_AT = 200
"""Settings of a plan that are tried to tell whether a changed key makes others of them."""

Kind = Literal["fixed", "compared", "tuned"]


@dataclass(frozen=True)
class Value:
    """What one key holds: a fixed value, or the axis along which it varies."""

    kind: Kind
    value: Any

    @property
    def points(self) -> list[Any] | None:
        """The values it takes; none for a distribution."""
        if self.kind == "fixed":
            return [self.value]
        choices = self.value.get("choice") if isinstance(self.value, dict) else self.value
        return choices if isinstance(choices, list) else None


@dataclass(frozen=True)
class Change:
    """One key that differs."""

    key: str
    """As the command line takes it, such as `schedule.epochs`; or `data of NAME`, whose values are fingerprints,
    `code of model NAME`, or `weights of NAME PATH`, whose values are digests."""
    before: Value
    now: Value

    def __str__(self) -> str:
        both = (self.before, self.now)
        if self.key == "seeds" and all(each.value == list(range(len(each.value))) for each in both):
            old, new = (str(len(each.value)) for each in both)
        elif self.before.kind == self.now.kind:
            old, new = (_shown(each.value) for each in both)
        else:
            old, new = (f"{each.kind} {_shown(each.value)}" for each in both)
        return f"{self.key} {old} -> {new}"


def resolved(sweep: SweepConfig) -> bytes:
    """A sweep as a run of it writes it down."""
    return dump(sweep.model_dump(mode="json", exclude={"places"})).encode()


def read_resolved(content: bytes) -> SweepConfig:
    """A sweep as a run of it wrote it down, resolved. Raises ConfigError where this is none."""
    if len(content) > MAX_BYTES:
        raise ConfigError([f"larger than {MAX_BYTES // 1024} KiB"])
    try:
        sweep = SweepConfig.model_validate(parse(content.decode(), WrittenLoader)[1])
        _example(sweep)
    except UnicodeDecodeError:
        raise ConfigError(["not UTF-8 text"]) from None
    except yaml.YAMLError as error:
        line, problem = problem_of(error)
        raise ConfigError([printable(f"line {line}: {problem}" if line else problem)]) from None
    except ValidationError as error:
        raise ConfigError([printable(text) for _, text in messages(error, ())]) from None
    return sweep


def changes(before: SweepConfig, now: SweepConfig) -> list[Change]:
    """Every key that differs: the preset, the data, a trial's keys, the sweep's own. A key left out has its default."""
    found = list(_differing({"preset": before.preset}, {"preset": now.preset}))
    for name in before.fingerprints.keys() & now.fingerprints.keys():
        if before.fingerprints[name] != now.fingerprints[name]:
            old, new = (Value("fixed", sweep.fingerprints[name]) for sweep in (before, now))
            found.append(Change(f"data of {name}", old, new))
    for what, olds, news in ((CODE, before.codes, now.codes), (WEIGHTS, before.digests, now.digests)):
        for name in olds.keys() & news.keys():
            if olds[name] != news[name]:
                found.append(Change(f"{what}{name}", Value("fixed", olds[name]), Value("fixed", news[name])))
    trials = _example(before), _example(now)
    for key in dict.fromkeys([*_axes(before), *_axes(now)]):
        old = _axes(before).get(key) or Value("fixed", get(trials[0], key))
        new = _axes(now).get(key) or Value("fixed", get(trials[1], key))
        if old != new:
            found.append(Change(key, old, new))
        for trial in trials:
            section, _, last = key.rpartition(".")
            inside = get(trial, section) if section else trial
            if isinstance(inside, dict):
                inside.pop(last, None)
    found += _differing(*trials)
    found += _differing(_own(before), _own(now))
    return found


def makes_other_trials(change: Change, before: Plan) -> bool:
    """Whether trials of the plan `before` the change are others with it; not where some are only left out or added."""
    data = change.key.removeprefix("data of ")
    settings = [(cell.point, setting.tuned) for cell in before.cells for setting in cell.settings][:LOOKED_AT]
    settings = settings or [(cell.point, first_values(before.sweep)) for cell in before.cells[:LOOKED_AT]]
    trials = [(values := point | tuned, trial_at(before.sweep, values)) for point, tuned in settings]
    if data != change.key:
        return any(trial.dataset.data_key == data for _, trial in trials)
    if change.key.startswith(CODE):
        return change.key.removeprefix(CODE) in outside(trial for _, trial in trials)
    if change.key.startswith(WEIGHTS):
        models = [model for _, trial in trials for model in (trial.model, trial.distillation.teacher) if model]
        return any(model.from_file and weights_key(model) == change.key.removeprefix(WEIGHTS) for model in models)
    if change.key == "seeds":
        return _replaced(change.before.value, change.now.value)
    if not is_trial_key(change.key):
        return False
    was, now = change.before.points, change.now.points
    if was is None or now is None or not (len(was) == len(now) == 1):
        return was is None or now is None or _replaced(was, now)
    for values, trial in trials:
        try:
            other = trial_at(before.sweep, values | {change.key: now[0]})
        except ValidationError:  # with this one key alone it would be no trial
            return True
        if other.setting_id != trial.setting_id:
            return True
    return False


def _replaced(before: list[Any], now: list[Any]) -> bool:
    return any(value not in now for value in before) and any(value not in before for value in now)


def _example(sweep: SweepConfig) -> dict[str, Any]:
    """Some trial of the sweep, whole; its seed, and what its data, files and code from outside are, stand elsewhere."""
    point = {key: values[0] for key, values in sweep.factors.items()}
    content = trial_at(sweep, point | first_values(sweep)).model_dump(mode="json")
    del content["seed"], content["dataset"]["fingerprint"], content["distillation"]["code"]
    for model in (content["model"], content["distillation"]["teacher"] or {}):
        model.pop("code", None)
        model.pop("digest", None)
    return content


def _axes(sweep: SweepConfig) -> dict[str, Value]:
    tuned = {key: Value("tuned", values) for key, values in sweep.tune.space.items()}
    return {key: Value("compared", values) for key, values in sweep.factors.items()} | tuned


def _own(sweep: SweepConfig) -> dict[str, Any]:
    content = sweep.model_dump(mode="json", exclude=UNSAID)
    del content["tune"]["space"]
    return content


def _differing(before: dict[str, Any], now: dict[str, Any], above: str = "") -> Iterator[Change]:
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differing(old, new, f"{above}{name}.")
        elif old != new:
            yield Change(f"{above}{name}", Value("fixed", old), Value("fixed", new))


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict) and "name" in value:
        return printable(str(value["name"]))
    return printable(value) if isinstance(value, str) else brief(value)
