"""Trials that are run again, by a driver that is killed on the way, and teachers whose preparation is."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import psutil
import pytest
import torch
from polars.testing import assert_frame_equal
from safetensors.torch import load_file

if TYPE_CHECKING:
    from conftest import Sweeps  # type: ignore[import-not-found]

LONG = ("--seeds", "2", "distillation.alpha=0.0", "schedule.epochs=150")
TEACHER = "distillation.teacher.epochs=25"
"""A teacher of some seconds."""


def _wait(driver: subprocess.Popen[str], until: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and driver.poll() is None:
        if until():
            return
        time.sleep(0.02)
    raise AssertionError(f"what was waited for did not come; the driver's exit code: {driver.poll()}")


@pytest.mark.scenario(3)
@pytest.mark.slow
def test_a_killed_driver_goes_on_with_what_it_was_asked_to_run_again(sweeps: Sweeps) -> None:
    """The same command without --rerun, since who starts it anew after a power cut need not remember."""
    assert sweeps.run("again", *LONG).returncode == 0
    before, metrics = sweeps.finals("again"), sweeps.metrics("again")
    folder = sweeps.folder / "again" / "tiny"
    chosen = before["trial_id"].to_list()[:2]
    driver = sweeps.start("again", *LONG, "--rerun", chosen[0], "--rerun", chosen[1])
    _wait(driver, lambda: list((folder / "epochs").glob("*-a2.parquet")))
    ours = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
    driver.kill()
    driver.communicate()
    _, alive = psutil.wait_procs(ours, timeout=30)
    assert alive == []
    assert set(json.loads((folder / "reopened.json").read_text())) == set(chosen)
    on = sweeps.run("again", *LONG)
    assert on.returncode == 0, on.stdout + on.stderr
    trials = pl.read_parquet(folder / "trials" / "*.parquet")
    assert set(trials.filter(pl.col("attempt") > 1)["trial_id"]) == set(chosen)
    assert_frame_equal(sweeps.finals("again"), before, check_exact=True)
    assert_frame_equal(sweeps.metrics("again"), metrics, check_exact=True)
    assert not (folder / "reopened.json").exists()
    assert "nothing to do" in sweeps.run("again", *LONG).stdout


@pytest.fixture(scope="module")
def undisturbed(sweeps: Sweeps) -> Path:
    """The folder of a cache with a teacher that was prepared in one go, for the sweep `undisturbed`."""
    cache: Path = sweeps.folder / "undisturbed-cache"
    whole = sweeps.run("undisturbed", TEACHER, RAYBENCH_CACHE=str(cache))
    assert whole.returncode == 0, whole.stdout + whole.stderr
    return cache


@pytest.mark.scenario(1, 3)
@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker", "driver"])
def test_a_kill_while_the_teacher_is_prepared(sweeps: Sweeps, undisturbed: Path, tmp_path: Path, victim: str) -> None:
    """The preparation goes on from its checkpoint, here or in the next run, and ends in the same teacher."""
    name, cache = f"teacher-{victim}", tmp_path / "cache"
    arguments = (TEACHER, "checkpoints.every_epochs=2")
    driver = sweeps.start(name, *arguments, RAYBENCH_CACHE=str(cache))
    _wait(driver, lambda: list(cache.glob("teachers/*/checkpoints/*.pt")))
    assert not list(cache.glob("teachers/*/teacher.json"))
    ours = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
    if victim == "driver":
        driver.kill()
        driver.communicate()
        _, alive = psutil.wait_procs(ours, timeout=30)
        assert alive == []
        again = sweeps.run(name, *arguments, RAYBENCH_CACHE=str(cache))
        code, output = again.returncode, again.stdout + again.stderr
    else:
        (preparing,) = sweeps.descendants(driver.pid, lambda command: "_prepare_remotely" in command)
        preparing.send_signal(signal.SIGKILL)
        output = driver.communicate(timeout=240)[0]
        code = driver.returncode
    assert code == 0, output
    assert_frame_equal(sweeps.metrics(name), sweeps.metrics("undisturbed"), check_exact=True)
    assert_frame_equal(sweeps.finals(name), sweeps.finals("undisturbed"), check_exact=True)
    (prepared,) = cache.glob("teachers/*/weights.safetensors")
    (whole,) = undisturbed.glob("teachers/*/weights.safetensors")
    # Tensors, not files: the order of what stands in a file's header is another each time.
    after, before = load_file(prepared), load_file(whole)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not list(cache.glob("teachers/*/checkpoints"))
