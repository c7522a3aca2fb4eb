"""Weight files: read without running code from them, checked against their published hash, and fitted to a model."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raybench.config.folders import at_home, named_data_root, weight_folders
from raybench.errors import WeightsError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of RGB pixels in [0, 1], as used by nearly every published CNN."""

PUBLISHED_HASH = re.compile(r"-([0-9a-f]{8})(?:\.[a-z]+)+$")
"""The first 8 hex digits of the file's SHA-256 at the end of its name: torch.hub's habit."""

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Under which training scripts keep a state dict, in timm's order: an average of the weights before the last ones."""

LISTED_KEYS = 4
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """Weights somebody published for one of our own models."""

    pattern: str
    """Of the file's name, as a glob."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Of the input in [0, 1] with which they were trained."""
    source: str
    """Where a person finds the file."""
    otherwise: str = ""
    """What a person can do who cannot get it, as a sentence."""


def search_folders(weights_root: Path | None) -> tuple[Path, ...]:
    """Folders in which weight files are looked for: the root and its `weights`.

    Without a root: `RAYBENCH_DATA`, else `./data`, as for data sets.
    """
    return weight_folders(named_data_root(weights_root) or Path("data"))


def find_published(name: str, published: Published, weights_root: Path | None) -> Path:
    """The file of published weights of one of our own models; WeightsError says where it was looked for."""
    folders = search_folders(weights_root)
    for folder in folders:
        if found := sorted(folder.glob(published.pattern)):
            return found[0]
    raise WeightsError(
        f"pretrained weights of {name} not found: no file {published.pattern} in {_listed(folders)}; they come from "
        f"{published.source}. Put the file there, or name it in the sweep (model.weights: PATH)"
        f"{published.otherwise and f'. {published.otherwise}'}"
    )


def find_file(weights: str, weights_root: Path | None) -> Path:
    """The weight file a configuration names: as a path, else below the folders of `search_folders`."""
    path = at_home(weights)
    places = (path,) if path.is_absolute() else (path, *(folder / path for folder in search_folders(weights_root)))
    for place in places:
        if os.path.isfile(place):  # noqa: PTH113 - Path's raises for names too long
            return place
    raise WeightsError(
        f'no weight file "{weights}": looked for {_listed(places)}. Allowed for model.weights: none, pretrained, '
        "or the path of a .safetensors file or of a PyTorch state dict"
    )


