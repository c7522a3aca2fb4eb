"""The example package, installed as a user installs it, and planned by the command."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(find_spec("hatchling") is None, reason="hatchling is not installed")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables under which the example is installed: in a folder of its own, without a network."""
    target = tmp_path_factory.mktemp("installed")
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(ROOT / "examples/blobs")]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    cache = tmp_path_factory.mktemp("cache")
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{target}", "RAYBENCH_CACHE": str(cache), "NO_COLOR": "1"}


def run(environment: dict[str, str], folder: Path, *arguments: str) -> str:
    """What a command prints, which must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "raybench", *arguments],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_sweep_is_found_and_planned(environment: dict[str, str], tmp_path: Path) -> None:
    assert "Does a small teacher help a student that sees patches one by one?" in run(
        environment, tmp_path, "list", "sweeps"
    )
    assert "blobs  (package raybench-blobs 1.0)" in run(environment, tmp_path, "list", "datasets")
    said = run(environment, tmp_path, "sweep", "blobs", "--preset", "quick", "--dry-run")
    assert "blobs (made), 12x12 · student patch_mlp 2 k, teacher resnet8 75 k parameters" in said
    assert "2 cells (alpha) x 2 settings of lr x 3 seeds = 12 trials, 0 settled" in said


@pytest.mark.slow
def test_its_sweep_runs(environment: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    said = run(environment, tmp_path, "sweep", "blobs", "--preset", "quick")
    assert "12/12 complete" in said
    assert "alpha=0.5" in said
