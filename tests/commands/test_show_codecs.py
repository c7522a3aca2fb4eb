"""`raybench show` on an image codec, and on the CI2P-ViT that has its encoder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from raybench.__main__ import main
from raybench.config.trial import TrialConfig
from raybench.results.schema import Status
from raybench.training.recorder import Setup
from raybench.training.trial import run_trial

pytest.importorskip("compressai", reason="the codec needs CompressAI (extra codec)")

PATCHES = {"name": "patches", "train_size": 32, "val_size": 42, "image_size": 64, "augment": ["hflip"]}
CODEC = TrialConfig.model_validate(
    {
        "task": "compression",
        "dataset": PATCHES,
        "model": {"name": "bmshj2018_factorized", "options": {"N": 8, "M": 12}},
        "optimizer": {"name": "adam", "lr": 0.003, "clip_norm": 1.0},
        "schedule": {"name": "constant", "epochs": 1},
        "batch_size": 8,
        "precision": "fp32",
    }
)


def ci2p(weights: str, name: str = "ci2p_vit", **changes: Any) -> TrialConfig:
    options = {"encoder_channels": 8, "latent_channels": 12, "dim": 24, "depth": 2, "heads": 3}
    content: dict[str, Any] = {
        "dataset": PATCHES,
        "model": {"name": name, "options": options, "weights": weights},
        "optimizer": {"name": "adamw", "lr": 0.001},
        "schedule": {"epochs": 1},
        "batch_size": 16,
    }
    return TrialConfig.model_validate(content | changes)


def run(config: TrialConfig, root: Path, sweep: str) -> None:
    torch.set_num_threads(1)
    metric: dict[str, Any] = {"metric": "eval_loss", "mode": "min"} if config.task == "compression" else {}
    outcome = run_trial(config, Setup(sweep=sweep, preset="quick", results=root / sweep, **metric), "a cell")
    assert outcome.status == Status.COMPLETE, outcome.reason


def test_a_codec_and_the_model_that_has_its_encoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "results"
    run(CODEC, root, "codecs")
    lent = ci2p(f"sweep:codecs/{CODEC.trial_id}", latents="lazy")
    run(lent, root, "models")
    places = ["--results", str(root), "--out", str(tmp_path / "out")]

    assert main(["show", CODEC.trial_id, *places]) == 0
    text = capsys.readouterr().out
    assert "equal to the stored numbers to the last bit" in text
    assert "bits a pixel, " in text
    assert "by this trial's codec" in text
    assert "no attention: an image codec has no attention" in text
    assert (tmp_path / "out" / "reconstruction.png").exists()

    assert main(["show", lent.trial_id, "score", "attention", "rollout", "reconstruction", *places]) == 0
    text = capsys.readouterr().out
    assert "equal to the stored numbers to the last bit" in text
    assert f"by the codec of trial {CODEC.trial_id} of sweep codecs, whose encoder this model has" in text

    # Its weights are whole: only the reconstruction needs those that it started from.
    (root / "codecs" / "weights" / f"{CODEC.trial_id}.safetensors").unlink()
    assert main(["show", lent.trial_id, *places]) == 0
    text = capsys.readouterr().out
    assert "equal to the stored numbers to the last bit" in text
    assert "no reconstruction: trial " in text
    assert "has kept no weights" in text


def test_the_codecs_file_is_looked_for_below_the_weights_root(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, elsewhere = tmp_path / "results", tmp_path / "elsewhere"
    run(CODEC, root, "codecs")
    elsewhere.mkdir()
    shutil.copy(root / "codecs" / "weights" / f"{CODEC.trial_id}.safetensors", elsewhere / "codec.safetensors")
    trained = ci2p("codec.safetensors")
    with monkeypatch.context() as there:
        there.chdir(elsewhere)
        run(trained, root, "models")
    arguments = ["show", trained.trial_id, "reconstruction", "--results", str(root), "--out", str(tmp_path / "out")]

    assert main(arguments) == 2
    assert "codec.safetensors" in capsys.readouterr().err
    assert main([*arguments, "--weights-root", str(elsewhere)]) == 0
    assert "by the codec of codec.safetensors, whose encoder this model has" in capsys.readouterr().out


def test_an_encoder_of_no_codec(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, why in (("ci2p_vit_ds", "is a fresh one"), ("cnn_vit", "is trained to classify")):
        config = ci2p("none", name)
        run(config, tmp_path / "results", "models")
        places = ["--results", str(tmp_path / "results"), "--out", str(tmp_path / name)]
        assert main(["show", config.trial_id, "score", "attention", *places]) == 0
        capsys.readouterr()
        assert main(["show", config.trial_id, "reconstruction", *places]) == 2
        assert why in capsys.readouterr().err
    dual = ci2p("none", "ci2p_vit_ds")
    assert main(["show", dual.trial_id, "rollout", "--results", str(tmp_path / "results")]) == 2
    assert "two scales" in capsys.readouterr().err
