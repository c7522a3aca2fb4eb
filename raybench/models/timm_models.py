"""Models of timm, passed through by name. Only this file and `tome_vit.py` know timm, and import it when used: it takes
seconds."""

from __future__ import annotations

import inspect
import json
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from raybench.errors import ConfigError, WeightsError
from raybench.models import weights

NETWORK_TIMEOUT_S = 3.0
RGB = 3
"""Channels that published weights see."""
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
"""Of a weight file in a folder of the user's, in the order in which they are looked for."""
OF_PUBLISHED = ("tag", "license", "description", "origin_url", "paper_name", "paper_ids", "notes", "url", "hf_hub_id")
"""Of timm's description of weights: whose they are."""


def exists(name: str) -> bool:
    """Whether timm has a model of this name and, where the name carries a tag, that tag."""
    import timm

    if not timm.is_model(name):
        return False
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError:  # the architecture exists, the tag does not
        return False
    return True


def names(*, tagged: bool = False) -> list[str]:
    """Names of timm's models; `tagged` lists those with published weights, with their tags."""
    import timm

    return list(timm.list_pretrained() if tagged else timm.list_models())


def pretrained_cfg(name: str) -> Any:
    """timm's description of the weights published for a name: input size, mean, std, where they are."""
    import timm

    return timm.get_pretrained_cfg(name, allow_unregistered=False)


def input_size(name: str, options: dict[str, Any], *, wanted: int | None, default: int, pretrained: bool) -> int:
    """Side in pixels at which a model is fed.

    What the configuration wants comes first, then the option `img_size`, then the size of the published weights
    (also without them, where the architecture is built for one size); a model that takes any gets `default`.
    """
    img_size = options.get("img_size")
    if wanted is not None and img_size is not None and wanted != img_size:
        raise ConfigError([f"model {name}: image_size = {wanted} contradicts options.img_size = {img_size}; give one"])
    if wanted is not None:
        return wanted
    if img_size is not None:
        return int(img_size)
    cfg = pretrained_cfg(name)
    return int(cfg.input_size[-1]) if pretrained or cfg.fixed_input_size else default


def build(
    name: str,
    options: dict[str, Any],
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    pretrained: bool,
    weights_root: Path | None = None,
) -> nn.Module:
    """A timm model with a head for `num_classes`; `image_size` is that of `input_size`.

    `pretrained` weights are read from a file of that name in the weights' folders (`local_file`) or from the local
    cache without asking the network, else fetched. Raises ConfigError for options the model does not take and
    WeightsError where the weights cannot be had.
    """
    import timm

    if refused := sorted(options.keys() & _not_options()):
        rule = "decides weights, classes or what timm returns, and is no option of a model; leave it out"
        raise ConfigError([f"model {name}: options.{each} {rule}" for each in refused])
    cfg = pretrained_cfg(name)
    options = dict(options)
    if cfg.fixed_input_size and image_size != cfg.input_size[-1]:
        options["img_size"] = image_size
    overlay = None
    if pretrained:
        available(name, weights_root)
        if (here := local_file(name, weights_root) or cached_file(cfg)) is not None:
            overlay = {"state_dict": weights.read_state_dict(here)}
    try:
        module: nn.Module = timm.create_model(
            name,
            pretrained=pretrained,
            num_classes=num_classes,
            in_chans=in_channels,
            pretrained_cfg_overlay=overlay,
            **options,
        )
    except (TypeError, AssertionError, ValueError) as error:
        raise ConfigError([f"model {name}: timm refuses these options {options}: {error}"]) from error
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise WeightsError(
            f"pretrained weights of {name} cannot be loaded ({error}). {_where_to_put(name, weights_root)}"
        ) from error
    if overlay is not None:
        module.pretrained_cfg.pop("state_dict", None)  # type: ignore[operator,union-attr]  # a second copy of the model
    return module


@cache
def _not_options() -> frozenset[str]:
    """What timm's functions take for themselves: some of it reads files, which no identity of a trial would tell."""
    import timm

    own = [inspect.signature(each).parameters for each in (timm.create_model, timm.models.build_model_with_cfg)]
    return frozenset({"num_classes", "in_chans", "features_only", "out_indices"}.union(*own)) - {"kwargs"}


