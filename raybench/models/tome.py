"""Token merging (ToMe): which tokens of a transformer become one, the merging, and attention that knows their sizes.

Source: Bolya et al., "Token Merging: Your ViT But Faster" (ICLR 2023, arXiv 2210.09461), section 3 and appendix D,
written from the paper. `tome_vit.py` applies it to timm's transformers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from raybench.errors import ConfigError

Unmerge: TypeAlias = Callable[[Tensor], Tensor]
"""(B, T_out, C) -> (B, T, C): every token gets the value of the one it became part of."""

R: TypeAlias = int | tuple[int, float] | list[int]
"""Tokens merged in each block: a number, a number with its inflection, or one number a block."""


class Merge(Protocol):
    """(B, T, C) -> (B, T_out, C); `mode` is a reduction of `scatter_reduce` (mean, sum, amax …)."""

    def __call__(self, x: Tensor, mode: str = "mean") -> Tensor: ...


def bipartite_soft_matching(
    metric: Tensor, r: int, class_token: bool = False, distill_token: bool = False
) -> tuple[Merge, Unmerge]:
    """Match `r` tokens with those they resemble most, in the two halves of even (A) and odd (B) tokens.

    Each A token has its most similar B token (cosine of `metric`, (B, T, C)); the `r` most similar of these pairs are
    merged, and several A tokens may join one B token. The class token (index 0) and the distillation token (index 1)
    take no part. `r` is clipped to (T - protected) // 2; at r <= 0 both functions return what they are given.

    The merged sequence is: A tokens that stay, then B. With a class token the former keep their order, so that it
    stays first; without one they come in the order of falling similarity, as published results have it. A distillation
    token stays at index 1, so that the next block and the heads find both tokens where they were.
    Source: section 3 of the paper, "Bipartite Soft Matching". No gradient passes through the choice of pairs.
    """
    return _match(metric, r, protected_a=int(class_token), protected_b=int(distill_token))


def prefix_matching(metric: Tensor, r: int, prefix: int) -> tuple[Merge, Unmerge]:
    """The same with the first `prefix` tokens protected, which also stay first and in their order.

    For a class token alone (1) and with a distillation token (2) it is `bipartite_soft_matching`; registers make more.
    """
    return _match(metric, r, protected_a=(prefix + 1) // 2, protected_b=prefix // 2)


def merge_wavg(merge: Merge, x: Tensor, size: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean of tokens weighted by how many patches each stands for; -> x (B, T_out, C), size (B, T_out, 1).

    `size` (B, T, 1) is one for every token where not given. Sizes are float32: bfloat16 cannot count beyond 256.
    """
    if size is None:
        size = x.new_ones(x.shape[0], x.shape[1], 1, dtype=torch.float32)
    merged = merge(size, "sum")
    return (merge(x * size, "sum") / merged).to(x.dtype), merged


def merge_source(merge: Merge, x: Tensor, source: Tensor | None = None) -> Tensor:
    """Which input tokens each output token stands for: (B, T_out, T_in) of 0 and 1, each column with one 1.

    `x` (B, T, C) is what is being merged, for its shape; `source` (B, T, T_in) is the map of the merges before.
    """
    if source is None:
        batch, tokens = x.shape[:2]
        source = torch.eye(tokens, device=x.device).expand(batch, tokens, tokens)
    return merge(source, "amax")


def parse_r(depth: int, r: R) -> list[int]:
    """Tokens to merge in each of `depth` blocks.

    An int is used in every block. A pair (r, inflection) falls or rises along a line whose first number is
    r * (1 - inflection), cut to a whole one, and whose mean is r, each cut to a whole number: inflection -1 merges
    early, 0 evenly, 1 late. A list has one number a block and
    is filled up with zeros. Source: appendix of the paper on merging schedules; examples in the tests.
    Raises ConfigError for a longer list, for an inflection outside [-1, 1] and for what is none of the three.
    """
    if isinstance(r, int) and not isinstance(r, bool):
        return [r] * depth
    if isinstance(r, list) and all(type(each) is int for each in r):
        if len(r) > depth:
            raise ConfigError([f"r = {r} has {len(r)} numbers, the model {depth} blocks; give at most one a block"])
        return r + [0] * (depth - len(r))
    if isinstance(r, tuple) and len(r) == 2 and type(r[0]) is int and type(r[1]) in (int, float):
        number, inflection = r
        if not -1 <= inflection <= 1:
            raise ConfigError([f"r = {r}: the inflection {inflection} must lie in [-1, 1]"])
        if depth == 1:
            return [number]
        first = int(number * (1.0 - inflection))
        last = 2 * number - first
        step = (last - first) / (depth - 1)
        return [int(first + step * block) for block in range(depth)]
    raise ConfigError(
        [f"r = {r!r} must be a whole number, a pair (r, inflection) such as (8, -1), or a list such as [10, 5]"]
    )


