"""Which models there are. The folder is the registry: a family is a file here that declares `MODELS` or `TEXT_MODELS`.
Plugins and installed packages add to it (`raybench.config.plugins`).

`MODELS` see images and classify them, `TEXT_MODELS` read sentences and translate them; no name is in both. A family may
also declare `PRETRAINED` (published weights), `UNIT_INPUT` (names of models that take pixels in [0, 1] as they are) and
`TRANSLATIONS` (how a weight file of another shape becomes the model's own state dict).
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from raybench.config import plugins
from raybench.config.plugins import Extra
from raybench.errors import ConfigError
from raybench.models import timm_models
from raybench.models.weights import Published

SIMILAR = 0.4
"""Ratio of difflib's below which a name is no help to who mistyped another."""

Builder = Callable[..., nn.Module]
Translation = Callable[[nn.Module, dict[str, Tensor], str], dict[str, Tensor]]
"""(model, state dict of a file, name of the file for errors) -> state dict of the whole model.

Its keys and shapes must follow from keys and shapes alone: whether a file fits is asked without reading its values.
"""


class Builders(Mapping[str, Builder]):
    """Name -> builder, of ours and of those from outside, which are imported when they are asked for."""

    def __init__(self, ours: Mapping[str, Builder], extras: Mapping[str, Extra]) -> None:
        self.ours = ours
        self.extras = extras

    def __getitem__(self, name: str) -> Builder:
        return self.ours[name] if name in self.ours else self.extras[name].load()

    def __iter__(self) -> Iterator[str]:
        return iter({**self.ours, **self.extras})

    def __len__(self) -> int:
        return len({**self.ours, **self.extras})

    def __contains__(self, name: object) -> bool:
        return name in self.ours or name in self.extras


def own() -> Builders:
    """Our image models: name -> builder with the keywords num_classes, in_channels, image_size, **options."""
    return Builders(_declared("MODELS"), plugins.extras("MODELS"))


def text() -> Builders:
    """Our text models: name -> builder with the keywords source_vocabulary, target_vocabulary, **options."""
    models = _declared("TEXT_MODELS")
    if twice := models.keys() & _declared("MODELS").keys():
        raise RuntimeError(f"declared as image and as text models: {sorted(twice)}")
    return Builders(models, plugins.extras("TEXT_MODELS"))


def check_extras(names: Collection[str]) -> None:
    """Raise ConfigError where a model from outside, of these names, has that of one of ours, or of timm's."""
    ours = _declared("MODELS").keys() | _declared("TEXT_MODELS").keys()
    every = [*plugins.extras("MODELS").values(), *plugins.extras("TEXT_MODELS").values()]
    extras = [extra for extra in every if extra.name in names]
    faults = []
    for extra in extras:
        if extra.name in ours or timm_models.exists(extra.name):
            whose = "raybench" if extra.name in ours else "timm"
            faults.append(f"{extra}: {whose} has a model of that name; give yours another")
    if twice := {extra.name for extra in extras if sum(other.name == extra.name for other in extras) > 1}:
        faults.append(f"{', '.join(sorted(twice))}: both an image and a text model; give one another name")
    if faults:
        raise ConfigError(faults)


@cache
def _declared(attribute: str) -> dict[str, Callable[..., nn.Module]]:
    models: dict[str, Callable[..., nn.Module]] = {}
    for family in families():
        declared = getattr(importlib.import_module(f"raybench.models.{family}"), attribute, {})
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


def names(kind: Literal["image", "text"] | None = None) -> tuple[str, ...]:
    """Names of raybench's own models, of one kind or all, sorted; every timm name is allowed for images besides."""
    wanted = {"image": [own()], "text": [text()]}.get(kind or "", [own(), text()])
    return tuple(sorted({name for builders in wanted for name in builders}))


def exists(name: str) -> bool:
    """Whether a name is one of our own models, or a timm model, with or without the tag of published weights."""
    return name in own() or name in text() or timm_models.exists(name)


def nearest(name: str, n: int = 3) -> list[str]:
    """At most `n` known names that resemble one that is not known, best first."""
    return difflib.get_close_matches(name, [*names(), *timm_models.names(tagged="." in name)], n=n, cutoff=SIMILAR)
