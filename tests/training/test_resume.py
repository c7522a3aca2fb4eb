"""Going on: killed, paused, frozen or with files lost, a trial ends in the bits of one that was left alone."""

from __future__ import annotations

import io
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import torch

from raybench.config.trial import TrialConfig
from raybench.results.schema import Status
from raybench.results.store import Store
from raybench.training.checkpoints import seal
from raybench.training.recorder import Recorder
from raybench.training.trial import run_trial

if TYPE_CHECKING:
    from conftest import Digits, Processes  # type: ignore[import-not-found]

Cached = Callable[[TrialConfig], Path]

SIGNALLED = """
    import os, signal, sys
    from pathlib import Path
    from raybench.config.trial import TrialConfig
    from raybench.training.batches import TrainingImages
    from raybench.training.recorder import Setup
    from raybench.training.trial import run_trial

    folder, trial, name = sys.argv[1:]
    plain = TrainingImages.epoch

    def epoch(self, number, *rest):
        for step, batch in enumerate(plain(self, number, *rest)):
            if (number, step) == (2, 1):
                # In the middle of the third epoch.
                os.kill(os.getpid(), getattr(signal, name))
            yield batch

    TrainingImages.epoch = epoch
    setup = Setup(sweep="a sweep", preset="quick", results=Path(folder), checkpoint_every_s=0, env={"python": "3"})
    run_trial(TrialConfig.model_validate_json(trial), setup, "a cell")
"""


@pytest.mark.scenario(1)
def test_killed_in_the_middle_of_an_epoch_it_goes_on_to_the_same_bits(
    digits: Digits, processes: Processes, finished: Cached, tmp_path: Path
) -> None:
    # Momentum, schedule, views, order and stochastic depth all go on.
    trial = digits.with_dropout(optimizer={"name": "adamw", "lr": 0.002}, schedule__epochs=4)
    killed = processes.run(SIGNALLED, tmp_path, trial.model_dump_json(), "SIGKILL")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert digits.row(tmp_path, trial)["status"] == "running"
    assert Store(tmp_path).epochs()["epoch"].to_list() == [1, 2]
    outcome = run_trial(trial, digits.setup(tmp_path), "a cell")
    assert (outcome.status, outcome.epochs) == (Status.COMPLETE, 4)
    assert digits.numbers(tmp_path, trial) == digits.numbers(finished(trial), trial)
    found = digits.row(tmp_path, trial)
    assert (found["attempt"], found["failures"]) == (2, 1)
    # The first attempt's checkpoints count too.
    assert found["checkpoint_time"] > 0


@pytest.mark.scenario(6)
def test_a_frozen_copy_that_wakes_changes_nothing(
    digits: Digits, processes: Processes, finished: Cached, tmp_path: Path
) -> None:
    trial = digits.trial(schedule__epochs=4)
    frozen = processes.start(SIGNALLED, tmp_path, trial.model_dump_json(), "SIGSTOP")
    wait_until_stopped(frozen.pid)
    # Taken for dead, it is begun again and comes to epoch 3, with a checkpoint of its own.
    run_trial(trial, digits.setup(tmp_path, checkpoint_every_s=0), "a cell", until=3)
    before, row = Store(tmp_path).epochs(), digits.row(tmp_path, trial)
    assert (row["status"], row["attempt"], row["epochs"]) == ("running", 2, 3)
    kept = files(tmp_path, "a2-")
    assert any(name.startswith("checkpoints") for name in kept)
    os.kill(frozen.pid, signal.SIGCONT)
    out, err = frozen.communicate(timeout=60)
    assert frozen.returncode == 0, out + err
    # It came to its end. Whoever reads sees the later attempt, whose files are as they were.
    assert (tmp_path / "trials" / f"{trial.trial_id}-a1-trial.parquet").exists()
    after = digits.row(tmp_path, trial)
    assert {name: after[name] for name in row} == row
    assert Store(tmp_path).epochs().equals(before)
    assert files(tmp_path, "a2-") == kept
    assert not (tmp_path / "weights").exists()
    assert run_trial(trial, digits.setup(tmp_path), "a cell").status == Status.COMPLETE
    assert digits.numbers(tmp_path, trial) == digits.numbers(finished(trial), trial)
    assert curve(tmp_path, trial) == Store(tmp_path).epochs()["eval_top1"].to_list()


@pytest.mark.slow
@pytest.mark.scenario(6)
def test_weights_of_the_later_attempt_stay(digits: Digits, processes: Processes, tmp_path: Path) -> None:
    trial = digits.trial()
    frozen = processes.start(SIGNALLED, tmp_path, trial.model_dump_json(), "SIGSTOP")
    wait_until_stopped(frozen.pid)
    assert run_trial(trial, digits.setup(tmp_path), "a cell").status == Status.COMPLETE
    row, weights = digits.row(tmp_path, trial), files(tmp_path, "weights")
    assert list(weights) == [f"weights/{trial.trial_id}.safetensors"]
    os.kill(frozen.pid, signal.SIGCONT)
    frozen.communicate(timeout=60)
    after = digits.row(tmp_path, trial)
    assert {name: after[name] for name in row} == row
    assert files(tmp_path, "weights") == weights
    assert not list(tmp_path.rglob("*.pt"))


def wait_until_stopped(pid: int) -> None:
    process = psutil.Process(pid)
    until = time.monotonic() + 100
    while process.status() != psutil.STATUS_STOPPED:
        assert time.monotonic() < until
        time.sleep(0.05)


