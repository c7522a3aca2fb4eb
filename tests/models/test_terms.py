"""Where first weights came from, as a model card says it."""

from __future__ import annotations

import pytest

from raybench.config.trial import ModelConfig
from raybench.models import timm_models
from raybench.models.terms import terms


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"name": "resnet8"}, "resnet8 was trained from scratch: no weights of others are in it."),
        ({"name": "resnet8", "weights": {"sweep": "s", "trial": "0123456789ab"}}, "trial 0123456789ab of sweep s"),
        ({"name": "resnet8", "weights": "/home/ann/net.safetensors"}, "began from the file net.safetensors;"),
        ({"name": "ci2p_vit", "weights": "pretrained"}, "began from CompressAI's model zoo"),
    ],
)
def test_what_weights_began_from(model: dict[str, object], said: str) -> None:
    found = terms(ModelConfig.model_validate(model))
    assert said in found
    assert "/home" not in found


def test_of_timms_weights_the_licence_is_timms_word() -> None:
    found = terms(ModelConfig(name="resnet50.a1_in1k", weights="pretrained"))
    assert timm_models.pretrained_cfg("resnet50.a1_in1k").license in found
    assert "huggingface.co/timm/resnet50.a1_in1k" in found or "github.com" in found
