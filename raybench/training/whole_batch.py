"""Batch normalisation over the whole batch, where several processes have a share of it each.

torch's SyncBatchNorm does the same on GPUs only, and replaces the layers of a model, those of timm that do more than
normalise too. Here the layers stay, and only the function that all of them call is another one inside `WholeBatch`. So
the maths is that of one process, and is tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode


def sees_batches(module: nn.Module) -> bool:
    """Whether a model's training depends on which images share a forward pass: batch normalisation and its kin."""
    return any(
        isinstance(each, _BatchNorm) or "running_var" in dict(each.named_buffers(recurse=False))
        for each in module.modules()
    )


class WholeBatch(TorchFunctionMode):
    """Inside, statistics of a batch are those of all processes' shares."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Another batch_norm; everything else as it is."""
        return (batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """torch.nn.functional.batch_norm, in training with the statistics of all processes. input: (B, C, …)."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    normal, mean, var, count = _Normalise.apply(input, eps)
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        if running_var is not None:
            running_var.lerp_((var * (count / (count - 1).clamp(min=1))).to(running_var.dtype), momentum)
    if weight is not None:
        normal = normal * _along(weight, normal)
    if bias is not None:
        normal = normal + _along(bias, normal)
    found: Tensor = normal.to(input.dtype)
    return found


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) in 32 bits, mean and variance being those of each channel over all processes.

    Ioffe and Szegedy 2015, "Batch Normalization", the gradient of section 3 with its sums over the whole batch.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = input.float()
        var, mean = torch.var_mean(x, _others(x), correction=0)  # (C,)
        own = torch.cat([mean, var, mean.new_full((1,), x.numel() / x.shape[1])])  # (2C + 1,)
        gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, own)
        sizes = [len(mean), len(var), 1]
        means, variances, counts = torch.stack(gathered).split(sizes, dim=1)  # (P, C), (P, C), (P, 1)
        count = counts.sum()
        # Of each process's mean and variance, for the difference of large sums has no digits left.
        mean = (means * counts).sum(0) / count
        var = ((variances + (means - mean).square()) * counts).sum(0) / count
        scale = (var + eps).rsqrt()
        normal = (x - _along(mean, x)) * _along(scale, x)
        ctx.save_for_backward(normal, scale, count)
        ctx.mark_non_differentiable(mean, var, count)
        return normal, mean, var, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient, (normal, scale, count) = gradients[0], ctx.saved_tensors
        others = _others(normal)
        sums = torch.stack([gradient.sum(others), (gradient * normal).sum(others)])  # (2, C)
        dist.all_reduce(sums)
        plain, along = sums / count
        found = (gradient - _along(plain, normal) - normal * _along(along, normal)) * _along(scale, normal)
        return found, None


def _others(x: Tensor) -> list[int]:
    """Every dimension but that of the channels."""
    return [dim for dim in range(x.dim()) if dim != 1]


def _along(values: Tensor, x: Tensor) -> Tensor:
    """Values (C,) in the shape in which they meet x (B, C, …)."""
    return values.view(1, -1, *[1] * (x.dim() - 2))