def heads(module: nn.Module) -> tuple[str, ...]:
    """Names of the modules that classify; two of them in a model with a distillation token."""
    named = getattr(module, "pretrained_cfg", {}).get("classifier") or ()
    return (named,) if isinstance(named, str) else tuple(named)


def load(module: nn.Module, state: dict[str, Tensor], *, model: str, source: str) -> None:
    """Load a file's state dict, translated where it does not fit as it is. Raises WeightsError where nothing helps."""
    state = fitting(module, state, model=model, source=source)
    weights.load(module, state, model=model, heads=heads(module), source=source)


def fitting(module: nn.Module, state: dict[str, Tensor], *, model: str, source: str) -> dict[str, Tensor]:
    """A file's state dict, translated by the model's own timm file where the keys or sizes differ.

    The first convolution of weights for RGB becomes one for other channels as with published weights: timm's way. The
    model may be on the meta device. Raises WeightsError where it does not fit either way.
    """
    state = _for_channels(module, state)
    try:
        weights.match(module, state, model=model, heads=heads(module), source=source)
    except WeightsError as misfit:
        home = sys.modules[type(module).__module__]
        translate = getattr(home, "checkpoint_filter_fn", None) or getattr(home, "_filter_fn", None)
        if translate is None:
            raise
        try:
            with torch.no_grad():
                state = _for_channels(module, translate(dict(state), module))
        except Exception as error:  # given another model's file, a translation raises almost anything
            raise misfit from error
        weights.match(module, state, model=model, heads=heads(module), source=source)
    return state


