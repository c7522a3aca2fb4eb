"""Residual networks for small images.

Source: He et al., "Deep Residual Learning for Image Recognition" (2016), section 4.2: a 3x3 stem of 16 channels, three
stages of 16, 32 and 64 channels with n basic blocks each (6n + 2 weighted layers), shortcuts of option A, no dropout.
The names of the modules (`conv1`, `bn1`, `layer1` … `layer3`, `linear`) are those of the published weight files.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from raybench.models.weights import IMAGENET_MEAN, IMAGENET_STD, Published

WIDTHS = (16, 32, 64)
"""Channels of the three stages."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (option A).

    Where the block narrows the map and widens the channels, the shortcut takes every second row and column and pads
    the new channels with zeros, half of them in front and half behind.
    """

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = width_out - width_in
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width_in, H, W) -> (B, width_out, ceil(H / stride), ceil(W / stride))."""
        residual = F.relu(self.bn1(self.conv1(x)), inplace=True)
        residual = self.bn2(self.conv2(residual))
        return F.relu(residual + self.shortcut(x), inplace=True)

    def shortcut(self, x: Tensor) -> Tensor:
        """The identity, or option A of section 3.3."""
        if self.stride == 1 and self.new_channels == 0:
            return x
        front = self.new_channels // 2
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, front, self.new_channels - front))


class CifarResNet(nn.Module):
    """ResNet-(6n + 2) for small images; `blocks` is n. Any image of at least one pixel fits; 32 px was meant."""

    def __init__(self, blocks: int, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        narrow, middle, wide = WIDTHS
        self.conv1 = nn.Conv2d(in_channels, narrow, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(narrow)
        self.layer1 = _stage(blocks, narrow, narrow, stride=1)
        self.layer2 = _stage(blocks, narrow, middle, stride=2)
        self.layer3 = _stage(blocks, middle, wide, stride=2)
        self.linear = nn.Linear(wide, num_classes)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B, in_channels, H, W) -> logits (B, num_classes)."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)  # (B, 16, H, W)
        x = self.layer3(self.layer2(self.layer1(x)))  # (B, 64, H/4, W/4)
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))  # (B, num_classes)
        return logits


def _stage(blocks: int, width_in: int, width_out: int, stride: int) -> nn.Sequential:
    first = BasicBlock(width_in, width_out, stride)
    return nn.Sequential(first, *(BasicBlock(width_out, width_out, 1) for _ in range(blocks - 1)))


def _initialise(module: nn.Module) -> None:
    # He et al. 2015 ("Delving Deep into Rectifiers"), equation 10: std = sqrt(2 / fan_in).
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def resnet(depth: int, *, num_classes: int, in_channels: int, image_size: int = 32) -> CifarResNet:
    """ResNet of `depth` = 6n + 2 weighted layers. `image_size` is free: the average over the last map takes any."""
    del image_size
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise ValueError(f"a CIFAR ResNet has 6n + 2 layers (8, 14, 20, …), not {depth}")
    return CifarResNet(blocks, num_classes=num_classes, in_channels=in_channels)


DEPTHS = (8, 20, 32, 44, 56, 110)
MODELS: dict[str, Callable[..., nn.Module]] = {f"resnet{depth}": partial(resnet, depth) for depth in DEPTHS}

PRETRAINED = {
    f"resnet{depth}": Published(
        pattern=f"resnet{depth}-????????.th",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        source="pretrained_models of the GitHub repository akamaster/pytorch_resnet_cifar10 (CIFAR-10, 10 classes)",
    )
    for depth in (20, 32, 44, 56, 110)
}
"""ResNet-8 has no published weights."""
