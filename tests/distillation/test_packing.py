"""Rows of logits in 16-bit words: exact for few classes, the largest and the weight of the rest for many."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from raybench.config.trial import DistillationConfig
from raybench.distillation.losses import distillation_loss
from raybench.distillation.packing import DENSE_CLASSES, KEPT, Packing, packing_of

HALF = 2**-10
"""The relative rounding of float16, twice over."""


def logits(rows: int, classes: int, peak: float = 12.0) -> Tensor:
    """Those of a teacher that is sure of a few classes, float16."""
    generator = torch.Generator().manual_seed(classes)
    found = torch.randn(rows, classes, generator=generator)
    found.scatter_add_(1, torch.randint(classes, (rows, 5), generator=generator), torch.full((rows, 5), peak))
    return found.half()


@pytest.mark.parametrize("classes", [1, 2, 10, 100, DENSE_CLASSES])
def test_few_classes_lose_nothing(classes: int) -> None:
    packing, given = Packing(classes), logits(7, classes)
    words = packing.pack(given)
    assert words.dtype == torch.int16
    assert words.shape == (7, packing.width) == (7, classes)
    assert torch.equal(packing.unpack(words), given.float())


@pytest.mark.parametrize("classes", [DENSE_CLASSES + 1, 1000, 21841, 2**16])
def test_many_classes_keep_the_largest_and_the_weight_of_the_rest(classes: int) -> None:
    packing, given = Packing(classes), logits(7, classes)
    words = packing.pack(given)
    assert words.shape == (7, packing.width) == (7, 2 * KEPT + 1)
    again = packing.unpack(words)
    assert again.shape == given.shape
    values, where = given.float().topk(KEPT, dim=1)
    assert torch.equal(again.gather(1, where), values)
    assert torch.equal(again.argmax(1), given.float().argmax(1))
    torch.testing.assert_close(again.logsumexp(1), given.float().logsumexp(1), rtol=HALF, atol=1e-3)
    # The rest is even.
    rest = again.scatter(1, where, -math.inf)
    assert all(len(row[row.isfinite()].unique()) == 1 for row in rest)


def test_classes_beyond_the_sign_bit_come_back() -> None:
    given = torch.zeros(1, 2**16).half()
    given[0, 2**16 - 1], given[0, 2**15], given[0, 2**15 - 1] = 9.0, 8.0, 7.0
    again = Packing(2**16).unpack(Packing(2**16).pack(given))
    assert again[0].topk(3).indices.tolist() == [2**16 - 1, 2**15, 2**15 - 1]


def soft(student: Tensor, teacher: Tensor, tau: float) -> tuple[float, Tensor]:
    """The soft term, and its gradient."""
    student = student.clone().requires_grad_()
    loss = distillation_loss(torch.zeros(()), student, teacher, kind="soft", alpha=1.0, tau=tau, reduction="batchmean")[
        "loss"
    ]
    loss.backward()
    assert student.grad is not None
    return float(loss.detach()), student.grad


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0, 4.0])
def test_what_a_soft_trial_learns_from_is_its_teacher_at_any_temperature(tau: float) -> None:
    generator = torch.Generator().manual_seed(1)
    teacher = torch.randn(64, 1000, generator=generator)  # deviations of 1: the tail has a shape
    teacher[torch.arange(64), torch.randint(1000, (64,), generator=generator)] += 10
    teacher = teacher.half()
    student = torch.randn(64, 1000, generator=generator) * 0.5 + 0.3 * teacher.float()
    packing = packing_of(DistillationConfig.model_validate({"type": "soft", "alpha": 0.0, "tau": tau}), 1000)
    live, live_gradient = soft(student, teacher.float(), tau)
    kept, kept_gradient = soft(student, packing.unpack(packing.pack(teacher)), tau)
    assert kept == pytest.approx(live, rel=0.02)
    assert torch.cosine_similarity(kept_gradient.flatten(), live_gradient.flatten(), dim=0) > 0.99


@pytest.mark.parametrize(
    ("kind", "tau", "whole"),
    [("hard", 4.0, False), ("soft", 1.0, False), ("soft", 1.5, True), ("both", 2.0, True), ("own", 0.5, True)],
)
def test_rows_are_whole_where_a_trial_needs_them_whole(kind: str, tau: float, whole: bool) -> None:
    packing = packing_of(DistillationConfig.model_validate({"type": kind, "alpha": 0.0, "tau": tau}), 1000)
    assert packing.dense == whole
    assert packing.width == (1000 if whole else 2 * KEPT + 1)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1e-2, 0.1])
@pytest.mark.parametrize("offset", [5.0, 10.0])
def test_no_class_of_the_rest_comes_before_one_that_is_kept(scale: float, offset: float) -> None:
    given = (torch.randn(64, 1000, generator=torch.Generator().manual_seed(2)) * scale + offset).half()
    packing = Packing(1000)
    again = packing.unpack(packing.pack(given))
    values, where = given.float().topk(KEPT, dim=1)
    rest = again.scatter(1, where, -math.inf)
    assert (rest.amax(1) <= values[:, -1]).all()
    best = again.gather(1, given.float().argmax(1, keepdim=True))[:, 0]
    assert torch.equal(best, again.amax(1))


def test_more_classes_than_16_bits_number_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 65536"):
        Packing(2**16 + 1)
