"""Which models there are. The folder is the registry: a family is a file here that declares `MODELS`.

It may also declare `PRETRAINED` (published weights), `UNIT_INPUT` (names of models that take pixels in [0, 1] as they
are) and `TRANSLATIONS` (how a weight file of another shape becomes the model's own state dict).
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

from torch import Tensor, nn

from raybench.models import timm_models
from raybench.models.weights import Published

SIMILAR = 0.4
"""Ratio of difflib's below which a name is no help to who mistyped another."""

Translation = Callable[[nn.Module, dict[str, Tensor], str], dict[str, Tensor]]
"""(model, state dict of a file, name of the file for errors) -> state dict of the whole model."""


@cache
def own() -> dict[str, Callable[..., nn.Module]]:
    """raybench's own models: name -> builder with the keywords num_classes, in_channels, image_size, **options."""
    models: dict[str, Callable[..., nn.Module]] = {}
    for family in families():
        declared = getattr(importlib.import_module(f"raybench.models.{family}"), "MODELS", {})
        if twice := models.keys() & declared.keys():
            raise RuntimeError(f"raybench/models/{family}.py declares models another file has: {sorted(twice)}")
        models.update(declared)
    return models


@cache
def published() -> dict[str, Published]:
    """The published weights of our own models, from each family's `PRETRAINED`."""
    weights: dict[str, Published] = {}
    for family in families():
        weights.update(getattr(importlib.import_module(f"raybench.models.{family}"), "PRETRAINED", {}))
    return weights


@cache
def unit_input() -> frozenset[str]:
    """Our own models whose input is in [0, 1] without normalisation, from each family's `UNIT_INPUT`."""
    declared = (
        getattr(importlib.import_module(f"raybench.models.{family}"), "UNIT_INPUT", ()) for family in families()
    )
    return frozenset(name for names in declared for name in names)


@cache
def translations() -> dict[str, Translation]:
    """How files of other keys are read into our own models, from each family's `TRANSLATIONS`."""
    found: dict[str, Translation] = {}
    for family in families():
        found.update(getattr(importlib.import_module(f"raybench.models.{family}"), "TRANSLATIONS", {}))
    return found


def families() -> tuple[str, ...]:
    """Names of the modules in this folder, some of which declare models."""
    this = Path(__file__).stem
    return tuple(info.name for info in pkgutil.iter_modules([str(Path(__file__).parent)]) if info.name != this)


def names() -> tuple[str, ...]:
    """Names of raybench's own models, sorted; every timm name is allowed besides."""
    return tuple(sorted(own()))


def exists(name: str) -> bool:
    """Whether a name is one of our own models, or a timm model, with or without the tag of published weights."""
    return name in own() or timm_models.exists(name)


def nearest(name: str, n: int = 3) -> list[str]:
    """At most `n` known names that resemble one that is not known, best first."""
    return difflib.get_close_matches(name, [*names(), *timm_models.names(tagged="." in name)], n=n, cutoff=SIMILAR)
