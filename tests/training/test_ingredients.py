"""Data, split and model of a trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raybench.config.trial import TrialConfig
from raybench.data import load
from raybench.errors import DataError
from raybench.models.weights import search_folders
from raybench.training.device import Device
from raybench.training.ingredients import gather, weights_root
from raybench.training.recorder import Setup

CPU = Device(torch.device("cpu"), "fp32")


def config(seed: int = 0, **dataset: Any) -> TrialConfig:
    content = {"dataset": {"name": "digits", "val_size": 100, **dataset}, "model": {"name": "resnet8"}, "seed": seed}
    return TrialConfig.model_validate(content)


def test_the_model_is_a_function_of_the_seed() -> None:
    states = []
    for seed in (0, 0, 1):
        torch.rand(3)  # drawn before, of no consequence
        states.append(gather(config(seed), Setup(), CPU).built.module.state_dict())
    same = [all(torch.equal(states[0][name], other[name]) for name in other) for other in states[1:]]
    assert same == [True, False]


def test_the_split_is_not() -> None:
    a, b = (gather(config(seed, train_size=50), Setup(), CPU) for seed in (0, 1))
    assert torch.equal(a.training.indices, b.training.indices)
    for one, other in zip(a.validation.batches(64), b.validation.batches(64), strict=True):
        assert torch.equal(one[0], other[0])
    assert not set(a.split.train) & set(a.split.val)
    assert (len(a.training), len(a.validation.labels)) == (50, 100)


def test_the_model_fits_the_data() -> None:
    built = gather(config(), Setup(), CPU).built
    data = load("digits")
    assert (built.mean, built.std, built.image_size) == (data.mean, data.std, 8)
    assert gather(config(image_size=16), Setup(), CPU).built.image_size == 16


def test_other_data_than_planned_are_refused() -> None:
    fingerprint = load("digits").fingerprint
    assert gather(config(fingerprint=fingerprint), Setup(), CPU).data.fingerprint == fingerprint
    with pytest.raises(DataError, match=f"{fingerprint}, planned 0123456789ab"):
        gather(config(fingerprint="0123456789ab"), Setup(), CPU)


def test_weights_lie_in_the_data_root_or_below_it(tmp_path: Path) -> None:
    assert search_folders(weights_root(Setup(data_root=tmp_path))) == (tmp_path, tmp_path / "weights")
    elsewhere = Setup(data_root=tmp_path, weights_root=tmp_path / "models")
    assert search_folders(weights_root(elsewhere))[0] == tmp_path / "models"
