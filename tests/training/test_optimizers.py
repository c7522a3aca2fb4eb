"""Optimizers are torch's; the rate of each step is the schedule's at the step's middle."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from torch import nn

from raybench.config.trial import OptimizerConfig, ScheduleConfig
from raybench.training.optimizers import learning_rate, make_optimizer

STEPS = 4
"""Steps an epoch."""


def middles(epochs: int) -> list[float]:
    """The middle of every step, in epochs."""
    return [(step + 0.5) / STEPS for step in range(epochs * STEPS)]


def test_cosine_equals_torchs_at_the_middle_of_every_step() -> None:
    # torch's schedule advanced by half steps; every second value is a middle.
    epochs, peak, low = 5, 0.2, 0.01
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2 * STEPS * epochs, eta_min=low)
    config = ScheduleConfig(epochs=epochs, min_lr=low)
    for half in range(2 * STEPS * epochs):
        if half % 2:
            # torch computes it recursively, so rounding adds up over 40 steps.
            assert learning_rate(config, peak, half / (2 * STEPS)) == pytest.approx(
                scheduler.get_last_lr()[0], rel=1e-9
            )
        optimizer.step()
        scheduler.step()


def test_a_horizon_beyond_the_epochs_leaves_the_rate_where_the_longer_cosine_is() -> None:
    short = ScheduleConfig(epochs=3, horizon_epochs=30)
    long = ScheduleConfig(epochs=30)
    assert [learning_rate(short, 0.1, at) for at in middles(3)] == [learning_rate(long, 0.1, at) for at in middles(3)]
    assert learning_rate(short, 0.1, 3) == pytest.approx(0.1 * 0.5 * (1 + math.cos(math.pi / 10)))


def test_warm_up_is_linear_from_zero_and_the_cosine_begins_at_the_peak() -> None:
    config = ScheduleConfig(epochs=10, warmup_epochs=2, min_lr=0.001)
    assert learning_rate(config, 0.4, 0) == 0
    assert learning_rate(config, 0.4, 0.5) == pytest.approx(0.1)
    assert learning_rate(config, 0.4, 2) == pytest.approx(0.4)
    assert learning_rate(config, 0.4, 6) == pytest.approx(0.001 + 0.399 / 2)
    assert learning_rate(config, 0.4, 10) == pytest.approx(0.001)
    rates = [learning_rate(config, 0.4, at) for at in middles(10)]
    assert rates[:8] == sorted(rates[:8])
    assert rates[8:] == sorted(rates[8:], reverse=True)
    # No step is wasted at a rate of zero.
    assert min(rates) > 0


def test_constant_is_constant_after_its_warm_up() -> None:
    config = ScheduleConfig(name="constant", epochs=4, warmup_epochs=1)
    assert [learning_rate(config, 0.3, at) for at in middles(4)][STEPS:] == [0.3] * (3 * STEPS)
    assert learning_rate(config, 0.3, 0.5) == pytest.approx(0.15)


def test_rate_stays_at_its_least_beyond_the_horizon() -> None:
    assert learning_rate(ScheduleConfig(epochs=2, min_lr=0.02), 0.1, 7.5) == pytest.approx(0.02)


TORCHS: list[tuple[Literal["sgd", "adam", "adamw"], type[torch.optim.Optimizer], dict[str, Any]]] = [
    ("sgd", torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
    ("adam", torch.optim.Adam, {}),
    ("adamw", torch.optim.AdamW, {}),
]


@pytest.mark.parametrize(("name", "kind", "more"), TORCHS)
def test_steps_like_torchs(name: Literal["sgd", "adam", "adamw"], kind: type[Any], more: dict[str, Any]) -> None:
    config = OptimizerConfig(name=name, lr=0.05, momentum=0.8, weight_decay=0.1, nesterov=True)
    models = []
    for ours in (True, False):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = (
            make_optimizer(config, model) if ours else kind(model.parameters(), lr=0.05, weight_decay=0.1, **more)
        )
        for step in range(5):
            model.zero_grad()
            model(torch.ones(1, 3) * step).square().sum().backward()
            optimizer.step()
        models.append(model)
    assert torch.equal(models[0].weight, models[1].weight)
    assert torch.equal(models[0].bias, models[1].bias)


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    (group,) = make_optimizer(OptimizerConfig(), model).param_groups
    assert [id(parameter) for parameter in group["params"]] == [id(parameter) for parameter in model[1].parameters()]
