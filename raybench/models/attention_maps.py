"""Where a vision transformer looks: the weights of its attentions, read out of one forward pass, and their rollout.

Source of the rollout: Abnar and Zuidema, "Quantifying Attention Flow in Transformers" (ACL 2020), section 3. Token
merging (`tome.py`) is followed: what a merged token looks at, or is looked at with, is that of all its patches.

The weights are made of the very queries and keys of the pass by a plain product and softmax, whichever kernel the pass
itself uses, so that no model is changed for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from raybench.errors import ConfigError
from raybench.models.basic_vit import BasicViT
from raybench.models.ci2p import CI2P, PooledVisionTransformer
from raybench.models.tome_vit import MergingBlock, MergingBlocks, source_map, unsupported
from raybench.models.two_heads import has_two_heads
from raybench.models.vit_small import Attention, VisionTransformer

WITH_CLASS_TOKEN = (VisionTransformer, BasicViT)
"""Of our own models; the basic ViT's zero row is its class token."""
POOLED = (PooledVisionTransformer, CI2P)
RESIDUAL = 0.5
"""Share of a token itself in what it becomes in a layer: the rollout's 0.5 A + 0.5 I."""


@dataclass(frozen=True, eq=False)
class Attended:
    """The attentions of one forward pass."""

    maps: tuple[Tensor, ...]
    """Of each layer (B, heads, T, T) float32 on the CPU; row t: where token t looks, sums to 1."""
    sources: tuple[Tensor, ...] = ()
    """Where tokens are merged: before each layer, and after the last, which input tokens each token stands for:
    (B, T, T_in) of 0 and 1. Empty where none are."""


@dataclass(frozen=True)
class Reading:
    """Which of the tokens after the last layer the head reads."""

    prefix: int
    """Tokens before the patches: class, distillation, registers."""
    shares: tuple[float, ...]
    """Of the first tokens in what is read; empty: the mean of the patches."""


def no_maps(module: nn.Module) -> str | None:
    """Why there are no attention maps of a model, in words; none where there are."""
    if isinstance(module, WITH_CLASS_TOKEN + POOLED):
        return None
    if not isinstance(getattr(module, "blocks", None), MergingBlocks) and (fault := unsupported(module)) is not None:
        return f"maps are read from our own vision transformers and timm's plain and distilled ones; {fault}"
    pool = module.global_pool
    if pool not in ("token", "avg") or getattr(module, "pool_include_prefix", False):
        return f"its head reads neither its class token nor the mean of its patches (global_pool {pool})"
    return None


def no_rollout(module: nn.Module) -> str | None:
    """Why the maps of a model's layers cannot be multiplied, in words; none where they can."""
    if isinstance(module, CI2P) and len(module.latent_blocks):
        return "its tokens are others on each of its two scales, so that no product of maps leads through both"
    return no_maps(module)


def reading(module: nn.Module, asked: tuple[float, float] = (1.0, 0.0)) -> Reading:
    """What the head of a model reads. `asked`: the shares of the class and the distillation head in its answer.

    Raises ConfigError for a model without maps (`no_maps`).
    """
    if (fault := no_maps(module)) is not None:
        raise ConfigError([f"no attention maps: {fault}"])
    if isinstance(module, WITH_CLASS_TOKEN):
        return Reading(1, (1.0,))
    if isinstance(module, POOLED):
        return Reading(0, ())
    timm_vit: Any = module
    shares = asked if has_two_heads(module) else (1.0,)
    return Reading(timm_vit.num_prefix_tokens, shares if timm_vit.global_pool == "token" else ())


