"""Processes that are killed, and what the same command makes of it afterwards."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import psutil
import pytest
from polars.testing import assert_frame_equal

if TYPE_CHECKING:
    from conftest import Sweeps  # type: ignore[import-not-found]

LONG = ("--seeds", "2", "distillation.alpha=0.0", "schedule.epochs=150")
"""Four trials of some seconds each, so that a kill meets them in training."""
MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")


@pytest.fixture(scope="module")
def undisturbed(sweeps: Sweeps) -> pl.DataFrame:
    """The metrics of the long trials without a fault."""
    whole = sweeps.run("undisturbed", *LONG)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    return sweeps.metrics("undisturbed")  # type: ignore[no-any-return]


def _in_training(sweeps: Sweeps, results: str, driver: subprocess.Popen[str]) -> None:
    """Wait until this run has written an epoch."""
    folder = sweeps.folder / results / "tiny" / "epochs"

    def newest() -> int:
        # A compaction may take a part away between the listing and the look.
        with contextlib.suppress(FileNotFoundError):
            return max((part.stat().st_mtime_ns for part in folder.glob("*-a*.parquet")), default=0)
        return 0

    before, deadline = newest(), time.monotonic() + 300
    while time.monotonic() < deadline and driver.poll() is None:
        if newest() > before and sweeps.workers(driver.pid):
            return
        time.sleep(0.02)
    raise AssertionError("no worker began to train")


def _everything(driver: int) -> list[psutil.Process]:
    return [psutil.Process(driver), *psutil.Process(driver).children(recursive=True)]


def _finish(sweeps: Sweeps, results: str, undisturbed: pl.DataFrame) -> subprocess.CompletedProcess[str]:
    """The same command goes on, and its tables are those of an undisturbed run."""
    again = sweeps.run(results, *LONG)
    assert again.returncode == 0, again.stdout + again.stderr
    assert_frame_equal(sweeps.metrics(results), undisturbed, check_exact=True)
    trials = pl.read_parquet(sweeps.folder / results / "tiny" / "trials" / "*.parquet")
    assert trials["trial_id"].is_unique().all()
    assert set(trials["status"]) == {"complete"}
    return again  # type: ignore[no-any-return]


@pytest.mark.scenario(3)
@pytest.mark.slow
def test_a_driver_killed_three_times(sweeps: Sweeps, undisturbed: pl.DataFrame) -> None:
    moments = random.Random(3)
    for _ in range(3):
        driver = sweeps.start("driver-killed", *LONG)
        _in_training(sweeps, "driver-killed", driver)
        time.sleep(moments.uniform(0, 1.5))
        ours = _everything(driver.pid)
        driver.kill()
        driver.communicate()
        _, alive = psutil.wait_procs(ours, timeout=30)
        assert alive == []
    _finish(sweeps, "driver-killed", undisturbed)


@pytest.mark.scenario(3)
@pytest.mark.slow
@pytest.mark.parametrize("process", ["raylet/raylet", "gcs_server"])
def test_ray_dies_beneath_the_driver(sweeps: Sweeps, undisturbed: pl.DataFrame, process: str) -> None:
    """The driver does not wait for what never answers again: it says how to go on, and leaves nobody behind."""
    name = f"ray-died-{process.rpartition('/')[2]}"
    driver = sweeps.start(name, *LONG)
    _in_training(sweeps, name, driver)
    ours = _everything(driver.pid)
    (victim, *_) = sweeps.descendants(driver.pid, lambda command: command.split()[0].endswith(process))
    begun = time.monotonic()
    victim.kill()
    output = driver.communicate(timeout=60)[0]
    assert time.monotonic() - begun < 30
    assert driver.returncode == 1, output
    assert "stopped: Ray's process on this machine is gone; 2 running trials saved" in output
    assert "Go on with:  python -m raybench.sweep" in output
    _, alive = psutil.wait_procs(ours, timeout=30)
    assert alive == []
    _finish(sweeps, name, undisturbed)


@pytest.mark.scenario(4)
@pytest.mark.slow
def test_a_second_signal_ends_at_once(sweeps: Sweeps, undisturbed: pl.DataFrame) -> None:
    driver = sweeps.start("twice", *LONG)
    _in_training(sweeps, "twice", driver)
    ours = _everything(driver.pid)
    driver.send_signal(signal.SIGINT)
    time.sleep(0.1)
    begun = time.monotonic()
    driver.send_signal(signal.SIGINT)
    driver.communicate(timeout=30)
    assert driver.returncode == 130
    assert time.monotonic() - begun < 2
    _, alive = psutil.wait_procs(ours, timeout=10)
    assert alive == []
    _finish(sweeps, "twice", undisturbed)


@pytest.mark.scenario(4)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)],
    ids=lambda value: str(value),
)
def test_a_signal_to_every_process_at_once(
    sweeps: Sweeps, undisturbed: pl.DataFrame, number: signal.Signals, code: int
) -> None:
    """As Slurm ends a job step, and a terminal its foreground: Ray's own processes get the signal too."""
    name = f"all-{code}"
    driver = sweeps.start(name, *LONG)
    _in_training(sweeps, name, driver)
    ours = _everything(driver.pid)
    begun = time.monotonic()
    for process in ours:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
    output = driver.communicate(timeout=40)[0]
    assert time.monotonic() - begun < 12  # 10 s as promised, and the end of a process on a busy machine
    assert driver.returncode == code, output
    assert "Go on with:  python -m raybench.sweep" in output
    _, alive = psutil.wait_procs(ours, timeout=10)
    assert alive == []
    _finish(sweeps, name, undisturbed)


