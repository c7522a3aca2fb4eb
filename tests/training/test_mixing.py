"""Mixed batches in training: soft targets, the teacher's view, and independence of the size of the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from raybench.config.trial import MixConfig
from raybench.training.classifying import make
from raybench.training.device import choose_device
from raybench.training.loop import Run
from raybench.training.mixing import MixedImages
from raybench.training.recorder import Setup
from raybench.training.tasks import Classification

if TYPE_CHECKING:
    from conftest import Digits  # type: ignore[import-not-found]

CPU = choose_device("fp32", 0)


def mixed(digits: Digits, **mix: Any) -> MixedImages:
    made = make(
        digits.trial(mix__mixup=mix.pop("mixup", 0.8), **{f"mix__{k}": v for k, v in mix.items()}), Setup(), CPU
    )
    assert isinstance(made.training, MixedImages)
    return made.training


def test_batches_keep_their_images_order_and_have_soft_targets(digits: Digits) -> None:
    training = mixed(digits, cutmix=1.0)
    plain = list(training.training.epoch(0, 0, 20))
    shown = list(training.epoch(0, 0, 20))
    again = list(training.epoch(0, 0, 20))
    assert any(not torch.equal(a.views, b.views) for a, b in zip(plain, shown, strict=True))
    for before, after, same in zip(plain, shown, again, strict=True):
        assert torch.equal(before.labels, after.labels)
        assert torch.equal(before.positions, after.positions)
        assert after.targets is not None
        # A row is a share of its own label and one of its partner's.
        torch.testing.assert_close(after.targets.sum(1), torch.ones(len(after.labels)))
        assert (after.targets.gather(1, after.labels[:, None]) > 0).all()
        assert torch.equal(after.views, same.views)
    other = next(training.epoch(0, 1, 20))
    assert not torch.equal(other.views, shown[0].views)


def test_the_loss_is_that_of_the_soft_targets_and_parts_share_them(digits: Digits) -> None:
    made = make(digits.trial(mix__mixup=0.8, label_smoothing=0.1), Setup(), CPU)
    task = made.task
    assert isinstance(task, Classification)
    task.module.eval()  # so that batch statistics do not tell parts from the whole
    batch = next(made.training.epoch(0, 0, 20))
    loss = task.step(batch)["loss"]
    expected = -(batch.targets * task.predict(batch.views).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, expected)
    parts = batch.parts(7)
    weighed = sum(task.step(part)["loss"] * (part.weight / batch.weight) for part in parts)
    torch.testing.assert_close(loss, weighed)


def test_at_probability_of_nearly_nothing_it_is_plain_cross_entropy(digits: Digits) -> None:
    training = mixed(digits, prob=1e-9)
    task = make(digits.trial(), Setup(), CPU).task
    for batch in training.epoch(0, 0, 20):
        logits = task.predict(batch.views)
        torch.testing.assert_close(task.step(batch)["loss"], F.cross_entropy(logits, batch.labels))


def test_a_run_with_mixing_has_no_training_accuracy(digits: Digits) -> None:
    config = digits.trial(mix__cutmix=1.0, schedule__epochs=1)
    made = make(config, Setup(), CPU)
    epoch = Run(config, made.task, made.training, made.validation, CPU).train_epoch()
    assert "train_top1" not in epoch.metrics
    assert epoch.finite


def test_a_cached_teacher_cannot_have_seen_a_mixed_image(digits: Digits) -> None:
    with pytest.raises(ValidationError, match=r"distillation\.cache must be off"):
        digits.trial(mix__mixup=0.8, distillation__type="soft", distillation__teacher={"name": "resnet8"})
    allowed = digits.trial(
        mix__mixup=0.8, distillation__type="soft", distillation__cache="off", distillation__teacher={"name": "resnet8"}
    )
    assert allowed.mix.on


def test_what_is_off_is_no_part_of_the_identity() -> None:
    assert not MixConfig(prob=0.5).on
