"""A whole trial on the digits: its rows, its faults, and that nothing before it changes its numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from raybench.config.trial import TrialConfig
from raybench.data import load
from raybench.errors import ResultsError
from raybench.results.schema import Status
from raybench.results.store import Store
from raybench.training import trial as trial_module
from raybench.training.checkpoints import Checkpoints
from raybench.training.loop import Epoch
from raybench.training.recorder import Recorder, Setup
from raybench.training.trial import run_trial

FINGERPRINT = "0123456789ab"
TIMES = {
    "attempt",
    "train_time",
    "eval_time",
    "train_samples_per_sec",
    "infer_samples_per_sec",
    "peak_memory",
    "device_hours",
    "started",
    "ended",
    "failures",
}
"""Columns that two equal trials need not share."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Threads only hinder models this small."""
    torch.set_num_threads(1)


def config(**changes: Any) -> TrialConfig:
    """ResNet-8 on 60 digits for 3 epochs; dotted keys with __ for the dot."""
    content: dict[str, Any] = {
        "dataset": {"name": "digits", "train_size": 60, "val_size": 100, "augment": ["crop1"], "views": 4},
        "model": {"name": "resnet8"},
        "optimizer": {"lr": 0.05, "weight_decay": 0.0005},
        "schedule": {"epochs": 3},
        "batch_size": 32,
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        place = content
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return TrialConfig.model_validate(content)


def distilled(**changes: Any) -> TrialConfig:
    teacher = {"name": "resnet8", "prepare": "none", "seed": 5}
    given: dict[str, Any] = {"distillation": {"type": "soft", "alpha": 0.5, "tau": 2.0, "teacher": teacher}}
    return config(**(given | changes))


def setup(folder: Path, **changes: Any) -> Setup:
    return Setup(sweep="a sweep", preset="quick", results=folder, env={"python": "3", "git_commit": "abc"}, **changes)


def row(folder: Path, trial: TrialConfig) -> dict[str, Any]:
    (found,) = Store(folder).trials().filter(pl.col("trial_id") == trial.trial_id).to_dicts()
    return found


def numbers(folder: Path, trial: TrialConfig) -> list[dict[str, Any]]:
    """The epochs and the final row without what depends on time."""
    epochs = Store(folder).epochs([trial.trial_id]).to_dicts()
    return [{key: value for key, value in each.items() if key not in TIMES} for each in [*epochs, row(folder, trial)]]


Cached = Callable[[TrialConfig], Path]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Cached:
    """A results folder in which a trial was run alone, once for all tests of this file."""
    done: dict[str, Path] = {}

    def run(trial: TrialConfig) -> Path:
        if trial.trial_id not in done:
            done[trial.trial_id] = tmp_path_factory.mktemp("finished")
            assert run_trial(trial, setup(done[trial.trial_id]), "a cell").status == Status.COMPLETE
        return done[trial.trial_id]

    return run


def test_a_complete_trial_fills_every_column(finished: Cached) -> None:
    trial = distilled()
    found = row(finished(trial), trial)
    empty = {key for key, value in found.items() if value is None and not key.startswith(("config/", "env/"))}
    assert empty == {"reason"}  # nothing went wrong
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


def test_epochs_have_every_column(finished: Cached) -> None:
    trial = distilled()
    epochs = Store(finished(trial)).epochs()
    assert epochs["epoch"].to_list() == [1, 2, 3]
    # Soft distillation has no hard term.
    assert {name for name in epochs.columns if epochs[name].null_count()} == {"part/kd_hard"}
    assert epochs["lr"].is_sorted(descending=True)
    mixed = 0.5 * epochs["part/ce"] + 0.5 * epochs["part/kd_soft"]
    # Each is a mean of losses in 32 bits.
    assert (mixed - epochs["train_loss"]).abs().max() < 1e-5  # type: ignore[operator]
    assert all(epochs["eval_top5"] >= epochs["eval_top1"])


def test_the_row_has_the_best_epochs_validation_and_the_test_of_those_weights(finished: Cached) -> None:
    trial = config(schedule__epochs=6)
    folder = finished(trial)
    found, epochs = row(folder, trial), Store(folder).epochs()
    best = epochs.filter(pl.col("eval_top1") == epochs["eval_top1"].max())["epoch"].min()
    assert found["best_epoch"] == best
    assert found["eval_top1"] == epochs["eval_top1"].max()
    assert found["eval_loss"] == epochs.filter(pl.col("epoch") == best)["eval_loss"].item()
    assert found["train_time"] == pytest.approx(epochs["train_time"].sum())
    # A trial of the same seed that ends at the best epoch of this one's schedule has the same weights there.
    short = config(schedule={"epochs": best, "horizon_epochs": 6})
    assert row(finished(short), short)["test_top1"] == found["test_top1"]


def test_a_settled_trial_leaves_no_checkpoints_and_its_events_where_tensorboard_looks(finished: Cached) -> None:
    trial = distilled()
    folder = finished(trial)
    assert not list(folder.rglob("*.pt"))
    events = [path.relative_to(folder) for path in folder.rglob("events.*")]
    assert {path.parts[:2] for path in events} == {("tensorboard", trial.trial_id)}


def test_a_diverged_trial_says_so_and_is_never_best(tmp_path: Path) -> None:
    trial = config(optimizer__lr=1e9)
    outcome = run_trial(trial, setup(tmp_path))
    found = row(tmp_path, trial)
    assert outcome.status == found["status"] == Status.DIVERGED
    assert "in epoch" in found["reason"]
    assert "_loss is" in found["reason"]
    assert outcome.reason == found["reason"]
    assert [found[name] for name in ("best_epoch", "eval_top1", "test_top1", "test_loss")] == [None] * 4
    assert not list(tmp_path.rglob("*.pt"))


def test_weights_broken_by_the_last_step_of_all_are_divergence_too(tmp_path: Path) -> None:
    # One step at an enormous rate: the training loss was taken before it and is a number.
    trial = config(optimizer__lr=1e38, schedule__epochs=1, batch_size=60)
    run_trial(trial, setup(tmp_path))
    found = row(tmp_path, trial)
    assert math.isfinite(Store(tmp_path).epochs()["train_loss"].item())
    assert found["status"] == "diverged"
    assert found["test_top1"] is None


def test_a_fault_of_the_trial_is_a_row_with_its_reason_and_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("the model\nis broken")

    monkeypatch.setattr(trial_module, "make_task", broken)
    trial = config()
    outcome = run_trial(trial, setup(tmp_path))
    assert outcome.status == Status.FAILED
    found = row(tmp_path, trial)
    assert (found["status"], found["reason"]) == ("failed", "ZeroDivisionError: the model")
    (log,) = (tmp_path / "logs").iterdir()
    assert log.name == f"{trial.trial_id}-a1.txt"
    assert "ZeroDivisionError: the model\nis broken" in log.read_text()
    assert "run_trial" in log.read_text()


def test_other_data_than_planned_fail_with_a_reason_for_people(tmp_path: Path) -> None:
    trial = config(dataset__fingerprint=FINGERPRINT)
    run_trial(trial, setup(tmp_path))
    found = row(tmp_path, trial)
    assert found["status"] == "failed"
    assert FINGERPRINT in found["reason"]
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("error", "reason"),
    [(MemoryError(), "out of memory"), (torch.OutOfMemoryError("CUDA out of\nmuch"), "out of GPU memory: CUDA out of")],
)
def test_lack_of_memory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def hungry(*_: Any) -> None:
        raise error

    monkeypatch.setattr(trial_module, "gather", hungry)
    assert run_trial(config(), setup(tmp_path)).reason == reason


