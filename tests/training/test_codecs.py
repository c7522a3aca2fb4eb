"""The codec behind a CI2P-ViT: found where its encoder came from, or what is missing is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from raybench.config.trial import ModelConfig
from raybench.errors import WeightsError
from raybench.models import build
from raybench.training.codecs import codec_of
from raybench.training.recorder import Setup

pytest.importorskip("compressai", reason="the codec needs CompressAI (extra codec)")

UNIT: dict[str, Any] = {"in_channels": 3, "mean": (0.0,) * 3, "std": (1.0,) * 3, "image_size": 64}
OPTIONS: dict[str, Any] = {"encoder_channels": 8, "latent_channels": 12, "dim": 24, "depth": 2, "heads": 3}
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def fresh_codec(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config = ModelConfig(name="bmshj2018_factorized", options={"N": 8, "M": 12})
    return build(config, num_classes=1, **UNIT).module.eval()


def ci2p(weights: str) -> tuple[ModelConfig, nn.Module]:
    config = ModelConfig(name="ci2p_vit", weights=weights, options=OPTIONS)
    return config, build(config, num_classes=2, **UNIT).module


def encoder(module: Any) -> dict[str, Tensor]:
    state: dict[str, Tensor] = module.encoder.state_dict()
    return state


@pytest.fixture
def codec_file(tmp_path: Path) -> Path:
    path = tmp_path / "sweep" / "weights" / "0123456789ab.safetensors"
    path.parent.mkdir(parents=True)
    state = {key: value.contiguous() for key, value in fresh_codec().state_dict().items()}
    save_file(state, path)
    return path


def test_the_codec_of_a_file_is_that_codec(codec_file: Path) -> None:
    config, module = ci2p(str(codec_file))
    found = codec_of(config, encoder(module), Setup(), 64)
    assert found.same_encoder
    assert found.where == "0123456789ab.safetensors"
    assert not found.module.training
    with torch.no_grad():
        ours, theirs = found.module(IMAGES), fresh_codec()(IMAGES)
    assert torch.equal(ours["x_hat"], theirs["x_hat"])
    assert torch.equal(ours["likelihoods"]["y"], theirs["likelihoods"]["y"])


def test_it_is_told_from_one_with_another_encoder(codec_file: Path) -> None:
    config, module = ci2p(str(codec_file))
    other = {key: value + 1e-6 for key, value in encoder(module).items()}
    assert not codec_of(config, other, Setup(), 64).same_encoder


def test_the_codec_of_another_sweeps_trial(codec_file: Path, tmp_path: Path) -> None:
    _, module = ci2p(str(codec_file))
    lent = ModelConfig(name="ci2p_vit", weights="sweep:sweep/0123456789ab", options=OPTIONS)
    found = codec_of(lent, encoder(module), Setup(results=tmp_path / "ci2p"), 64)
    assert found.same_encoder
    assert found.where == "trial 0123456789ab of sweep sweep"


def test_what_is_missing_is_said(codec_file: Path, tmp_path: Path) -> None:
    config, module = ci2p(str(codec_file))
    state = encoder(module)
    alone = tmp_path / "encoder.safetensors"
    save_file({key: value.contiguous() for key, value in state.items()}, alone)
    missing: dict[str, dict[str, Any]] = {
        "holds no decoder": {"weights": str(alone)},
        "a fresh one": {"weights": "none"},
        "is trained to classify": {"name": "cnn_vit", "weights": "none"},
        "has no image codec": {"name": "resnet8", "weights": "none", "options": {}},
        "has kept no weights": {"weights": "sweep:sweep/other"},
        "not found": {"weights": "pretrained"},
    }
    setup = Setup(results=tmp_path / "ci2p", weights_root=tmp_path)
    for said, changes in missing.items():
        with pytest.raises(WeightsError, match=said):
            codec_of(config.model_copy(update=changes), state, setup, 64)
