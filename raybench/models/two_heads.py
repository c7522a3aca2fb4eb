"""Models with a distillation token and a head of its own (Touvron et al. 2021, DeiT), as timm builds them.

timm averages the two heads outside of distilled training, also where one of them was never trained; so they are asked
one by one here.
"""

from __future__ import annotations

from torch import Tensor, nn


def has_two_heads(module: nn.Module) -> bool:
    """Whether a model has a distillation token with a head of its own (DeiT)."""
    return isinstance(getattr(module, "head_dist", None), nn.Linear)


def two_heads(module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, classes) of the class and the distillation head of one of timm's distilled models, in any mode."""
    tokens = module.forward_features(images)  # type: ignore[operator]  # (B, T, dim), class and distillation token first
    by_class: Tensor = module.head(module.head_drop(tokens[:, 0]))  # type: ignore[operator]
    by_distillation: Tensor = module.head_dist(module.head_drop(tokens[:, 1]))  # type: ignore[operator]
    return by_class, by_distillation


def class_logits(module: nn.Module, images: Tensor) -> Tensor:
    """Logits (B, classes) by which a model is trained and scored on labels: of two heads, those of the class head."""
    if has_two_heads(module):
        return two_heads(module, images)[0]
    output: Tensor = module(images)
    return output
