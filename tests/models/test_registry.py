"""Contracts that every one of our own image models keeps, found by looking in the folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from raybench import models
from raybench.config.trial import ModelConfig
from raybench.models import registry

torch.set_num_threads(1)

CLASSIFIERS = [name for name in models.names("image") if name != "bmshj2018_factorized"]
"""The codec has an image for its output."""
FEW = {"dim": 16, "depth": 2, "heads": 2}
CODE = {"encoder_channels": 8, "latent_channels": 8}
LARGE: dict[str, dict[str, int]] = {
    "ci2p_vit": FEW | CODE,
    "ci2p_vit_ds": FEW | CODE | {"latent_heads": 2},
    "cnn_vit": FEW | CODE,
    "vit_b16_gap": FEW,
}
"""Options that keep a model of 86 M parameters small; such models see 64 px in RGB."""
CASES = [
    (name, channels, size)
    for name in CLASSIFIERS
    for channels, size in (((3, 64),) if name in LARGE else ((3, 32), (1, 8)))
]
CLASSES = 7


def smallest(name: str) -> int:
    return 64 if name in LARGE else 8


def fresh(name: str, channels: int = 3, size: int | None = None, *, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    size = size or smallest(name)
    half = (0.5,) * channels
    config = ModelConfig(name=name, options={**LARGE.get(name, {})})
    return models.build(config, num_classes=CLASSES, in_channels=channels, image_size=size, mean=half, std=half).module


def test_the_folder_holds_the_models_of_the_sweeps() -> None:
    assert {"resnet8", "resnet20", "resnet56", "vit_micro_patch2_8", "vit_tiny_patch4_32"} <= set(models.names())
    assert {"ci2p_vit", "ci2p_vit_ds", "cnn_vit", "vit_b16_gap", "bmshj2018_factorized"} <= set(models.names())


def test_every_file_that_declares_published_weights_declares_the_model() -> None:
    assert registry.published().keys() <= registry.own().keys()
    assert registry.translations().keys() | registry.unit_input() <= registry.own().keys()


@pytest.mark.parametrize(("name", "channels", "size"), CASES)
def test_logits_are_finite_and_every_parameter_gets_a_gradient(name: str, channels: int, size: int) -> None:
    module = fresh(name, channels, size).train()
    images = torch.randn(4, channels, size, size)
    logits = module(images)
    assert logits.shape == (4, CLASSES)
    assert logits.isfinite().all()
    torch.autograd.backward(nn.functional.cross_entropy(logits, torch.arange(4)))
    trained = [(key, parameter) for key, parameter in module.named_parameters() if parameter.requires_grad]
    without = [key for key, parameter in trained if parameter.grad is None or not parameter.grad.any()]
    assert trained
    assert without == []


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_an_image_is_classified_alone_as_in_a_batch(name: str) -> None:
    size = smallest(name)
    module = fresh(name).eval()
    images = torch.randn(3, 3, size, size)
    with torch.no_grad():
        # Kernels sum in another order for another batch size; 110 layers of float32 stay well below 1e-3.
        torch.testing.assert_close(module(images)[1:2], module(images[1:2]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_state_dict_survives_safetensors(name: str, tmp_path: Path) -> None:
    module, other = fresh(name).eval(), fresh(name, seed=1).eval()
    images = torch.randn(2, 3, smallest(name), smallest(name))
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    assert not torch.equal(module(images), other(images))
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(module(images), other(images))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_seed_decides_the_weights(name: str) -> None:
    same = zip(fresh(name).parameters(), fresh(name).parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in same)
    other = zip(fresh(name).parameters(), fresh(name, seed=1).parameters(), strict=True)
    assert not all(torch.equal(one, two) for one, two in other)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_head_is_what_depends_on_the_number_of_classes(name: str) -> None:
    head = models.head_parameters(fresh(name))
    assert [len(parameter) for parameter in head] == [CLASSES, CLASSES]


def test_names_ours_first_then_timm() -> None:
    assert models.exists("resnet20")
    assert models.exists("resnet18")
    assert models.exists("regnety_160.deit_in1k")
    assert not models.exists("regnety_160.no_such_tag")
    assert not models.exists("resnet21")


def test_nearest_names() -> None:
    assert "resnet20" in models.nearest("resnet200x")
    assert models.nearest("vit_tiny_patch4_33")[0] == "vit_tiny_patch4_32"
    assert models.nearest("regnety_160.diet_in1k")[0] == "regnety_160.deit_in1k"
    assert models.nearest("%%%%") == []