def _for_channels(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict, its first convolutions fitted to the model's channels where they are made for RGB."""
    from timm.models import adapt_input_conv

    own, adapted = module.state_dict(), dict(state)
    named = getattr(module, "pretrained_cfg", {}).get("first_conv") or ()
    for name in (named,) if isinstance(named, str) else named:
        mine, theirs = own.get(key := f"{name}.weight"), state.get(key)
        if mine is not None and theirs is not None and mine.ndim == theirs.ndim == 4 and theirs.shape[1] == RGB:
            adapted[key] = adapt_input_conv(mine.shape[1], theirs)
    return adapted


def local_file(name: str, weights_root: Path | None) -> Path | None:
    """The file of the weights published for a name that somebody put into one of the weights' folders; None for none.

    It is called as the model is, `NAME.TAG.safetensors` or with another of `SUFFIXES`; the tag may be left out where
    the name leaves it out.
    """
    for folder in weights.search_folders(weights_root):
        for stem in _stems(name):
            for suffix in SUFFIXES:
                if (path := folder / f"{stem}{suffix}").is_file():
                    return path
    return None


def write_local(
    module: nn.Module, folder: Path, *, mean: Sequence[float], std: Sequence[float], size: int, classes: Sequence[str]
) -> None:
    """Write config.json and model.safetensors, which `timm.create_model("local-dir:FOLDER", pretrained=True)` reads.

    `mean` and `std` are those of the input in [0, 1], `size` its side in pixels. Raises WeightsError where timm cannot
    say how the model was made.
    """
    from timm.models import save_for_hf

    about: dict[str, Any] = {"input_size": (len(mean), size, size), "mean": tuple(mean), "std": tuple(std)}
    about |= {"interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "squash"}
    try:
        save_for_hf(module, str(folder), {"label_names": list(classes)}, safe_serialization=True, data_config=about)
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"timm cannot describe this model ({error})") from error
    # What it says of the weights that timm has under that name is not true of these.
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in OF_PUBLISHED:
        config["pretrained_cfg"].pop(key, None)
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_local(folder: Path) -> nn.Module:
    """The model in a folder of `write_local`, as timm itself loads it, in eval mode. Raises WeightsError."""
    import timm

    try:
        module: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except (RuntimeError, OSError, TypeError, ValueError) as error:
        raise WeightsError(f"timm does not load it again ({str(error).partition(chr(10))[0]})") from error
    return module.eval()


def cached_file(cfg: Any) -> Path | None:
    """The weight file of a pretrained configuration where an earlier run left it; None where there is none.

    Formats of their own (`custom_load`) are left to timm: None.
    """
    import huggingface_hub

    if cfg.hf_hub_id:
        if cfg.custom_load == "hf":
            return None
        repository, _, revision = cfg.hf_hub_id.partition("@")
        for filename in _hub_files(cfg):
            found = huggingface_hub.try_to_load_from_cache(repository, filename, revision=revision or None)
            if isinstance(found, str):
                return Path(found)
        return None
    if not cfg.url or cfg.custom_load:
        return None
    path = _hub_folder() / Path(urlsplit(cfg.url).path).name
    return path if path.is_file() else None


def available(name: str, weights_root: Path | None = None) -> None:
    """Raise WeightsError, within seconds, where the published weights of a name are neither here nor to be fetched."""
    import huggingface_hub

    if (here := local_file(name, weights_root)) is not None:
        weights.check_published_hash(here)
        return
    cfg = pretrained_cfg(name)
    if not (cfg.url or cfg.hf_hub_id):
        arch = name.partition(".")[0]
        tagged = [other for other in names(tagged=True) if other.partition(".")[0] == arch]
        allowed = (
            f"there are {', '.join(tagged)}" if tagged else f"none for {arch} at all; weights: none is from scratch"
        )
        raise WeightsError(f"no weights are published for {name}; {allowed}")
    if cached_file(cfg) is not None:
        return
    constants = huggingface_hub.constants
    if cfg.hf_hub_id:
        repository, _, revision = cfg.hf_hub_id.partition("@")
        url = huggingface_hub.hf_hub_url(repository, _hub_files(cfg)[0], revision=revision or None)
        place = f"the Hugging Face cache ({constants.HF_HUB_CACHE}) for {cfg.hf_hub_id}"
    else:
        url, place = cfg.url, f"torch.hub's cache ({_hub_folder()})"
    if cfg.hf_hub_id and constants.HF_HUB_OFFLINE:
        fault: str | None = "HF_HUB_OFFLINE is set"
    else:
        fault = unreachable(url)
    if fault is not None:
        raise WeightsError(
            f"pretrained weights of {name} are not here and cannot be fetched: not in {place}, and "
            f"{urlsplit(url).netloc} does not give them ({fault}). {_where_to_put(name, weights_root)}"
        )


def unreachable(url: str, timeout_s: float = NETWORK_TIMEOUT_S) -> str | None:
    """Why an address does not answer within `timeout_s` seconds; None where it does. Proxies are respected."""
    answer: list[str | None] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=timeout_s).close()
            answer.append(None)
        except urllib.error.HTTPError as error:
            answer.append(f"HTTP {error.code}")
            error.close()
        except (OSError, ValueError) as error:
            answer.append(str(getattr(error, "reason", error)) or type(error).__name__)

    # A name server that is silent blocks longer than the socket's timeout: hence a thread that may be left behind.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return answer[0] if answer else f"no answer in {timeout_s:g} s"


def _where_to_put(name: str, weights_root: Path | None) -> str:
    """What a person does who has no network here: which file it is, and where it goes under which name."""
    cfg = pretrained_cfg(name)
    file = f"{_hub_files(cfg)[0]} of {cfg.hf_hub_id}" if cfg.hf_hub_id else Path(urlsplit(cfg.url or "").path).name
    folders = " or ".join(str(folder) for folder in weights.search_folders(weights_root))
    suffix = Path(file.partition(" of ")[0]).suffix or SUFFIXES[0]
    return (
        f"Fetch them once where there is a network ({file}) and put them into {folders} as {_stems(name)[0]}{suffix}, "
        "or name a local file in the sweep (weights: PATH)"
    )


def _stems(name: str) -> tuple[str, ...]:
    cfg = pretrained_cfg(name)
    whole = f"{cfg.architecture}.{cfg.tag}" if cfg.tag else name
    return (whole,) if whole == name else (whole, name)


def _hub_files(cfg: Any) -> tuple[str, ...]:
    # timm's order: the safetensors twin of a PyTorch file first.
    named = cfg.hf_hub_filename or "pytorch_model.bin"
    if not named.endswith(".bin"):
        return (named,)
    twin = "model.safetensors" if named == "pytorch_model.bin" else f"{named.removesuffix('.bin')}.safetensors"
    return twin, named


def _hub_folder() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"
