"""A trial's own log: what it says, where, and that it costs the trial nothing when it cannot be written."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING

import pytest

from raybench.results.schema import Status
from raybench.results.storage import folder_at
from raybench.training import trial_log
from raybench.training.trial import run_trial
from raybench.training.trial_log import LOGGER, TrialLog

if TYPE_CHECKING:
    from .conftest import Digits

SAYS = logging.getLogger("raybench.some.module")


def test_a_trial_says_how_it_went(digits: Digits, tmp_path: Path) -> None:
    trial = digits.trial()
    assert run_trial(trial, digits.setup(tmp_path), "alpha=0").status == Status.COMPLETE
    lines = (tmp_path / "logs" / f"{trial.trial_id}-a1.txt").read_text().splitlines()
    said = [line.split(" ", 3)[3] for line in lines]  # without date, time and level
    assert said[0].startswith(f"trial {trial.trial_id}, attempt 1 in process ")
    assert said[0].endswith(f": {trial.model.name} on digits, seed {trial.seed}, alpha=0")
    epochs = [line for line in said if line.startswith("epoch ")]
    assert len(epochs) == trial.schedule.epochs
    assert all("eval_top1 " in line and " s of training" in line for line in epochs)
    assert said[-1].startswith("complete: the weights of epoch ")
    assert "test_top1 " in said[-1]


def test_each_attempt_has_its_own(digits: Digits, tmp_path: Path) -> None:
    trial = digits.trial()
    run_trial(trial, digits.setup(tmp_path), until=1)
    run_trial(trial, digits.setup(tmp_path))
    first, second = sorted((tmp_path / "logs").iterdir())
    assert first.read_text().splitlines()[-1].endswith("paused after epoch 1")
    assert "goes on from its checkpoint after epoch 1" in second.read_text()


def test_it_ends_with_the_trial(tmp_path: Path) -> None:
    level = LOGGER.level
    with TrialLog(tmp_path / "logs" / "one.txt"):
        SAYS.info("inside")
        SAYS.debug("not looked at")
    SAYS.warning("outside")
    assert LOGGER.level == level
    assert not [handler for handler in LOGGER.handlers if isinstance(handler, TrialLog)]
    (line,) = (tmp_path / "logs" / "one.txt").read_text().splitlines()
    assert line.endswith("INFO inside")


def test_nothing_said_leaves_no_file(tmp_path: Path) -> None:
    with TrialLog(tmp_path / "logs" / "one.txt"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    with TrialLog(tmp_path / "logs" / "one.txt"):
        SAYS.info("unheard")
    assert (tmp_path / "logs").read_text() == "in the way"


def test_a_pipe_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "one.txt")
    gone = Timer(5, os.open, [tmp_path / "one.txt", os.O_RDONLY | os.O_NONBLOCK])  # lets a writer go who waits
    gone.start()
    began = time.monotonic()
    with TrialLog(tmp_path / "one.txt"):
        SAYS.info("unheard")
    assert time.monotonic() - began < 4
    gone.cancel()
    gone.join()


def test_a_warning_is_still_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's
    with TrialLog(tmp_path / "one.txt"):
        SAYS.warning("look out")
        SAYS.info("by the way")
    assert capsys.readouterr().err == "look out\n"


def test_elsewhere_than_on_a_disk_it_appears_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    written: dict[str, bytes] = {}
    monkeypatch.setattr(trial_log, "write_atomically", lambda path, content: written.update({str(path): content}))
    with TrialLog(folder_at("s3://bucket/prefix") / "logs" / "one.txt"):
        SAYS.info("first")
        assert written == {}
        SAYS.info("second")
    (content,) = written.values()
    assert [line[-6:].strip() for line in content.decode().splitlines()] == ["first", "second"]
