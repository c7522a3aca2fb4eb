"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for each test process, so that no test sees or leaves anything in the user's."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    folder.mkdir(exist_ok=True)
    monkeypatch.setenv("RAYBENCH_CACHE", str(folder))
    return folder


@pytest.fixture
def data_root() -> Path:
    """The folder of real data, or a skip that says how to provide it."""
    named = os.environ.get("RAYBENCH_DATA")
    if not named or not Path(named).is_dir():
        pytest.skip(
            "real data not here: set RAYBENCH_DATA to the folder that holds cifar10_test.parquet and its siblings"
        )
    return Path(named)