@pytest.mark.scenario(4)
@pytest.mark.slow
@pytest.mark.parametrize("process", ["gcs_server", "raylet/raylet"])
def test_a_signal_while_ray_starts(sweeps: Sweeps, process: str) -> None:
    """Ray handles SIGTERM itself then, by an exit of its own."""
    driver = sweeps.start(f"starting-{process.rpartition('/')[2]}", *LONG)
    deadline = time.monotonic() + 60
    while not sweeps.descendants(driver.pid, lambda command: command.split(" ")[0].endswith(process)):
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ours = _everything(driver.pid)
    driver.send_signal(signal.SIGTERM)
    output = driver.communicate(timeout=60)[0]
    assert driver.returncode == 143, output
    assert "Go on with:  python -m raybench.sweep" in output
    _, alive = psutil.wait_procs(ours, timeout=10)
    assert alive == []


@pytest.mark.scenario(4)
@pytest.mark.slow
def test_nohup_lets_it_run_on(sweeps: Sweeps, undisturbed: pl.DataFrame) -> None:
    """Who starts it so that it outlives the terminal is not told of the terminal's end."""
    driver = subprocess.Popen(
        ["nohup", *sweeps.command("nohup", *LONG)],
        env=sweeps.environment,
        cwd=sweeps.folder,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    _in_training(sweeps, "nohup", driver)
    driver.send_signal(signal.SIGHUP)
    output = driver.communicate(timeout=300)[0]
    assert driver.returncode == 0, output
    assert_frame_equal(sweeps.metrics("nohup"), undisturbed, check_exact=True)


@pytest.fixture
def small_memory(tmp_path: Path) -> Iterator[Path]:
    """A memory group of 1 MiB, whose processes the kernel ends when they want more."""
    group = MEMORY_GROUPS / f"raybench-{tmp_path.name}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(2**20))
    except OSError as error:
        pytest.skip(f"no memory group can be made here: {error}")
    try:
        yield group
    finally:
        for _ in range(50):
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.1)


def _squeezed(group: Path) -> int:
    """How many processes of a memory group the kernel has ended."""
    return int((group / "memory.oom_control").read_text().split()[-1])


@pytest.mark.scenario(8)
@pytest.mark.slow
def test_the_kernel_ends_a_worker_for_want_of_memory(sweeps: Sweeps, small_memory: Path) -> None:
    """Retried once; out of memory again, the trial fails with that reason, and the others complete."""
    driver = sweeps.start("memory", *LONG, "--max-concurrent", "1")
    epochs = sweeps.folder / "memory" / "tiny" / "epochs"
    victim, attempt = "", 1
    deadline = time.monotonic() + 200
    while driver.poll() is None and attempt <= 2 and time.monotonic() < deadline:
        # The first trial that trains, and the same one when it goes on: its retry may come after others.
        for part in epochs.glob(f"{victim or '*'}-a{attempt}.parquet"):
            victim = part.name.partition("-a")[0]
            for worker in sweeps.descendants(driver.pid, lambda command: "ResourceTrainable.train" in command):
                # What it holds already is not counted; each epoch's new pages are.
                with contextlib.suppress(OSError):
                    (small_memory / "cgroup.procs").write_text(str(worker.pid))
            if _squeezed(small_memory) == attempt:
                attempt += 1
        time.sleep(0.05)
    squeezed = _squeezed(small_memory)
    output = driver.communicate(timeout=240)[0]
    assert squeezed == 2, f"the kernel ended {squeezed} workers; {output}"
    assert driver.returncode == 1, output
    trials = pl.read_parquet(sweeps.folder / "memory" / "tiny" / "trials" / "*.parquet").sort("status")
    assert trials["status"].to_list() == ["complete"] * 3 + ["failed"]
    (reason,) = trials.filter(pl.col("status") == "failed")["reason"]
    assert reason.startswith("out of memory: the kernel killed its worker")


@pytest.mark.scenario(16)
@pytest.mark.slow
def test_a_second_driver_of_the_same_sweep_is_refused(sweeps: Sweeps) -> None:
    first = sweeps.start("held", *LONG)
    _in_training(sweeps, "held", first)
    second = sweeps.run("held", *LONG)
    assert second.returncode == 2, second.stdout
    assert f"process {first.pid} on host {os.uname().nodename}" in second.stderr
    first.kill()  # the kernel frees its lock
    first.communicate()
    third = sweeps.run("held", *LONG)
    assert third.returncode == 0, third.stdout + third.stderr
