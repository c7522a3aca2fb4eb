"""From a configuration to a model with its weights, its normalisation and the size at which it sees images."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from raybench.config import plugins
from raybench.config.trial import ModelConfig
from raybench.errors import ConfigError, WeightsError
from raybench.models import registry, timm_models, tome_vit, weights

HEADS = ("head", "linear")
"""Attribute of our own models that classifies."""

SIZES = ("num_classes", "in_channels", "image_size")
TEXT_SIZES = ("source_vocabulary", "target_vocabulary")
"""What the data set decides, and options cannot."""

OPTION_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((float, int), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "text"),
}
"""What an option may be whose builder asks for that; other types are left to the builder."""

USUAL_SIZE = 224
"""Side in pixels at which papers count and time models that say nothing else."""


@dataclass(frozen=True)
class BuiltModel:
    """A model and how its input is made."""

    module: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Of the input in [0, 1], one a channel."""
    image_size: int
    """Side in pixels the model expects; views are resized to it."""


def build(
    config: ModelConfig,
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    weights_root: Path | None = None,
) -> BuiltModel:
    """Build a model; deterministic under `torch.manual_seed`.

    `image_size` (px), `mean` and `std` are the data set's. Pretrained weights bring their own mean and std and, for
    timm, their input size; a file of timm weights that does not say with which mean and std it was trained has those
    that timm publishes for the name. Some of our own models take the input in [0, 1] as it is. What the configuration
    states comes before all of them.

    Raises ConfigError for an unknown name or options that do not fit, and WeightsError for weights that are absent,
    refused or do not fit.
    """
    _known(config)
    if config.name in registry.text():
        allowed = f"allowed for images: {', '.join(registry.names('image'))} and every timm name"
        raise ConfigError([f"model {config.name} translates sentences and cannot see images; {allowed}"])
    if config.name in registry.own():
        size = config.image_size or image_size
        module = _build_own(config, num_classes, in_channels, size)
        if config.name in registry.unit_input():
            mean, std = (0.0,) * in_channels, (1.0,) * in_channels
        if config.weights != "none":
            own_path = _own_file(config, weights_root)
            state = _translated(config.name, module, weights.read_state_dict(own_path), str(own_path))
            weights.load(module, state, model=config.name, heads=HEADS, source=str(own_path))
            if (published := _published(config.name, own_path)) is not None:
                mean, std = published.mean, published.std
            elif config.name not in registry.unit_input():
                mean, std = weights.read_normalisation(own_path) or (mean, std)
    else:
        pretrained = config.weights == "pretrained"
        path = None if config.weights in ("none", "pretrained") else weights.find_file(config.weights, weights_root)
        options = dict(config.options)
        tome_r = tome_vit.parse_option(config.name, options.pop(tome_vit.OPTION, 0))
        size = timm_models.input_size(
            config.name, options, wanted=config.image_size, default=image_size, pretrained=pretrained
        )
        module = timm_models.build(
            config.name,
            options,
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=size,
            pretrained=pretrained,
            weights_root=weights_root,
        )
        if path is not None:
            timm_models.load(module, weights.read_state_dict(path), model=config.name, source=str(path))
        module = tome_vit.apply_option(config.name, module, tome_r)
        if config.weights != "none":
            cfg = timm_models.pretrained_cfg(config.name)
            mean, std = (path and weights.read_normalisation(path)) or (cfg.mean, cfg.std)
    return BuiltModel(
        module=module,
        mean=_per_channel(config, "mean", config.mean or mean, in_channels),
        std=_per_channel(config, "std", config.std or std, in_channels),
        image_size=size,
    )


def build_text(
    config: ModelConfig, *, source_vocabulary: int, target_vocabulary: int, weights_root: Path | None = None
) -> nn.Module:
    """Build a text model for vocabularies of these sizes, specials included; deterministic under `torch.manual_seed`.

    Raises ConfigError for an unknown name, an image model or options that do not fit, and WeightsError for weights
    that are absent, refused or do not fit.
    """
    _known(config)
    if config.name not in registry.text():
        allowed = f"allowed for sentences: {', '.join(registry.names('text'))}"
        raise ConfigError([f"model {config.name} classifies images and cannot read sentences; {allowed}"])
    if set_anyway := [key for key in ("image_size", "mean", "std") if getattr(config, key) is not None]:
        raise ConfigError([f"model {config.name}: {key} is for image models; leave it out" for key in set_anyway])
    _check_options(config, builder := registry.text()[config.name], TEXT_SIZES)
    sizes = {"source_vocabulary": source_vocabulary, "target_vocabulary": target_vocabulary}
    module = _built(config.name, builder, **sizes, **config.options)
    if config.weights != "none":
        path = _own_file(config, weights_root)
        weights.load(module, weights.read_state_dict(path), model=config.name, heads=(), source=str(path))
    return module


def weights_available(config: ModelConfig, weights_root: Path | None = None) -> None:
    """Raise WeightsError, within seconds, where the weights of a configuration are absent and cannot be fetched."""
    if config.weights == "none":
        return
    _known(config)
    if config.name in registry.names():
        weights.check_published_hash(_own_file(config, weights_root))
    elif config.weights == "pretrained":
        timm_models.available(config.name, weights_root)
    else:
        weights.check_published_hash(weights.find_file(config.weights, weights_root))


def weight_file(config: ModelConfig, weights_root: Path | None = None) -> Path | None:
    """The file from which a model's weights are read; none from scratch, and where timm keeps what it fetches by name.

    Raises WeightsError where it is absent.
    """
    if config.weights == "none":
        return None
    if config.weights == "pretrained" and config.name not in registry.names():
        return timm_models.local_file(config.name, weights_root)
    return _own_file(config, weights_root)