@torch.no_grad()
def record_attention(module: nn.Module, forward: Callable[[], object]) -> Attended:
    """The attentions of `forward()`, one pass of the module, which is in eval mode meanwhile.

    Its hooks are gone afterwards, also where the pass fails. Raises ConfigError for a model without maps.
    """
    if (fault := no_maps(module)) is not None:
        raise ConfigError([f"no attention maps: {fault}"])
    heard: list[tuple[Tensor, Tensor | None]] = []
    hooks: list[RemovableHandle] = []
    last: Tensor | None = None
    with _evaluating(module), _sources_kept(module) as merging:
        try:
            for layer in _attentions(module):
                hooks += _listen(layer, heard)
            forward()
        finally:
            for hook in hooks:
                hook.remove()
        last = source_map(module).cpu() if merging else None
    maps = tuple(weights for weights, _ in heard)
    if last is None:
        return Attended(maps)
    return Attended(maps, (*(_whole(source, weights) for weights, source in heard), last))


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        if training:
            module.train()


@contextmanager
def _sources_kept(module: nn.Module) -> Iterator[bool]:
    """Have a merging model keep which patches its tokens stand for; gives whether it is one."""
    blocks = getattr(module, "blocks", None)
    if not isinstance(blocks, MergingBlocks):
        yield False
        return
    kept, blocks.keep_source = blocks.keep_source, True
    try:
        yield True
    finally:
        blocks.keep_source = kept
        if not kept:
            blocks.source = None


def _attentions(module: nn.Module) -> list[nn.Module]:
    """A module a layer that `_listen` knows."""
    for kind in (MergingBlock, Attention):
        if found := [each for each in module.modules() if isinstance(each, kind)]:
            return list(found)
    blocks: Any = module.blocks
    return [block.attn for block in blocks]


def _listen(layer: Any, heard: list[tuple[Tensor, Tensor | None]]) -> list[RemovableHandle]:
    """Hooks that add the layer's weights, and what its tokens stand for, to `heard` in each pass."""
    if isinstance(layer, Attention):

        def given(attention: Any, inputs: tuple[Any, ...]) -> None:
            # The last layer makes the class token alone; where the others would look is known all the same.
            qkv = attention.qkv(inputs[0]).unflatten(-1, (3, attention.heads, -1))
            q, k, _ = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, T, head_dim)
            heard.append((_weights(q, k, q.shape[-1] ** -0.5, None), None))

        return [layer.register_forward_pre_hook(given)]
    merging = isinstance(layer, MergingBlock)
    attention = layer.attn if merging else layer
    traces: list[Any] = []
    queries: list[Tensor] = []

    def begun(_block: nn.Module, inputs: tuple[Any, ...]) -> None:
        traces[:] = [inputs[1]]

    def asked(_norm: nn.Module, _inputs: Any, q: Tensor) -> None:
        queries[:] = [q]

    def answered(_norm: nn.Module, _inputs: Any, k: Tensor) -> None:
        size = traces[0].size if merging and layer.proportional else None
        source = traces[0].source.cpu() if merging and traces[0].source is not None else None
        heard.append((_weights(queries[0], k, attention.scale, size), source))

    hooks = [layer.register_forward_pre_hook(begun)] if merging else []
    return [*hooks, attention.q_norm.register_forward_hook(asked), attention.k_norm.register_forward_hook(answered)]


def _weights(q: Tensor, k: Tensor, scale: float, size: Tensor | None) -> Tensor:
    # In float32 also under autocast: 16 bits would round the sums of a row.
    with torch.autocast(q.device.type, enabled=False):
        products = (q.float() * scale) @ k.float().mT  # (B, heads, T, T)
        if size is not None:
            products = products + size.float().log().mT[:, None]
        return products.softmax(dim=-1).cpu()


def _whole(source: Tensor | None, weights: Tensor) -> Tensor:
    if source is not None:
        return source
    batch, _, tokens, _ = weights.shape
    return torch.eye(tokens).expand(batch, tokens, tokens)  # nothing is merged yet


