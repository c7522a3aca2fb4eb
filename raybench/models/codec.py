"""The factorized-prior image codec of CompressAI, its weight files, and its loss.

Source: Ballé et al., "Variational image compression with a scale hyperprior" (2018), the model without a hyperprior
(`bmshj2018_factorized` of CompressAI). CompressAI is imported when a codec is built: that takes seconds.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raybench.errors import ConfigError, WeightsError
from raybench.models.analysis_transform import STRIDE
from raybench.models.weights import Published

ANALYSIS = "g_a."
"""In front of the keys of the analysis transform in a codec's state dict."""
TABLES = ("_offset", "_quantized_cdf", "_cdf_length")
"""Buffers of the entropy model that only its arithmetic coder reads; they follow from the rest."""
OLD_LISTS = {"matrices": "_?matri(?:ces|x)", "biases": "_bias(?:es)?", "factors": "_factors?"}
"""Parameters of the entropy model: CompressAI's name today -> those of its older releases."""
LARGEST_PIXEL = 255


def bmshj2018_factorized(
    *,
    num_classes: int,
    in_channels: int,
    image_size: int = 256,
    N: int = 128,  # noqa: N803
    M: int = 192,  # noqa: N803
) -> nn.Module:
    """CompressAI's `FactorizedPrior`, fresh, with N channels inside and M in the code (the defaults are quality 5's).

    Its `forward` takes images (B, 3, H, W) in [0, 1] to `{"x_hat": (B, 3, H, W), "likelihoods": {"y": (B, M, H / 16,
    W / 16)}}`; `aux_loss()` is for the parameters of `auxiliary_parameters`. A codec has no classes: `num_classes` is
    not used. Raises ConfigError for greyscale images, a size that is no multiple of 16, or without CompressAI.
    """
    del num_classes
    problems = [*rgb_problems("bmshj2018_factorized", in_channels)]
    if image_size % STRIDE:
        problems.append(
            f"image_size = {image_size} must be a multiple of {STRIDE}, by which the codec shrinks an image"
        )
    problems += [f"{name} = {value} must be at least 1" for name, value in (("N", N), ("M", M)) if value < 1]
    if problems:
        raise ConfigError(problems)
    codec: nn.Module = _compressai_models().FactorizedPrior(N, M)
    return codec


def rgb_problems(name: str, in_channels: int) -> list[str]:
    """What is wrong with the channels of the data for a model that reads an image as the codec does."""
    if in_channels == 3:
        return []
    return [f"model {name}: the image codec takes RGB images, the data set has {in_channels} channel(s) instead of 3"]


def auxiliary_parameters(codec: nn.Module) -> list[nn.Parameter]:
    """What `aux_loss()` trains, with an optimizer of its own: the quantiles of the entropy model."""
    return [parameter for name, parameter in codec.named_parameters() if name.endswith(".quantiles")]


def rate_distortion(output: Mapping[str, Any], x: Tensor, lmbda: float) -> dict[str, Tensor]:
    """lambda * 255^2 * MSE + bpp of a codec's output for images x (B, 3, H, W) in [0, 1].

    Gives `loss`, `bpp` (bits a pixel, from the likelihoods), `mse` (of pixels in [0, 1]) and `psnr` (dB, of the whole
    batch, the output not clipped), each a scalar. Source: Ballé et al. 2018, equation 4 at a fixed lambda; the scale
    255^2 is CompressAI's.
    """
    pixels = x.shape[0] * x.shape[2] * x.shape[3]
    nats = torch.stack([likelihoods.log().sum() for likelihoods in output["likelihoods"].values()]).sum()
    bpp = nats / (-math.log(2) * pixels)
    mse = F.mse_loss(output["x_hat"], x)
    return {
        "loss": lmbda * LARGEST_PIXEL**2 * mse + bpp,
        "bpp": bpp,
        "mse": mse,
        "psnr": -10 * mse.detach().log10(),
    }


def current_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A codec's state dict under the names CompressAI gives its parameters today."""
    renamed = {}
    for key, value in state.items():
        for name, old in OLD_LISTS.items():
            key = re.sub(rf"^entropy_bottleneck\.{old}\.?(\d+)$", rf"entropy_bottleneck.{name}.\1", key)
        renamed[key] = value
    return renamed


def encoder_state(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The state dict of g_a out of that of a codec, CompressAI's published one or our own.

    Raises WeightsError, naming `source`, for a file without an analysis transform.
    """
    found = {key.removeprefix(ANALYSIS): value for key, value in state.items() if key.startswith(ANALYSIS)}
    if not found:
        raise WeightsError(f"{source}: is no image codec: none of its keys begins with {ANALYSIS}")
    return found


def codec_state(codec: nn.Module, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """The state dict of a codec of any release of CompressAI as that of `codec`; the coder's tables stay empty."""
    del source
    tables = {key: value for key, value in codec.state_dict().items() if key.rpartition(".")[2] in TABLES}
    return current_keys(state) | tables


def _compressai_models() -> Any:
    """`compressai.models`, whose import compiles an entropy coder with what torch now warns of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.script` is deprecated")
        try:
            import compressai.models
        except ImportError as error:
            raise ConfigError([f'the image codec needs CompressAI ({error}): pip install "raybench[codec]"']) from error
    return compressai.models


PUBLISHED = Published(
    pattern="bmshj2018-factorized-prior-5-866ba797.pth.tar",
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    source="CompressAI's model zoo (bmshj2018_factorized, metric mse, quality 5)",
    otherwise="Where it cannot be fetched, `python -m raybench.sweep ci2p_codec` trains a codec to name instead",
)
"""The codec that CI2P-ViT's authors used."""

MODELS: dict[str, Callable[..., nn.Module]] = {"bmshj2018_factorized": bmshj2018_factorized}
PRETRAINED = {"bmshj2018_factorized": PUBLISHED}
UNIT_INPUT = ("bmshj2018_factorized",)
TRANSLATIONS = {"bmshj2018_factorized": codec_state}
