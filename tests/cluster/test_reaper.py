"""The small process that ends what a killed driver leaves: real processes, really killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from raybench.cluster.reaper import MARK, end_run

REPOSITORY = Path(__file__).parents[2]

# One child, one that left its session as a daemon does, and a grandchild whose parent is gone.
DRIVER = """\
import os, subprocess, sys, time
from raybench.cluster.reaper import MARK, reaper

with reaper():
    children = [subprocess.Popen(["sleep", "300"]), subprocess.Popen(["sleep", "300"], start_new_session=True)]
    orphan = subprocess.run(["sh", "-c", "sleep 300 >/dev/null & echo $!"], stdout=subprocess.PIPE, text=True)
    print(os.environ[MARK], *(child.pid for child in children), orphan.stdout.strip(), flush=True)
    {rest}
assert MARK not in os.environ
print("ended", flush=True)
"""


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process of another run."""
    process = subprocess.Popen(["sleep", "300"], env=os.environ | {MARK: "0123456789abcdef"})
    yield process
    process.kill()
    process.wait()


@contextlib.contextmanager
def _driver(rest: str) -> Iterator[tuple[subprocess.Popen[str], str, list[psutil.Process]]]:
    """A driver in its run, the run's mark, and what it started; none of it is left in the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER.format(rest=rest)],
        cwd=REPOSITORY,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    mark, *pids = process.stdout.readline().split()
    started = [psutil.Process(int(pid)) for pid in pids]
    try:
        yield process, mark, started
    finally:
        for each in started:
            with contextlib.suppress(psutil.Error):
                each.kill()
        process.kill()
        process.communicate()


def _left(processes: list[psutil.Process], patience_s: float = 30.0) -> list[psutil.Process]:
    """Those that still run after so long; one that nobody has waited for yet is none of them."""
    deadline = time.monotonic() + patience_s
    while (alive := [process for process in processes if _runs(process)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return alive


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.scenario(3)
def test_a_killed_driver_leaves_nobody(bystander: subprocess.Popen[bytes]) -> None:
    with _driver("time.sleep(300)") as (driver, _, started):
        assert len(started) == 3
        reaping = psutil.Process(driver.pid).children()
        driver.kill()
        driver.wait()
        assert _left([*started, *reaping]) == []
    assert bystander.poll() is None


def test_a_driver_that_ends_in_order_is_left_to_end_its_own() -> None:
    with _driver("pass") as (driver, _, started):
        assert driver.stdout is not None
        assert driver.stdout.readline() == "ended\n"
        assert driver.wait(timeout=30) == 0
        assert all(process.is_running() for process in started)


def test_the_run_is_ended_by_its_mark_alone(bystander: subprocess.Popen[bytes]) -> None:
    with _driver("sys.stdin.read()") as (driver, mark, started):
        # What the driver started, the reaper among it; the driver does not bear its own mark.
        assert end_run(mark) == len(started) + 1
        assert _left(started) == []
        assert driver.poll() is None
        assert end_run(mark) == 0
    assert bystander.poll() is None


def test_without_a_mark_nobody_is_ended(bystander: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MARK, raising=False)
    assert end_run() == 0
    assert bystander.poll() is None
