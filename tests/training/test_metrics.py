"""Metrics counted by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from raybench.training.metrics import SUMS, Totals, names, top

CPU = torch.device("cpu")


def numbers(n: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (n, classes) without ties, and labels (n,)."""
    generator = torch.Generator().manual_seed(7)
    return torch.randn(n, classes, generator=generator), torch.randint(0, classes, (n,), generator=generator)


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("classes", [3, 10, 100])
def test_top_k_counts_labels_with_fewer_than_k_larger_logits(k: int, classes: int) -> None:
    logits, labels = numbers(200, classes)
    own = logits[torch.arange(200), labels]
    by_hand = ((logits > own[:, None]).sum(1) < k).sum()
    assert top(k)(logits, labels) == by_hand
    by_topk = (logits.topk(min(k, classes), dim=1).indices == labels[:, None]).any(1).sum()
    assert top(k)(logits, labels) == by_topk


def test_top5_of_three_classes_is_always_right() -> None:
    logits, labels = numbers(50, 3)
    totals = Totals(CPU)
    totals.add(logits, labels)
    assert totals.result()["top5"] == 100


def test_a_model_that_says_nothing_scores_chance_not_more() -> None:
    # All logits equal: the first class is taken, so exactly the images of class 0 are right.
    labels = torch.arange(100) % 10
    assert top(1)(torch.zeros(100, 10), labels) == 10
    assert top(5)(torch.zeros(100, 10), labels) == 50


def test_loss_is_the_mean_and_top_in_percent_over_batches_of_any_size() -> None:
    logits, labels = numbers(103, 10)
    totals = Totals(CPU)
    for part in (slice(0, 50), slice(50, 100), slice(100, 103)):
        totals.add(logits[part], labels[part])
    result = totals.result()
    # Sums of a few float32 sums: rounding of float32.
    assert result["loss"] == pytest.approx(F.cross_entropy(logits.double(), labels).item(), rel=1e-6)
    assert result["top1"] == pytest.approx(100 * (logits.argmax(1) == labels).double().mean().item())
    assert set(result) == set(SUMS) == {"loss", "top1", "top5"}


def test_loss_is_computed_in_32_bits_whatever_the_logits() -> None:
    logits, labels = numbers(64, 10)
    half = logits.bfloat16()
    totals = Totals(CPU, ("loss",))
    totals.add(half, labels)
    assert totals.result()["loss"] == pytest.approx(F.cross_entropy(half.double(), labels).item(), rel=1e-6)


def test_a_loss_that_is_not_a_number_stays_one() -> None:
    totals = Totals(CPU)
    totals.add(torch.full((4, 3), math.nan), torch.zeros(4, dtype=torch.long))
    assert math.isnan(totals.result()["loss"])


def test_no_images_no_crash() -> None:
    assert Totals(CPU).result() == {"loss": 0.0, "top1": 0.0, "top5": 0.0}


def test_what_may_be_selected_on_is_validation() -> None:
    assert names("eval") == ("eval_loss", "eval_top1", "eval_top5")
    assert names("test") == ("test_loss", "test_top1", "test_top5")
