"""A sweep's folder with settled trials that nobody trained."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from raybench.config.trial import TrialConfig
from raybench.results.schema import EpochRow, Status, TrialRow
from raybench.results.store import Store


def leave(store: Store, seed: int, attempt: int = 1, status: Status = Status.COMPLETE, top1: float = 50.0) -> str:
    """What a trial leaves; returns its id."""
    content: dict[str, Any] = {"dataset": {"name": "digits"}, "model": {"name": "resnet8"}, "seed": seed}
    trial = TrialConfig.model_validate(content)
    about: dict[str, Any] = {"trial_id": trial.trial_id, "attempt": attempt}
    losses = (2.0, math.inf if status == Status.DIVERGED else 1.0, 0.5)
    rows = [EpochRow(**about, epoch=e, train_loss=loss, eval_top1=top1 + e) for e, loss in enumerate(losses, 1)]
    store.write_epochs(trial.trial_id, attempt, rows)
    done = status == Status.COMPLETE
    store.write_trial(
        TrialRow(
            **about,
            sweep="s",
            preset="quick",
            cell="alpha=0.5",
            status=status,
            setting_id=trial.setting_id,
            seed=seed,
            epochs=3,
            best_epoch=3 if done else None,
            eval_top1=top1 + 3 if done else None,
            test_top1=top1 + 1.5 if done else None,
            train_time=1.5,
            started=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            ended=datetime(2026, 1, 2, 3, 5, 5, tzinfo=UTC),
            config=trial.flat(),
            env={"torch": "2.15.0"},
        )
    )
    return trial.trial_id


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two complete trials, one that diverged, one that runs."""
    made = Store(tmp_path / "results" / "s")
    for seed, status in enumerate((Status.COMPLETE, Status.COMPLETE, Status.DIVERGED, Status.RUNNING)):
        leave(made, seed, status=status)
    return made
