"""A results folder that is moved between two runs: the sweep goes on in its new place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from raybench.results.store import Store

REPOSITORY = Path(__file__).parents[2]
# Trials that last longer than a busy machine needs to heed a signal, so that it meets one in training.
SWEEP = """\
base:
  dataset: {name: digits, train_size: 200, val_size: 100, augment: [crop1]}
  model: {name: resnet8}
  schedule: {epochs: 100}
tune: {space: {optimizer.lr: [0.05, 0.1]}}
seeds: [0, 1]
checkpoints: {every_s: 0}
presets: {quick: {}}
"""


def start(folder: Path, results: str) -> subprocess.Popen[str]:
    """The command, as a user gives it."""
    return subprocess.Popen(
        [sys.executable, "-m", "raybench.sweep", "moving.yaml", "--preset", "quick", "--results", results],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def wait_for_the_middle(store: Store, driver: subprocess.Popen[str]) -> None:
    """Until a trial is settled and another has trained for some epochs."""
    deadline = time.monotonic() + 300
    while driver.poll() is None and time.monotonic() < deadline:
        trials = store.trials()
        running = trials.filter(pl.col("status") == "running")["trial_id"]
        if "complete" in trials["status"] and store.epochs(running)["epoch"].max() not in (None, 1):
            return
        time.sleep(0.05)
    raise AssertionError("the sweep was never in the midst of its trials")


@pytest.mark.scenario(20)
@pytest.mark.slow
def test_it_goes_on_where_it_was_moved(tmp_path: Path) -> None:
    (tmp_path / "moving.yaml").write_text(SWEEP)
    first = start(tmp_path, "before")
    store = Store(tmp_path / "before" / "moving")
    wait_for_the_middle(store, first)
    first.send_signal(signal.SIGINT)
    out, _ = first.communicate(timeout=300)
    assert first.returncode == 130, out
    settled = store.trials().filter(pl.col("status") == "complete")
    epochs = store.epochs()
    assert 0 < len(settled) < 4

    (tmp_path / "before").rename(tmp_path / "after")
    second = start(tmp_path, "after")
    out, _ = second.communicate(timeout=500)
    assert second.returncode == 0, out
    assert f"= 4 trials, {len(settled)} settled" in out
    moved = Store(tmp_path / "after" / "moving")
    assert moved.trials()["status"].to_list() == ["complete"] * 4
    assert moved.trials().filter(pl.col("trial_id").is_in(settled["trial_id"].to_list())).equals(settled)
    # Those that were interrupted went on from their checkpoint: the epochs before it are the same, times and all.
    again = moved.trials().filter(pl.col("attempt") == 2)["trial_id"].to_list()
    kept = epochs.filter(pl.col("trial_id").is_in(again)).drop("attempt")
    assert not kept.is_empty()
    went_on = moved.epochs(again).drop("attempt").join(kept, on=kept.columns, how="semi", nulls_equal=True)
    assert went_on.height >= kept.height - len(again)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["after", "moving.yaml"]