def attention_rollout(maps: Sequence[Tensor], sources: Sequence[Tensor] = ()) -> Tensor:
    """How much of each input token is in each token after the last layer: (B, T, T_in), rows sum to 1.

    `maps` (B, heads, T, T) and `sources` as in `Attended`. Heads are averaged; a layer is 0.5 A + 0.5 I, its rows
    renormalised; the layers are multiplied. Where tokens are merged after a layer, their rows are averaged as the
    tokens are, by how many patches each stands for. Source: Abnar and Zuidema 2020, section 3.
    """
    batch, _, tokens, _ = maps[0].shape
    flow = torch.eye(tokens).expand(batch, tokens, tokens)
    for layer, weights in enumerate(maps):
        own = torch.eye(weights.shape[-1])
        mixed = (1 - RESIDUAL) * weights.float().mean(dim=1) + RESIDUAL * own  # (B, T, T)
        flow = (mixed / mixed.sum(dim=-1, keepdim=True)) @ flow
        if sources:
            flow = _merged(sources[layer], sources[layer + 1]) @ flow
    return flow


def _merged(before: Tensor, after: Tensor) -> Tensor:
    """The means that merging took of tokens, weighted by their patches: (B, T_after, T_before), rows sum to 1."""
    shared = after.float() @ before.float().mT  # patches of a token before that are in the one after
    return shared / shared.sum(dim=-1, keepdim=True)


def patch_rollout(attended: Attended, reads: Reading) -> Tensor:
    """How much of each patch of the input is in what the head reads, (B, patches); the rest is of prefix tokens."""
    flow = attention_rollout(attended.maps, attended.sources)  # (B, T, T_in)
    last = attended.sources[-1] if attended.sources else None
    read = _read(flow.shape[:2], reads, last)
    return (read[:, None] @ flow)[:, 0, reads.prefix :]


def patch_attention(attended: Attended, reads: Reading) -> list[Tensor]:
    """Where the tokens that the head reads look in each layer: (B, heads, patches of the input), the rest at prefix
    tokens.

    A merged token's weight is spread evenly over its patches.
    """
    found = []
    for layer, weights in enumerate(attended.maps):
        source = attended.sources[layer] if attended.sources else None
        read = _read(weights.shape[::2], reads, source)
        rows = (read[:, None, None] @ weights)[:, :, 0]  # (B, heads, T)
        if source is not None:
            rows = (rows / source.sum(dim=-1)[:, None]) @ source
        found.append(rows[:, :, reads.prefix :])
    return found


def _read(shape: Sequence[int], reads: Reading, source: Tensor | None) -> Tensor:
    """Share of each token in what is read, (B, T); a merged token counts as often as it has patches."""
    if reads.shares:
        shares = torch.zeros(*shape)
        shares[:, : len(reads.shares)] = torch.tensor(reads.shares)
        return shares
    shares = torch.ones(*shape) if source is None else source.sum(dim=-1)
    shares[:, : reads.prefix] = 0
    return shares / shares.sum(dim=-1, keepdim=True)


def patch_side(patches: int) -> int:
    """Patches a side of a square image of so many. Raises ConfigError where they make no square."""
    side = math.isqrt(patches)
    if side**2 != patches:
        raise ConfigError([f"{patches} patches make no square, so that they cannot be laid over an image"])
    return side


@torch.no_grad()
def merged_patches(module: nn.Module, forward: Callable[[], object]) -> Tensor:
    """Which token after the last layer each patch of the input became part of, (B, patches), in one forward pass.

    Tokens are counted with those before the patches. The module is in eval mode meanwhile. Raises ConfigError where it
    merges no tokens (`merges`).
    """
    if not merges(module):
        raise ConfigError(["no merged patches: the model merges no tokens"])
    with _evaluating(module), _sources_kept(module):
        forward()
        source = source_map(module).cpu()  # (B, T, T_in), each column with one 1
    merging: Any = module
    return source.argmax(dim=1)[:, merging.num_prefix_tokens :]


def merges(module: nn.Module) -> bool:
    """Whether a model merges any of its tokens."""
    blocks = getattr(module, "blocks", None)
    return isinstance(blocks, MergingBlocks) and any(isinstance(each, MergingBlock) and each.r > 0 for each in blocks)
