"""A whole trial on the digits: its rows, its faults, and that nothing before it changes its numbers."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import torch

from raybench.config.trial import TrialConfig
from raybench.data import load
from raybench.errors import DataError, ResultsError
from raybench.results.predictions import read_predictions
from raybench.results.schema import Status
from raybench.results.store import Store
from raybench.training import classifying
from raybench.training.trial import run_trial

if TYPE_CHECKING:
    from conftest import Digits  # type: ignore[import-not-found]

FINGERPRINT = "0123456789ab"
Cached = Callable[[TrialConfig], Path]


def test_a_complete_trial_fills_every_column(digits: Digits, finished: Cached) -> None:
    trial = digits.distilled()
    found = digits.row(finished(trial), trial)
    empty = {key for key, value in found.items() if value is None and not key.startswith(("config/", "env/"))}
    # Nothing went wrong, it was through before a checkpoint was due, and a CPU says nothing of its energy.
    assert empty == {"reason", "micro_batch", "deviation", "checkpoint_mib", "energy"}
    assert found["status"] == "complete"
    assert (found["trial_id"], found["setting_id"]) == (trial.trial_id, trial.setting_id)
    assert (found["sweep"], found["preset"], found["cell"], found["seed"]) == ("a sweep", "quick", "a cell", 0)
    assert (found["epochs"], found["attempt"], found["failures"], found["written_by"]) == (3, 1, 0, "trial")
    # By hand: 75,002 = 176 (stem) + 4,672 + 13,952 + 55,552 (stages) + 650 (head), for 1 channel.
    assert found["param_count"] == pytest.approx(0.075002)
    # By hand: 747,136 = 9,216 (stem, 8x8) + 294,912 + 221,184 + 221,184 (stages) + 640 (head); norms may be counted.
    assert found["gmacs"] == pytest.approx(747_136e-9, rel=0.05)
    assert found["dataset_variant"] == "embedded"
    assert found["dataset_fingerprint"] == load("digits").fingerprint
    assert found["env/git_commit"] == "abc"
    assert (found["env/precision"], found["env/threads"]) == ("fp32", 1)
    for key, value in trial.flat().items():
        if value is not None:
            assert found[f"config/{key}"] is not None, key
    for name in ("train_samples_per_sec", "infer_samples_per_sec", "train_time", "peak_memory", "device_hours"):
        assert found[name] > 0
    assert found["started"] < found["ended"]


def test_epochs_have_every_column(digits: Digits, finished: Cached) -> None:
    trial = digits.distilled()
    epochs = Store(finished(trial)).epochs()
    assert epochs["epoch"].to_list() == [1, 2, 3]
    # Soft distillation has no hard term, and a CPU says nothing of its energy.
    assert {name for name in epochs.columns if epochs[name].null_count()} == {"part/kd_hard", "energy"}
    assert epochs["lr"].is_sorted(descending=True)
    mixed = 0.5 * epochs["part/ce"] + 0.5 * epochs["part/kd_soft"]
    # Each is a mean of losses in 32 bits.
    assert (mixed - epochs["train_loss"]).abs().max() < 1e-5  # type: ignore[operator]
    assert all(epochs["eval_top5"] >= epochs["eval_top1"])


def test_the_row_has_the_best_epochs_validation_and_the_test_of_those_weights(digits: Digits, finished: Cached) -> None:
    trial = digits.trial(schedule__epochs=6)
    folder = finished(trial)
    found, epochs = digits.row(folder, trial), Store(folder).epochs()
    best = epochs.filter(pl.col("eval_top1") == epochs["eval_top1"].max())["epoch"].min()
    assert found["best_epoch"] == best
    assert found["eval_top1"] == epochs["eval_top1"].max()
    assert found["eval_loss"] == epochs.filter(pl.col("epoch") == best)["eval_loss"].item()
    assert found["train_time"] == pytest.approx(epochs["train_time"].sum())
    # A trial of the same seed that ends at the best epoch of this one's schedule has the same weights there.
    short = digits.trial(schedule={"epochs": best, "horizon_epochs": 6})
    assert digits.row(finished(short), short)["test_top1"] == found["test_top1"]


def test_the_predictions_of_the_test_images_give_the_rows_accuracy(digits: Digits, finished: Cached) -> None:
    trial = digits.distilled()
    folder = finished(trial)
    found = read_predictions(folder, trial.trial_id)
    assert found.label.tolist() == load("digits").test_labels.tolist()
    assert found.top1 == pytest.approx(digits.row(folder, trial)["test_top1"])


def test_a_settled_trial_leaves_no_checkpoints_and_its_events_where_tensorboard_looks(
    digits: Digits, finished: Cached
) -> None:
    trial = digits.distilled()
    folder = finished(trial)
    assert not list(folder.rglob("*.pt"))
    events = [path.relative_to(folder) for path in folder.rglob("events.*")]
    assert {path.parts[:2] for path in events} == {("tensorboard", trial.trial_id)}


@pytest.mark.scenario(26)
def test_a_diverged_trial_says_so_and_is_never_best(digits: Digits, tmp_path: Path) -> None:
    trial = digits.trial(optimizer__lr=1e9)
    outcome = run_trial(trial, digits.setup(tmp_path))
    found = digits.row(tmp_path, trial)
    assert outcome.status == found["status"] == Status.DIVERGED
    assert "in epoch" in found["reason"]
    assert "_loss is" in found["reason"]
    assert outcome.reason == found["reason"]
    assert [found[name] for name in ("best_epoch", "eval_top1", "test_top1", "test_loss")] == [None] * 4
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.scenario(26)
def test_weights_broken_by_the_last_step_of_all_are_divergence_too(digits: Digits, tmp_path: Path) -> None:
    # One step at an enormous rate: the training loss was taken before it and is a number.
    trial = digits.trial(optimizer__lr=1e38, schedule__epochs=1, batch_size=60)
    run_trial(trial, digits.setup(tmp_path))
    found = digits.row(tmp_path, trial)
    assert math.isfinite(Store(tmp_path).epochs()["train_loss"].item())
    assert found["status"] == "diverged"
    assert found["test_top1"] is None


def test_a_fault_of_the_trial_is_a_row_with_its_reason_and_a_traceback(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("the model\nis broken")

    monkeypatch.setattr(classifying, "make_task", broken)
    trial = digits.trial()
    outcome = run_trial(trial, digits.setup(tmp_path))
    assert outcome.status == Status.FAILED
    found = digits.row(tmp_path, trial)
    assert (found["status"], found["reason"]) == ("failed", "ZeroDivisionError: the model")
    (log,) = (tmp_path / "logs").iterdir()
    assert log.name == f"{trial.trial_id}-a1.txt"
    assert "ZeroDivisionError: the model\nis broken" in log.read_text()
    assert "in _run" in log.read_text()


@pytest.mark.parametrize(
    ("number", "place", "settles"),
    [
        (errno.ENOENT, "elsewhere/table.csv", True),
        (errno.ECONNREFUSED, None, True),
        (errno.EACCES, "results/rows", False),
        (errno.ENOENT, "data/images.zip", False),
        (errno.EIO, "elsewhere/table.csv", False),
        (errno.ENOSPC, None, False),
        (errno.ENOTCONN, None, False),
        (None, None, False),
    ],
)
def test_a_fault_of_the_storage_settles_no_trial_and_any_other_does(
    digits: Digits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int | None,
    place: str | None,
    settles: bool,
) -> None:
    def broken(*_: Any) -> None:
        if number is None:
            raise FileNotFoundError("No such file or directory: teacher.safetensors")  # as safetensors tells it
        raise OSError(number, os.strerror(number), str(tmp_path / place) if place else None)

    monkeypatch.setattr(classifying, "make_task", broken)
    trial = digits.trial()
    setup = digits.setup(tmp_path / "results", data_root=tmp_path / "data")
    if settles:
        assert run_trial(trial, setup).status == Status.FAILED
        assert number is not None
        assert os.strerror(number) in digits.row(tmp_path / "results", trial)["reason"]
    else:
        with pytest.raises(ResultsError):
            run_trial(trial, setup)
        assert digits.row(tmp_path / "results", trial)["status"] == "running"


def test_a_fault_of_the_storage_that_was_told_as_one_of_the_data_settles_no_trial(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        try:
            raise OSError(errno.EIO, "Input/output error", "/mnt/images.zip")
        except OSError as error:
            raise DataError("images.zip cannot be read") from error

    monkeypatch.setattr(classifying, "make_task", broken)
    trial = digits.trial()
    with pytest.raises(ResultsError):
        run_trial(trial, digits.setup(tmp_path))
    assert digits.row(tmp_path, trial)["status"] == "running"


def test_other_data_than_planned_fail_with_a_reason_for_people(digits: Digits, tmp_path: Path) -> None:
    trial = digits.trial(dataset__fingerprint=FINGERPRINT)
    run_trial(trial, digits.setup(tmp_path))
    found = digits.row(tmp_path, trial)
    assert found["status"] == "failed"
    assert FINGERPRINT in found["reason"]
    (log,) = (tmp_path / "logs").iterdir()
    assert f"failed: {found['reason']}" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_all_images(digits: Digits, tmp_path: Path) -> None:
    trial = digits.trial(dataset__train_size="all", dataset__val_size=1200, schedule__epochs=1)
    assert run_trial(trial, digits.setup(tmp_path)).status == Status.COMPLETE
    found = digits.row(tmp_path, trial)
    assert found["config/dataset.train_size"] == "all"
    # 97 images in 4 steps of 32; the one left over joins the last.
    # Both are kept to 12 bits, one to the nearest, one upwards.
    assert found["train_samples_per_sec"] * found["train_time"] == pytest.approx(97, rel=2**-12 + 2**-11)


def test_what_ran_before_in_the_process_changes_no_bit(digits: Digits, finished: Cached, tmp_path: Path) -> None:
    trial = digits.distilled()
    alone = digits.numbers(finished(trial), trial)
    run_trial(digits.trial(precision="bf16", seed=3), digits.setup(tmp_path, cpu=2))
    run_trial(digits.trial(optimizer__lr=1e9, model__name="vit_micro_patch2_8"), digits.setup(tmp_path))
    run_trial(digits.distilled(distillation__cache="off", seed=1), digits.setup(tmp_path))
    torch.manual_seed(12345)
    run_trial(trial, digits.setup(tmp_path), "a cell")
    assert digits.numbers(tmp_path, trial) == alone


def test_who_prepares_the_teacher_trains_with_the_threads_of_who_finds_it(digits: Digits, tmp_path: Path) -> None:
    teacher = {"name": "resnet8", "prepare": "head", "epochs": 1, "seed": 8}
    trial = digits.distilled(distillation__teacher=teacher, schedule__epochs=1)
    found = []
    for folder in (tmp_path / "prepares", tmp_path / "finds"):
        run_trial(trial, digits.setup(folder, cpu=2), "a cell")
        found.append(digits.numbers(folder, trial))
    assert found[0] == found[1]
    assert found[0][-1]["env/threads"] == 2


def test_alpha_zero_is_the_plain_student(digits: Digits, finished: Cached) -> None:
    plain = digits.trial()
    at_zero = digits.distilled(distillation__alpha=0.0)
    assert at_zero.trial_id == plain.trial_id
    folder = finished(plain)
    other = folder.parent / "at zero"
    run_trial(at_zero, digits.setup(other), "a cell")
    mine, theirs = digits.numbers(other, at_zero), digits.numbers(folder, plain)
    assert mine[:-1] == theirs[:-1]
    # Only what was asked for differs, not what came of it.
    assert {key for key in mine[-1] if mine[-1][key] != theirs[-1][key] and not key.startswith("config/")} == set()


def test_a_live_teacher_gives_the_numbers_of_the_cached_one_to_rounding(digits: Digits, finished: Cached) -> None:
    cached, live = digits.distilled(), digits.distilled(distillation__cache="off")
    a, b = (Store(finished(trial)).epochs()["train_loss"].to_list() for trial in (cached, live))
    # Batches of 256 and of 32 may sum in another order (1e-7), kept in 16 bits (1e-3), over 6 steps.
    assert a == pytest.approx(b, rel=5e-3)


def test_the_teachers_accuracy_is_in_every_row_of_its_students(digits: Digits, finished: Cached) -> None:
    trials = (digits.distilled(), digits.distilled(distillation__cache="off"))
    found = [digits.row(finished(trial), trial) for trial in trials]
    assert found[0]["teacher_top1"] == found[1]["teacher_top1"]
    assert found[0]["teacher_top1"] is not None
    plain = digits.trial()
    assert digits.row(finished(plain), plain)["teacher_top1"] is None


def test_bf16_runs_on_a_cpu_and_the_row_says_so(digits: Digits, tmp_path: Path) -> None:
    trial = digits.trial(precision="bf16")
    assert run_trial(trial, digits.setup(tmp_path)).status == Status.COMPLETE
    assert digits.row(tmp_path, trial)["env/precision"] == "bf16"


def test_selection_by_the_least_loss(digits: Digits, tmp_path: Path) -> None:
    trial = digits.trial()
    run_trial(trial, digits.setup(tmp_path, metric="eval_loss", mode="min"))
    epochs = Store(tmp_path).epochs()
    best = epochs.sort("eval_loss")["epoch"][0]
    assert digits.row(tmp_path, trial)["best_epoch"] == best


def test_the_environment_given_is_not_written_into(digits: Digits, tmp_path: Path) -> None:
    given = digits.setup(tmp_path)
    run_trial(digits.trial(schedule__epochs=1), given)
    assert given.env == {"python": "3", "git_commit": "abc"}
