"""Metrics: name -> function of outputs and targets, summed over what is counted. To add one, add an entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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


Sum = Callable[[Any, Tensor], Tensor]
"""A metric summed over a batch: (output, targets) -> scalar."""


@dataclass(frozen=True)
class Measures:
    """The metrics of one kind of task."""

    sums: dict[str, Sum]
    """`loss` and others; means are reported, of those called `top*` in %."""
    training: tuple[str, ...] = ()
    """Those also taken of the training batches; the loss is known there anyway."""
    count: Callable[[Tensor], Tensor | int] = len
    """How many of what the means are over a batch's targets hold."""
    mean_of: str = "images"
    final: tuple[str, ...] = ()
    """Those that only the best epoch's weights are asked for, on validation and test."""


SUMS: dict[str, Sum] = {"loss": summed_cross_entropy, "top1": top(1), "top5": top(5)}
CLASSIFICATION = Measures(SUMS, training=("top1",))


def names(split: str, measures: Measures = CLASSIFICATION) -> tuple[str, ...]:
    """Column names of a split's metrics, such as eval_loss, eval_top1.

    Those of `eval` are what a sweep's `metric.name` may be: the test set is never selected on.
    """
    return tuple(f"{split}_{name}" for name in measures.sums)


class Totals:
    """Sums of metrics over batches, kept on the device so that no batch waits for a copy."""

    def __init__(
        self, device: torch.device, wanted: tuple[str, ...] | None = None, measures: Measures = CLASSIFICATION
    ) -> None:
        """`wanted`: names of metrics; none means all."""
        self.measures = measures
        self.wanted = tuple(measures.sums) if wanted is None else wanted
        self.sums = torch.zeros(len(self.wanted), dtype=torch.float64, device=device)
        self.counted = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, output: Any, targets: Tensor) -> None:
        """Count one batch: of classification, logits (B, classes) and labels (B,)."""
        if not self.wanted:
            return
        sums = self.measures.sums
        self.sums += torch.stack([sums[name](output, targets).double() for name in self.wanted])
        self.counted += self.measures.count(targets)

    def result(self, summed: Callable[[Tensor], Tensor] = lambda values: values) -> dict[str, float]:
        """Means over all that was counted; `top*` in %. `summed` adds what other processes have counted."""
        *sums, counted = summed(torch.cat([self.sums, self.counted[None]])).tolist()
        means = [value / max(counted, 1.0) for value in sums]
        return {
            name: 100 * mean if name.startswith("top") else mean for name, mean in zip(self.wanted, means, strict=True)
        }
