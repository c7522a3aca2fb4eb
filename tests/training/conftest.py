"""Trials small enough for a test, and processes of their own in which to run them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from raybench.config.trial import TrialConfig
from raybench.results.schema import Status
from raybench.results.store import Store
from raybench.training.recorder import Setup
from raybench.training.trial import run_trial

REPOSITORY = Path(__file__).parents[2]
TIMES = {
    "attempt",
    "train_samples_per_sec",
    "infer_samples_per_sec",
    "peak_memory",
    "device_hours",
    "energy",
    "checkpoint_mib",
    "started",
    "ended",
    "failures",
}
"""Columns that two equal trials need not share, beside all that end in `_time`."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Threads only hinder models this small."""
    torch.set_num_threads(1)


@pytest.fixture
def own_cache(tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No teachers of other tests, but the decoded data of all of them."""
    (cache_folder / "data").mkdir(exist_ok=True)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "data").symlink_to(cache_folder / "data")
    monkeypatch.setenv("RAYBENCH_CACHE", str(tmp_path / "cache"))


class Digits:
    """Makes trials on the digits, and reads what they left."""

    def trial(self, **changes: Any) -> TrialConfig:
        """ResNet-8 on 60 digits for 3 epochs; dotted keys with __ for the dot."""
        content: dict[str, Any] = {
            "dataset": {"name": "digits", "train_size": 60, "val_size": 100, "augment": ["crop1"], "views": 4},
            "model": {"name": "resnet8"},
            "optimizer": {"lr": 0.05, "weight_decay": 0.0005},
            "schedule": {"epochs": 3},
            "batch_size": 32,
        }
        for key, value in changes.items():
            *path, last = key.split("__")
            place = content
            for part in path:
                place = place.setdefault(part, {})
            place[last] = value
        return TrialConfig.model_validate(content)

    def distilled(self, **changes: Any) -> TrialConfig:
        """The same with an untrained teacher."""
        teacher = {"name": "resnet8", "prepare": "none", "seed": 5}
        given: dict[str, Any] = {"distillation": {"type": "soft", "alpha": 0.5, "tau": 2.0, "teacher": teacher}}
        return self.trial(**(given | changes))

    def with_dropout(self, **changes: Any) -> TrialConfig:
        """A transformer whose training draws random numbers in every step; without batch normalisation."""
        return self.trial(model={"name": "vit_micro_patch2_8", "options": {"drop_path_rate": 0.3}}, **changes)

    def setup(self, folder: Path, **changes: Any) -> Setup:
        """Where a trial runs. However slow the machine, no checkpoint is due but where a test asks for it."""
        given: dict[str, Any] = {"env": {"python": "3", "git_commit": "abc"}, "checkpoint_every_s": 3600.0}
        return Setup(sweep="a sweep", preset="quick", results=folder, **(given | changes))

    def row(self, folder: Path, trial: TrialConfig) -> dict[str, Any]:
        """The trial's row."""
        (found,) = Store(folder).trials().filter(pl.col("trial_id") == trial.trial_id).to_dicts()
        return found

    def numbers(self, folder: Path, trial: TrialConfig) -> list[dict[str, Any]]:
        """The epochs and the final row without what depends on time."""
        rows = [*Store(folder).epochs([trial.trial_id]).to_dicts(), self.row(folder, trial)]
        return [
            {key: value for key, value in each.items() if key not in TIMES and not key.endswith("_time")}
            for each in rows
        ]


@pytest.fixture(scope="session")
def digits() -> Digits:
    """The maker of small trials."""
    return Digits()


@pytest.fixture(scope="session")
def finished(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Callable[[TrialConfig], Path]:
    """A results folder in which a trial was run alone and undisturbed, once for all tests."""
    done: dict[str, Path] = {}

    def run(trial: TrialConfig) -> Path:
        if trial.trial_id not in done:
            done[trial.trial_id] = tmp_path_factory.mktemp("finished")
            outcome = run_trial(trial, digits.setup(done[trial.trial_id]), "a cell")
            assert outcome.status == Status.COMPLETE, outcome.reason
        return done[trial.trial_id]

    return run


class Processes:
    """Runs Python in processes of their own, which a test may limit, hang and kill."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[str]] = []

    def start(self, script: str, *arguments: Any) -> subprocess.Popen[str]:
        """Start a script; `arguments` are its sys.argv[1:]."""
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def run(self, script: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
        """Run a script to its end."""
        process = self.start(script, *arguments)
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture
def processes() -> Iterator[Processes]:
    """Processes that end with the test."""
    made = Processes()
    yield made
    for process in made.started:
        process.kill()
        process.communicate()


@pytest.fixture
def small_disk(disk: Callable[[str], Path]) -> Path:
    """A file system of 1 MiB."""
    return disk("size=1m")
