"""A trial run again from its row: equal to the last bit, or what differs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raybench.__main__ import main
from raybench.config.trial import TrialConfig
from raybench.results.schema import Status
from raybench.results.store import Store
from raybench.training.recorder import Setup
from raybench.training.trial import run_trial

TRIAL = TrialConfig.model_validate(
    {
        "dataset": {"name": "digits", "train_size": 60, "val_size": 100, "image_size": 8, "augment": ["crop1"]},
        "model": {"name": "vit_micro_patch2_8", "options": {"drop_path_rate": 0.2}},
        "distillation": {"type": "soft", "tau": 2.0, "teacher": {"name": "resnet8", "prepare": "none"}},
        "optimizer": {"name": "adamw", "lr": 0.002},
        "schedule": {"epochs": 3},
        "batch_size": 32,
        "seed": 3,
    }
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with one trial that was really trained."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("results")
    outcome = run_trial(TRIAL, Setup(sweep="s", preset="quick", results=root / "s"), "a cell")
    assert outcome.status == Status.COMPLETE
    return root


def test_the_same_trial_is_equal_to_the_last_bit(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep = tmp_path / "again"
    assert main(["reproduce", TRIAL.trial_id, "--results", str(results), "--keep", str(keep)]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{TRIAL.trial_id}: equal, all ")
    assert "3 epochs to the last bit" in text
    assert Store(keep).trials()["trial_id"].to_list() == [TRIAL.trial_id]
    assert main(["reproduce", TRIAL.trial_id, "--results", str(results), "--keep", str(keep)]) == 2
    assert "has rows of" in capsys.readouterr().err


def test_what_differs_is_told_with_what_may_be_the_cause(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(results / "s")
    rows = store.last_epochs(TRIAL.trial_id)
    other = Store(tmp_path / "root" / "s")
    # As if another machine had summed in another order.
    other.write_epochs(TRIAL.trial_id, 1, [replace(row, eval_loss=(row.eval_loss or 0) + 1e-9) for row in rows])
    for file in (results / "s" / "trials").glob("*.parquet"):
        (tmp_path / "root" / "s" / "trials").mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / "s" / "trials" / file.name).write_bytes(file.read_bytes())
    assert main(["reproduce", TRIAL.trial_id, "--results", str(tmp_path / "root")]) == 1
    text = capsys.readouterr().out
    assert f"{TRIAL.trial_id}: 3 of " in text
    assert "eval_loss of epoch 1: " in text
    assert "what differs between the runs: " in text


def test_only_complete_trials_can_be_compared(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s" / "trials").mkdir(parents=True)
    row = Store(results / "s").trials().to_dicts()[0]
    from raybench.results.schema import TrialRow

    failed = TrialRow(
        trial_id=row["trial_id"],
        sweep="s",
        preset="quick",
        cell="",
        status=Status.FAILED,
        attempt=1,
        seed=3,
        config=TRIAL.flat(),
    )
    Store(tmp_path / "s").write_trial(failed)
    assert main(["reproduce", TRIAL.trial_id, "--results", str(tmp_path)]) == 2
    assert "is failed: only complete trials" in capsys.readouterr().err
