"""A row in 16-bit words. Of logits: whole where classes are few, else the largest and what the rest weighs together.

Words are int16, which every device can index.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from raybench.config.trial import DistillationConfig

DENSE_CLASSES = 200
"""Up to so many classes a row is kept whole."""
SURE = 32
"""Of the kept ones so many are compared where rows are computed again: about the last of them rounding decides."""
KEPT = 64
"""Of more classes so many are kept: of a teacher of ImageNet they hold all but a hundredth of the probability."""


class Halves:
    """(B, *shape) <-> (B, width) words of 16 bits: float16, as it is."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.width = self.numbers = math.prod(shape)

    def pack(self, values: Tensor) -> Tensor:
        """(B, *shape) -> int16 (B, width)."""
        return values.half().flatten(1).contiguous().view(torch.int16)

    def unpack(self, words: Tensor) -> Tensor:
        """int16 (B, width) -> float32 (B, *shape), on the same device."""
        values: Tensor = words.view(torch.float16).float().unflatten(1, self.shape)
        return values

    def apart(self, known: Tensor, again: Tensor) -> float:
        """The largest difference of two unpacked batches, of the largest value."""
        return _apart(known, again)


class Packing:
    """(B, classes) float16 <-> (B, width) words of 16 bits.

    Up to `DENSE_CLASSES`, or where `whole` is asked for, nothing is lost. Of more, a row holds the `KEPT` largest
    logits, their classes, and the logarithm of the summed exponentials of all others, who then share it evenly: argmax,
    the kept logits and, at temperature 1, the probabilities of the kept classes stay what they were. At a higher
    temperature the shape of the rest is most of what is taught, and an even rest is another teacher.
    """

    def __init__(self, classes: int, whole: bool = False) -> None:
        """Raises ValueError for more classes than 16 bits can number."""
        if classes > 2**16:
            raise ValueError(f"{classes} classes: at most {2**16} can be numbered in 16 bits")
        self.classes = classes
        self.dense = whole or classes <= DENSE_CLASSES
        self.width = classes if self.dense else 2 * KEPT + 1
        self.numbers = classes if self.dense else KEPT + 1

    def pack(self, logits: Tensor) -> Tensor:
        """float16 logits (B, classes) -> int16 (B, width)."""
        if self.dense:
            return logits.half().contiguous().view(torch.int16)
        values, where = logits.float().topk(KEPT, dim=1)  # (B, KEPT)
        others = logits.float().scatter(1, where, -math.inf).logsumexp(dim=1, keepdim=True)  # (B, 1)
        numbers = torch.cat([values, others], dim=1).half().view(torch.int16)
        return torch.cat([numbers, where.to(torch.int16)], dim=1)  # wraps beyond 2^15, which unpack undoes

    def unpack(self, words: Tensor) -> Tensor:
        """int16 (B, width) -> float32 logits (B, classes), on the same device."""
        if self.dense:
            return words.view(torch.float16).float()
        numbers = words[:, : KEPT + 1].contiguous().view(torch.float16).float()
        where = words[:, KEPT + 1 :].to(torch.int64) & 0xFFFF
        # No more than the last that is kept, above which 16 bits may round it where all are nearly alike.
        each = (numbers[:, KEPT:] - math.log(self.classes - KEPT)).minimum(numbers[:, KEPT - 1 : KEPT])  # (B, 1)
        return each.repeat(1, self.classes).scatter(1, where, numbers[:, :KEPT])

    def apart(self, known: Tensor, again: Tensor) -> float:
        """The largest difference of two batches of unpacked logits (B, classes), of the largest logit.

        Of rows that are not whole: of their `SURE` largest logits, and of the logarithm of the summed exponentials of
        all. Which classes are the last that are kept is decided by rounding.
        """
        if self.dense:
            return _apart(known, again)
        sure = again.topk(SURE, dim=1).indices
        everything = [
            torch.cat([rows.gather(1, sure), rows.logsumexp(1, keepdim=True)], dim=1) for rows in (known, again)
        ]
        return _apart(everything[0], everything[1])


def needs_whole(distillation: DistillationConfig) -> bool:
    """Whether a trial compares more of its teacher's logits than what `Packing` keeps true of many classes.

    The soft term does at a temperature above 1; of a kind from outside nobody knows.
    """
    if distillation.type in ("soft", "both"):
        return distillation.tau > 1
    return distillation.type not in ("hard", "none")


def packing_of(distillation: DistillationConfig, classes: int) -> Packing:
    """How the logits are kept that a trial is taught by."""
    return Packing(classes, whole=needs_whole(distillation))


def _apart(known: Tensor, again: Tensor) -> float:
    return float((known - again).abs().max() / again.abs().max().clamp(min=torch.finfo(torch.float16).tiny))
