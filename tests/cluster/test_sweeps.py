"""Whole sweeps on a real Ray, as a user runs them, and one that is stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import polars as pl
import psutil
import pytest
import yaml
from polars.testing import assert_frame_equal

if TYPE_CHECKING:
    from conftest import Sweeps  # type: ignore[import-not-found]


def test_it_completes_and_prints_a_table(whole: subprocess.CompletedProcess[str], sweeps: Sweeps) -> None:
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert "2 cells (alpha) x 2 settings of lr x 2 seeds = 8 trials, 0 settled" in whole.stdout
    assert "student alone" in whole.stdout
    assert whole.stdout.count(" complete ") >= 8
    assert set(sweeps.finals("whole")["status"]) == {"complete"}
    assert sweeps.metrics("whole").height == 8 * 4


def test_nothing_of_the_engine_is_heard(whole: subprocess.CompletedProcess[str]) -> None:
    assert whole.stderr == ""
    assert "ray" not in whole.stdout.replace("raybench", "").lower()


def test_what_it_leaves(whole: subprocess.CompletedProcess[str], sweeps: Sweeps) -> None:
    assert whole.returncode == 0
    folder = sweeps.folder / "whole" / "tiny"
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    expected = {
        "trials",
        "epochs",
        "tensorboard",
        "sweep.yaml",
        "manifest.json",
        "comparison.md",
        "comparison.png",
        "curves.png",
        "predictions",
    }
    assert expected <= names
    assert [path.suffix for path in (folder / "trials").iterdir()] == [".parquet"]
    assert len(list((folder / "epochs").iterdir())) == 1
    resolved = yaml.safe_load((folder / "sweep.yaml").read_text())
    assert resolved["preset"] == "quick"
    assert resolved["fingerprints"]["digits"]
    (entry,) = json.loads((folder / "manifest.json").read_text())["runs"]
    assert entry["exit_code"] == 0
    assert entry["trials"] == {"complete": 8}
    truth = entry["estimate"]
    assert truth["ratio"] == pytest.approx(truth["took_s"] / truth["wall_s"])
    assert truth["took_device_hours"] > 0
    assert len(truth["left"]) == 8
    assert len(list((folder / "predictions").iterdir())) == 8
    # A run a trial, and one for the comparison.
    assert len(list((folder / "tensorboard").iterdir())) == 9


def test_it_writes_nowhere_else(whole: subprocess.CompletedProcess[str], sweeps: Sweeps) -> None:
    """Its home folder stays empty, since cache and results were named."""
    assert whole.returncode == 0
    assert list(sweeps.home.rglob("*")) == []


@pytest.mark.scenario(4)
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),  # of a terminal that is closed
    ],
)
def test_a_signal_stops_it_and_the_same_command_goes_on(
    sweeps: Sweeps, whole: subprocess.CompletedProcess[str], number: signal.Signals, code: int
) -> None:
    name = f"stopped-{code}"
    driver = sweeps.start(name)
    assert driver.stdout is not None
    lines: list[str] = []
    for line in driver.stdout:
        lines.append(line)
        if " complete " in line:
            break
    started = psutil.Process(driver.pid).children(recursive=True)
    begun = time.monotonic()
    driver.send_signal(number)
    rest = driver.communicate(timeout=30)[0]
    assert driver.returncode == code, "".join(lines) + rest
    # Measured at 2 s on a quiet machine; the bound is that of the promise.
    assert time.monotonic() - begun < 10
    assert "stopping: " in rest
    assert f"Go on with:  python -m raybench.sweep {sweeps.file}" in rest
    _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == []
    again = sweeps.run(name, "--max-concurrent", "1")
    assert again.returncode == 0, again.stdout + again.stderr
    assert ", 0 settled" not in again.stdout
    assert whole.returncode == 0
    # On two workers and then on one, which serves all the trials that are left: the bits of a run on two.
    assert_frame_equal(sweeps.metrics(name), sweeps.metrics("whole"), check_exact=True)
    assert_frame_equal(sweeps.finals(name), sweeps.finals("whole"), check_exact=True)


def test_the_second_time_there_is_nothing_to_do(whole: subprocess.CompletedProcess[str], sweeps: Sweeps) -> None:
    before = sweeps.finals("whole")
    again = sweeps.run("whole")
    assert again.returncode == 0, again.stderr
    assert "nothing to do: 8 of 8 trials settled (8 complete)" in again.stdout
    table = whole.stdout[whole.stdout.index("tiny, quick") :]
    assert again.stdout.endswith(table)
    assert_frame_equal(sweeps.finals("whole"), before, check_exact=True)


def test_a_finished_sweep_is_extended_and_what_diverges_is_told_and_never_best(
    whole: subprocess.CompletedProcess[str], sweeps: Sweeps
) -> None:
    assert whole.returncode == 0
    rates = "optimizer.lr=[0.05, 0.1, 1e30]"
    more = sweeps.run("whole", rates, "--seeds", "1")
    assert more.returncode == 1, more.stdout + more.stderr
    assert "6 trials, 4 settled" in more.stdout
    finals = sweeps.finals("whole")
    assert sorted(finals["status"]) == ["complete"] * 8 + ["diverged"] * 2
    trials = pl.read_parquet(sweeps.folder / "whole" / "tiny" / "trials" / "*.parquet")
    assert trials["attempt"].to_list() == [1] * 10
    assert more.stdout.count("diverged: ") == 2
    assert "loss is" in more.stdout
    table = (sweeps.folder / "whole" / "tiny" / "comparison.md").read_text()
    assert table.count("1 diverged of 3") == 2
    assert "1e+30" not in table
    again = sweeps.run("whole", rates, "--seeds", "1")
    assert again.returncode == 1
    assert "nothing to do" in again.stdout


@pytest.mark.slow
def test_trials_are_run_again_when_asked(sweeps: Sweeps) -> None:
    assert sweeps.run("again", "--seeds", "1").returncode == 0
    before = sweeps.finals("again")
    chosen = before["trial_id"][0]
    again = sweeps.run("again", "--seeds", "1", "--rerun", chosen)
    assert again.returncode == 0, again.stdout + again.stderr
    trials = pl.read_parquet(sweeps.folder / "again" / "tiny" / "trials" / "*.parquet")
    assert trials.filter(pl.col("attempt") == 2)["trial_id"].to_list() == [chosen]
    assert_frame_equal(sweeps.finals("again"), before, check_exact=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "pruned"),
    [
        (("scheduler.name=halving", "scheduler.reduction_factor=2"), 4),
        (("scheduler.name=asha", "scheduler.reduction_factor=2"), None),
    ],
)
def test_schedulers_stop_settings_within_their_cell(
    sweeps: Sweeps, arguments: tuple[str, ...], pruned: int | None
) -> None:
    name = arguments[0].partition("=")[2]
    result = sweeps.run(name, *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    trials = pl.read_parquet(sweeps.folder / name / "tiny" / "trials" / "*.parquet")
    assert trials.height == 8
    assert set(trials["status"]) <= {"complete", "pruned"}
    if pruned is not None:
        assert (trials["status"] == "pruned").sum() == pruned
    # Whole settings: both seeds of a setting share their fate, and each cell keeps at least one setting.
    fates = trials.group_by("cell", "setting_id").agg(pl.col("status").n_unique().alias("fates"))
    assert fates["fates"].to_list() == [1] * 4
    assert trials.filter(pl.col("status") == "complete")["cell"].n_unique() == 2
    assert trials.filter(pl.col("status") == "pruned")["reason"].str.contains(name).all()
    again = sweeps.run(name, *arguments)
    assert again.returncode == 0
    assert "nothing to do" in again.stdout


@pytest.mark.slow
def test_tpe_asks_within_each_cell_and_resumes(sweeps: Sweeps) -> None:
    space = ("tune.algorithm=tpe", "optimizer.lr={loguniform: [0.01, 0.3]}", "--seeds", "1")
    first = sweeps.run("tpe", *space, "--num-samples", "2")
    assert first.returncode == 0, first.stdout + first.stderr
    rates = pl.read_parquet(sweeps.folder / "tpe" / "tiny" / "trials" / "*.parquet")["config/optimizer.lr"].to_list()
    assert len(rates) == 4
    more = sweeps.run("tpe", *space, "--num-samples", "3")
    assert more.returncode == 0, more.stdout + more.stderr
    assert "6 trials, 4 settled" in more.stdout
    trials = pl.read_parquet(sweeps.folder / "tpe" / "tiny" / "trials" / "*.parquet")
    assert trials.height == 6
    assert set(rates) < set(trials["config/optimizer.lr"].to_list())


@pytest.mark.slow
def test_a_time_budget_ends_it_in_good_order(sweeps: Sweeps) -> None:
    result = sweeps.run("budget", "--time-budget", "1s")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "time budget spent" in result.stdout
    assert "Go on with:" in result.stdout