def check_weights(config: ModelConfig, module: nn.Module, weights_root: Path | None = None) -> None:
    """Raise WeightsError where the weights of a configuration are absent, refused, or would not load into `module`.

    `module` is the model without its weights, on the meta device if you like: of the file only keys and shapes are
    looked at. Weights that timm fetches by name are only looked for; they are made for it.
    """
    weights_available(config, weights_root)
    own = config.name in registry.names()
    if config.weights == "none" or (config.weights == "pretrained" and not own):
        return
    path = _own_file(config, weights_root)
    state, source = weights.read_shapes(path), str(path)
    if not own:
        timm_models.fitting(module, state, model=config.name, source=source)
        return
    state = _translated(config.name, module, state, source)
    heads = HEADS if config.name in registry.own() else ()
    weights.match(module, state, model=config.name, heads=heads, source=source)


def meant_size(name: str) -> int:
    """Side in pixels of the images a model is meant for, where no data set says: its published size.

    For our own models the default of their builder's `image_size`.
    """
    if name in registry.own():
        default = inspect.signature(registry.own()[name]).parameters["image_size"].default
        return default if isinstance(default, int) else USUAL_SIZE
    return int(timm_models.pretrained_cfg(name).input_size[-1]) if timm_models.exists(name) else USUAL_SIZE


def head_modules(module: nn.Module) -> list[nn.Module]:
    """The head, both heads of a model with a distillation token, or nothing where none is known."""
    if callable(ask := getattr(module, "get_classifier", None)):
        found = ask()
        return list(found) if isinstance(found, tuple | list) else [found]
    return [getattr(module, name) for name in HEADS if hasattr(module, name)]


def head_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Parameters of the head, or of both heads of a model with a distillation token; for linear probing."""
    parameters = [parameter for head in head_modules(module) for parameter in head.parameters()]
    if not parameters:
        kind = type(module).__name__
        raise ConfigError([f"{kind} has no head with parameters to train (looked for {', '.join(HEADS)})"])
    return parameters


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, frozen ones too, buffers not."""
    return sum(parameter.numel() for parameter in module.parameters())


def _known(config: ModelConfig) -> None:
    plugins.check_code(("MODELS", "TEXT_MODELS"), config.name, config.code)
    if not registry.exists(name := config.name):
        near = registry.nearest(name)
        hint = f"; nearest known: {', '.join(near)}" if near else ""
        raise ConfigError([f'unknown model "{name}"{hint}. Allowed: {", ".join(registry.names())} and every timm name'])


def _build_own(config: ModelConfig, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    _check_options(config, builder := registry.own()[config.name], SIZES)
    sizes = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    return _built(config.name, builder, **sizes, **config.options)


def _built(name: str, builder: Callable[..., nn.Module], **named: Any) -> nn.Module:
    """The model. Raises ConfigError where one from outside cannot be built, or is none."""
    extra = plugins.find("MODELS", name) or plugins.find("TEXT_MODELS", name)
    if extra is None:
        return builder(**named)
    module = plugins.called(extra, builder, **named)
    if not isinstance(module, nn.Module):
        raise ConfigError([f"{extra}: must return a torch.nn.Module, not {type(module).__name__}"])
    return module


def _check_options(config: ModelConfig, builder: Callable[..., nn.Module], sizes: Sequence[str]) -> None:
    # A bound keyword is a named number of the variant: another number would be another model under the same name.
    bound = getattr(builder, "keywords", {})
    allowed = [name for name in inspect.signature(builder).parameters if name not in sizes and name not in bound]
    if unknown := sorted(config.options.keys() - set(allowed)):
        takes = f"allowed: {', '.join(allowed)}" if allowed else "it takes none"
        raise ConfigError([f"model {config.name}: unknown option {name}; {takes}" for name in unknown])
    faults = []
    for name, value in config.options.items():
        annotation = inspect.signature(builder).parameters[name].annotation
        kind = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
        if kind in OPTION_TYPES and type(value) not in (wanted := OPTION_TYPES[kind])[0]:
            faults.append(f"model {config.name}: options.{name} = {value!r} must be {wanted[1]}")
    if faults:
        raise ConfigError(faults)


def _translated(name: str, module: nn.Module, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """A file's state dict as one of our own models takes it, where its family reads files of other keys."""
    translate = registry.translations().get(name)
    return state if translate is None else translate(module, state, source)


def _own_file(config: ModelConfig, weights_root: Path | None) -> Path:
    if config.weights != "pretrained":
        return weights.find_file(config.weights, weights_root)
    published = registry.published()
    if config.name not in published:
        have = ", ".join(sorted(published)) or "none of our own models"
        raise WeightsError(f"no weights are published for {config.name}; there are for {have}; or model.weights: PATH")
    return weights.find_published(config.name, published[config.name], weights_root)


def _published(name: str, path: Path) -> weights.Published | None:
    # A published file named by its path is normalised as one found by `pretrained`.
    published = registry.published().get(name)
    return published if published is not None and fnmatch.fnmatchcase(path.name, published.pattern) else None


def _per_channel(config: ModelConfig, what: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    """One value a channel; those of RGB weights become their average on a greyscale data set."""
    if len(values) == channels:
        return tuple(float(value) for value in values)
    if getattr(config, what) is not None:
        raise ConfigError([f"model {config.name}: {what} has {len(values)} values, the data set {channels} channels"])
    return (sum(values) / len(values),) * channels
