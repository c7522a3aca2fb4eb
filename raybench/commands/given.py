"""What a command was given beside raybench's own code: plugins, and what installed packages bring."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from importlib import import_module

from raybench.config import plugins
from raybench.config.plugins import Extra, Plugin
from raybench.config.sweep import SweepConfig
from raybench.errors import ConfigError

CHECKED_BY = {("MODELS", "TEXT_MODELS"): "raybench.models.registry", ("DATASETS", "TEXT_DATASETS"): "raybench.data"}
"""Kinds of things from outside -> module whose `check_extras` knows which names are taken."""


def load_plugins(names: Sequence[str]) -> tuple[Plugin, ...]:
    """Load plugins. Raises ConfigError with all that is wrong with them, names that are taken among it."""
    given = plugins.load(names)
    own = {plugin.name for plugin in given}
    _check(lambda extra: extra.origin in own)
    return given


def check_used(config: SweepConfig) -> None:
    """Raise ConfigError where what a sweep names from outside has the name of something of raybench's, or timm's."""
    text = json.dumps([config.base, config.factors, config.tune.space])
    _check(lambda extra: json.dumps(extra.name) in text)


def _check(wanted: Callable[[Extra], bool]) -> None:
    faults: list[str] = []
    for kinds, module in CHECKED_BY.items():
        names = {extra.name for kind in kinds for extra in plugins.extras(kind).values() if wanted(extra)}
        if names:  # only then, since torch and timm must be imported to know which models there are
            check: Callable[[Collection[str]], None] = import_module(module).check_extras
            try:
                check(names)
            except ConfigError as error:
                faults += error.problems
    if faults:
        raise ConfigError(faults)
