"""Sweeps small enough for a test, run as a user runs them: in a process of their own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import psutil
import pytest

REPOSITORY = Path(__file__).parents[2]

TINY = """\
# Does it all hang together?
base:
  dataset: {name: digits, train_size: 60, val_size: 100, image_size: 8, augment: [crop1]}
  model: {name: resnet8}
  distillation:
    type: soft
    alpha: 0.5
    tau: 2.0
    teacher: {name: vit_micro_patch2_8, epochs: 1, batch_size: 64, optimizer: {name: adamw, lr: 0.002}}
  optimizer: {lr: 0.1}
  schedule: {epochs: 4}
  batch_size: 30
factors:
  distillation.alpha: [0.0, 0.5]
tune: {space: {optimizer.lr: [0.05, 0.1]}}
seeds: [0, 1]
presets:
  quick: {}
"""

TIMES = ("train_samples_per_sec", "attempt")
"""Columns of epochs that equal sweeps need not share, beside all that end in `_time`."""
FINALS = ["trial_id", "status", "epochs", "best_epoch", "eval_loss", "eval_top1", "test_loss", "test_top1", "test_top5"]


@dataclass(frozen=True)
class Sweeps:
    """Runs the tiny sweep and reads what it left."""

    file: Path
    environment: dict[str, str]
    folder: Path

    @property
    def home(self) -> Path:
        """The home folder of the run that is looked at."""
        return self.folder / "home"

    def command(self, results: str, *arguments: str) -> list[str]:
        """The command line."""
        start = [sys.executable, "-m", "raybench.sweep", str(self.file), "--preset", "quick"]
        return [*start, "--results", str(self.folder / results), *arguments]

    def run(self, results: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run to the end, away from the repository."""
        return subprocess.run(
            self.command(results, *arguments),
            env=self.environment | variables,
            cwd=self.folder,
            text=True,
            capture_output=True,
            timeout=300,
            check=False,
        )

    def start(self, results: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start, and let it run."""
        return subprocess.Popen(
            self.command(results, *arguments),
            env=self.environment | variables,
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def workers(self, driver: int) -> list[psutil.Process]:
        """The processes of a driver that train."""
        return self.descendants(driver, lambda command: "ResourceTrainable" in command)

    def descendants(self, driver: int, which: Callable[[str], bool]) -> list[psutil.Process]:
        """The processes below a driver whose command line is one of those."""
        found = []
        for process in psutil.Process(driver).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if which(" ".join(process.cmdline())):
                    found.append(process)
        return found

    def metrics(self, results: str) -> pl.DataFrame:
        """Every number of the epochs table that is not a time."""
        table = pl.read_parquet(self.folder / results / "tiny" / "epochs" / "*.parquet")
        return table.drop([name for name in table.columns if name in TIMES or name.endswith("_time")]).sort(
            "trial_id", "epoch"
        )

    def finals(self, results: str) -> pl.DataFrame:
        """What the trials table says of each trial's end."""
        return pl.read_parquet(self.folder / results / "tiny" / "trials" / "*.parquet").select(FINALS).sort("trial_id")


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Sweeps:
    """The tiny sweep with a folder and a cache for the tests of one file."""
    folder = tmp_path_factory.mktemp("sweeps")
    file = folder / "tiny.yaml"
    file.write_text(TINY)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "RAYBENCH_", "TUNE_"))}
    environment = kept | {"RAYBENCH_CACHE": str(folder / "cache"), "PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1"}
    return Sweeps(file, environment, folder)


@pytest.fixture(scope="module")
def whole(sweeps: Sweeps) -> subprocess.CompletedProcess[str]:
    """One uninterrupted run, with a home folder of its own, that several tests look at."""
    sweeps.home.mkdir()
    return sweeps.run("whole", HOME=str(sweeps.home), XDG_CACHE_HOME=str(sweeps.home / ".cache"))
