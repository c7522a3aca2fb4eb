"""Multiply-adds against closed forms."""

from __future__ import annotations

import torch
from torch import nn

from raybench.models.macs import count_macs
from raybench.models.resnet_cifar import resnet
from raybench.models.vit_small import vit


def test_a_convolution_and_a_linear_layer() -> None:
    module = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Flatten(), nn.Linear(5 * 64, 7))
    assert count_macs(module, 3, 8) == 64 * 5 * 3 * 9 + 5 * 64 * 7


def test_resnet20_at_32_px() -> None:
    # He et al. 2016, section 4.2, layer by layer: 40,551,040 with the linear layer; the published table says 41 M.
    stem = 32 * 32 * 16 * 27
    first = 6 * 32 * 32 * 16 * 16 * 9
    second = 16 * 16 * 32 * 16 * 9 + 5 * 16 * 16 * 32 * 32 * 9
    third = 8 * 8 * 64 * 32 * 9 + 5 * 8 * 8 * 64 * 64 * 9
    model = resnet(20, num_classes=10, in_channels=3, image_size=32)
    assert count_macs(model, 3, 32) == stem + first + second + third + 64 * 10 == 40_551_040


def test_attention_products_are_counted() -> None:
    dim, tokens = 12, 17
    model = vit(patch_size=2, dim=dim, depth=2, heads=3, num_classes=5, in_channels=1, image_size=8)
    patches = 16 * dim * 4
    whole = tokens * 12 * dim * dim + 2 * tokens * tokens * dim
    # The last block makes only the class token's query, output and MLP.
    last = 2 * tokens * dim * dim + 10 * dim * dim + 2 * tokens * dim
    assert count_macs(model, 1, 8) == patches + whole + last + 5 * dim


def test_the_model_is_left_as_it_was() -> None:
    model = resnet(8, num_classes=10, in_channels=1, image_size=8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count_macs(model, 1, 8)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
