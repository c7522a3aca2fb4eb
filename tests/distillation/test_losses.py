"""Distillation losses: identities, limits and gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raybench.distillation.losses import KINDS, Reduction, distillation_loss, hard, soft

BATCH, CLASSES = 4, 3


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Threads only hinder tensors this small."""
    torch.set_num_threads(1)


def logits(seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """(BATCH, CLASSES)."""
    return torch.randn(BATCH, CLASSES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def labels() -> Tensor:
    """(BATCH,)."""
    return torch.arange(BATCH) % CLASSES


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_alpha_zero_is_cross_entropy_bit_for_bit(kind: str) -> None:
    student, teacher = logits(1, torch.float32).requires_grad_(), logits(2, torch.float32)
    plain = F.cross_entropy(student, labels())
    (expected,) = torch.autograd.grad(plain, student, retain_graph=True)
    losses = distillation_loss(plain, student, teacher, kind=kind, alpha=0.0, tau=3.0)
    (found,) = torch.autograd.grad(losses["loss"], student)
    assert losses["loss"].item() == plain.item()
    assert torch.equal(found, expected)
    assert set(losses) == {"loss", "ce"}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_alpha_one_is_the_distillation_term_alone(kind: str) -> None:
    student, teacher = logits(1), logits(2)
    terms = KINDS[kind](student, teacher, 2.0, "batchmean")
    losses = distillation_loss(torch.tensor(123.0), student, teacher, kind=kind, alpha=1.0, tau=2.0)
    torch.testing.assert_close(losses["loss"], torch.stack(list(terms.values())).mean())


@pytest.mark.parametrize("tau", [0.5, 1.0, 7.0])
def test_student_like_teacher_has_no_soft_loss_and_no_gradient(tau: float) -> None:
    student = logits(1).requires_grad_()
    loss = soft(student, student.detach().clone(), tau)
    (gradient,) = torch.autograd.grad(loss, student)
    # Softmax of equal logits is equal, so only rounding of float64 is left (times tau^2 in the loss).
    assert abs(loss.item()) < 1e-13
    assert gradient.abs().max().item() < 1e-14


def test_soft_ignores_a_shift_of_the_logits() -> None:
    student, teacher = logits(1), logits(2)
    shifted = teacher + torch.arange(BATCH, dtype=torch.float64)[:, None]
    torch.testing.assert_close(soft(student, shifted, 2.0), soft(student, teacher, 2.0))


def test_soft_is_the_divergence_by_hand() -> None:
    student, teacher, tau = logits(1), logits(2), 3.0
    p, q = (teacher / tau).softmax(1), (student / tau).softmax(1)
    by_hand = (p * (p / q).log()).sum(1).mean() * tau**2
    torch.testing.assert_close(soft(student, teacher, tau), by_hand)


def test_hard_is_cross_entropy_with_the_teachers_choice() -> None:
    student, teacher = logits(1), logits(2)
    assert hard(student, teacher).item() == F.cross_entropy(student, teacher.argmax(1)).item()
    assert hard(student, 100 * teacher + 7).item() == hard(student, teacher).item()


def test_deit_reduction_is_weaker_by_the_number_of_classes() -> None:
    student, teacher = logits(1), logits(2)
    torch.testing.assert_close(soft(student, teacher, 2.0, "deit") * CLASSES, soft(student, teacher, 2.0))


def test_tau_squared_keeps_the_term_finite_as_tau_grows() -> None:
    student, teacher = logits(1), logits(2)
    gap = student - teacher
    # Hinton et al. 2015, equation 4: at high temperature it matches logits, the mean of squares over 2 * classes.
    limit = (gap - gap.mean(1, keepdim=True)).square().sum(1).mean() / (2 * CLASSES)
    # The next term of the expansion is of relative size 1 / tau.
    torch.testing.assert_close(soft(student, teacher, 1e4), limit, rtol=1e-3, atol=0)


def test_both_is_the_mean_of_hard_and_soft() -> None:
    student, teacher = logits(1), logits(2)
    ce = F.cross_entropy(student, labels())
    losses = distillation_loss(ce, student, teacher, kind="both", alpha=0.4, tau=2.0)
    expected = 0.6 * ce + 0.4 * (hard(student, teacher) + soft(student, teacher, 2.0)) / 2
    torch.testing.assert_close(losses["loss"], expected)
    assert losses["kd_hard"].item() == hard(student, teacher).item()
    assert losses["kd_soft"].item() == soft(student, teacher, 2.0).item()


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize(("alpha", "tau"), list(itertools.product([0.0, 0.3, 1.0], [0.5, 1.0, 4.0])))
@pytest.mark.parametrize("reduction", ["batchmean", "deit"])
def test_gradients_match_finite_differences(kind: str, alpha: float, tau: float, reduction: Reduction) -> None:
    teacher = logits(2)

    def loss(student: Tensor) -> Tensor:
        ce = F.cross_entropy(student, labels())
        return distillation_loss(ce, student, teacher, kind=kind, alpha=alpha, tau=tau, reduction=reduction)["loss"]

    assert torch.autograd.gradcheck(loss, (logits(1).requires_grad_(),))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_is_least_where_the_student_says_what_the_teacher_says(kind: str) -> None:
    teacher = 8 * logits(2)
    agreed = distillation_loss(torch.tensor(0.0), teacher.clone(), teacher, kind=kind, alpha=1.0)
    apart = distillation_loss(torch.tensor(0.0), -teacher, teacher, kind=kind, alpha=1.0)
    assert agreed["loss"] < apart["loss"]
    assert all(name in {"loss", "ce", f"kd_{kind}", "kd_hard", "kd_soft"} for name in agreed)
