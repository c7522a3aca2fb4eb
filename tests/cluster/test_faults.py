"""Faults inside a whole sweep: a trial that hangs, a disk that is full."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from raybench.training.watchdog import BACKSTOP_S

if TYPE_CHECKING:
    from conftest import Sweeps  # type: ignore[import-not-found]

FOUR = ("--seeds", "2", "distillation.alpha=0.0", "schedule.epochs=150")
HANGS = """\
import contextlib, ctypes, os, signal, sys, threading, time

signal.signal(signal.SIGUSR1, lambda *_: time.sleep(1e6))
signal.signal(signal.SIGUSR2, lambda *_: ctypes.PyDLL(None).sleep(1_000_000))  # holds the interpreter's lock

# The next process that imports raybench's limits hangs at its first step, if the file is there then.
def hang_again():
    while not hasattr(sys.modules.get("raybench.training.limits"), "Limits"):
        time.sleep(0.005)
    with contextlib.suppress(FileNotFoundError):
        os.rename(FILE, FILE + "-used")
        sys.modules["raybench.training.limits"].Limits.check = lambda self: ctypes.PyDLL(None).sleep(1_000_000)

threading.Thread(target=hang_again, daemon=True).start()
"""


@pytest.mark.scenario(10)
@pytest.mark.slow
def test_a_trial_that_hangs_in_a_sweep(sweeps: Sweeps, tmp_path: Path) -> None:
    """Its limit ends it with its worker, its row says where it hung, and the others complete."""
    output, code = hang(sweeps, tmp_path, "hung", signal.SIGUSR1, *FOUR)
    assert code == 1, output
    trials = pl.read_parquet(sweeps.folder / "hung" / "tiny" / "trials" / "*.parquet").sort("status")
    assert trials["status"].to_list() == ["complete"] * 3 + ["failed"]
    (reason,) = trials.filter(pl.col("status") == "failed")["reason"]
    assert reason.startswith("timeout: longer than 30 s; hung at "), reason
    (stack,) = (sweeps.folder / "hung" / "tiny" / "logs").glob("*-stack.txt")
    assert "_train" in stack.read_text()


@pytest.mark.scenario(10)
@pytest.mark.slow
def test_a_trial_that_hangs_and_holds_the_interpreters_lock(sweeps: Sweeps, tmp_path: Path) -> None:
    """It has another worker, hangs there before it is any further, and is given up by the driver."""
    one = ("--seeds", "1", "distillation.alpha=0.0", "tune.space={optimizer.lr: [0.1]}", "schedule.epochs=150")
    output, code = hang(sweeps, tmp_path, "holding", signal.SIGUSR2, *one, again=True)
    assert code == 1, output
    (trial,) = pl.read_parquet(sweeps.folder / "holding" / "tiny" / "trials" / "*.parquet").to_dicts()
    assert (trial["status"], trial["attempt"]) == ("failed", 2)
    assert trial["reason"].startswith("timeout: no thread of its worker answered any more; its stack is in ")
    stacks = sorted((sweeps.folder / "holding" / "tiny" / "logs").glob("*-stack.txt"))
    assert [stack.name.rpartition("-a")[2] for stack in stacks] == ["1-stack.txt", "2-stack.txt"]
    assert all("_train" in stack.read_text() for stack in stacks)


def hang(
    sweeps: Sweeps, folder: Path, name: str, number: signal.Signals, *arguments: str, again: bool = False
) -> tuple[str, int]:
    """Run a sweep whose first trial hangs by a signal; its output and its exit code.

    With `again` the worker in the place of the hung one hangs at its first step.
    """
    file = folder / "hang-again"
    (folder / "sitecustomize.py").write_text(f"FILE = {str(file)!r}\n{HANGS}")
    path = {"PYTHONPATH": f"{folder}:{sweeps.environment['PYTHONPATH']}"}
    driver = sweeps.start(name, *arguments, "--max-concurrent", "1", "limits.trial_time_s=30", **path)
    epochs = sweeps.folder / name / "tiny" / "epochs"
    deadline = time.monotonic() + 300
    while not list(epochs.glob("*-a1.parquet")) and time.monotonic() < deadline:
        time.sleep(0.05)
    (worker,) = sweeps.workers(driver.pid)
    if again:
        file.touch()  # not before: the driver and the first worker have found it absent
    worker.send_signal(number)
    output = driver.communicate(timeout=400)[0]
    assert not file.exists()
    return output, driver.returncode


@pytest.mark.scenario(10)
@pytest.mark.slow
def test_a_worker_that_was_suspended_for_longer_than_a_stall_goes_on(sweeps: Sweeps) -> None:
    """As with its machine, or by Slurm. Its timer ends it when it wakes and the trial goes on in another, unless it was
    suspended between epochs, or takes its next step before its timer wakes."""
    whole = sweeps.run("awake", *FOUR)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    driver = sweeps.start("suspended", *FOUR, "--max-concurrent", "1", "limits.stall_s=2")
    epochs = sweeps.folder / "suspended" / "tiny" / "epochs"
    deadline = time.monotonic() + 300
    while not list(epochs.glob("*-a1.parquet")) and time.monotonic() < deadline:
        time.sleep(0.05)
    (worker,) = sweeps.workers(driver.pid)
    worker.suspend()
    time.sleep(2 + BACKSTOP_S + 3)
    worker.resume()
    output = driver.communicate(timeout=240)[0]
    assert driver.returncode == 0, output
    # The fault was met: it was ended, and has left its stack, or it slept in the midst of its trial.
    ended = list((sweeps.folder / "suspended" / "tiny" / "logs").glob("*-a1-stack.txt"))
    trials = pl.read_parquet(sweeps.folder / "suspended" / "tiny" / "trials" / "*.parquet").to_dicts()
    assert ended or max(row["ended"] - row["started"] for row in trials) > timedelta(seconds=2 + BACKSTOP_S)
    assert_frame_equal(sweeps.metrics("suspended"), sweeps.metrics("awake"), check_exact=True)


@pytest.mark.scenario(12)
@pytest.mark.slow
def test_a_disk_that_is_full_in_the_middle_of_a_sweep(sweeps: Sweeps, disk: Callable[[str], Path]) -> None:
    """The command says so and ends with 1, what was written is whole, and with room again it finishes."""
    whole = sweeps.run("roomy", *FOUR)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    folder = disk("size=64m")
    (sweeps.folder / "full").symlink_to(folder)
    driver = sweeps.start("full", *FOUR)
    deadline = time.monotonic() + 300
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
    output = driver.communicate(timeout=300)[0]
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
