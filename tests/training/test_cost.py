"""Estimates: positive, and in proportion to the work."""

from __future__ import annotations

from typing import Any

import pytest

from raybench.config.trial import TrialConfig
from raybench.training.cost import TRIAL_OVERHEAD_S, Estimator, Speed
from raybench.training.preparation import TeacherWanted, ensure_teacher
from raybench.training.recorder import Setup

pytestmark = pytest.mark.usefixtures("own_cache")


def config(train: int = 200, epochs: int = 10, prepare: str = "finetune", **more: Any) -> TrialConfig:
    teacher = {"name": "vit_micro_patch2_8", "prepare": prepare, "epochs": 4}
    return TrialConfig.model_validate(
        {
            "dataset": {"name": "digits", "val_size": 100, "train_size": train, "augment": ["crop1"], "views": 4},
            "model": {"name": "resnet8"},
            "schedule": {"epochs": epochs},
            "distillation": {"type": "soft", "teacher": teacher, **more},
        }
    )


def test_probing_a_model_gives_positive_speeds_and_is_done_once() -> None:
    estimator = Estimator(Setup())
    first = estimator.trial_s(config())
    assert first > TRIAL_OVERHEAD_S
    # Remembered, not timed again: otherwise no two timings would agree to the last bit.
    assert estimator.trial_s(config()) == first
    (speed,) = estimator._speeds.values()
    assert speed.train_s > 0
    assert speed.infer_s > 0


def timed(train_s: float = 0.01, infer_s: float = 0.002) -> Estimator:
    """An estimator that knows its speeds."""
    estimator = Estimator(Setup())
    estimator._speed = lambda *_: Speed(train_s, infer_s)  # type: ignore[method-assign]
    return estimator


def test_a_trial_costs_its_images_and_epochs() -> None:
    # 10 epochs of 200 training and 100 validation images, then 500 test images.
    assert timed().trial_s(config()) == pytest.approx(10 * (2.0 + 0.2) + 1.0 + TRIAL_OVERHEAD_S)
    fixed = 1.0 + TRIAL_OVERHEAD_S
    assert timed().trial_s(config(epochs=20)) - fixed == pytest.approx(2 * (timed().trial_s(config()) - fixed))
    assert timed().trial_s(config(train=400)) > timed().trial_s(config())
    assert timed(0.02, 0.004).trial_s(config()) - TRIAL_OVERHEAD_S == pytest.approx(
        2 * (timed().trial_s(config()) - TRIAL_OVERHEAD_S)
    )


def test_a_teacher_costs_its_training_on_everything_and_its_logits() -> None:
    # 1,297 images less 100 for validation; 4 epochs; logits of 200 images in 4 views.
    logits = 200 * 4 * 0.002
    estimator = timed()
    full = estimator.teacher_s(TeacherWanted(config(), 200))
    assert full == pytest.approx(logits + 4 * (1197 * 0.01 + 100 * 0.002))
    head = estimator.teacher_s(TeacherWanted(config(prepare="head"), 200))
    assert head == pytest.approx(logits + 4 * (1197 * 0.002 + 100 * 0.002))
    live = estimator.teacher_s(TeacherWanted(config(cache="off"), 200))
    assert live == pytest.approx(full - logits)
    assert estimator.teacher_s(TeacherWanted(config(alpha=0.0), 200)) == 0


def test_a_teacher_in_the_cache_costs_its_logits_only() -> None:
    trial = config(prepare="none")
    ensure_teacher(trial, Setup())
    assert timed().teacher_s(TeacherWanted(trial, 200)) == pytest.approx(200 * 4 * 0.002)


def test_kept_logits_cost_once_what_a_live_teacher_costs_in_every_step() -> None:
    found = timed().logits(TeacherWanted(config(), 200), trained=3 * 10 * 200)
    assert found is not None
    assert found.views == 4
    assert found.fill_s == pytest.approx(200 * 4 * 0.002)
    assert found.live_s == pytest.approx(3 * 10 * 200 * 0.002)
    assert found.mib == pytest.approx(256 * 4 * 10 * 2 / 2**20)  # one block, 10 classes in 16 bits
    assert timed().logits(TeacherWanted(config(cache="off"), 200), trained=1) is None
    assert timed().logits(TeacherWanted(config(alpha=0.0), 200), trained=1) is None


def test_a_live_teacher_is_part_of_its_trials_cost() -> None:
    cached, live = timed().trial_s(config()), timed().trial_s(config(cache="off"))
    assert live - cached == pytest.approx(10 * 200 * 0.002)
