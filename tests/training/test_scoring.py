"""Kept weights in their model again: they score what the trial scored, to the last bit, without teacher or weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raybench.config.trial import TrialConfig
from raybench.errors import DataError, ResultsError, WeightsError
from raybench.results.predictions import read_predictions
from raybench.results.schema import Status
from raybench.results.store import Store
from raybench.training.recorder import Setup
from raybench.training.scoring import Confidences, KeptWeights, Restored, kept_weights, rescore, restore
from raybench.training.tasks import Distillation
from raybench.training.trial import run_trial

DIGITS = {"name": "digits", "train_size": 60, "val_size": 100, "image_size": 8, "augment": ["crop1"]}
TINY_DEIT = {"img_size": 8, "patch_size": 2, "embed_dim": 24, "depth": 2, "num_heads": 3}
TEACHER = {"name": "resnet8", "prepare": "none"}
TRIALS: dict[str, dict[str, Any]] = {
    "batch normalisation": {"model": {"name": "resnet8"}},
    "taught": {"model": {"name": "vit_micro_patch2_8"}, "distillation": {"type": "soft", "teacher": TEACHER}},
    "two heads": {
        "model": {"name": "deit_tiny_distilled_patch16_224", "options": TINY_DEIT},
        "distillation": {"type": "hard", "teacher": TEACHER},
    },
    "mixed": {"model": {"name": "resnet8"}, "mix": {"mixup": 0.2}},
}


def trial(**changes: Any) -> TrialConfig:
    content: dict[str, Any] = {
        "dataset": DIGITS,
        "optimizer": {"name": "adamw", "lr": 0.002},
        "schedule": {"epochs": 2},
        "batch_size": 32,
        "seed": 3,
    }
    return TrialConfig.model_validate(content | changes)


def run(config: TrialConfig, folder: Path, **more: Any) -> dict[str, Any]:
    """The row of the trial, run in this folder."""
    assert run_trial(config, Setup(sweep="s", results=folder, **more), "a cell").status == Status.COMPLETE
    return Store(folder).trials().row(0, named=True)


def kept(folder: Path, config: TrialConfig) -> KeptWeights:
    found = kept_weights(folder, config.trial_id)
    assert found is not None
    return found


def stored(row: dict[str, Any]) -> dict[str, float]:
    return {name: row[name] for name in ("test_loss", "test_top1", "test_top5")}


@pytest.mark.parametrize("kind", TRIALS)
def test_the_score_is_the_stored_one_to_the_last_bit(kind: str, tmp_path: Path, cache_folder: Path) -> None:
    config = trial(**TRIALS[kind])
    row = run(config, tmp_path)
    shutil.rmtree(cache_folder / "teachers", ignore_errors=True)  # nobody needs it any more
    restored = restore(config, Setup(results=tmp_path), kept(tmp_path, config))
    seen = Confidences()
    assert rescore(restored, seen.add) == stored(row)
    assert not (cache_folder / "teachers").exists()
    labels, predictions, shares = seen.all()
    before = read_predictions(tmp_path, config.trial_id)
    np.testing.assert_array_equal(labels, before.label)
    np.testing.assert_array_equal(predictions, before.prediction)
    assert len(shares) == restored.made.sizes.test
    assert shares.min() > 0.1  # the largest of ten
    assert shares.max() <= 1


def test_of_two_heads_those_that_were_trained_are_asked(tmp_path: Path) -> None:
    for alpha, asked in ((0.0, (1.0, 0.0)), (0.5, (0.5, 0.5)), (1.0, (0.0, 1.0))):
        distillation = {"type": "hard", "alpha": alpha, "teacher": TEACHER}
        config = trial(**TRIALS["two heads"] | {"distillation": distillation})
        row = run(config, tmp_path / f"{alpha}")
        restored = restore(config, Setup(), kept(tmp_path / f"{alpha}", config))
        assert restored.student.asked == asked
        assert rescore(restored) == stored(row)


def test_a_last_checkpoint_has_both_best_and_last_weights(tmp_path: Path) -> None:
    config = trial(**TRIALS["batch normalisation"], schedule={"epochs": 4})
    row = run(config, tmp_path, keep="last")
    found = kept(tmp_path, config)
    assert found.path is None
    assert found.header == {}
    assert (found.best_epoch, found.last_epoch) == (row["best_epoch"], 4)
    assert rescore(restore(config, Setup(), found)) == stored(row)
    best = run(config, tmp_path / "best")
    assert best["test_loss"] == row["test_loss"]
    file = kept(tmp_path / "best", config)
    assert file.path is not None
    assert (file.last, file.last_epoch, file.best_epoch) == (None, None, row["best_epoch"])
    assert all(torch.equal(tensor, file.best[name]) for name, tensor in found.best.items())


def test_other_weights_score_otherwise(tmp_path: Path) -> None:
    config = trial(**TRIALS["taught"])
    row = run(config, tmp_path)
    found = kept(tmp_path, config)
    found.best["head.bias"][0] += 1e-3
    assert rescore(restore(config, Setup(), found)) != stored(row)


def test_half_batches_are_scored_as_halves(tmp_path: Path) -> None:
    config = trial(**TRIALS["taught"])
    run(config, tmp_path)
    batches: list[int] = []
    restored = restore(config, Setup(), kept(tmp_path, config), micro_batch=16)
    rescore(restored, lambda _, labels: batches.append(len(labels)))
    assert batches == [250, 250]


def test_weights_that_are_not_there_or_do_not_fit(tmp_path: Path) -> None:
    config = trial(**TRIALS["batch normalisation"])
    run(config, tmp_path, keep="none")
    assert kept_weights(tmp_path, config.trial_id) is None
    nothing = KeptWeights({"head.weight": torch.zeros(1)}, {}, None, 1)
    with pytest.raises(ResultsError, match="do not fit the model"):
        restore(config, Setup(), nothing)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / f"{config.trial_id}.safetensors").write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="cannot be read"):
        kept_weights(tmp_path, config.trial_id)
    (tmp_path / "weights" / f"{config.trial_id}.safetensors").unlink()
    (tmp_path / "weights" / f"{config.trial_id}.safetensors").symlink_to("/dev/null")  # a pipe would be waited for
    with pytest.raises(ResultsError, match="a pipe or device, not a file"):
        kept_weights(tmp_path, config.trial_id)


def test_other_data_are_refused(tmp_path: Path) -> None:
    config = trial(**TRIALS["batch normalisation"])
    run(config, tmp_path)
    planned = config.model_copy(update={"dataset": config.dataset.model_copy(update={"fingerprint": "0" * 12})})
    with pytest.raises(DataError, match="not the data of the plan"):
        restore(planned, Setup(), kept(tmp_path, config))


def test_what_the_model_sees_again(tmp_path: Path) -> None:
    config = trial(**TRIALS["taught"])
    run(config, tmp_path)
    restored: Restored = restore(config, Setup(cpu=1.0), kept(tmp_path, config))
    assert isinstance(restored.made.task, Distillation)
    assert not restored.made.task.module.training
    assert restored.image_size == 8
    views, labels = restored.images([4, 0])
    data = restored.data
    assert views.shape == (2, 1, 8, 8)
    np.testing.assert_array_equal(views.numpy(), data.test_images[[4, 0]])
    np.testing.assert_array_equal(labels.numpy(), data.test_labels[[4, 0]])
    with pytest.raises(NotImplementedError):
        restored.made.task.teacher(None)  # type: ignore[arg-type]