def test_a_fault_of_the_results_folder_is_raised_and_settles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Checkpoints, state: Any) -> None:
        raise ResultsError(f"disk full: epoch {state['epoch']}")

    trial = config()
    monkeypatch.setattr(Checkpoints, "save", full)
    with pytest.raises(ResultsError, match="disk full"):
        run_trial(trial, setup(tmp_path, checkpoint_every_s=0))
    assert row(tmp_path, trial)["status"] == "running"


def test_the_time_limit_ends_it_and_a_trial_that_is_through_is_complete(tmp_path: Path) -> None:
    trial = config()
    outcome = run_trial(trial, setup(tmp_path / "short", trial_time_s=1e-9))
    assert (outcome.status, outcome.reason) == (Status.FAILED, "timeout: longer than 1e-09 s")
    assert row(tmp_path / "short", trial)["epochs"] == 1
    one = config(schedule__epochs=1)
    assert run_trial(one, setup(tmp_path / "one", trial_time_s=1e-9)).status == Status.COMPLETE


def test_all_images(tmp_path: Path) -> None:
    trial = config(dataset__train_size="all", dataset__val_size=1200, schedule__epochs=1)
    assert run_trial(trial, setup(tmp_path)).status == Status.COMPLETE
    found = row(tmp_path, trial)
    assert found["config/dataset.train_size"] == "all"
    # 97 images in 4 steps of 32; the one left over joins the last.
    assert found["train_samples_per_sec"] * found["train_time"] == pytest.approx(97)


def test_running_again_raises_the_attempt_and_gives_the_same_numbers(finished: Cached, tmp_path: Path) -> None:
    trial = config()
    for attempt in (1, 2):
        run_trial(trial, setup(tmp_path), "a cell")
        assert row(tmp_path, trial)["attempt"] == attempt
    assert numbers(tmp_path, trial) == numbers(finished(trial), trial)


def test_pausing_at_rungs_ends_in_the_same_numbers_as_one_go(finished: Cached, tmp_path: Path) -> None:
    trial = distilled()
    for until in (1, 2):
        outcome = run_trial(trial, setup(tmp_path), "a cell", until=until)
        assert (outcome.status, outcome.epochs) == (Status.RUNNING, until)
        assert set(outcome.scores) == set(range(1, until + 1))
        assert row(tmp_path, trial)["epochs"] == until
    # Asked for a rung it has passed, it trains nothing.
    assert run_trial(trial, setup(tmp_path), "a cell", until=1).epochs == 2
    assert run_trial(trial, setup(tmp_path), "a cell").status == Status.COMPLETE
    assert numbers(tmp_path, trial) == numbers(finished(trial), trial)
    # Pauses are no failures.
    assert row(tmp_path, trial)["failures"] == 0


