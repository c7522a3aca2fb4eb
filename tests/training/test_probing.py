"""A few real steps of a trial, and what they tell."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

import pytest

from raybench.config import plugins
from raybench.config.trial import TrialConfig
from raybench.training import probing
from raybench.training.probing import Probed, answer, probe_apart, question
from raybench.training.recorder import Setup

pytestmark = pytest.mark.usefixtures("own_cache")


def config(name: str = "resnet8", **more: Any) -> TrialConfig:
    dataset = {"name": "digits", "val_size": 100, "train_size": 200, "augment": ["crop1"], "views": 4}
    return TrialConfig.model_validate({"dataset": dataset, "model": {"name": name}, "batch_size": 32, **more})


def test_steps_of_a_trial_tell_its_speed_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "REPEATS", 2)
    found = answer(question(config(), Setup()))
    assert found.fault == ""
    # A digit through a ResNet-8 takes between a microsecond and a second, whatever the machine.
    assert 1e-6 < found.infer_s < 1.0
    assert 1e-6 < found.train_s < 1.0
    assert found.memory_mib > 50


def test_a_teacher_in_every_step_is_one_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "REPEATS", 2)
    teacher = {"name": "resnet20", "prepare": "none"}
    distilled = config(distillation={"type": "soft", "alpha": 0.5, "cache": "off", "teacher": teacher})
    live, alone = (answer(question(each, Setup())) for each in (distilled, config()))
    assert live.fault == ""
    assert live.train_s > alone.train_s


def test_what_breaks_is_told_in_words() -> None:
    found = answer(question(config(), Setup(plugins=(plugins.Plugin("no_such_module", "0"),))))
    assert found.fault == "no such module; install it, or name a file that ends in .py"


@pytest.mark.slow
def test_a_process_of_its_own_answers() -> None:
    found = probe_apart(question(config(), Setup()))
    assert found.fault == ""
    assert found.train_s > 0
    assert found.memory_mib > 50


def test_a_process_that_says_nothing_is_told_by_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert probe_apart("{}").fault == "its process ended with exit code 1"


def test_an_answer_survives_its_journey() -> None:
    probed = Probed(0.1, 0.2, 300.0)
    assert Probed.loaded(json.dumps(asdict(probed))) == probed
