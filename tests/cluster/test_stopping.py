"""Workers that are killed while a sweep runs."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import psutil
import pytest

if TYPE_CHECKING:
    from conftest import Sweeps  # type: ignore[import-not-found]


@pytest.mark.scenario(1)
@pytest.mark.slow
def test_a_killed_worker_is_replaced(sweeps: Sweeps) -> None:
    """kill -9 of the process that trains; the trial is started again, and says so."""
    driver = sweeps.start(
        "killed", "--seeds", "1", "--max-concurrent", "1", "schedule.epochs=400", "distillation.alpha=0.0"
    )
    assert driver.stdout is not None
    victim = next(_training(driver.pid, sweeps.folder / "killed" / "tiny"))
    victim.kill()
    output = driver.communicate(timeout=300)[0]
    assert driver.returncode == 0, output
    trials = pl.read_parquet(sweeps.folder / "killed" / "tiny" / "trials" / "*.parquet")
    assert set(trials["status"]) == {"complete"}
    assert trials["failures"].sum() == 1
    assert trials["attempt"].max() == 2


@pytest.mark.scenario(1)
@pytest.mark.slow
def test_the_worker_in_a_killed_one_s_place_trains_though_trials_are_shorter_than_its_start(sweeps: Sweeps) -> None:
    """Whoever falls free meanwhile takes the next trial, not the one that waits for the new worker."""
    some = (
        "schedule.epochs=100",
        "--seeds",
        "6",
        "distillation.alpha=0.0",
        "resources.cpu=0.5",
        "--max-concurrent",
        "2",
    )
    driver = sweeps.start("short", *some)
    folder = sweeps.folder / "short" / "tiny"
    victim = next(_training(driver.pid, folder))
    victim.kill()
    output = driver.communicate(timeout=300)[0]
    assert driver.returncode == 0, output
    trained = {re.findall(r"in process (\d+)", log.read_text())[0] for log in (folder / "logs").glob("*-a*.txt")}
    assert len(trained - {str(victim.pid)}) == 2, "the one that was left ran all the others"


@pytest.mark.scenario(2)
@pytest.mark.slow
def test_a_trial_whose_worker_always_dies_is_failed_with_the_reason(sweeps: Sweeps) -> None:
    """The others complete: its worker is killed whenever it trains, until the trial is given up."""
    arguments = ("--seeds", "1", "--max-concurrent", "1", "limits.max_failures=1", "schedule.epochs=400")
    driver = sweeps.start("dies", *arguments, "distillation.alpha=0.0")
    assert driver.stdout is not None
    folder = sweeps.folder / "dies" / "tiny"
    for attempt in (1, 2):
        while not list((folder / "epochs").glob(f"*-a{attempt}.parquet")) and driver.poll() is None:
            time.sleep(0.02)
        next(_training(driver.pid, folder)).kill()
    output = driver.communicate(timeout=240)[0]
    assert driver.returncode == 1, output
    completed, failed = pl.read_parquet(folder / "trials" / "*.parquet").sort("status").to_dicts()
    assert (completed["status"], failed["status"]) == ("complete", "failed")
    assert failed["reason"].startswith("its worker died 2 times")
    assert failed["failures"] == 2
    assert f"failed: {failed['trial_id']}" in output


def _training(driver: int, folder: Path) -> Iterator[psutil.Process]:
    """The worker that trains, once it has written an epoch."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if list((folder / "epochs").glob("*.parquet")):
            for process in psutil.Process(driver).children(recursive=True):
                if any("ResourceTrainable" in part for part in process.cmdline()):
                    yield process
        time.sleep(0.05)
    raise AssertionError("no worker began to train")
