"""Machines that a cluster may start: a cloud's workers, of which none need run before a trial asks for one.

`ray up` leaves the cluster file on the head, completed by what the cloud says of its machines. There the driver runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from raybench.config.document import load
from raybench.config.folders import at_home

LEFT_BY_RAY_UP = Path("~/ray_bootstrap_config.yaml")
Resources = dict[str, float]


def with_startable(alive: Sequence[Resources], file: Path = LEFT_BY_RAY_UP) -> list[Resources]:
    """The nodes of a cluster: those alive, and as many more as its autoscaler may start; on a cloud's head only."""
    return joined(alive, startable(_read(at_home(file))))


def startable(content: dict[str, Any]) -> list[Resources]:
    """The workers that a cluster file allows, running or not. Machines of one's own are there or not: none of them."""
    if content.get("provider", {}).get("type") in (None, "local"):
        return []
    allowed = int(content.get("max_workers", 0))
    found: list[Resources] = []
    for name, kind in content.get("available_node_types", {}).items():
        if name == content.get("head_node_type"):
            continue
        resources = {key: float(value) for key, value in (kind.get("resources") or {}).items() if key != "node"}
        found += [resources] * int(kind.get("max_workers", allowed))
    return [each for each in found if each][:allowed]


def joined(alive: Sequence[Resources], allowed: Sequence[Resources]) -> list[Resources]:
    """The nodes that are alive and those allowed of which none like them is alive yet."""
    rest = list(allowed)
    for node in alive:
        like = next((each for each in rest if _size(each) == _size(node)), None)
        if like is not None:
            rest.remove(like)
    return [*alive, *rest]


def _size(resources: Resources) -> tuple[float, float]:
    return resources.get("CPU", 0.0), resources.get("GPU", 0.0)


def _read(file: Path) -> dict[str, Any]:
    try:
        content = load(file.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}
