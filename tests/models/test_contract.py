"""Contracts that every image model keeps: ours, found by looking in the folder, and a few of timm's.

A model of ours needs one line in `OURS`: how small it can be built here. Without one the first test fails.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from raybench import models
from raybench.config.trial import ModelConfig, Option
from raybench.models import registry

torch.set_num_threads(1)

CLASSES = 7
RGB = (3, 32)
GREY = (1, 8)
"""Channels and side in pixels: CIFAR's images and the embedded digits."""


@dataclass(frozen=True)
class Small:
    """How a model is built small enough for a test of a second."""

    inputs: tuple[tuple[int, int], ...] = (RGB, GREY)
    """(channels, side in pixels), each tested."""
    options: dict[str, Option] = field(default_factory=dict)


FEW: dict[str, Option] = {"dim": 16, "depth": 2, "heads": 2}
CODE: dict[str, Option] = {"encoder_channels": 8, "latent_channels": 8}
CODECS = ("bmshj2018_factorized",)
"""Models of ours whose output is an image; tests/models/test_codec.py has their contract."""

OURS: dict[str, Small] = {
    "basic_vit": Small(options={"patch_size": 4, "dim": 48, "depth": 2, "heads": 3, "drop_path_rate": 0.1}),
    **{f"resnet{depth}": Small() for depth in (8, 20, 32, 44, 56, 110)},
    "ci2p_vit": Small(inputs=((3, 64),), options=FEW | CODE),
    "ci2p_vit_ds": Small(inputs=((3, 64),), options=FEW | CODE | {"latent_heads": 2}),
    "cnn_vit": Small(inputs=((3, 64),), options=FEW | CODE),
    "vit_b16_gap": Small(inputs=((3, 64),), options=FEW),
    "vit_micro_patch2_8": Small(),
    "vit_tiny_patch4_32": Small(),
}
TIMM: dict[str, Small] = {
    # By default the last norm of each block begins at 0, and nothing before it gets a gradient in the first step.
    "test_resnet": Small(inputs=(RGB,), options={"zero_init_last": False}),
    "test_vit": Small(inputs=((3, 32), (1, 16)), options={"patch_size": 8}),
    "test_efficientnet": Small(inputs=(RGB,)),
}
CASES = {**{name: OURS.get(name, Small()) for name in registry.own() if name not in CODECS}, **TIMM}

each_model = pytest.mark.parametrize("name", sorted(CASES))
each_input = pytest.mark.parametrize(
    ("name", "channels", "size"), [(name, *given) for name in sorted(CASES) for given in CASES[name].inputs]
)


def fresh(name: str, channels: int | None = None, size: int | None = None, *, seed: int = 0) -> nn.Module:
    """A model in its first weights; in its first input where none is named."""
    case = CASES[name]
    if name in registry.own() and name not in OURS:
        pytest.fail(f"{name} has no line in OURS")
    first = case.inputs[0]
    channels, size = channels or first[0], size or first[1]
    torch.manual_seed(seed)
    half = (0.5,) * channels
    config = ModelConfig(name=name, options=case.options, image_size=size if name in TIMM else None)
    return models.build(config, num_classes=CLASSES, in_channels=channels, image_size=size, mean=half, std=half).module


def images(name: str, count: int, channels: int | None = None, size: int | None = None) -> Tensor:
    """Normally distributed images for a model, the same each time."""
    first = CASES[name].inputs[0]
    channels, size = channels or first[0], size or first[1]
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {key: parameter for key, parameter in module.named_parameters() if parameter.requires_grad}


def test_every_model_of_ours_has_a_line() -> None:
    without = sorted(registry.own().keys() - OURS.keys() - {*CODECS})
    assert not without, f"add a line to OURS of {Path(__file__).name} for {', '.join(without)}"
    gone = sorted(OURS.keys() - registry.own().keys())
    assert not gone, f"no such model any more: {', '.join(gone)}"


@each_input
def test_logits_are_finite_and_every_trainable_parameter_gets_a_gradient(name: str, channels: int, size: int) -> None:
    module = fresh(name, channels, size).train()
    logits = module(images(name, 4, channels, size))
    assert logits.shape == (4, CLASSES)
    assert logits.isfinite().all()
    torch.autograd.backward(nn.functional.cross_entropy(logits, torch.arange(4)))
    assert trained(module)
    gradients = {key: parameter.grad for key, parameter in trained(module).items()}
    without = [key for key, gradient in gradients.items() if gradient is None or not gradient.any()]
    assert without == []
    assert all(gradient.isfinite().all() for gradient in gradients.values() if gradient is not None)


@each_input
def test_an_image_is_classified_alone_as_in_a_batch(name: str, channels: int, size: int) -> None:
    module, batch = fresh(name, channels, size).eval(), images(name, 3, channels, size)
    with torch.no_grad():
        # Kernels sum in another order for another batch size; 110 layers of float32 stay well below 1e-3.
        torch.testing.assert_close(module(batch)[1:2], module(batch[1:2]), rtol=1e-3, atol=1e-3)


@each_model
def test_the_state_dict_survives_safetensors(name: str, tmp_path: Path) -> None:
    module, other, batch = fresh(name).eval(), fresh(name, seed=1).eval(), images(name, 2)
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    assert not torch.equal(module(batch), other(batch))
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(module(batch), other(batch))


@each_model
def test_the_seed_decides_weights_and_gradients(name: str) -> None:
    def step(seed: int) -> tuple[nn.Module, Tensor]:
        module = fresh(name, seed=seed).train()
        # What is drawn in a step (dropout, stochastic depth) comes after the weights from the same generator.
        loss = nn.functional.cross_entropy(module(images(name, 4)), torch.arange(4))
        torch.autograd.backward(loss)
        return module, loss

    one, loss = step(0)
    two, again = step(0)
    assert torch.equal(loss, again)
    for (key, mine), (_, its) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        assert torch.equal(mine, its), key
        assert (mine.grad is None) == (its.grad is None), key
        assert mine.grad is None or its.grad is None or torch.equal(mine.grad, its.grad), key
    other, another = step(1)
    assert not torch.equal(loss, another)
    assert any(not torch.equal(mine, its) for mine, its in zip(one.parameters(), other.parameters(), strict=True))


@each_model
def test_evaluation_changes_nothing_in_the_model(name: str) -> None:
    module = fresh(name).eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with torch.no_grad():
        first, second = module(images(name, 2)), module(images(name, 2))
    assert torch.equal(first, second)
    assert all(torch.equal(value, module.state_dict()[key]) for key, value in before.items())


@each_model
def test_the_head_is_what_depends_on_the_number_of_classes(name: str) -> None:
    module = fresh(name)
    head = models.head_parameters(module)
    assert [len(parameter) for parameter in head] == [CLASSES, CLASSES]
    assert {id(parameter) for parameter in head} <= {id(parameter) for parameter in trained(module).values()}
