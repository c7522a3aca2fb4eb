"""Rows are read back as the trials they were made of."""

from __future__ import annotations

from typing import Any

import pytest

from raybench.config.load import load_sweep
from raybench.config.plan import make_plan
from raybench.config.recorded import recorded_trial
from raybench.config.trial import TrialConfig
from raybench.errors import ResultsError
from raybench.results.schema import Status, TrialRow, trial_table
from tests.sweeps.test_contract import PRESETS


def row_of(trial: TrialConfig) -> dict[str, Any]:
    """As the store gives it, types of the columns included."""
    row = TrialRow(
        trial_id=trial.trial_id,
        setting_id=trial.setting_id,
        sweep="s",
        preset="quick",
        cell="",
        status=Status.COMPLETE,
        attempt=1,
        seed=trial.seed,
        config=trial.flat(),
    )
    return dict(trial_table(row, "trial").to_pylist()[0])


def computed_anew(trial: TrialConfig) -> tuple[str, str]:
    """Identities without those that were kept."""
    copy = trial.model_copy()
    return copy.trial_id, copy.setting_id


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_every_trial_of_every_sweep_survives_its_row(name: str, preset: str) -> None:
    trials = list(make_plan(load_sweep(name, preset, [], {}, None)).trials())
    for trial in trials[:: max(1, len(trials) // 12)]:
        read = recorded_trial(row_of(trial))
        assert read == trial
        assert computed_anew(read) == (trial.trial_id, trial.setting_id)


def test_the_identity_of_the_run_is_kept() -> None:
    trial = TrialConfig.model_validate({"dataset": {"name": "digits"}, "model": {"name": "resnet8"}})
    read = recorded_trial({**row_of(trial), "trial_id": "0123456789ab", "setting_id": "ba9876543210"})
    assert (read.trial_id, read.setting_id) == ("0123456789ab", "ba9876543210")
    assert read == trial


def test_a_key_that_the_row_lacks_is_at_its_default() -> None:
    row = {"trial_id": "0123456789ab", "config/dataset.name": "digits", "config/model.name": "resnet8"}
    assert recorded_trial(row).optimizer.lr == 0.1


def test_sizes_and_lists_have_their_types_again() -> None:
    content = {
        "dataset": {"name": "digits", "train_size": 500, "views": 9, "augment": ["hflip", "crop4"]},
        "model": {"name": "vit_digits", "options": {"window_sizes": [1, 2], "drop": 0.5}, "mean": [0.5]},
        "optimizer": {"name": "adamw", "betas": [0.8, 0.95]},
    }
    trial = TrialConfig.model_validate(content)
    read = recorded_trial(row_of(trial))
    assert (read.dataset.train_size, read.dataset.views, read.dataset.augment) == (500, 9, ("crop4", "hflip"))
    assert read.model.options == {"window_sizes": [1, 2], "drop": 0.5}
    assert (read.model.mean, read.optimizer.betas) == ((0.5,), (0.8, 0.95))


def test_what_is_no_configuration_is_named() -> None:
    row = {
        "trial_id": "0123456789ab",
        "config/dataset.name": "digits",
        "config/model.name": "x",
        "config/batch_size": 0,
    }
    with pytest.raises(ResultsError, match=r"trial 0123456789ab: .*batch_size.*greater than 0"):
        recorded_trial(row)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("dataset.augment", "garbage"),
        ("optimizer.betas", ""),
        ("model.options", "[" * 100_000),
        ("model.options", '{"x": NaN}'),
        ("model.options", '{"x": "\\ud800"}'),
        ("dataset.train_size", "9" * 5000),
    ],
    ids=range(6),
)
def test_text_that_cannot_be_read_is_named(key: str, text: str) -> None:
    row = {"trial_id": "0123456789ab", "config/dataset.name": "digits", "config/model.name": "resnet8"}
    with pytest.raises(ResultsError, match=f"trial 0123456789ab: not a configuration of this version: {key}: "):
        recorded_trial({**row, f"config/{key}": text})
