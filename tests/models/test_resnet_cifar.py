"""CIFAR ResNets: sizes of the paper, and the shortcut of option A."""

from __future__ import annotations

import pytest
import torch

from raybench.models import count_parameters
from raybench.models.resnet_cifar import BasicBlock, resnet

torch.set_num_threads(1)


# He et al. 2016, section 4.2; counts of shared facts, section 4.
@pytest.mark.parametrize(("depth", "parameters"), [(20, 269_722), (56, 853_018)])
def test_parameters_with_ten_classes(depth: int, parameters: int) -> None:
    assert count_parameters(resnet(depth, num_classes=10, in_channels=3, image_size=32)) == parameters


def test_depth_counts_the_weighted_layers() -> None:
    for depth in (8, 20, 110):
        module = resnet(depth, num_classes=10, in_channels=3, image_size=32)
        assert sum(parameter.ndim in (2, 4) for parameter in module.parameters()) == depth


@pytest.mark.parametrize("depth", [2, 18, 21])
def test_depths_that_do_not_exist(depth: int) -> None:
    with pytest.raises(ValueError, match=f"6n \\+ 2 layers.*not {depth}"):
        resnet(depth, num_classes=10, in_channels=3, image_size=32)


def test_option_a_subsamples_and_pads_both_sides_with_zero_channels() -> None:
    block = BasicBlock(2, 6, stride=2)
    x = torch.randn(1, 2, 5, 5)
    shortcut = block.shortcut(x)
    assert shortcut.shape == block(x).shape == (1, 6, 3, 3)
    assert torch.equal(shortcut[:, 2:4], x[:, :, ::2, ::2])
    assert not shortcut[:, :2].any()
    assert not shortcut[:, 4:].any()


def test_a_block_with_zero_residual_is_its_shortcut() -> None:
    block = BasicBlock(3, 3, stride=1).eval()
    torch.nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(block(x), x)
