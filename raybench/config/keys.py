"""Dotted keys: the names of settings in a sweep file, on the command line and, behind `config/`, in result tables."""

from __future__ import annotations

import json
from typing import Any


def put(content: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key of nested mappings, in place.

    A mapping on the way that is not written is made; nothing happens below one that is `none` (no teacher, no epochs).
    """
    *path, last = key.split(".")
    for part in path:
        inner = content.setdefault(part, {})
        if not isinstance(inner, dict):
            return
        content = inner
    content[last] = value


def get(content: dict[str, Any], key: str) -> Any:
    """The value at a dotted key of nested mappings; none where a mapping on the way is absent."""
    value: Any = content
    for part in key.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def flatten(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys; `options` stays whole, as JSON text."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if key == "options":
            flat[name] = json.dumps(value, sort_keys=True)
        elif isinstance(value, dict):
            flat.update(flatten(value, f"{name}."))
        elif isinstance(value, list):
            flat[name] = json.dumps(value)
        else:
            flat[name] = value
    return flat
