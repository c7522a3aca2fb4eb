"""A trial's configuration read back from its row in the results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, get_args

from pydantic import ValidationError

from raybench.config.faults import messages
from raybench.config.keys import put
from raybench.config.trial import TrialConfig, sections, trial_keys
from raybench.errors import ResultsError

PREFIX = "config/"


def recorded_trial(row: Mapping[str, Any]) -> TrialConfig:
    """The trial whose row this is: columns `config/<dotted key>` beside `trial_id` and `setting_id`.

    It keeps the identity it ran under, which an earlier version of the recipe may have computed otherwise. A key that
    the row does not have is at its default. Raises ResultsError where the row is no configuration of this version.
    """
    unknown = [
        name.removeprefix(PREFIX)
        for name, value in row.items()
        if name.startswith(PREFIX) and value is not None and name.removeprefix(PREFIX) not in _known()
    ]
    if unknown:
        raise ResultsError(f"trial {row.get('trial_id')}: not a configuration of this version: {', '.join(unknown)}")
    content: dict[str, Any] = {}
    for key in _leaves():
        value = row.get(f"{PREFIX}{key}")
        if value is not None:
            try:
                put(content, key, _read(key, value))
            except (ValueError, RecursionError) as error:
                why = f"{key}: {str(value)[:40]!r} cannot be read ({error})"
                raise ResultsError(
                    f"trial {row.get('trial_id')}: not a configuration of this version: {why}"
                ) from error
    teacher = content.get("distillation", {}).get("teacher")
    if teacher is not None and "name" not in teacher:
        content["distillation"].pop("teacher")
    try:
        trial = TrialConfig.model_validate(content)
    except ValidationError as error:
        faults = "; ".join(f"{key}: {text}" if key else text for key, text in messages(error, trial_keys()))
        raise ResultsError(f"trial {row.get('trial_id')}: not a configuration of this version: {faults}") from error
    for name in ("trial_id", "setting_id"):
        if (known := row.get(name)) is not None:
            trial.__dict__[name] = known  # where a cached property keeps what it found
    return trial


@cache
def _known() -> frozenset[str]:
    return frozenset(_leaves())


@cache
def _leaves() -> tuple[str, ...]:
    return tuple(key for key in trial_keys() if key not in sections(TrialConfig))


def _read(key: str, value: Any) -> Any:
    """A column's value as a configuration has it: lists and options are JSON there, a size among words is text.

    Raises ValueError or RecursionError for what is neither.
    """
    if not isinstance(value, str):
        return value
    if _holds_json(key):
        found = json.loads(value)
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()  # half a character is no text, NaN no number
        return found
    return int(value) if value.isdecimal() and _holds_numbers(key) else value


@cache
def _holds_json(key: str) -> bool:
    return any(word in _annotation(key) for word in ("tuple[", "dict[", "list["))


@cache
def _holds_numbers(key: str) -> bool:
    return "int" in _annotation(key)


def _annotation(key: str) -> str:
    section, _, name = key.rpartition(".")
    owner = sections(TrialConfig)[section] if section else TrialConfig
    annotation = owner.model_fields[name].annotation
    return f"{annotation} {get_args(annotation)}"
