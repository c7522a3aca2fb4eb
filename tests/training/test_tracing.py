"""A trace of a few steps: there, readable, and without a trace in the numbers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from raybench.config.trial import TrialConfig
from raybench.training.tracing import TRACED
from raybench.training.trial import run_trial

if TYPE_CHECKING:
    from conftest import Digits  # type: ignore[import-not-found]


def events(folder: Path) -> list[dict[str, Any]]:
    (path,) = (folder / "profiles").iterdir()
    assert path.name.endswith(".pt.trace.json.gz")
    found: list[dict[str, Any]] = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return found


@pytest.mark.parametrize(("batch_size", "traced"), [(6, TRACED), (15, TRACED), (60, 0)])
def test_a_few_steps_with_their_phases(
    digits: Digits,
    tmp_path: Path,
    finished: Callable[[TrialConfig], Path],
    batch_size: int,
    traced: int,
) -> None:
    trial = digits.distilled(batch_size=batch_size)  # 10, 4 or 1 step an epoch, 3 epochs
    run_trial(trial, digits.setup(tmp_path, profile=True), "a cell")
    assert digits.numbers(tmp_path, trial) == digits.numbers(finished(trial), trial)
    names = [event.get("name") for event in events(tmp_path)]
    assert names.count("optimizer") == traced
    # Before each step, and once more where a teacher was asked amidst one.
    assert names.count("forward_backward") == 2 * traced
    assert names.count("teacher") >= traced
    assert any(str(name).startswith("aten::") for name in names)


def test_nothing_is_traced_unless_it_is_asked_for(digits: Digits, finished: Callable[[TrialConfig], Path]) -> None:
    assert not (finished(digits.trial()) / "profiles").exists()
