"""What a trial left of its faults, and how a sweep goes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from raybench.__main__ import main
from raybench.results.schema import Status

if TYPE_CHECKING:
    from .conftest import Settled


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*arguments]) == 0
    return capsys.readouterr().out


def test_logs_come_attempt_by_attempt(settled: Settled, capsys: pytest.CaptureFixture[str]) -> None:
    trial, other = list(settled.plan().trials())[:2]
    about = {"status": Status.FAILED, "reason": "ValueError: no", "node": "one", "failures": 2, "attempt": 10}
    settled.settle([trial], **about)
    logs = settled.folder / "logs"
    logs.mkdir()
    for attempt in (10, 2):
        (logs / f"{trial.trial_id}-a{attempt}.txt").write_text(f"Traceback of {attempt}\nValueError: no\n")
    (logs / f"{trial.trial_id}-a2-stack.txt").write_text("a stack\n")
    (logs / f"{other.trial_id}-a1.txt").write_text("another's\n")
    (settled.results / "README.md").write_text("Results lie here.")  # as in a clone; no sweep of that name
    text = said(capsys, "logs", trial.trial_id[:8], "--results", str(settled.results))
    assert f"seed {trial.seed}; failed in attempt 10 on one: ValueError: no" in text.splitlines()[0]
    assert text.index("Traceback of 2") < text.index("a stack") < text.index("Traceback of 10")
    assert "another's" not in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, "nothing went wrong in it"), ({"failures": 2}, "2 of its workers died without a word")],
)
def test_a_trial_without_logs(
    settled: Settled, capsys: pytest.CaptureFixture[str], changes: dict[str, int], expected: str
) -> None:
    (trial_id,) = settled.settle(list(settled.plan().trials())[:1], **changes)
    assert expected in said(capsys, "logs", trial_id, "--results", str(settled.results))


def test_an_unknown_trial(settled: Settled, capsys: pytest.CaptureFixture[str]) -> None:
    settled.settle(list(settled.plan().trials())[:1])
    assert main(["logs", "ffffffffffff", "--results", str(settled.results)]) == 2
    assert "no such trial" in capsys.readouterr().err


def test_a_look_at_a_sweep(settled: Settled, capsys: pytest.CaptureFixture[str]) -> None:
    plan = settled.plan()
    settled.ran(plan)
    trials = list(plan.trials())
    done = settled.settle(trials[:3], node="one", failures=1, device_hours=0.25)
    running = settled.settle(trials[3:4], node="two", status=Status.RUNNING, epochs=0)
    manifest = settled.folder / "manifest.json"
    manifest.write_text(json.dumps({"runs": [{"started": "2030-01-02T03:04:05+00:00", "ended": None}]}))
    text = said(capsys, "watch", settled.folder.name, "--results", str(settled.results))
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.split()}
    assert lines[running[0]][-2:] == ["two", "running"]
    assert "50.4" in lines[running[0]]  # the last epoch's top-1
    assert all(lines[each][-2:] == ["one", "complete"] for each in done)
    assert lines["one"] == ["one", "0", "3", "3", "0.75"]
    assert lines["two"][:3] == ["two", "1", "0"]
    assert "3 complete · 1 running · begun 2030-01-02 03:04 UTC" in text
    manifest.write_text(json.dumps({"runs": [{"ended": "2030-01-02T04:04:05+00:00", "exit_code": 0}]}))
    assert "ended, exit code 0" in said(capsys, "watch", settled.folder.name, "--results", str(settled.results))


def test_a_sweep_that_was_never_begun(settled: Settled, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "absent", "--results", str(settled.results)]) == 2
    assert "no such sweep was begun" in capsys.readouterr().err


def test_the_results_folder_may_be_named_once(
    settled: Settled, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (trial_id,) = settled.settle(list(settled.plan().trials())[:1])
    monkeypatch.setenv("RAYBENCH_RESULTS", str(settled.results))
    assert trial_id in said(capsys, "logs", trial_id)
