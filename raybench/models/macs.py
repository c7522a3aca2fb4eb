"""Multiply-adds of a model, by the convention of the published tables.

One a multiply-add of a convolution, a linear layer or a matrix product (its bias is free); LayerNorm and GroupNorm 5 an
element, 4 without weights; BatchNorm of evaluation 2 an element, 1 without weights; adaptive average pooling 1 an
element it reads; activations, softmax, sums and means nothing. This is fvcore's convention. Published figures of
CI2P-ViT leave the head out, as `count_macs` does; timm's tables count it (ViT-B/16 at 224: 17.58 G). Attention is
counted from the shapes of its q, k and v, so that the fused kernel and plain products give the same; counters that miss
the fused kernel report ViT-B/16 at 256 as 21.919 G instead of 23.127 G.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from raybench.models.builder import head_modules

aten = torch.ops.aten
PRODUCTS = {aten.mm: (0, 1), aten.bmm: (0, 1), aten.mv: (0, 1), aten.addmm: (1, 2), aten.baddbmm: (1, 2)}
"""Matrix products: which of the arguments are multiplied."""
NORMS = {aten.layer_norm: (2, 5), aten.group_norm: (2, 5), aten.batch_norm: (1, 2)}
"""Norms: which argument holds the weights, and the price of an element with them; one less without."""
POOLS = (aten.adaptive_avg_pool1d, aten.adaptive_avg_pool2d, aten.adaptive_avg_pool3d)


@dataclass(frozen=True)
class Macs:
    """Multiply-adds by where they are spent."""

    layers: int = 0
    """Convolutions and products with weights, the head left out."""
    attention: int = 0
    """Products of two activations."""
    norms: int = 0
    pools: int = 0
    head: int = 0

    def total(self, *, attention_products: bool = True, head: bool = False) -> int:
        """The sum, the head left out as in the published figures unless it is asked for."""
        return self.layers + self.norms + self.pools + self.attention * attention_products + self.head * head


def count_macs(module: nn.Module, in_channels: int, image_size: int, *, attention_products: bool = True) -> int:
    """Multiply-adds of one image (in_channels, image_size, image_size), the head left out.

    `attention_products=False` is for comparison with figures that miss the fused kernel. The model runs once where it
    lies; one built on the meta device costs next to nothing.
    """
    first = next(module.parameters())
    image = torch.zeros(1, in_channels, image_size, image_size, dtype=first.dtype, device=first.device)
    return measure(module, image).total(attention_products=attention_products)


def measure(module: nn.Module, *example: Any) -> Macs:
    """Multiply-adds of `module(*example)` in eval mode: any input, the whole batch. The module is left as it is."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    # A copy without the weights' memory: neither modes nor caches a model keeps between calls are touched.
    twin = copy.deepcopy(module, shared).eval()
    weights = [*twin.parameters(), *twin.buffers()]
    head = [parameter for part in head_modules(twin) for parameter in part.parameters()]
    for part in twin.modules():
        if hasattr(part, "fused_attn"):  # timm's; fused, merged tokens' sizes travel in a channel that is no work
            part.fused_attn = False  # type: ignore[assignment]
    counter = _Counter(weights, head)
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one kernel for a whole encoder layer, with no products to see
    try:
        # In inference mode layers arrive whole: a linear layer, not the reshapes and products it is made of.
        with torch.inference_mode(), counter:
            twin(*example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
    return counter.macs()


class _Counter(TorchDispatchMode):
    """Prices each operation of a forward pass."""

    def __init__(self, weights: Sequence[Tensor], head: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.spent = dict.fromkeys(Macs.__dataclass_fields__, 0)
        # Weights and what is made of nothing else, such as a transpose; held, so that no id is used twice.
        self.weights = {id(tensor): tensor for tensor in weights}
        self.head = {id(tensor): tensor for tensor in head}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing is compiled here; to keep its compiler away torch would first import it, for seconds.
        return False

    def macs(self) -> Macs:
        """What was counted so far."""
        return Macs(**self.spent)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operation and count it."""
        del types
        kwargs = dict(kwargs or {})
        kind = func.overloadpacket
        priced = kind in PRODUCTS or kind in NORMS or kind in POOLS
        if not priced and kind not in (aten.linear, aten.scaled_dot_product_attention, aten.convolution):
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return self._followed(args, out)
        out = func(*args, **kwargs)
        self._count(kind, args, out)
        return self._followed(args, out)

    def _count(self, kind: Any, args: tuple[Any, ...], out: Any) -> None:
        if kind is aten.linear:
            self._layer(args[1], args[0].numel() * len(args[1]))
        elif kind is aten.convolution:
            x, weight, transposed = args[0], args[1], args[6]
            places = (x if transposed else out).shape[2:]
            self._layer(weight, len(x) * weight.numel() * math.prod(places))
        elif kind is aten.scaled_dot_product_attention:
            q, k, v = args[:3]
            self.spent["attention"] += math.prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])
        elif kind in PRODUCTS:
            left, right = (args[index] for index in PRODUCTS[kind])
            weight = next((tensor for tensor in (right, left) if id(tensor) in self.weights), None)
            self._layer(weight, left.numel() * (right.shape[-1] if right.dim() > 1 else 1))
        elif kind in NORMS:
            index, price = NORMS[kind]
            weighted = len(args) > index and args[index] is not None
            self.spent["norms"] += args[0].numel() * (price if weighted else price - 1)
        elif kind in POOLS:
            self.spent["pools"] += args[0].numel()

    def _layer(self, weight: Tensor | None, macs: int) -> None:
        where = "attention" if weight is None else "head" if id(weight) in self.head else "layers"
        self.spent[where] += macs

    def _followed(self, args: tuple[Any, ...], out: Any) -> Any:
        """Remember what is made of weights alone."""
        tensors = [leaf for leaf in tree_flatten(args)[0] if isinstance(leaf, Tensor)]
        for group in (self.weights, self.head):
            if tensors and all(id(tensor) in group for tensor in tensors):
                group.update({id(leaf): leaf for leaf in tree_flatten(out)[0] if isinstance(leaf, Tensor)})
        return out