def proportional_attention(
    q: Tensor, k: Tensor, v: Tensor, size: Tensor | None, *, scale: float, dropout_p: float = 0.0, fused: bool = True
) -> Tensor:
    """softmax(q k^T * scale + log size) v on (B, heads, T, head_dim): a token of size s counts as s equal keys.

    `size` is (B, T, 1), of the keys; None is plain attention. `fused` keeps `scaled_dot_product_attention`. Its fastest
    kernels on a GPU take no mask, so there the sizes are further channels. Source: equation 1 of the paper.
    """
    if fused and size is not None and q.device.type == "cuda":
        head_dim = v.shape[-1]
        # The scale stays that of head_dim: by default it would be another.
        wide = with_sizes(q, k, v, size, scale)
        return F.scaled_dot_product_attention(*wide, dropout_p=dropout_p, scale=scale)[..., :head_dim]
    if fused:
        mask = None if size is None else size.log().to(q.dtype).mT[:, None]  # (B, 1, 1, T)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p, scale=scale)
    products = (q * scale) @ k.transpose(-2, -1)  # (B, heads, T, T)
    if size is not None:
        products = products + size.log().to(products.dtype).mT[:, None]
    return F.dropout(products.softmax(dim=-1), dropout_p) @ v


def with_sizes(q: Tensor, k: Tensor, v: Tensor, size: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v (B, heads, T, head_dim) with further channels that add log(size) to every product.

    One is 1 in q and log(size) / scale in k; v carries zeros along. Further zeros follow, so that 8 divides the
    channels: a GPU's fused kernels take no others.
    """
    more = 8 - q.shape[-1] % 8
    extra = (size.log() / scale).to(k.dtype)[:, None].expand(*k.shape[:-1], 1)  # (B, heads, T, 1)
    q = F.pad(torch.cat([q, q.new_ones(*q.shape[:-1], 1)], dim=-1), (0, more - 1))
    k = F.pad(torch.cat([k, extra], dim=-1), (0, more - 1))
    return q, k, F.pad(v, (0, more))


@dataclass(frozen=True)
class _Matching:
    """Which tokens stay and which leave, and where to."""

    kept: Tensor
    """(B, T_out): the token at each place of the merged sequence."""
    leave: Tensor
    """(B, r) tokens."""
    goal: Tensor
    """(B, r): the place in the merged sequence of the token that each of `leave` joins."""
    tokens: int

    def merge(self, x: Tensor, mode: str = "mean") -> Tensor:
        """As the protocol says."""
        # Whole rows of (B * T, C): picking numbers one by one takes a CPU many times as long.
        kept, leaving = _rows(x, self.kept), _rows(x, self.leave)
        if mode == "sum":
            return kept.flatten(0, 1).index_add(0, _flat(self.goal, kept), leaving.flatten(0, 1)).view_as(kept)
        return kept.scatter_reduce(1, self.goal[:, :, None].expand_as(leaving), leaving, reduce=mode)

    def unmerge(self, x: Tensor) -> Tensor:
        """As `Unmerge` says."""
        places = self.kept.new_empty(len(self.kept), self.tokens)
        places.scatter_(1, self.kept, torch.arange(x.shape[1], device=x.device).expand_as(self.kept))
        places.scatter_(1, self.leave, self.goal)
        return _rows(x, places)


@torch.no_grad()
def _match(metric: Tensor, r: int, *, protected_a: int, protected_b: int) -> tuple[Merge, Unmerge]:
    tokens = metric.shape[1]
    r = min(r, (tokens - protected_a - protected_b) // 2)
    if r <= 0 or tokens // 2 <= protected_b:  # nothing to merge, or nothing to merge with
        return _same, _same
    scores = _similarity(metric)  # (B, A, B tokens)
    scores[:, :protected_a] = -math.inf
    scores[:, :, :protected_b] = -math.inf
    goal = scores.argmax(dim=-1)
    # Stable, so that ties are the same pairs in each run.
    order = scores.amax(dim=-1).argsort(dim=-1, descending=True, stable=True)
    leave = order[:, :r]
    stay = order[:, r:]
    if protected_a:
        stay = stay.sort(dim=-1).values
    odd = torch.arange(1, tokens, 2, device=metric.device).expand(len(metric), -1)
    # Pairs of protected tokens open the merged sequence as they open the other one.
    front = torch.stack([2 * stay[:, :protected_b], odd[:, :protected_b]], dim=2).flatten(1, 2)
    kept = torch.cat([front, 2 * stay[:, protected_b:], odd[:, protected_b:]], dim=1)
    matching = _Matching(kept, 2 * leave, goal.gather(1, leave) + stay.shape[1], tokens)
    return matching.merge, matching.unmerge


def _similarity(metric: Tensor) -> Tensor:
    # At least float32, also under autocast: near duplicates have equal cosines in bfloat16.
    kind = metric.device.type
    full = torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
    with full:
        unit = F.normalize(metric.to(torch.promote_types(metric.dtype, torch.float32)), dim=-1)
        return unit[:, 0::2] @ unit[:, 1::2].mT


def _rows(x: Tensor, places: Tensor) -> Tensor:
    """(B, T, C) and (B, N) places in it -> (B, N, C)."""
    return x.flatten(0, 1).index_select(0, _flat(places, x)).view(*places.shape, x.shape[-1])


def _flat(places: Tensor, x: Tensor) -> Tensor:
    """(B, N) places in x (B, T, C) -> (B * N) rows of (B * T, C)."""
    return (places + torch.arange(len(x), device=x.device)[:, None] * x.shape[1]).flatten()


def _same(x: Tensor, mode: str = "mean") -> Tensor:  # noqa: ARG001
    return x
