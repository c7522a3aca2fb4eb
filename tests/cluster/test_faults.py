"""Faults inside a whole sweep: a trial that hangs, a disk that is full."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest
from polars.testing import assert_frame_equal

if TYPE_CHECKING:
    from conftest import Sweeps  # type: ignore[import-not-found]

FOUR = ("--seeds", "2", "distillation.alpha=0.0", "schedule.epochs=150")
HANGS = """\
import ctypes, signal, time

signal.signal(signal.SIGUSR1, lambda *_: time.sleep(1e6))
signal.signal(signal.SIGUSR2, lambda *_: ctypes.PyDLL(None).sleep(1_000_000))  # holds the interpreter's lock
"""


@pytest.mark.scenario(10)
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2], ids=["sleeping", "holding the lock"])
def test_a_trial_that_hangs_in_a_sweep(sweeps: Sweeps, tmp_path: Path, number: signal.Signals) -> None:
    """Its limit ends it with its worker, its row says where it hung, and the others complete."""
    (tmp_path / "sitecustomize.py").write_text(HANGS)
    path = {"PYTHONPATH": f"{tmp_path}:{sweeps.environment['PYTHONPATH']}"}
    name = f"hung-{number}"
    driver = sweeps.start(name, *FOUR, "--max-concurrent", "1", "limits.trial_time_s=30", **path)
    epochs = sweeps.folder / name / "tiny" / "epochs"
    deadline = time.monotonic() + 120
    while not list(epochs.glob("*-a1.parquet")) and time.monotonic() < deadline:
        time.sleep(0.05)
    (worker,) = sweeps.workers(driver.pid)
    worker.send_signal(number)
    output = driver.communicate(timeout=240)[0]
    assert driver.returncode == 1, output
    trials = pl.read_parquet(sweeps.folder / name / "tiny" / "trials" / "*.parquet").sort("status")
    assert trials["status"].to_list() == ["complete"] * 3 + ["failed"]
    (reason,) = trials.filter(pl.col("status") == "failed")["reason"]
    assert reason.startswith("timeout: "), reason
    (stack,) = (sweeps.folder / name / "tiny" / "logs").glob("*-stack.txt")
    assert "_train" in stack.read_text()


@pytest.mark.scenario(12)
@pytest.mark.slow
def test_a_disk_that_is_full_in_the_middle_of_a_sweep(sweeps: Sweeps, disk: Callable[[str], Path]) -> None:
    """The command says so and ends with 1, what was written is whole, and with room again it finishes."""
    whole = sweeps.run("roomy", *FOUR)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    folder = disk("size=64m")
    (sweeps.folder / "full").symlink_to(folder)
    driver = sweeps.start("full", *FOUR)
    deadline = time.monotonic() + 120
    while not list(folder.glob("tiny/epochs/*-a1.parquet")) and time.monotonic() < deadline:
        time.sleep(0.02)
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as out:
        for size in (2**20, 2**12):
            while True:
                try:
                    out.write(bytes(size))
                except OSError:
                    break
    output = driver.communicate(timeout=120)[0]
    assert driver.returncode == 1, output
    assert "disk full" in output
    for table in ("trials", "epochs"):
        for part in folder.glob(f"tiny/{table}/[!.]*.parquet"):
            assert pl.read_parquet(part, glob=False).height
    assert list(folder.rglob("*.tmp")) == []
    ballast.unlink()
    again = sweeps.run("full", *FOUR)
    assert again.returncode == 0, again.stdout + again.stderr
    assert_frame_equal(sweeps.metrics("full"), sweeps.metrics("roomy"), check_exact=True)
