"""From a configuration to a model: options of the wrong type are told, all of them, before anything is built."""

from __future__ import annotations

import pytest
import torch

from raybench import models
from raybench.config.trial import ModelConfig, Option
from raybench.errors import ConfigError
from raybench.models import registry


def build(name: str, options: dict[str, Option]) -> object:
    config = ModelConfig(name=name, options=options)
    with torch.device("meta"):
        if name in registry.text():
            return models.build_text(config, source_vocabulary=9, target_vocabulary=9)
        return models.build(config, num_classes=3, in_channels=3, image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("basic_vit", {"depth": "two", "dim": 64.0}, ("depth = 'two'", "dim = 64.0")),
        ("ci2p_vit", {"depth": True, "heads": [2, 2]}, ("depth = True", "heads = [2, 2]")),
        ("multi30k_transformer", {"layers": "2", "heads": 4.0}, ("layers = '2'", "heads = 4.0")),
        ("bmshj2018_factorized", {"N": 8.5}, ("N = 8.5",)),
    ],
)
def test_whole_numbers_that_are_none(name: str, options: dict[str, Option], words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        build(name, options)
    assert caught.value.problems == tuple(f"model {name}: options.{each} must be a whole number" for each in words)


@pytest.mark.parametrize(
    ("name", "option", "value", "words"),
    [
        ("vit_tiny_patch4_32", "drop_path_rate", "much", "a number"),
        ("vit_b16_gap", "drop_path_rate", False, "a number"),
        ("vit_b16_gap", "fused_attention", 1, "true or false"),
        ("basic_vit", "positions", 1, "text"),
    ],
)
def test_other_types(name: str, option: str, value: Option, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"model {name}: options\.{option} = {value!r} must be {words}"):
        build(name, {option: value})


def test_a_whole_number_is_a_number() -> None:
    build("basic_vit", {"patch_size": 4, "dim": 12, "depth": 1, "heads": 3, "drop_path_rate": 0})
