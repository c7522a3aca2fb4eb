"""Out of memory: once more with half the images in a forward pass, and then no more."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
import pytest
import torch
from torch import Tensor

from raybench.config.trial import TrialConfig
from raybench.results.schema import Status
from raybench.results.store import Store
from raybench.training import classifying
from raybench.training.batches import Batch
from raybench.training.device import out_of_memory
from raybench.training.tasks import Classification, Parts
from raybench.training.trial import run_trial

if TYPE_CHECKING:
    from conftest import Digits, Processes  # type: ignore[import-not-found]

Cached = Callable[[TrialConfig], Path]

LIMITED = """
    import resource, sys
    from pathlib import Path
    from raybench.config.trial import TrialConfig
    from raybench.training.recorder import Setup
    from raybench.training.trial import run_trial

    def run(folder, trial):
        setup = Setup(sweep="a sweep", preset="quick", results=folder, env={"python": "3"})
        return run_trial(TrialConfig.model_validate_json(trial), setup, "a cell").status

    folder, small, large, room_mib = Path(sys.argv[1]), *sys.argv[2:]
    print(run(folder / "small", small))
    # Everything is imported and warm: what comes on top now is the large trial's.
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + int(room_mib) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    print(run(folder / "large", large))
"""


@pytest.mark.scenario(8)
def test_a_batch_that_does_not_fit_is_halved_and_learns_the_same(
    digits: Digits, processes: Processes, finished: Cached, tmp_path: Path
) -> None:
    # 1,000 images at once take 640 MiB more than 10, half of them 330 MiB.
    sizes = {"dataset__train_size": 1000, "schedule__epochs": 2, "model__name": "vit_micro_patch2_8"}
    small, large = (digits.trial(**sizes, model__image_size=12, batch_size=size) for size in (10, 1000))
    ended = processes.run(LIMITED, tmp_path, small.model_dump_json(), large.model_dump_json(), 480)
    assert ended.stdout.split() == ["complete", "complete"], ended.stdout + ended.stderr
    found = digits.row(tmp_path / "large", large)
    assert (found["attempt"], found["failures"], found["micro_batch"]) == (2, 1, 500)
    assert found["deviation"] is None
    assert "again with 500 images at a time" in ended.stderr
    # The same sums of 32-bit products in another order, over two steps.
    alone, parted = (Store(folder).epochs() for folder in (finished(large), tmp_path / "large"))
    for name in ("train_loss", "eval_loss", "part/ce"):
        assert parted[name].to_list() == pytest.approx(alone[name].to_list(), rel=1e-3)


@pytest.fixture
def greedy(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Makes training really ask for a pebibyte where a forward pass has more images than so many, after some steps."""
    plain = Classification.step

    def make(most: int, after: int = 0) -> None:
        steps = 0

        def step(self: Classification, batch: Batch) -> Parts:
            nonlocal steps
            steps += 1
            if len(batch.labels) > most and steps > after:
                torch.empty(2**50, dtype=torch.uint8)
            return plain(self, batch)

        monkeypatch.setattr(Classification, "step", step)

    return make


@pytest.mark.scenario(8)
def test_it_goes_on_from_the_last_checkpoint_and_the_others_live(
    digits: Digits, finished: Cached, greedy: Callable[..., None], tmp_path: Path
) -> None:
    trial = digits.trial(model__name="vit_micro_patch2_8")
    alone = Store(finished(trial)).epochs()
    # Two steps an epoch: memory runs out in the third epoch.
    greedy(16, after=4)
    outcome = run_trial(trial, digits.setup(tmp_path, checkpoint_every_s=0), "a cell")
    assert (outcome.status, outcome.epochs) == (Status.COMPLETE, 3)
    found = digits.row(tmp_path, trial)
    assert (found["attempt"], found["failures"], found["micro_batch"]) == (2, 1, 16)
    assert Store(tmp_path).epochs()["epoch"].to_list() == [1, 2, 3]
    ours = Store(tmp_path).epochs()
    # The first two epochs were not trained again, in parts or otherwise.
    for name in ("train_loss", "eval_loss"):
        assert ours[name][:2].to_list() == alone[name][:2].to_list()
        assert ours[name][2] == pytest.approx(alone[name][2], rel=1e-4)
    greedy(64)
    other = digits.trial()
    assert run_trial(other, digits.setup(tmp_path), "a cell").status == Status.COMPLETE
    assert digits.row(tmp_path, other)["micro_batch"] is None


@pytest.mark.scenario(8)
def test_batch_normalisation_over_less_is_marked(digits: Digits, greedy: Callable[..., None], tmp_path: Path) -> None:
    greedy(16)
    trial = digits.trial()
    assert run_trial(trial, digits.setup(tmp_path)).status == Status.COMPLETE
    found = digits.row(tmp_path, trial)
    assert found["micro_batch"] == 16
    assert found["deviation"] == "batch normalisation over 16 instead of 32 images"


