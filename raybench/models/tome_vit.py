"""Token merging in timm's vision transformers: the same weights and state dict, fewer tokens from block to block.

Source: arXiv 2210.09461; the mathematics is in `tome.py`. timm's classes stay as they are: the blocks of one model are
replaced by blocks that hold the same parts under the same names.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from raybench.errors import ConfigError
from raybench.models.tome import (
    R,
    Unmerge,
    merge_source,
    merge_wavg,
    parse_r,
    prefix_matching,
    proportional_attention,
)

Model = TypeVar("Model", bound=nn.Module)

OPTION = "tome_r"
"""Model option that merges tokens: see `parse_option`."""


@dataclass
class Trace:
    """What one forward knows of its tokens. It lives as long as that forward, so none sees another's."""

    size: Tensor | None = None
    """(B, T, 1): how many tokens of the input each stands for; None while nothing is merged."""
    source: Tensor | None = None
    """(B, T, T_in), see `merge_source`."""
    unmerges: list[Unmerge] = field(default_factory=list)


class MergingBlock(nn.Module):
    """A pre-norm encoder block with merging between attention and MLP."""

    def __init__(self, block: Any, *, prefix: int) -> None:
        """Take over the parts of timm's block; `prefix` tokens in front never merge."""
        super().__init__()
        self.prefix = prefix
        self.r = 0
        self.proportional = True
        # Names and order are timm's, and with them state dicts and the order of parameters.
        self.norm1 = block.norm1
        self.attn = block.attn
        self.ls1 = block.ls1
        self.drop_path1 = block.drop_path1
        self.norm2 = block.norm2
        self.mlp = block.mlp
        self.ls2 = block.ls2
        self.drop_path2 = block.drop_path2
        self.training = block.training

    def forward(
        self,
        x: Tensor,
        trace: Trace | None = None,
        keep_source: bool = False,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """(B, T, dim) -> (B, T - r, dim); notes sizes and merges in `trace`."""
        if attn_mask is not None or is_causal:
            raise ConfigError(["token merging takes no attention mask: merged tokens are no longer those it was for"])
        if trace is None:
            raise ConfigError(
                ["token merging needs the blocks called as one: no gradient checkpointing, no intermediate features"]
            )
        mixed, keys = attend(self.attn, self.norm1(x), trace.size if self.proportional else None)
        x = x + self.drop_path1(self.ls1(mixed))
        if self.r > 0:
            merge, unmerge = prefix_matching(keys.mean(dim=1), self.r, self.prefix)
            if keep_source:
                trace.source = merge_source(merge, x, trace.source)
            x, trace.size = merge_wavg(merge, x, trace.size)
            trace.unmerges.append(unmerge)
        out: Tensor = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return out


class MergingBlocks(nn.Sequential):
    """The blocks of a model, through which the sizes of the tokens travel beside them."""

    def __init__(self, blocks: Iterable[nn.Module], *, restore: bool) -> None:
        """`restore` gives every token of the input its value back after the last block."""
        super().__init__(*blocks)
        self.restore = restore
        self.keep_source = False
        self.source: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, T - sum of r, dim), or (B, T, dim) where tokens are restored."""
        self.source = None  # a forward that is interrupted leaves none
        trace = Trace()
        tokens = x.shape[1]
        for block in self:
            x = block(x, trace, self.keep_source)
        if self.keep_source:
            nothing_merged = torch.eye(tokens, device=x.device).expand(len(x), tokens, tokens)
            self.source = nothing_merged if trace.source is None else trace.source
        if self.restore:
            for unmerge in reversed(trace.unmerges):
                x = unmerge(x)
        return x


def attend(attn: Any, x: Tensor, size: Tensor | None) -> tuple[Tensor, Tensor]:
    """Output (B, T, dim) and keys (B, heads, T, head_dim) of timm's `Attention` on x, with `size` (B, T, 1) or without.

    Fused where the module's `fused_attn` says so. q/k norm, the norm of the output and the gate are kept.
    """
    qkv = attn.qkv(x).unflatten(-1, (3, attn.num_heads, attn.head_dim))
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, T, head_dim)
    q, k = attn.q_norm(q), attn.k_norm(k)
    dropout_p = attn.attn_drop.p if attn.training else 0.0
    mixed = proportional_attention(q, k, v, size, scale=attn.scale, dropout_p=dropout_p, fused=attn.fused_attn)
    mixed = attn.norm(mixed.transpose(1, 2).flatten(2))
    if (gate := getattr(attn, "gate", None)) is not None:  # not in every version of timm
        mixed = mixed * gate(x).sigmoid()
    return attn.proj_drop(attn.proj(mixed)), k


def apply_tome(model: Model, r: R, *, proportional: bool = True, keep_source: bool = False) -> Model:
    """Merge `r` tokens in each block of a timm VisionTransformer or its distilled subclass; returns the same model.

    `r` is what `parse_r` takes; 0 leaves the outputs as they were. Applied again, it changes the settings. Weights,
    names and the order of parameters stay, and no random number is drawn. Class, distillation and register tokens never
    merge. `proportional` is proportional attention; `keep_source` keeps the map of the last forward for `source_map`.

    A model that does not read its class token alone but pools all tokens (`global_pool` avg, max, map …) gets them
    restored after the last block: each merged token then counts as often as the tokens it stands for.
    Hooks on the old blocks are lost, those on their parts stay, except that `attn.forward` is not called.
    Raises ConfigError for other models, kinds of block or attention, and for an `r` that does not fit.
    """
    if not isinstance(blocks := getattr(model, "blocks", None), MergingBlocks):
        if (fault := unsupported(model)) is not None:
            raise ConfigError([f"token merging needs timm's VisionTransformer or its distilled kind: {fault}"])
        blocks = _merging(model)
    rs = parse_r(len(blocks), r)
    for block, number in zip(blocks, rs, strict=True):
        assert isinstance(block, MergingBlock)
        block.r = number
        block.proportional = proportional
    blocks.keep_source = keep_source
    blocks.source = None
    model.blocks = blocks
    return model


def source_map(model: nn.Module) -> Tensor:
    """Which input tokens each output token of the last forward stands for: (B, T_out, T_in) of 0 and 1.

    Input tokens are those before the first block, prefix tokens included; output tokens those after the last, before
    any restoring. Raises ConfigError where the model keeps none (`apply_tome(..., keep_source=True)`, then a forward).
    """
    source: Tensor | None = getattr(getattr(model, "blocks", None), "source", None)
    if source is None:
        raise ConfigError(["no source map: apply_tome(model, r, keep_source=True), then a forward that ends"])
    return source


def unsupported(model: nn.Module) -> str | None:
    """Why tokens of a model cannot be merged, in words; None where they can. Only exact types are known to be right."""
    from timm.layers.attention import Attention
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import Block, VisionTransformer

    if type(model) not in (VisionTransformer, VisionTransformerDistilled):
        return f"this is a {type(model).__name__}"
    blocks: Any = model.blocks
    for index, block in enumerate(blocks):
        if type(block) is not Block:
            return f"block {index} is a {type(block).__name__}, not a Block"
        if type(block.attn) is not Attention:
            return f"the attention of block {index} is {type(block.attn).__name__}, not Attention"
    if model.grad_checkpointing:
        return "gradient checkpointing is on, which calls blocks apart"
    return None


def parse_option(name: str, value: object) -> R:
    """The option `tome_r` of model `name`: a number, or the text of a pair "(8, -1)" or of a list "[10, 5]".

    What they mean is in `parse_r`. Raises ConfigError for anything else and for negative numbers.
    """
    r: Any = value
    if isinstance(value, str):
        with suppress(ValueError, SyntaxError):
            r = ast.literal_eval(value.strip())
    pair = isinstance(r, tuple) and len(r) == 2
    numbers = r[:1] if pair else r if isinstance(r, list) else [r]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ConfigError(
            [
                f"model {name}: {OPTION} = {value!r} must be a whole number >= 0, the text of a list, such as "
                "'[10, 5]', or that of a pair of r and its inflection, such as '(8, -1)'"
            ]
        )
    return r  # type: ignore[no-any-return]


def apply_option(name: str, model: Model, r: R) -> Model:
    """`apply_tome` for the option of a configuration: 0 is the plain model, and errors name the model."""
    if r == 0:
        return model
    try:
        return apply_tome(model, r)
    except ConfigError as error:
        raise ConfigError([f"model {name}: {OPTION} = {r}: {problem}" for problem in error.problems]) from error


def _merging(model: Any) -> MergingBlocks:
    blocks = [MergingBlock(block, prefix=model.num_prefix_tokens) for block in model.blocks]
    merging = MergingBlocks(blocks, restore=model.global_pool != "token")
    merging.training = model.blocks.training
    return merging
