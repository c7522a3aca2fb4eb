"""A trial as files: they read back as what was stored."""

from __future__ import annotations

import io
import json
from pathlib import Path

import polars as pl

from raybench.config.trial import TrialConfig
from raybench.report.run_files import FIRST, config_json, metrics_csv
from raybench.results.schema import EpochRow
from raybench.results.store import Store

TRIAL = TrialConfig.model_validate(
    {
        "dataset": {"name": "digits", "train_size": 60, "augment": ["crop1"]},
        "model": {"name": "vit_micro_patch2_8", "options": {"drop_path_rate": 0.2}},
        "distillation": {"type": "soft", "teacher": {"name": "resnet8", "mean": [0.5]}},
        "seed": 3,
    }
)


def epochs(folder: Path, *rows: EpochRow) -> pl.DataFrame:
    store = Store(folder)
    store.write_epochs("abc", 1, rows)
    return store.epochs(["abc"])


def row(epoch: int, **values: float) -> EpochRow:
    return EpochRow(trial_id="abc", attempt=1, epoch=epoch, **values)  # type: ignore[arg-type]


def test_columns_have_the_names_of_training_scripts_and_numbers_are_whole(tmp_path: Path) -> None:
    third = 1 / 3
    known = {"lr": 0.1, "train_loss": third, "train_top1": 200 * third, "eval_loss": 2 * third, "eval_top1": 50.0}
    frame = epochs(tmp_path, *(row(epoch, **known, eval_top5=90.0, train_time=1.5, eval_time=0.25) for epoch in (2, 1)))
    back = pl.read_csv(io.StringIO(metrics_csv(frame)))
    assert back.columns == [*FIRST, "val_top5", "train_time", "val_time"]
    assert back["epoch"].to_list() == [1, 2]
    assert back["train_loss"].to_list() == [third] * 2  # to the last bit
    assert back["train_acc"].to_list() == [200 * third] * 2
    assert back["val_loss"].to_list() == [2 * third] * 2
    assert back["val_acc"].to_list() == [50.0] * 2
    assert back["time"].to_list() == [1.75] * 2


def test_a_task_without_accuracies_leaves_them_empty(tmp_path: Path) -> None:
    coded = EpochRow(
        trial_id="abc",
        attempt=1,
        epoch=1,
        eval_loss=1.0,
        metrics={"eval_psnr": 20.5, "eval_bpp": 0.4},
        parts={"mse": 0.1},
    )
    back = pl.read_csv(io.StringIO(metrics_csv(epochs(tmp_path, coded))))
    assert back.columns[: len(FIRST)] == list(FIRST)
    assert set(back.columns[len(FIRST) :]) == {"val_psnr", "val_bpp", "part/mse"}
    assert back["val_acc"].to_list() == [None]
    assert back["val_psnr"].to_list() == [20.5]
    assert back["time"].to_list() == [None]


def test_a_trial_without_an_epoch_is_a_header(tmp_path: Path) -> None:
    assert metrics_csv(epochs(tmp_path)).strip().startswith("epoch,train_loss,train_acc,val_loss,val_acc,lr,time")


def test_the_configuration_reads_back() -> None:
    text = config_json(TRIAL)
    again = TrialConfig.model_validate_json(text)
    assert again == TRIAL
    assert again.trial_id == TRIAL.trial_id
    assert json.loads(text)["optimizer"]["momentum"] == 0.9  # what was not said too
