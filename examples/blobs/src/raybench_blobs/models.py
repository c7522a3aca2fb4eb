"""Patches, a hidden layer for each, their mean, a head: a floor for every comparison."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class PatchMlp(nn.Module):
    """The same two layers for every patch, then the mean over patches and a linear head."""

    def __init__(self, width: int, patch_size: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.embed = nn.Linear(in_channels * patch_size**2, width)
        self.hidden = nn.Linear(width, width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, in_channels, H, W) -> logits (B, num_classes)."""
        patches = F.unfold(x, self.patch_size, stride=self.patch_size).transpose(1, 2)  # (B, patches, C * P * P)
        features = self.hidden(self.embed(patches).relu()).relu()  # (B, patches, width)
        logits: Tensor = self.head(features.mean(dim=1))
        return logits


def patch_mlp(
    *, num_classes: int, in_channels: int, image_size: int, width: int = 32, patch_size: int = 4
) -> nn.Module:
    """What raybench calls: three sizes that the data decide, then options (`model.options`) with their defaults."""
    if image_size % patch_size:
        raise ValueError(f"patch_size = {patch_size} must divide the image's side, {image_size}")
    return PatchMlp(width, patch_size, num_classes, in_channels)
