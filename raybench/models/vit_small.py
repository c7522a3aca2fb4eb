"""Vision transformers for small images.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words" (2021): pre-norm encoder, class token, learned positions;
Huang et al., "Deep Networks with Stochastic Depth" (2016) for `drop_path_rate`, growing linearly with depth.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raybench.errors import ConfigError

MLP_RATIO = 4
POSITION_STD = 0.2
"""Of class token and positions. At widths below 100 the customary 0.02, for weights too, leaves tokens and residual
branches near zero and learning late: on digits 74 % against 92 % after 20 epochs (Xavier weights, positions of 0.2)."""


class Attention(nn.Module):
    """Multi-head self-attention with a bias on q, k and v; the fused kernel, or two plain matrix products."""

    def __init__(self, dim: int, heads: int, *, fused: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.fused = fused
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, queries: int | None = None) -> Tensor:
        """(B, T, dim) -> (B, T, dim); with `queries`, the output of the first so many tokens only."""
        dim = x.shape[-1]
        if queries is None:
            q, k, v = self.qkv(x).chunk(3, dim=-1)  # each (B, T, dim)
        else:
            weight, bias = self.qkv.weight, self.qkv.bias
            q = F.linear(x[:, :queries], weight[:dim], bias[:dim])  # (B, queries, dim)
            k, v = F.linear(x, weight[dim:], bias[dim:]).chunk(2, dim=-1)
        mixed = self._mix(self._split(q), self._split(k), self._split(v))
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))  # (B, queries, dim)
        return out

    def _mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v)
        mixed: Tensor = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(dim=-1) @ v  # (B, heads, T, head_dim)
        return mixed

    def _split(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        return x.reshape(batch, tokens, self.heads, dim // self.heads).transpose(1, 2)  # (B, heads, T, head_dim)


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, `MLP_RATIO` times as wide."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, T, dim)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """Pre-norm encoder block; in training each residual of an image is dropped with probability `drop_path`."""

    def __init__(self, dim: int, heads: int, drop_path: float, *, fused: bool = True) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads, fused=fused)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim)

    def forward(self, x: Tensor, queries: int | None = None) -> Tensor:
        """(B, T, dim) -> (B, T, dim); with `queries`, the first so many tokens only."""
        x = x[:, :queries] + self._thinned(self.attn(self.norm1(x), queries))
        return x + self._thinned(self.mlp(self.norm2(x)))

    def _thinned(self, residual: Tensor) -> Tensor:
        if self.drop_path == 0 or not self.training:
            return residual
        keep = 1 - self.drop_path
        # Divided by its own probability, so that training and evaluation see the same expectation.
        return residual * residual.new_empty(len(residual), 1, 1).bernoulli_(keep).div_(keep)


def encoder(dim: int, depth: int, heads: int, drop_path_rate: float) -> nn.ModuleList:
    """`depth` blocks whose residuals are dropped more often from block to block, up to `drop_path_rate`."""
    rates = [drop_path_rate * index / max(1, depth - 1) for index in range(depth)]
    return nn.ModuleList(Block(dim, heads, rate) for rate in rates)


def first_token(blocks: nn.ModuleList, x: Tensor) -> Tensor:
    """(B, T, dim) through all blocks -> the first token, (B, dim).

    Only that one is read, so the last block makes no other: the same numbers, with four blocks a quarter less work.
    """
    for index, block in enumerate(blocks, 1):
        x = block(x, queries=1 if index == len(blocks) else None)
    return x[:, 0]


class VisionTransformer(nn.Module):
    """Patches, a class token, learned positions, `depth` blocks, LayerNorm, and a linear head on the class token."""

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        dim: int,
        depth: int,
        heads: int,
        num_classes: int,
        in_channels: int,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.image_size = image_size
        tokens = 1 + (image_size // patch_size) ** 2
        self.patch_embed = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, tokens, dim))
        self.blocks = encoder(dim, depth, heads, drop_path_rate)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, num_classes)
        nn.init.normal_(self.cls_token, std=POSITION_STD)
        nn.init.normal_(self.pos_embed, std=POSITION_STD)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B, in_channels, image_size, image_size) -> logits (B, num_classes)."""
        x = self.patch_embed(x).flatten(2).transpose(1, 2)  # (B, T - 1, dim)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed  # (B, T, dim)
        logits: Tensor = self.head(self.norm(first_token(self.blocks, x)))  # (B, num_classes)
        return logits


def initialise(module: nn.Module) -> None:
    """Xavier weights and no bias for a linear layer; nothing for any other module."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def vit(
    *,
    patch_size: int,
    dim: int,
    depth: int,
    heads: int,
    num_classes: int,
    in_channels: int,
    image_size: int,
    drop_path_rate: float = 0.0,
) -> VisionTransformer:
    """A vision transformer of these few numbers; raises ConfigError where they do not fit each other."""
    problems = []
    if patch_size < 1 or image_size % patch_size:
        problems.append(f"image_size = {image_size} must be a multiple of patch_size = {patch_size}")
    if dim % heads:
        problems.append(f"dim = {dim} must be a multiple of heads = {heads}")
    if not 0 <= drop_path_rate < 1:
        problems.append(f"drop_path_rate = {drop_path_rate} must lie in [0, 1)")
    if problems:
        raise ConfigError(problems)
    return VisionTransformer(
        image_size=image_size,
        patch_size=patch_size,
        dim=dim,
        depth=depth,
        heads=heads,
        num_classes=num_classes,
        in_channels=in_channels,
        drop_path_rate=drop_path_rate,
    )


MODELS: dict[str, Callable[..., nn.Module]] = {
    # The number behind the patch size is the side in pixels the model is meant for; it is built for the one asked for.
    "vit_micro_patch2_8": partial(vit, patch_size=2, dim=64, depth=4, heads=4, image_size=8),
    "vit_tiny_patch4_32": partial(vit, patch_size=4, dim=128, depth=4, heads=4, image_size=32),
}
