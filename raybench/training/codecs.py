"""The image codec whose encoder a CI2P-ViT has: the model holds no decoder, which lies where its encoder came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from raybench.config.trial import ModelConfig
from raybench.errors import WeightsError
from raybench.models import build, weights
from raybench.models.ci2p import FROZEN_ENCODERS, UNIT_INPUT
from raybench.models.codec import ANALYSIS, PUBLISHED
from raybench.training.ingredients import located, weights_root
from raybench.training.recorder import Setup

SYNTHESIS = "g_s."
"""In front of the keys of a codec's decoder in its state dict."""
NAME = "bmshj2018_factorized"


@dataclass(frozen=True, eq=False)
class Codec:
    """A whole codec."""

    module: nn.Module
    """In eval mode: images (B, 3, H, W) in [0, 1] -> `x_hat` and `likelihoods`."""
    where: str
    """Where its weights come from, in words."""
    same_encoder: bool
    """Whether its encoder is, bit by bit, the one it was looked for."""


def codec_of(model: ModelConfig, encoder: Mapping[str, Tensor], setup: Setup, image_size: int) -> Codec:
    """The codec from which a CI2P-ViT took its encoder. `encoder`: its state dict; `image_size` in pixels.

    Raises WeightsError, saying what is missing, where there is none, and ConfigError without CompressAI.
    """
    path, where = _file(model, setup)
    state = weights.read_state_dict(path)
    if not any(key.startswith(SYNTHESIS) for key in state):
        raise WeightsError(
            f"{where} holds no decoder (no key begins with {SYNTHESIS}), which would turn its code into an image"
        )
    n, m = (len(state[f"{ANALYSIS}{layer}.weight"]) for layer in (0, 6))
    config = ModelConfig(name=NAME, weights=str(path), options={"N": n, "M": m})
    unit = ((0.0,) * 3, (1.0,) * 3)
    with torch.random.fork_rng(devices=[]):
        built = build(config, num_classes=1, in_channels=3, image_size=image_size, mean=unit[0], std=unit[1])
    theirs = {key.removeprefix(ANALYSIS): value for key, value in state.items() if key.startswith(ANALYSIS)}
    same = all(key in theirs and torch.equal(theirs[key], value.cpu()) for key, value in encoder.items())
    return Codec(built.module.eval(), where, same)


def _file(model: ModelConfig, setup: Setup) -> tuple[Path, str]:
    """The file that the encoder came from, and what it is in words."""
    if model.name not in UNIT_INPUT:
        raise WeightsError(f"{model.name} has no image codec in it")
    if model.name not in FROZEN_ENCODERS:
        raise WeightsError(f"the encoder of {model.name} is trained to classify; no decoder belongs to it")
    if model.weights == "none":
        raise WeightsError(
            f"the encoder of this {model.name} is a fresh one (model.weights: none); no decoder belongs to it"
        )
    root = weights_root(setup)
    if (lent := model.of_sweep) is not None:
        return Path(located(model, setup).weights), f"trial {lent[1]} of sweep {lent[0]}"
    if model.weights == "pretrained":
        path = weights.find_published(model.name, PUBLISHED, root)
        return path, f"{path.name}, {PUBLISHED.source}"
    path = weights.find_file(model.weights, root)
    return path, path.name
