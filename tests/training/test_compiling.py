"""torch.compile: the same answers, for one batch size, and a fallback that is said."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from raybench.results.schema import Status
from raybench.training.compiling import Compiled
from raybench.training.trial import run_trial

if TYPE_CHECKING:
    from conftest import Digits  # type: ignore[import-not-found]


def double(batch: Tensor) -> Tensor:
    return batch * 2


def test_a_compiler_that_fails_costs_nothing_but_its_speed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> object:
        def fail(batch: Tensor) -> Tensor:
            raise RuntimeError(f"no compiler for {len(batch)}\nand more")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    faster = Compiled(double, 3)
    for count in (3, 3, 5):
        assert torch.equal(faster(torch.ones(count)), torch.full((count,), 2.0))
    assert faster.fault == "RuntimeError: no compiler for 3"
    assert caplog.text.count("the model runs as it is") == 1


def test_a_lack_of_memory_is_no_fault_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: full)
    faster = Compiled(double, 3)
    with pytest.raises(torch.OutOfMemoryError):
        faster(torch.ones(3))
    assert faster.fault is None


def test_only_batches_of_its_size_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def spied(*_: object, **__: object) -> object:
        def run(batch: Tensor) -> Tensor:
            seen.append(len(batch))
            return double(batch)

        return run

    monkeypatch.setattr(torch, "compile", spied)
    faster = Compiled(double, 4)
    for count in (4, 2, 4, 5):
        faster(torch.ones(count))
    assert seen == [4, 4]
    assert faster.calls == 2


def test_the_row_says_that_no_batch_had_the_size(digits: Digits, tmp_path: Path) -> None:
    trial = digits.trial(compile=True, dataset__train_size=50, batch_size=64)
    assert run_trial(trial, digits.setup(tmp_path)).status == Status.COMPLETE
    said = digits.row(tmp_path, trial)["env/compiled"]
    assert said == "no: there was no batch of 64 images at once"


def test_the_row_says_that_it_fell_back(digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> object:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", broken)
    trial = digits.trial(compile=True)
    assert run_trial(trial, digits.setup(tmp_path)).status == Status.COMPLETE
    assert digits.row(tmp_path, trial)["env/compiled"] == "no: RuntimeError: no compiler here"


@pytest.mark.slow
def test_a_compiled_trial_learns_what_a_plain_one_does(digits: Digits, tmp_path: Path) -> None:
    plain, compiled = digits.distilled(batch_size=30), digits.distilled(batch_size=30, compile=True)
    assert plain.trial_id != compiled.trial_id
    for trial in (plain, compiled):
        run_trial(trial, digits.setup(tmp_path))
    a, b = digits.row(tmp_path, plain), digits.row(tmp_path, compiled)
    assert (a["env/compiled"], b["env/compiled"]) == (None, "yes")
    # Fused sums round otherwise (1e-6), which a few steps of a network with batch normalisation enlarge.
    assert b["eval_loss"] == pytest.approx(a["eval_loss"], rel=1e-2)
