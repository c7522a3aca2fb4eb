"""What a model has and does, counted exactly: parameters and multiply-adds."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from raybench.models.builder import count_parameters, head_modules
from raybench.models.macs import measure


@dataclass(frozen=True)
class Counts:
    """Whole numbers of one model."""

    param_count: int
    """All parameters, frozen ones and the head too; buffers not. A codec, say, has no head."""
    param_count_no_head: int
    param_count_trainable: int
    """Those that are not frozen, the head included."""
    macs: int
    """Multiply-adds of one image, or of one pair of sentences, products of attention counted, the head left out
    (`macs.py` has the convention)."""
    macs_without_attention_products: int


def count(module: nn.Module, *example: Tensor) -> Counts:
    """Count a model fed with `example`, a batch of one; on the meta device too, where nothing is computed."""
    everything = count_parameters(module)
    head = {id(each): each.numel() for part in head_modules(module) for each in part.parameters()}
    macs = measure(module, *example)
    return Counts(
        param_count=everything,
        param_count_no_head=everything - sum(head.values()),
        param_count_trainable=sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad),
        macs=macs.total(),
        macs_without_attention_products=macs.total(attention_products=False),
    )
