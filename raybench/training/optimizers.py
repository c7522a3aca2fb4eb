"""Optimizers and the learning rate of each step."""

from __future__ import annotations

import math

import torch
from torch import nn

from raybench.config.trial import OptimizerConfig, ScheduleConfig


def make_optimizer(config: OptimizerConfig, module: nn.Module) -> torch.optim.Optimizer:
    """The optimizer over every trainable parameter of a module."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    if config.name == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
        )
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(parameters, lr=config.lr, weight_decay=config.weight_decay)


def learning_rate(config: ScheduleConfig, peak: float, epoch: float) -> float:
    """The rate after `epoch` epochs (fractions count steps): linear warm-up from 0 to `peak`, then the schedule.

    A cosine goes down to `min_lr` at its horizon (Loshchilov and Hutter 2017, equation 5, without restarts).
    """
    if epoch < config.warmup_epochs:
        return peak * epoch / config.warmup_epochs
    if config.name == "constant":
        return peak
    horizon = config.horizon_epochs or config.epochs
    progress = (epoch - config.warmup_epochs) / (horizon - config.warmup_epochs)
    return config.min_lr + (peak - config.min_lr) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
