"""Kept code of a frozen encoder: the same training as with the encoder in every step, to the rounding of 16 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raybench.config.trial import TrialConfig
from raybench.results.schema import Status
from raybench.results.store import Store
from raybench.training.classifying import make
from raybench.training.device import Device
from raybench.training.latents import FromLatents
from raybench.training.recorder import Setup
from raybench.training.trial import run_trial

pytestmark = pytest.mark.usefixtures("own_cache")
CPU = Device(torch.device("cpu"), "fp32")
OPTIONS = {"encoder_channels": 8, "latent_channels": 12, "dim": 24, "depth": 2, "heads": 3}


def config(**more: Any) -> TrialConfig:
    """A small CI2P-ViT on patches of two photos."""
    content: dict[str, Any] = {
        "dataset": {"name": "patches", "train_size": 40, "val_size": 42, "image_size": 64, "augment": ["hflip"]},
        "model": {"name": "ci2p_vit", "options": OPTIONS},
        "optimizer": {"name": "adamw", "lr": 0.001},
        "schedule": {"epochs": 3},
        "batch_size": 16,
    }
    return TrialConfig.model_validate(content | more)


def test_another_trial_but_the_same_numbers_to_16_bits(tmp_path: Path) -> None:
    live, kept = config(), config(latents="lazy")
    assert live.trial_id != kept.trial_id
    losses = []
    for trial in (live, kept):
        setup = Setup(sweep="any", results=tmp_path / trial.latents)
        assert run_trial(trial, setup).status == Status.COMPLETE
        losses.append(Store(tmp_path / trial.latents).epochs().sort("epoch")["train_loss"].to_list())
    # The code is rounded to 11 bits, once.
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_the_code_is_the_encoders_of_the_views_shown() -> None:
    made = make(config(latents="lazy"), Setup(), CPU)
    task = made.task
    assert isinstance(task, FromLatents)
    shown = make(config(), Setup(), CPU)
    for epoch in range(2):
        task.begin(epoch, 0, lambda: None)
        batches = zip(made.training.epoch(epoch, 0, 16), shown.training.epoch(epoch, 0, 16), strict=True)
        for coded, batch in batches:
            assert torch.equal(coded.positions, batch.positions)
            assert coded.views.numel() == 0
            expected = task.module.encode(batch.views / 255)  # type: ignore[operator]
            torch.testing.assert_close(task.inputs(coded), expected, rtol=2**-10, atol=1e-3)


def test_it_is_computed_once_for_all_trials_with_this_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    first = make(config(latents="lazy"), Setup(), CPU).task
    for epoch in range(8):
        first.begin(epoch, 0, lambda: None)
    # Another head and rate, the same seed, hence the same fresh encoder.
    monkeypatch.setattr(FromLatents, "_code", None)
    second = make(config(latents="lazy", optimizer={"lr": 0.5}), Setup(), CPU).task
    for epoch in range(8):
        second.begin(epoch, 0, lambda: None)


def test_another_encoder_has_code_of_its_own() -> None:
    one, other = (make(config(latents="lazy", seed=seed), Setup(), CPU).task for seed in (0, 1))
    assert isinstance(one, FromLatents)
    assert isinstance(other, FromLatents)
    assert one.cache.folder != other.cache.folder


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"mix": {"mixup": 0.8}}, "mixed images"),
        ({"distillation": {"type": "soft", "cache": "off", "teacher": {"name": "resnet8"}}}, "must see the images"),
    ],
)
def test_what_must_see_the_images_refuses_it(more: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        config(latents="lazy", **more)
