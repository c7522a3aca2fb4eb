"""The live table over real rows, drawn while the driver changes what it shows."""

from __future__ import annotations

import io
import json
import re
import threading
from pathlib import Path

import pytest
from rich.console import Console

from raybench.config.costs import TrialCost
from raybench.config.trial import TrialConfig
from raybench.report.events import Events
from raybench.report.progress import Progress, seconds_text
from raybench.report.time_left import TimeLeft
from raybench.results.schema import EpochRow, Status
from raybench.results.store import Store
from raybench.search.cells import Job, Stretch
from raybench.search.outcomes import Known


def trial(seed: int) -> TrialConfig:
    content = {
        "dataset": {"name": "digits"},
        "model": {"name": "resnet8", "options": {"width": 16}},
        "schedule": {"epochs": 4},
        "optimizer": {"lr": 0.03},
        "seed": seed,
    }
    return TrialConfig.model_validate(content)


def job(seed: int) -> Job:
    return Job("alpha=0.5 train_size=100", (trial(seed),), (4,))


def progress(folder: Path, trials: int) -> tuple[Progress, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=False, color_system=None)
    clock = TimeLeft(lambda _: TrialCost("a kind", 2.0, 2.0))
    keys = ("optimizer.lr",)
    shown = Progress(console, Store(folder), "eval_top1", "max", keys, clock, total=trials, settled=0)
    due = [Stretch(job(seed), 0) for seed in range(trials)]
    clock.follow(lambda: [("a cell", [due[clock._ended :]])], {})
    return shown, out


def test_a_settled_trial_is_a_line_where_there_is_no_terminal(tmp_path: Path) -> None:
    shown, out = progress(tmp_path, 2)
    shown.started(job(0))
    shown.ended(job(0), {trial(0).trial_id: Known(Status.COMPLETE, {1: 50.0, 2: 61.5})})
    line = f"1/2 complete {trial(0).trial_id} alpha=0.5 train_size=100 lr=0.03 seed=0  eval_top1 61.5 %"
    assert re.fullmatch(rf"{re.escape(line)} · \d+ s left\n", out.getvalue())


def test_quiet_says_warnings_only(tmp_path: Path) -> None:
    shown, out = progress(tmp_path, 2)
    shown.quiet = True
    shown.started(job(0))
    shown.ended(job(0), {trial(0).trial_id: Known(Status.COMPLETE, {1: 50.0})})
    shown.say("teacher: preparing")
    shown.say("warning: look out", warning=True)
    assert out.getvalue() == "warning: look out\n"
    assert shown.settled == 1


def test_programs_are_told_as_well(tmp_path: Path) -> None:
    shown, _ = progress(tmp_path, 3)
    told = io.StringIO()
    shown.events = Events(told)
    for seed in range(3):
        shown.started(job(seed))
        shown.ended(job(seed), {trial(seed).trial_id: Known(Status.COMPLETE, {1: 50.0 + seed})})
    events = [json.loads(line) for line in told.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["started", "ended"] * 3
    assert events[0]["until"] == 4
    last = events[-1]
    assert (last["trial_id"], last["status"], last["value"]) == (trial(2).trial_id, "complete", 52.0)
    assert (last["settled"], last["total"]) == (3, 3)
    assert last["left_s"] == pytest.approx(0.0)


def test_a_paused_trial_is_no_line(tmp_path: Path) -> None:
    shown, out = progress(tmp_path, 2)
    shown.started(job(0))
    shown.ended(job(0), {trial(0).trial_id: Known(Status.RUNNING, {1: 50.0})})
    assert out.getvalue() == ""
    assert shown.settled == 0


def test_the_table_shows_running_trials_from_their_rows(tmp_path: Path) -> None:
    shown, out = progress(tmp_path, 2)
    shown.started(job(1))
    rows = [EpochRow(trial_id=trial(1).trial_id, attempt=1, epoch=e, eval_top1=10.0 * e) for e in (1, 2, 3)]
    Store(tmp_path).write_epochs(trial(1).trial_id, 1, rows)
    shown.console.print(shown.render())
    text = out.getvalue()
    assert "alpha=0.5 train_size=100 lr=0.03" in text
    assert "3/4" in text
    assert "30.0" in text
    assert "▁" in text
    assert "running" in text
    assert re.search(r"done 0/2 · failed 0 · \d+ s left", text)


def test_failures_are_counted_and_never_best(tmp_path: Path) -> None:
    shown, _ = progress(tmp_path, 3)
    for seed, status in enumerate((Status.DIVERGED, Status.FAILED)):
        shown.started(job(seed))
        shown.ended(job(seed), {trial(seed).trial_id: Known(status, {1: 99.0})})
    assert shown.best is None
    assert "failed 2" in str(shown.render().renderables[1])  # type: ignore[union-attr]


def test_the_time_left_is_that_of_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs of twice the estimated 2 s, and 2 s beside them."""
    now = [0.0]
    monkeypatch.setattr("raybench.report.progress.time.monotonic", lambda: now[0])
    shown, _ = progress(tmp_path, 10)
    shown.clock._clock = lambda: now[0]
    for seed in range(5):
        shown.started(job(seed))
        now[0] += 18.0
        settles(tmp_path, seed, seconds=4.0)
        shown.ended(job(seed), {trial(seed).trial_id: Known(Status.COMPLETE, {4: 50.0})})
    assert shown.time_left() == pytest.approx(5 * 18.0, rel=0.05)
    assert [at for at, _ in shown.told] == [18.0, 36.0, 54.0, 72.0, 90.0]
    now[0] += 10.0
    shown.width = 2
    assert shown.time_left() == pytest.approx(3 * 18.0, rel=0.05)
    shown.started(job(5))
    settles(tmp_path, 5, seconds=4.0, epochs=2)
    now[0] += 10.0
    assert shown.time_left() == pytest.approx(2 * 18.0, rel=0.3)


def settles(folder: Path, seed: int, seconds: float, epochs: int = 4) -> None:
    """The rows of a trial's epochs, of so many seconds each."""
    about = {"trial_id": trial(seed).trial_id, "attempt": 1}
    rows = [EpochRow(**about, epoch=e, train_time=seconds - 1, eval_time=1.0) for e in range(1, epochs + 1)]  # type: ignore[arg-type]
    Store(folder).write_epochs(trial(seed).trial_id, 1, rows)


def test_it_is_drawn_while_it_changes(tmp_path: Path) -> None:
    """A thread draws while the driver hands out and takes in: no drawing may fail."""
    shown, _ = progress(tmp_path, 400)
    done = threading.Event()
    faults: list[BaseException] = []

    def draw() -> None:
        while not done.is_set():
            try:
                shown.render()
            except BaseException as error:
                faults.append(error)
                return

    thread = threading.Thread(target=draw)
    thread.start()
    for seed in range(400):
        shown.started(job(seed))
        if seed > 4:
            shown.ended(job(seed - 4), {trial(seed - 4).trial_id: Known(Status.COMPLETE, {1: 1.0})})
    done.set()
    thread.join()
    assert faults == []


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (99.0, "99 s"), (100.0, "2 min"), (7200.0, "2.0 h")])
def test_durations(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text
