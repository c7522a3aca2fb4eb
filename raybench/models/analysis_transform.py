"""The analysis transform g_a of the factorized-prior image codec, with torch alone.

Source: Ballé et al., "Variational image compression with a scale hyperprior" (2018), section 4; Ballé et al., "Density
modeling of images using a generalized normalization transformation" (2016), for GDN. The names of parameters and
buffers, and every bit of the output, are those of CompressAI's `FactorizedPrior.g_a`, so that a model which only reads
codes need not import CompressAI: that takes seconds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDE = 16
"""Pixels a side that become one place of the code."""
KERNEL = 5
OFFSET = 2**-18
"""Keeps the gradient of a square root away from zero, where GDN's parameters end."""
GAMMA_START = 0.1
BETA_MIN = 1e-6


class _AtLeast(torch.autograd.Function):
    """max(x, bound), whose gradient also lets a value below the bound come back to it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: Tensor) -> Tensor:
        ctx.save_for_backward(x, bound)
        return torch.max(x, bound)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,), (x, bound) = gradients, ctx.saved_tensors
        return gradient * ((x >= bound) | (gradient < 0)), None


class LowerBound(nn.Module):
    """max(x, bound), elementwise."""

    bound: Tensor

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.register_buffer("bound", torch.tensor([bound], dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        out: Tensor = _AtLeast.apply(x, self.bound)
        return out


class NonNegative(nn.Module):
    """A number that stays at least `minimum`, trained through its square root."""

    pedestal: Tensor

    def __init__(self, minimum: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("pedestal", torch.tensor([OFFSET**2], dtype=torch.float32))
        self.lower_bound = LowerBound((minimum + OFFSET**2) ** 0.5)

    def parameter(self, value: Tensor) -> nn.Parameter:
        """What is trained, for a value to start from."""
        return nn.Parameter((value + self.pedestal).clamp_min(OFFSET**2).sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """What is trained -> the number that is meant, of the same shape."""
        rooted: Tensor = self.lower_bound(x)
        return rooted**2 - self.pedestal


class GDN(nn.Module):
    """Generalised divisive normalisation: y_i = x_i / sqrt(beta_i + sum_j gamma_ij x_j^2) at each place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.beta_reparam = NonNegative(BETA_MIN)
        self.beta = self.beta_reparam.parameter(torch.ones(channels))
        self.gamma_reparam = NonNegative()
        self.gamma = self.gamma_reparam.parameter(GAMMA_START * torch.eye(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape."""
        if x.dtype == torch.float16:
            # A square above 65,504 is infinite in 16 bits, and its quotient a silent zero.
            with torch.autocast(x.device.type, enabled=False):
                return self._divided(x.float()).to(x.dtype)
        return self._divided(x)

    def _divided(self, x: Tensor) -> Tensor:
        # Those of a module in 16 bits are too, where the division is not.
        beta, gamma = self.beta_reparam(self.beta).to(x.dtype), self.gamma_reparam(self.gamma).to(x.dtype)
        return x * torch.rsqrt(F.conv2d(x**2, gamma[:, :, None, None], beta))


class AnalysisTransform(nn.Sequential):
    """Four 5x5 convolutions of stride 2 with GDN between them: pixels in [0, 1] -> the code, `STRIDE` times smaller.

    `channels` is the paper's N, `latent_channels` its M. (B, 3, H, W) -> (B, M, H / 16, W / 16).
    """

    def __init__(self, channels: int, latent_channels: int) -> None:
        super().__init__(
            _halving(3, channels),
            GDN(channels),
            _halving(channels, channels),
            GDN(channels),
            _halving(channels, channels),
            GDN(channels),
            _halving(channels, latent_channels),
        )


def _halving(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, KERNEL, stride=2, padding=KERNEL // 2)
