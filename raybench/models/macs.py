"""Multiply-adds of a model."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def count_macs(module: nn.Module, in_channels: int, image_size: int) -> int:
    """Multiply-adds of one image in convolutions, linear layers and attention products (norms, activations left out).

    Leaves the module in the mode it was in.
    """
    from torch.utils.flop_counter import FlopCounterMode

    training = module.training
    device = next(module.parameters()).device
    with FlopCounterMode(display=False) as counter:
        module.eval()(torch.zeros(1, in_channels, image_size, image_size, device=device))
    module.train(training)
    return int(counter.get_total_flops()) // 2