def files(folder: Path, part: str) -> dict[str, bytes]:
    """Name -> content of all files with `part` in their path."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if part in name}


def curve(folder: Path, trial: TrialConfig) -> list[Any]:
    """The validation accuracy that TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard" / trial.trial_id))
    events.Reload()
    return [pytest.approx(event.value) for event in events.Scalars("eval/top1")]


def test_two_copies_that_start_together_take_two_attempts(digits: Digits, tmp_path: Path) -> None:
    trial = digits.trial()
    first, second = (Recorder(trial, "a cell", digits.setup(tmp_path), tmp_path) for _ in range(2))
    assert (first.row.attempt, second.row.attempt) == (1, 2)
    assert (first.superseded, second.superseded) == (True, False)


def test_running_again_raises_the_attempt_and_gives_the_same_numbers(
    digits: Digits, finished: Cached, tmp_path: Path
) -> None:
    trial = digits.trial()
    for attempt in (1, 2):
        # As --rerun asks.
        setup = digits.setup(tmp_path, reopened={trial.trial_id: attempt - 1})
        run_trial(trial, setup, "a cell")
        found = digits.row(tmp_path, trial)
        assert (found["attempt"], found["failures"]) == (attempt, 0)
    assert digits.numbers(tmp_path, trial) == digits.numbers(finished(trial), trial)


def test_pausing_at_rungs_ends_in_the_same_numbers_as_one_go(digits: Digits, finished: Cached, tmp_path: Path) -> None:
    trial = digits.distilled()
    for until in (1, 2):
        outcome = run_trial(trial, digits.setup(tmp_path), "a cell", until=until)
        assert (outcome.status, outcome.epochs) == (Status.RUNNING, until)
        assert set(outcome.scores) == set(range(1, until + 1))
        assert digits.row(tmp_path, trial)["epochs"] == until
    # Asked for a rung it has passed, it trains nothing.
    assert run_trial(trial, digits.setup(tmp_path), "a cell", until=1).epochs == 2
    assert run_trial(trial, digits.setup(tmp_path), "a cell").status == Status.COMPLETE
    assert digits.numbers(tmp_path, trial) == digits.numbers(finished(trial), trial)
    # Pauses are no failures.
    assert digits.row(tmp_path, trial)["failures"] == 0


@pytest.mark.scenario(13)
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_truncated_newest_checkpoint_costs_an_epoch_and_no_bit(
    digits: Digits, finished: Cached, tmp_path: Path, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    trial = digits.with_dropout()
    run_trial(trial, digits.setup(tmp_path, checkpoint_every_s=0), "a cell", until=2)
    newest = sorted((tmp_path / "checkpoints").rglob("*.pt"))[-1]
    assert newest.name == "a1-epoch-000002.pt"
    content = newest.read_bytes()
    newest.write_bytes(content[: int(len(content) * share)])
    with caplog.at_level(logging.WARNING):
        outcome = run_trial(trial, digits.setup(tmp_path), "a cell")
    assert outcome.status == Status.COMPLETE
    assert str(newest) in caplog.text
    assert "begins anew" not in caplog.text
    assert digits.numbers(tmp_path, trial) == digits.numbers(finished(trial), trial)


def grow(path: Path) -> None:
    """Make a checkpoint one of another version of its model: its first weight has other values, and more of them."""
    state = torch.load(path, weights_only=True)
    name = next(iter(state["model"]))
    state["model"][name] = torch.zeros(99, 1, 1, 1)
    content = io.BytesIO()
    torch.save(state, content)
    path.write_bytes(content.getvalue() + seal(content.getvalue()))


@pytest.mark.scenario(13)
@pytest.mark.parametrize("others", [1, 2])
def test_a_checkpoint_of_another_version_of_the_model_is_not_gone_on_from(
    digits: Digits, finished: Cached, tmp_path: Path, others: int, caplog: pytest.LogCaptureFixture
) -> None:
    trial = digits.with_dropout()
    run_trial(trial, digits.setup(tmp_path, checkpoint_every_s=0), "a cell", until=2)
    newest_first = sorted((tmp_path / "checkpoints").rglob("*.pt"), reverse=True)
    for path in newest_first[:others]:
        grow(path)
    with caplog.at_level(logging.WARNING):
        assert run_trial(trial, digits.setup(tmp_path), "a cell").status == Status.COMPLETE
    assert (
        f"{newest_first[0]}: of another version of this model: cls_token is (99, 1, 1, 1) in it, not (1, 1, 64)"
        in caplog.text
    )
    assert digits.numbers(tmp_path, trial) == digits.numbers(finished(trial), trial)


@pytest.mark.scenario(13)
def test_no_checkpoint_readable_it_begins_anew(digits: Digits, finished: Cached, tmp_path: Path) -> None:
    trial = digits.trial()
    run_trial(trial, digits.setup(tmp_path, checkpoint_every_s=0), "a cell", until=2)
    for path in (tmp_path / "checkpoints").rglob("*.pt"):
        path.write_bytes(b"")
    assert run_trial(trial, digits.setup(tmp_path), "a cell").status == Status.COMPLETE
    assert digits.numbers(tmp_path, trial) == digits.numbers(finished(trial), trial)


def test_a_checkpoint_whose_rows_are_lost_is_not_used(digits: Digits, finished: Cached, tmp_path: Path) -> None:
    trial = digits.trial()
    run_trial(trial, digits.setup(tmp_path), "a cell", until=2)
    for part in (tmp_path / "epochs").iterdir():
        part.unlink()
    assert run_trial(trial, digits.setup(tmp_path), "a cell").status == Status.COMPLETE
    assert digits.numbers(tmp_path, trial) == digits.numbers(finished(trial), trial)