@pytest.mark.scenario(8)
def test_once_is_all(digits: Digits, greedy: Callable[..., None], tmp_path: Path) -> None:
    greedy(8)
    trial = digits.trial()
    outcome = run_trial(trial, digits.setup(tmp_path))
    expected = "out of memory: 1073741824 MiB more were asked for, with 16 images in a forward pass"
    assert (outcome.status, outcome.reason) == (Status.FAILED, expected)
    found = digits.row(tmp_path, trial)
    assert (found["reason"], found["attempt"], found["failures"]) == (expected, 2, 1)
    assert all("Traceback" not in log.read_text() for log in (tmp_path / "logs").iterdir())
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.scenario(8)
def test_what_a_broken_backward_pass_kept_is_there_for_the_next_trial(
    digits: Digits, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain, kept = Classification.step, []

    def without_memory(_: Tensor) -> None:
        torch.empty(2**50, dtype=torch.uint8)

    def step(self: Classification, batch: Batch) -> Parts:
        parts = plain(self, batch)
        weight = next(self.module.parameters())
        large = torch.ones_like(weight)
        kept.append(ref(large))
        waiting = weight * large  # made first, so that its part of the backward pass waits for the other's
        broken = weight * 2
        broken.register_hook(without_memory)
        return {**parts, "loss": parts["loss"] + broken.sum() + waiting.sum()}

    monkeypatch.setattr(Classification, "step", step)
    assert run_trial(digits.trial(), digits.setup(tmp_path)).status == Status.FAILED
    assert [large() for large in kept] == [None, None]


HALVED_AND_KILLED = """
    import os, signal, sys
    from pathlib import Path
    import torch
    from raybench.config.trial import TrialConfig
    from raybench.training.recorder import Setup
    from raybench.training.tasks import Classification
    from raybench.training.trial import run_trial

    folder, trial, last = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    plain, parts = Classification.step, 0

    def step(self, batch):
        global parts
        if len(batch.labels) > 16:
            torch.empty(2**50, dtype=torch.uint8)
        parts += 1
        if parts == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, batch)

    Classification.step = step
    setup = Setup(sweep="a sweep", preset="quick", results=folder, env={"python": "3"}, checkpoint_every_s=0)
    run_trial(TrialConfig.model_validate_json(trial), setup, "a cell")
"""


@pytest.mark.slow
@pytest.mark.scenario(1)
@pytest.mark.scenario(8)
@pytest.mark.parametrize("last", [1, 7])
def test_killed_after_it_was_halved_it_goes_on_in_parts_to_the_same_bits(
    digits: Digits, processes: Processes, greedy: Callable[..., None], tmp_path: Path, last: int
) -> None:
    # Four parts an epoch: killed in the first step of all, or in the second epoch.
    trial = digits.with_dropout()
    killed = processes.run(HALVED_AND_KILLED, tmp_path / "killed", trial.model_dump_json(), last)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    # There is memory enough now, and yet it goes on as it was.
    for name in ("killed", "alone"):
        if name == "alone":
            greedy(16)
        assert run_trial(trial, digits.setup(tmp_path / name), "a cell").status == Status.COMPLETE
    assert digits.numbers(tmp_path / "killed", trial) == digits.numbers(tmp_path / "alone", trial)
    found = digits.row(tmp_path / "killed", trial)
    assert (found["micro_batch"], found["attempt"], found["failures"]) == (16, 3, 2)


@pytest.mark.gpu
@pytest.mark.scenario(8)
def test_a_gpus_memory_is_limited_and_the_batch_halved(digits: Digits, tmp_path: Path) -> None:
    trial = digits.trial(
        dataset__train_size=1000,
        model={"name": "vit_micro_patch2_8", "image_size": 24},
        batch_size=1000,
        precision="fp32",
    )
    assert run_trial(trial, digits.setup(tmp_path / "whole", gpu=1)).status == Status.COMPLETE
    peak = digits.row(tmp_path / "whole", trial)["peak_memory"]
    # What is not of the batch is a few MiB, so half of it takes half the memory.
    limited = digits.setup(tmp_path / "limited", gpu=1, memory_mib=0.75 * peak)
    assert run_trial(trial, limited).status == Status.COMPLETE
    assert digits.row(tmp_path / "limited", trial)["micro_batch"] == 500
    # The limit ends with its trial.
    assert run_trial(trial, digits.setup(tmp_path / "again", gpu=1)).status == Status.COMPLETE
    assert digits.row(tmp_path / "again", trial)["micro_batch"] is None


def test_where_there_is_nothing_to_halve_it_fails_at_once(
    digits: Digits, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def hungry(*_: Any) -> None:
        np.ones(2**50)

    monkeypatch.setattr(classifying, "gather", hungry)
    trial = digits.trial()
    outcome = run_trial(trial, digits.setup(tmp_path))
    assert (outcome.status, outcome.reason) == (Status.FAILED, "out of memory: 8.00 PiB more were asked for")
    assert digits.row(tmp_path, trial)["attempt"] == 1


def test_what_is_lack_of_memory_and_what_is_not() -> None:
    found = []
    for hungry in (lambda: torch.empty(2**50), lambda: bytearray(2**62), lambda: torch.ones(2) @ torch.ones(3)):
        try:
            hungry()
        except (RuntimeError, MemoryError) as error:
            found.append(out_of_memory(error))
    assert found == ["out of memory: 4294967296 MiB more were asked for", "out of memory", None]
    text = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 139 GiB"
    assert out_of_memory(torch.OutOfMemoryError(text)) == "out of memory: 20.00 MiB more were asked for"
    assert out_of_memory(OSError("disk")) is None
