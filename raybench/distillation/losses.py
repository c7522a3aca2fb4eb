"""Distillation losses: pure functions of logits.

Convention: loss = (1 - alpha) * CE(student, label) + alpha * distillation, so alpha weights the distillation term,
everywhere.
Sources: Touvron et al. 2021 (DeiT), equations 2 and 3; Hinton et al. 2015 for tau.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from raybench.config import plugins
from raybench.config.faults import not_one_of
from raybench.errors import ConfigError

Reduction = Literal["batchmean", "deit"]
Kind = Callable[[Tensor, Tensor, float, Reduction], dict[str, Tensor]]


def hard(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy of the student with the teacher's argmax. Both (B, classes) logits; returns a scalar."""
    return F.cross_entropy(student, teacher.argmax(dim=-1))


def soft(student: Tensor, teacher: Tensor, tau: float, reduction: Reduction = "batchmean") -> Tensor:
    """KL(teacher/tau || student/tau) * tau^2, both (B, classes) logits; returns a scalar.

    `batchmean` is the divergence a sample. `deit` divides by B * classes as DeiT's code does, which makes the term
    `classes` times weaker.
    The factor tau^2 keeps the gradient's size independent of tau (Hinton et al. 2015, section 2.1).
    """
    divergence = F.kl_div(
        F.log_softmax(student / tau, dim=-1), F.log_softmax(teacher / tau, dim=-1), reduction="sum", log_target=True
    )
    samples = student.numel() if reduction == "deit" else student.shape[0]
    return divergence * (tau * tau) / samples


def _hard_kind(student: Tensor, teacher: Tensor, tau: float, reduction: Reduction) -> dict[str, Tensor]:  # noqa: ARG001
    return {"kd_hard": hard(student, teacher)}


def _soft_kind(student: Tensor, teacher: Tensor, tau: float, reduction: Reduction) -> dict[str, Tensor]:
    return {"kd_soft": soft(student, teacher, tau, reduction)}


def _both_kind(student: Tensor, teacher: Tensor, tau: float, reduction: Reduction) -> dict[str, Tensor]:
    return {"kd_hard": hard(student, teacher), "kd_soft": soft(student, teacher, tau, reduction)}


KINDS: dict[str, Kind] = {"hard": _hard_kind, "soft": _soft_kind, "both": _both_kind}
"""Kind of distillation -> its named terms; the distillation loss is their mean."""


def kind_of(name: str) -> Kind:
    """A kind of ours, or one from outside the repository. Raises ConfigError where there is none of that name."""
    if name in KINDS:
        return KINDS[name]
    if (extra := plugins.find("LOSSES", name)) is None:
        raise ConfigError([not_one_of("distillation.type", name, plugins.losses())])
    return extra.load()


def distillation_loss(
    classification: Tensor,
    student: Tensor,
    teacher: Tensor,
    *,
    kind: str,
    alpha: float,
    tau: float = 1.0,
    reduction: Reduction = "batchmean",
) -> dict[str, Tensor]:
    """The whole loss and its parts.

    classification: the cross-entropy with the labels, a scalar. student, teacher: (B, classes) logits.
    Returns `loss` and the terms `ce`, `kd_hard`, `kd_soft` that were computed. At alpha 0 the loss is exactly
    `classification`.
    """
    if alpha == 0:
        return {"loss": classification, "ce": classification}
    terms = kind_of(kind)(student, teacher, tau, reduction)
    distillation = sum(terms.values(), start=student.new_zeros(())) / len(terms)
    return {"loss": (1 - alpha) * classification + alpha * distillation, "ce": classification, **terms}
