"""The "basic ViT" of the course report "Transformer-based image classification compared with pretrained models" (2024).

An image of 224x224x3 is cut into 196 patches of 16x16; each patch, 768 numbers, goes through one 768x768 linear map; an
all-zero row, which is no learned token, is put in front: 197x768; a standard Transformer encoder; the output of the
zero row goes through one linear layer.

Assumed, since the report leaves it open:

- depth 12 and 12 heads, those of ViT-Base: the report's epochs last as long as those of its pretrained ViT (2.55 s
  against 2.51 s on 500 images).
- No positions, since none are told of: an image is then a set of patches. `positions: learned` adds them.
- A "standard encoder" is that of Dosovitskiy et al., "An Image is Worth 16x16 Words" (2021): pre-norm blocks, GELU, an
  MLP four times as wide, a LayerNorm at the end.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raybench.errors import ConfigError
from raybench.models.vit_small import POSITION_STD, encoder, first_token, initialise

POSITIONS = ("none", "learned")


class BasicViT(nn.Module):
    """Patches through a linear map, an all-zero row in front, `depth` blocks, LayerNorm, a head on the zero row.

    The zero row has no parameters. Without positions all it brings into the first block is the biases, so what tells it
    from a patch, and what it asks of the patches, is learned in these.
    """

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        dim: int,
        depth: int,
        heads: int,
        positions: str,
        num_classes: int,
        in_channels: int,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.dim = dim
        self.patch_embed = nn.Linear(in_channels * patch_size**2, dim)
        tokens = 1 + (image_size // patch_size) ** 2
        self.pos_embed = nn.Parameter(torch.empty(1, tokens, dim)) if positions == "learned" else None
        self.blocks = encoder(dim, depth, heads, drop_path_rate)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, num_classes)
        if self.pos_embed is not None:
            nn.init.normal_(self.pos_embed, std=POSITION_STD)
        self.apply(initialise)

    def patches(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, patches, C * patch_size^2).

        Patches row by row; the numbers of one in the order of `unfold`: channel, then row, then column. So the linear
        map equals a convolution of stride `patch_size` whose kernel is its weight reshaped to (dim, C, patch_size,
        patch_size).
        """
        return F.unfold(x, self.patch_size, stride=self.patch_size).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B, in_channels, image_size, image_size) -> logits (B, num_classes)."""
        x = self.patch_embed(self.patches(x))  # (B, T - 1, dim)
        x = torch.cat([x.new_zeros(x.shape[0], 1, self.dim), x], dim=1)  # (B, T, dim)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        logits: Tensor = self.head(self.norm(first_token(self.blocks, x)))  # (B, num_classes)
        return logits


def basic_vit(
    *,
    num_classes: int,
    in_channels: int,
    image_size: int = 224,
    patch_size: int = 16,
    dim: int = 768,
    depth: int = 12,
    heads: int = 12,
    positions: str = "none",
    drop_path_rate: float = 0.0,
) -> BasicViT:
    """The basic ViT; `image_size` and `patch_size` in pixels. Raises ConfigError where the numbers do not fit.

    Two cores train a small one: patch_size 4, dim 48, depth 4, heads 4 on images of 32 px has 65 tokens; its linear map
    is square too (48 numbers a patch).
    """
    problems = [
        f"{name} = {value} must be at least 1"
        for name, value in {"patch_size": patch_size, "dim": dim, "depth": depth, "heads": heads}.items()
        if value < 1
    ]
    if patch_size >= 1 and image_size % patch_size:
        problems.append(f"image_size = {image_size} must be a multiple of patch_size = {patch_size}")
    if heads >= 1 and dim % heads:
        problems.append(f"dim = {dim} must be a multiple of heads = {heads}")
    if positions not in POSITIONS:
        problems.append(f'positions = "{positions}" must be one of {", ".join(POSITIONS)}')
    if not 0 <= drop_path_rate < 1:
        problems.append(f"drop_path_rate = {drop_path_rate} must lie in [0, 1)")
    if problems:
        raise ConfigError([f"model basic_vit: {problem}" for problem in problems])
    return BasicViT(
        image_size=image_size,
        patch_size=patch_size,
        dim=dim,
        depth=depth,
        heads=heads,
        positions=positions,
        num_classes=num_classes,
        in_channels=in_channels,
        drop_path_rate=drop_path_rate,
    )


MODELS: dict[str, Callable[..., nn.Module]] = {"basic_vit": basic_vit}
