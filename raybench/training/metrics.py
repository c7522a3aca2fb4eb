"""Metrics of classification: name -> function of logits and labels. To add one, add an entry."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def top(k: int) -> Callable[[Tensor, Tensor], Tensor]:
    """How many of a batch have their label among the k largest logits: (B, classes), (B,) -> scalar count.

    Of equal logits the first class is taken for k = 1; for larger k it is not said which, but never more than k.
    """

    def count(logits: Tensor, labels: Tensor) -> Tensor:
        if k == 1:
            return (logits.argmax(dim=1) == labels).sum()
        chosen = logits.topk(min(k, logits.shape[1]), dim=1).indices  # (B, k)
        return (chosen == labels[:, None]).any(dim=1).sum()

    return count


def summed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy summed over a batch: (B, classes), (B,) -> scalar."""
    return F.cross_entropy(logits.float(), labels, reduction="sum")


SUMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"loss": summed_cross_entropy, "top1": top(1), "top5": top(5)}
"""Metrics as sums over images; `top*` are reported in %, `loss` as a mean."""


def names(split: str) -> tuple[str, ...]:
    """Column names of a split's metrics, such as eval_loss, eval_top1.

    Those of `eval` are what a sweep's `metric.name` may be: the test set is never selected on.
    """
    return tuple(f"{split}_{name}" for name in SUMS)


class Totals:
    """Sums of metrics over batches, kept on the device so that no batch waits for a copy."""

    def __init__(self, device: torch.device, wanted: tuple[str, ...] | None = None) -> None:
        """`wanted`: names of metrics; none means all."""
        self.wanted = tuple(SUMS) if wanted is None else wanted
        self.sums = torch.zeros(len(self.wanted), dtype=torch.float64, device=device)
        self.images = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count one batch: logits (B, classes), labels (B,)."""
        self.sums += torch.stack([SUMS[name](logits, labels).double() for name in self.wanted])
        self.images += len(labels)

    def result(self) -> dict[str, float]:
        """Means over all images seen; `top*` in %."""
        means = (self.sums / max(self.images, 1)).tolist()
        return {
            name: 100 * mean if name.startswith("top") else mean for name, mean in zip(self.wanted, means, strict=True)
        }
