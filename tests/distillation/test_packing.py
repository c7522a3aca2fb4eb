"""Rows of logits in 16-bit words: exact for few classes, the largest and the weight of the rest for many."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from raybench.distillation.losses import distillation_loss
from raybench.distillation.packing import DENSE_CLASSES, KEPT, Packing

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


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_the_soft_loss_is_that_of_all_classes_nearly(tau: float) -> None:
    student, teacher = torch.randn(64, 1000, generator=torch.Generator().manual_seed(1)), logits(64, 1000)
    packing = Packing(1000)
    ce = torch.zeros(())

    def loss(taught: Tensor) -> float:
        settings = {"kind": "soft", "alpha": 1.0, "tau": tau, "reduction": "batchmean"}
        return float(distillation_loss(ce, student, taught, **settings)["loss"])  # type: ignore[arg-type]

    whole, packed = loss(teacher.float()), loss(packing.unpack(packing.pack(teacher)))
    # What is lost is the shape of the tail, which weighs more the warmer it is compared.
    assert packed == pytest.approx(whole, rel={1.0: 0.01, 3.0: 0.1}[tau])


def test_more_classes_than_16_bits_number_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 65536"):
        Packing(2**16 + 1)