@pytest.mark.parametrize("after", [1, 2])
def test_killed_after_an_epoch_it_goes_on_to_the_same_numbers(
    finished: Cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    trial = distilled()
    with monkeypatch.context() as patched:
        commit = Recorder.epoch

        def killed(self: Recorder, epoch: Epoch) -> None:
            commit(self, epoch)
            if epoch.epoch == after + 1:
                raise SystemExit

        patched.setattr(Recorder, "epoch", killed)
        with pytest.raises(SystemExit):
            run_trial(trial, setup(tmp_path, checkpoint_every_s=0), "a cell")
    assert row(tmp_path, trial)["status"] == "running"
    assert run_trial(trial, setup(tmp_path), "a cell").status == Status.COMPLETE
    assert numbers(tmp_path, trial) == numbers(finished(trial), trial)
    found = row(tmp_path, trial)
    assert (found["attempt"], found["failures"]) == (2, 1)


def test_a_checkpoint_whose_rows_are_lost_is_not_used(finished: Cached, tmp_path: Path) -> None:
    trial = config()
    run_trial(trial, setup(tmp_path), "a cell", until=2)
    for part in (tmp_path / "epochs").iterdir():
        part.unlink()
    assert run_trial(trial, setup(tmp_path), "a cell").status == Status.COMPLETE
    assert numbers(tmp_path, trial) == numbers(finished(trial), trial)


def test_what_ran_before_in_the_process_changes_no_bit(finished: Cached, tmp_path: Path) -> None:
    trial = distilled()
    alone = numbers(finished(trial), trial)
    run_trial(config(precision="bf16", seed=3), setup(tmp_path, cpu=2))
    run_trial(config(optimizer__lr=1e9, model__name="vit_micro_patch2_8"), setup(tmp_path))
    run_trial(distilled(distillation__cache="off", seed=1), setup(tmp_path))
    torch.manual_seed(12345)
    run_trial(trial, setup(tmp_path), "a cell")
    assert numbers(tmp_path, trial) == alone


def test_who_prepares_the_teacher_trains_with_the_threads_of_who_finds_it(tmp_path: Path) -> None:
    teacher = {"name": "resnet8", "prepare": "head", "epochs": 1, "seed": 8}
    trial = distilled(distillation__teacher=teacher, schedule__epochs=1)
    found = []
    for folder in (tmp_path / "prepares", tmp_path / "finds"):
        run_trial(trial, setup(folder, cpu=2), "a cell")
        found.append(numbers(folder, trial))
    assert found[0] == found[1]
    assert found[0][-1]["env/threads"] == 2


def test_alpha_zero_is_the_plain_student(finished: Cached) -> None:
    plain = config()
    at_zero = distilled(distillation__alpha=0.0)
    assert at_zero.trial_id == plain.trial_id
    folder = finished(plain)
    other = folder.parent / "at zero"
    run_trial(at_zero, setup(other), "a cell")
    mine, theirs = numbers(other, at_zero), numbers(folder, plain)
    assert mine[:-1] == theirs[:-1]
    # Only what was asked for differs, not what came of it.
    assert {key for key in mine[-1] if mine[-1][key] != theirs[-1][key] and not key.startswith("config/")} == set()


def test_a_live_teacher_gives_the_numbers_of_the_cached_one_to_rounding(finished: Cached) -> None:
    cached, live = distilled(), distilled(distillation__cache="off")
    a, b = (Store(finished(trial)).epochs()["train_loss"].to_list() for trial in (cached, live))
    # Batches of 256 and of 32 may sum in another order (1e-7), kept in 16 bits (1e-3), over 6 steps.
    assert a == pytest.approx(b, rel=5e-3)


def test_the_teachers_accuracy_is_in_every_row_of_its_students(finished: Cached) -> None:
    trials = (distilled(), distilled(distillation__cache="off"))
    found = [row(finished(trial), trial) for trial in trials]
    assert found[0]["teacher_top1"] == found[1]["teacher_top1"]
    assert found[0]["teacher_top1"] is not None
    plain = config()
    assert row(finished(plain), plain)["teacher_top1"] is None


def test_bf16_runs_on_a_cpu_and_the_row_says_so(tmp_path: Path) -> None:
    trial = config(precision="bf16")
    assert run_trial(trial, setup(tmp_path)).status == Status.COMPLETE
    assert row(tmp_path, trial)["env/precision"] == "bf16"


def test_selection_by_the_least_loss(tmp_path: Path) -> None:
    trial = config()
    run_trial(trial, setup(tmp_path, metric="eval_loss", mode="min"))
    epochs = Store(tmp_path).epochs()
    best = epochs.sort("eval_loss")["epoch"][0]
    assert row(tmp_path, trial)["best_epoch"] == best


def test_the_environment_given_is_not_written_into(tmp_path: Path) -> None:
    given = setup(tmp_path)
    run_trial(config(schedule__epochs=1), given)
    assert given.env == {"python": "3", "git_commit": "abc"}
