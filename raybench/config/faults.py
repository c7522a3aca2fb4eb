"""What is wrong with a configuration, said in one go: where it stands, the key, the value and the rule."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from raybench.config.names import nearest, nearest_key
from raybench.config.sweep import SweepConfig
from raybench.config.trial import TrialConfig, sections
from raybench.errors import ConfigError

COMMAND_LINE = "command line"
"""The place of what is not in a file."""
MAX_FAULTS = 50
"""More than these are only counted."""
BOUNDS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}
RULES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "finite_number": "a finite number",
}
UNION_BRANCHES = frozenset({"int", "float", "bool", "str", "constrained-int", "constrained-float", "constrained-str"})


@dataclass
class Faults:
    """Collects what is wrong; `raise_any` says all of it at once."""

    found: dict[str, None] = field(default_factory=dict)

    def add(self, where: str, what: str) -> None:
        """One more; the same one twice is one."""
        self.found[printable(f"{where}: {what}")] = None

    @property
    def full(self) -> bool:
        """Whether more would only be counted."""
        return len(self.found) >= MAX_FAULTS

    def raise_any(self) -> None:
        """Raise ConfigError with all that was found; nothing where nothing was."""
        if self.found:
            lines = list(self.found)
            more = [f"… and {len(lines) - MAX_FAULTS} more"] if len(lines) > MAX_FAULTS else []
            raise ConfigError(lines[:MAX_FAULTS] + more)


def printable(text: str) -> str:
    """The text in one line, whatever a name or a value in it holds."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def reason(error: Exception) -> str:
    """The first line of another's exception, with its kind where the line is no sentence, as a KeyError's."""
    line = str(error).partition("\n")[0]
    return line if " " in line else f"{type(error).__name__}: {line}".removesuffix(": ")


def messages(error: ValidationError, known: Sequence[str]) -> list[tuple[str, str]]:
    """(dotted key, text) of each fault pydantic found; the branches of a union that all failed are one fault."""
    texts: dict[str, list[str]] = {}
    for fault in error.errors(include_url=False):
        key = ".".join(str(part) for part in fault["loc"] if not _is_branch(part))
        texts.setdefault(key, []).append(_text(key, fault, known))
    found = []
    for key, several in texts.items():
        start = several[0].partition(": must be ")[0] + ": must be "
        if all(text.startswith(start) for text in several):
            rules = dict.fromkeys(text.removeprefix(start) for text in several)
            found.append((key, start + " or ".join(rules)))
        else:
            found += [(key, text) for text in dict.fromkeys(several)]
    return found


def no_such_key(key: str, name: str, known: Iterable[str]) -> str:
    """That there is no `key`, and which one may have been meant by its part `name`."""
    near = nearest_key(name, sorted(known))
    return f"{key}: no such key" + (f"; did you mean {near}?" if near else "")


def no_such_name(key: str, name: str, known: Sequence[str]) -> str:
    """That there is no `name` in a place that allows few."""
    near = nearest(name, known, n=1)
    return f"{key}: no such key" + (f"; did you mean {near[0]}?" if near else f"; allowed: {', '.join(known)}")


def not_one_of(key: str, value: Any, allowed: Sequence[str]) -> str:
    """That a value is none of few words."""
    near = nearest(str(value), allowed, n=1)
    listed = ", ".join(allowed[:-1]) + (" or " if allowed[1:] else "") + allowed[-1]
    return f"{key} = {brief(value)}: must be {listed}" + (f"; did you mean {near[0]}?" if near else "")


def brief(value: Any) -> str:
    """A value as a sweep file would write it, cut where it is long."""
    text = json.dumps(value, default=str) if not isinstance(value, float) or math.isfinite(value) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _text(key: str, fault: Any, known: Sequence[str]) -> str:
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown(key, known)
    if kind == "missing":
        return f"{key}: is missing"
    value = f"{key} = {brief(fault.get('input'))}"
    if kind in BOUNDS:
        word, name = BOUNDS[kind]
        bound = context[name]
        return f"{value}: must be {word} {bound if isinstance(bound, int) else f'{bound:g}'}"
    if kind == "literal_error":
        allowed = [part.strip("' ") for part in context["expected"].replace(" or ", ", ").split(",")]
        return not_one_of(key, fault.get("input"), allowed)
    if kind == "value_error":
        text = str(context.get("error", fault["msg"]))
        return f"{key}: {text}" if key else text
    if kind == "too_short":
        return f"{key}: must not be empty"
    if kind == "too_long":
        return f"{key}: must have at most {context['max_length']} values"
    text = RULES[kind] if kind in RULES else fault["msg"].removeprefix("Input should be ")
    return f"{value}: must be {text}"


def _unknown(key: str, known: Sequence[str]) -> str:
    section, _, last = key.rpartition(".")
    inside = [name for name in known if name.rpartition(".")[0] == section] or _section_keys(section)
    near = nearest(last, [name.rpartition(".")[2] for name in inside], n=1)
    if near:
        return f"{key}: no such key; did you mean {f'{section}.{near[0]}' if section else near[0]}?"
    if elsewhere := nearest_key(key, known):
        return f"{key}: no such key; did you mean {elsewhere}?"
    return f"{key}: no such key"


def _section_keys(section: str) -> list[str]:
    owner: type[BaseModel] | None = (sections(TrialConfig) | sections(SweepConfig)).get(section)
    return [f"{section}.{name}" for name in owner.model_fields] if owner else []


def _is_branch(part: Any) -> bool:
    """Pydantic names the branch of a union that it tried; that is no key of ours."""
    return isinstance(part, str) and (part in UNION_BRANCHES or "[" in part)