def check_published_hash(path: Path) -> None:
    """Raise WeightsError where the name carries a hash (name-<8 hex digits>.ext) that the content does not have."""
    published = PUBLISHED_HASH.search(path.name)
    if published is None:
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(published[1]):
        raise WeightsError(
            f"{path}: the name promises a SHA-256 that begins with {published[1]}, the content has {digest[:8]}: "
            "damaged, cut short or another file. Fetch it again; if those digits are no hash, rename the file"
        )


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers by name, on the CPU; no code in the file is ever run.

    Takes safetensors, or a PyTorch file that holds a state dict, bare or under the first of `WRAPPERS` that is there; a
    leading `module.` (left by data-parallel training) is removed. Raises WeightsError naming the file for anything
    else.
    """
    check_published_hash(path)
    return _state_dict(path, _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path))


def read_shapes(path: Path) -> dict[str, Tensor]:
    """The state dict of `read_state_dict` for its keys and shapes alone: no tensor is read, no memory is taken.

    The values mean nothing. A PyTorch file of the format before 1.6 cannot be read in part and is read whole. The hash
    in the file's name is not looked at (`check_published_hash`). Raises WeightsError.
    """
    if path.suffix == ".safetensors":
        return _state_dict(path, _read_safetensors(path, shapes_only=True))
    return _state_dict(path, _read_torch(path, mapped=zipfile.is_zipfile(path)))


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    """What a file holds as a state dict, unwrapped. Raises WeightsError, naming the file, where it is none."""
    if isinstance(content, dict):
        for wrapper in WRAPPERS:
            if isinstance(content.get(wrapper), dict):
                content = content[wrapper]
                break
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"{path}: holds no state dict but {type(content).__name__}; {_ALLOWED}")
    strange = [str(key) for key, value in content.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if strange:
        raise WeightsError(f"{path}: not a state dict, these entries are no tensors: {_shortened(strange)}; {_ALLOWED}")
    prefix = "module." if all(key.startswith("module.") for key in content) else ""
    return {key.removeprefix(prefix): value for key, value in content.items()}


def read_normalisation(path: Path) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and std of the input with which the weights in a file of ours were trained; none where it does not say."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
        mean, std = (tuple(float(value) for value in json.loads(about[name])) for name in ("mean", "std"))
    except (KeyError, TypeError, ValueError, OSError, SafetensorError):
        return None
    return mean, std


_ALLOWED = f"allowed: safetensors, or a PyTorch file with a state dict, bare or under {', '.join(WRAPPERS)}"


def _read_safetensors(path: Path, *, shapes_only: bool = False) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        if not shapes_only:
            return dict(load_file(path, device="cpu"))
        with safe_open(path, "pt") as file:
            # Zeros of one number's memory, and not on the meta device: timm's translations compute with some of them.
            return {key: torch.zeros(()).expand(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: cannot be read as safetensors ({error})") from error


def _read_torch(path: Path, *, mapped: bool = False) -> Any:
    try:
        with warnings.catch_warnings():
            # torch warns of pickle protocols other than 2; what it cannot read it refuses all the same.
            warnings.simplefilter("ignore", UserWarning)
            # A training script's arguments beside the weights are values by name, as inert as a dict.
            with torch.serialization.safe_globals([argparse.Namespace]):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        reason = re.search(r"(?:GLOBAL|Unsupported|global) [^\n]*", str(error))
        raise WeightsError(
            f"{path}: refused, as it holds more than weights and could run code when loaded"
            f"{f' ({reason[0].rstrip(chr(32))[:160]})' if reason else ''}; {_ALLOWED}"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        first_line = str(error).partition("\n")[0][:160]
        raise WeightsError(f"{path}: cannot be read as weights ({first_line}); {_ALLOWED}") from error


def load(
    module: nn.Module, state: dict[str, Tensor], *, model: str, heads: Sequence[str], source: str
) -> tuple[str, ...]:
    """Load a state dict into a model; a head for another number of classes stays fresh, which is logged.

    Returns the keys that stayed fresh. Raises the WeightsError of `match`; the model is then unchanged.
    """
    fresh = match(module, state, model=model, heads=heads, source=source)
    kept = module.state_dict().keys() & state.keys() - set(fresh)
    module.load_state_dict({key: state[key] for key in kept}, strict=False)
    if fresh:
        logger.warning("%s: its head is for other classes and is replaced by a fresh one: %s", source, _listed(fresh))
    return fresh


def match(
    module: nn.Module, state: dict[str, Tensor], *, model: str, heads: Sequence[str], source: str
) -> tuple[str, ...]:
    """The keys that a state dict leaves fresh in a model: those of a head for another number of classes.

    `heads`: names of the modules that are heads. Only keys and shapes count, so the model may be on the meta device.
    Every other difference raises WeightsError that lists the first and names `source` and `model`.
    """
    own = module.state_dict()
    shared = own.keys() & state.keys()
    resized = {key for key in shared if own[key].shape != state[key].shape}
    # The rows of a head are its classes; a head that reads another number of features is another model's.
    recounted = [key for key in resized if own[key].shape[1:] == state[key].shape[1:]]
    outgrown = {head for head in heads if any(_of(head, key) for key in recounted)}
    fresh = sorted(key for key in own for head in outgrown if _of(head, key))
    # Files older than PyTorch 0.4.1 lack this counter, which no result depends on at a fixed momentum.
    missing = {key for key in own.keys() - state.keys() - set(fresh) if not key.endswith("num_batches_tracked")}
    faults = [
        f"{kind}: {_shortened(sorted(keys))}"
        for kind, keys in (
            ("missing in the file", missing),
            ("unexpected in the file", state.keys() - own.keys()),
            (
                "of another shape",
                {f"{k} {tuple(state[k].shape)} where {tuple(own[k].shape)} is wanted" for k in resized - set(fresh)},
            ),
        )
        if keys
    ]
    if faults:
        theirs = [head for head in heads if any(_of(head, key) for key in own)]
        allowed = "allowed: all of the model's keys in its shapes" + (
            f", but for a head ({_listed(theirs)}) of another number of classes, which a fresh one replaces"
            if theirs
            else ""
        )
        raise WeightsError(f"{source}: does not fit the model {model}; {'; '.join(faults)}; {allowed}")
    return tuple(fresh)


def _of(head: str, key: str) -> bool:
    return key.startswith(f"{head}.")


def _listed(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))


def _shortened(keys: Sequence[str]) -> str:
    more = len(keys) - LISTED_KEYS
    return _listed(keys[:LISTED_KEYS]) + (f" and {more} more" if more > 0 else "")
