"""The training of a codec: rate and distortion, two learning rates, and a whole trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raybench.config.trial import TrialConfig
from raybench.results.schema import Status
from raybench.results.store import Store
from raybench.training.compressing import CodedImages, Compression, make, per_image
from raybench.training.device import choose_device
from raybench.training.loop import Run
from raybench.training.recorder import Setup
from raybench.training.trial import run_trial

pytest.importorskip("compressai", reason="the codec needs CompressAI (extra codec)")

CPU = choose_device("fp32", 0)


def trial(**changes: Any) -> TrialConfig:
    content: dict[str, Any] = {
        "task": "compression",
        "dataset": {"name": "patches", "train_size": 32, "val_size": 42, "image_size": 64, "augment": ["hflip"]},
        "model": {"name": "bmshj2018_factorized", "options": {"N": 8, "M": 12}},
        "optimizer": {"name": "adam", "lr": 0.003, "clip_norm": 1.0},
        "schedule": {"name": "constant", "epochs": 2},
        "batch_size": 8,
        "precision": "fp32",
    }
    return TrialConfig.model_validate(content | changes)


def run(config: TrialConfig) -> Run:
    made = make(config, Setup(), CPU)
    return Run(config, made.task, made.training, made.validation, CPU)


def test_each_images_numbers_are_those_of_the_whole_batch_by_compressai() -> None:
    from compressai.losses import RateDistortionLoss

    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, 32, 32, generator=generator)
    coded = {
        "x_hat": images + 0.1 * torch.randn(3, 3, 32, 32, generator=generator),
        "likelihoods": {"y": torch.rand(3, 12, 2, 2, generator=generator).clamp(min=0.01)},
    }
    found = per_image(coded, images, 0.025)
    theirs = RateDistortionLoss(lmbda=0.025)(coded, images)
    # Sums of float32 in another order.
    torch.testing.assert_close(found["loss"].mean(), theirs["loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(found["bpp"].mean(), theirs["bpp_loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(found["mse"].mean(), theirs["mse_loss"], rtol=1e-5, atol=0)
    exact = per_image({**coded, "x_hat": images}, images, 0.025)
    assert exact["psnr"].tolist() == pytest.approx([100.0] * 3)  # no error at all is shown as 100 dB
    grey = per_image({**coded, "x_hat": torch.zeros(1, 3, 4, 4)}, torch.full((1, 3, 4, 4), 0.1), 1.0)
    assert grey["psnr"].item() == pytest.approx(20.0)  # -10 log10 of 0.1 squared


def test_the_value_is_the_papers_and_only_the_quantiles_see_the_auxiliary_loss() -> None:
    task = run(trial()).task
    assert isinstance(task, Compression)
    batch = next(run(trial()).training.epoch(0, 0, 8))
    torch.manual_seed(0)
    parts = task.step(batch)
    torch.testing.assert_close(parts["loss"], 0.025 * 255**2 * parts["mse"] + parts["bpp"])
    parts["loss"].backward()
    with_auxiliary = {name: p.grad.clone() for name, p in task.module.named_parameters()}
    for parameter in task.module.parameters():
        parameter.grad = None
    torch.manual_seed(0)
    task.predict(batch.views)["loss"].mean().backward()
    for name, parameter in task.module.named_parameters():
        if name.endswith("quantiles"):
            assert parameter.grad is None or not parameter.grad.any()
            assert with_auxiliary[name].any()
        else:
            assert torch.equal(with_auxiliary[name], parameter.grad)


def test_the_quantiles_keep_their_rate_and_are_not_clipped() -> None:
    trained = run(trial(codec={"aux_lr": 0.01}, schedule={"name": "cosine", "epochs": 2}))
    trained.train_epoch()
    rest, quantiles = trained.optimizer.param_groups
    assert quantiles["lr"] == 0.01
    assert rest["lr"] < 0.003
    assert {id(p) for p in quantiles["params"]} == {
        id(p) for name, p in trained.task.module.named_parameters() if name.endswith("quantiles")
    }


def test_a_trial_learns_and_leaves_bits_and_psnr(tmp_path: Path) -> None:
    config = trial(schedule={"name": "constant", "epochs": 4})
    outcome = run_trial(config, Setup(results=tmp_path, metric="eval_loss", mode="min"))
    assert (outcome.status, outcome.reason) == (Status.COMPLETE, None)
    (row,) = Store(tmp_path).trials().to_dicts()
    fresh = run(config)
    before = fresh.evaluate(fresh.validation)
    assert row["eval_loss"] < 0.7 * before["loss"]
    assert row["eval_psnr"] > before["psnr"]
    assert 0 < row["test_bpp"] < 24
    assert row["test_top1"] is None
    assert {"part/bpp", "part/mse", "part/aux"} <= set(Store(tmp_path).epochs().columns)
    assert (tmp_path / "weights" / f"{config.trial_id}.safetensors").is_file()


def test_its_encoder_is_what_ci2p_vit_freezes(tmp_path: Path) -> None:
    codec = trial(schedule={"name": "constant", "epochs": 1})
    run_trial(codec, Setup(sweep="codec", results=tmp_path / "codec", metric="eval_loss", mode="min"))
    content: dict[str, Any] = {
        "dataset": {"name": "patches", "train_size": 32, "val_size": 42, "image_size": 64},
        "model": {
            "name": "ci2p_vit",
            "weights": {"sweep": "codec", "trial": codec.trial_id},
            "options": {"encoder_channels": 8, "latent_channels": 12, "dim": 12, "depth": 1, "heads": 3},
        },
        "schedule": {"epochs": 1},
        "batch_size": 8,
    }
    user = TrialConfig.model_validate(content)
    outcome = run_trial(user, Setup(sweep="ci2p", results=tmp_path / "ci2p"))
    assert outcome.reason is None
    from safetensors.torch import load_file

    ours = load_file(tmp_path / "codec" / "weights" / f"{codec.trial_id}.safetensors")
    theirs = load_file(tmp_path / "ci2p" / "weights" / f"{user.trial_id}.safetensors")
    encoders = {key: value for key, value in ours.items() if key.startswith("g_a.")}
    assert encoders
    for key, value in encoders.items():
        assert torch.equal(theirs[key.replace("g_a.", "encoder.")], value)


def test_images_are_their_own_targets() -> None:
    made = make(trial(), Setup(), CPU)
    assert isinstance(made.test, CodedImages)
    for views, targets in made.test.batches(50):
        assert views is targets
        assert views.dtype == torch.uint8


def test_images_are_coded_at_the_size_that_is_asked_for() -> None:
    dataset = {"name": "patches", "train_size": 8, "val_size": 42, "image_size": 32}
    task = make(trial(dataset=dataset), Setup(), CPU).task
    seen: list[torch.Size] = []
    task.module.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    task.predict(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    assert seen == [torch.Size([2, 3, 32, 32])]
