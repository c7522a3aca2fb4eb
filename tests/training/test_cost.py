"""Estimates: positive, and in proportion to the work."""

from __future__ import annotations

from typing import Any

import pytest

from raybench.config.trial import TrialConfig
from raybench.training.cost import HAND_OVER_S, TRIAL_OVERHEAD_S, Estimator, Speed
from raybench.training.ingredients import as_planned
from raybench.training.preparation import TeacherWanted, ensure_teacher
from raybench.training.recorder import Setup

OVERHEAD_S = TRIAL_OVERHEAD_S + HAND_OVER_S
"""Of a trial beside its epochs and its test."""

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
    assert first > OVERHEAD_S
    # Remembered, not timed again: otherwise no two timings would agree to the last bit.
    assert estimator.trial_s(config()) == first
    speed, again = estimator._speeds.values()  # of the model, and of this kind of trial
    assert speed is again
    assert speed.train_s > 0
    assert speed.infer_s > 0


def timed(train_s: float = 0.01, infer_s: float = 0.002, **more: Any) -> Estimator:
    """An estimator that knows its speeds."""
    return Estimator(Setup(), lambda _: Speed(train_s, infer_s, **more))


def test_a_trial_costs_its_images_and_epochs() -> None:
    # 10 epochs of 200 training and 100 validation images, then 500 test images.
    assert timed().trial_s(config()) == pytest.approx(10 * (2.0 + 0.2) + 1.0 + OVERHEAD_S)
    fixed = 1.0 + OVERHEAD_S
    assert timed().trial_s(config(epochs=20)) - fixed == pytest.approx(2 * (timed().trial_s(config()) - fixed))
    assert timed().trial_s(config(train=400)) > timed().trial_s(config())
    assert timed(0.02, 0.004).trial_s(config()) - OVERHEAD_S == pytest.approx(
        2 * (timed().trial_s(config()) - OVERHEAD_S)
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
    trial = as_planned(config(prepare="none"), Setup())
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


def test_what_was_measured_of_a_trial_has_its_live_teacher_in_it() -> None:
    live = timed(source="rows", fixed_s=3.0).cost(config(cache="off"))
    assert live.epoch_s == pytest.approx(200 * 0.01 + 100 * 0.002)
    assert live.fixed_s == pytest.approx(3.0 + HAND_OVER_S)
    rough = timed().cost(config(cache="off"))
    assert rough.epoch_s - live.epoch_s == pytest.approx(200 * 0.002)
    assert rough.spread > live.spread


def test_trials_of_one_kind_are_asked_for_once_and_named() -> None:
    asked: list[TrialConfig] = []

    def measured(trial: TrialConfig) -> Speed:
        asked.append(trial)
        return Speed(0.01, 0.002, "rows", memory_mib=500.0, trials=frozenset(["a", "b"]))

    estimator = Estimator(Setup(), measured)
    costs = [estimator.cost(trial) for trial in (config(), config(alpha=0.9), config(epochs=20), config(train=400))]
    assert [cost.kind == costs[0].kind for cost in costs] == [True, True, True, False]
    assert len(asked) == 2
    assert [len(speed.trials) for _, speed in estimator.used.values()] == [2, 2]


def test_workers_share_what_was_not_measured_with_them() -> None:
    alone, shared = (Estimator(Setup(workers=each), lambda _: Speed(0.01, 0.002)) for each in (1, 2))
    assert shared.cost(config()).epoch_s == pytest.approx(alone.cost(config()).epoch_s / 2)
