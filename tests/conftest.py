"""Fixtures every test may use."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where `benchmarks/scenarios.py` wants to read how each scenario fared."""
    parser.addoption("--scenario-report", metavar="FILE", help="append a JSON line for each test of a scenario")
    parser.addoption("--scenarios", metavar="N,N…", help="only the tests of these scenarios")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of other scenarios than those named."""
    if not (named := config.getoption("--scenarios")):
        return
    wanted = {int(number) for number in named.split(",")}
    chosen = [item for item in items if any(wanted & set(mark.args) for mark in item.iter_markers("scenario"))]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write down what became of a test marked `scenario(number)`: set-up, test and tear-down, a line each."""
    report: pytest.TestReport = yield
    file: str | None = item.config.getoption("--scenario-report")
    numbers = [number for mark in item.iter_markers("scenario") for number in mark.args]
    if file and numbers:
        reason = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
        line: dict[str, Any] = {
            "scenarios": numbers,
            "test": item.nodeid,
            "phase": call.when,
            "outcome": report.outcome,
            "seconds": report.duration,
            "reason": reason,
        }
        with Path(file).open("a") as out:
            out.write(json.dumps(line) + "\n")
    return report


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


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a real file system of its own, with the options of a tmpfs (`size=64k`, `ro,size=64k`); or a skip."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no right to mount a tmpfs here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)
