"""Optimizers are torch's; the rate of each step is the schedule's at the step's middle."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from torch import nn

from raybench.config.trial import OptimizerConfig, ScheduleConfig
from raybench.training.optimizers import learning_rate, make_optimizer, set_rate
from raybench.training.tasks import trainable

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
            make_optimizer(config, trainable(model))
            if ours
            else kind(model.parameters(), lr=0.05, weight_decay=0.1, **more)
        )
        for step in range(5):
            model.zero_grad()
            model(torch.ones(1, 3) * step).square().sum().backward()
            optimizer.step()
        models.append(model)
    # Ours is torch's fused kernel, which rounds at other places than the loop: last bits of float32, over five steps.
    torch.testing.assert_close(models[0].weight, models[1].weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(models[0].bias, models[1].bias, rtol=1e-5, atol=1e-6)


def test_summed_gradients_go_through_the_fused_step() -> None:
    model = nn.Linear(3, 2)
    optimizer = make_optimizer(OptimizerConfig(lr=0.1, momentum=0.0), trainable(model))
    assert all(group["fused"] for group in optimizer.param_groups)
    before = model.weight.detach().clone()
    for _ in range(2):
        model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.testing.assert_close(before - model.weight, torch.full((2, 3), 0.2))


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    (group,) = make_optimizer(OptimizerConfig(), trainable(model)).param_groups
    assert [id(parameter) for parameter in group["params"]] == [id(parameter) for parameter in model[1].parameters()]


def test_betas_and_eps_reach_adam() -> None:
    config = OptimizerConfig(name="adam", betas=(0.9, 0.98), eps=1e-9)
    (group,) = make_optimizer(config, trainable(nn.Linear(2, 2))).param_groups
    assert (group["betas"], group["eps"]) == ((0.9, 0.98), 1e-9)


def test_a_group_with_a_rate_of_its_own_keeps_it() -> None:
    model = nn.Linear(2, 2)
    optimizer = make_optimizer(
        OptimizerConfig(name="adam", lr=0.1), [{"params": [model.weight]}, {"params": [model.bias], "lr": 0.5}]
    )
    set_rate(optimizer, 0.01)
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.5]


def test_noam_is_the_published_curve() -> None:
    # docs of the run (facts, section 5): 907 batches an epoch, 8 epochs, printed after the batch, so at the next step.
    config = ScheduleConfig(name="noam", warmup_steps=3000, d_model=512, epochs=8)
    rates = [learning_rate(config, 1.0, step / 907, step) for step in range(8 * 907 + 1)]
    assert f"{rates[2]:.1e}" == "5.4e-07"
    assert max(range(len(rates)), key=rates.__getitem__) == 3000
    assert f"{rates[3000]:.2e}" == "8.07e-04"
    assert f"{rates[3 * 907 + 282]:.1e}" == "8.1e-04"
    assert f"{rates[8 * 907]:.1e}" == "5.2e-04"
    assert rates[0] == rates[1] == pytest.approx(512**-0.5 * 3000**-1.5)


def test_the_state_of_an_earlier_release_can_be_taken_up() -> None:
    model = nn.Linear(2, 2)
    optimizer = make_optimizer(OptimizerConfig(lr=0.1), trainable(model))
    state = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9).state_dict()
    optimizer.load_state_dict(state)
    set_rate(optimizer, 0.01)
    assert [group["lr"] for group in optimizer.param_groups] == [0.01]
