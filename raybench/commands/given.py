"""What a command was given beside its own code: plugins, and what installed packages bring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

from raybench.config import plugins
from raybench.config.plugins import Plugin
from raybench.errors import ConfigError


def load_plugins(names: Sequence[str]) -> tuple[Plugin, ...]:
    """Load the plugins. Raises ConfigError with all that is wrong with them, or with what packages bring."""
    given = plugins.load(names)
    faults: list[str] = []
    # Each knows its own names, and is asked only where there are others: one of them takes torch and timm to answer.
    for kinds, package in ((("MODELS", "TEXT_MODELS"), "models.registry"), (("DATASETS", "TEXT_DATASETS"), "data")):
        if any(plugins.extras(kind) for kind in kinds):
            try:
                _checker(package)()
            except ConfigError as error:
                faults += error.problems
    if faults:
        raise ConfigError(faults)
    return given


def _checker(package: str) -> Callable[[], None]:
    check: Callable[[], None] = import_module(f"raybench.{package}").check_extras
    return check
