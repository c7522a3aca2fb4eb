"""What a trial left of its faults, and how a sweep goes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from upath import UPath

from raybench.__main__ import main
from raybench.commands.logs import _absent
from raybench.commands.one_trial import OneTrial
from raybench.results.schema import Status
from raybench.results.store import Store

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
    [
        ({}, "no log of attempt 1 in {logs}: it was removed or not copied"),
        ({"failures": 2, "attempt": 3}, "no log of attempts 1, 2, 3 in {logs}: it was removed or not copied"),
        ({"status": Status.RUNNING}, "no log of attempt 1 in {logs}: none was written yet, or its worker is killed"),
        ({"status": Status.PRUNED, "started": None}, "no log of it in {logs}: no row of it says that it ever began"),
    ],
)
def test_a_trial_without_logs(
    settled: Settled, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], expected: str
) -> None:
    (trial_id,) = settled.settle(list(settled.plan().trials())[:1], **changes)
    text = said(capsys, "logs", trial_id, "--results", str(settled.results))
    assert expected.format(logs=settled.folder / "logs") in text
    assert ("(2 attempts broke)" in text) == ("failures" in changes)
    assert "nothing went wrong" not in text


def test_the_log_of_one_attempt_is_gone(settled: Settled, capsys: pytest.CaptureFixture[str]) -> None:
    (trial_id,) = settled.settle(list(settled.plan().trials())[:1], attempt=3, status=Status.RUNNING)
    logs = settled.folder / "logs"
    logs.mkdir()
    (logs / f"{trial_id}-a2.txt").write_text("epoch 1\n")
    (logs / f"{trial_id}-a1-stack.txt").touch()  # a stack is no log
    lines = said(capsys, "logs", trial_id, "--results", str(settled.results)).splitlines()
    assert [line.partition(" in ")[0] for line in lines[1:3]] == ["no log of attempt 3", "no log of attempt 1"]
    assert lines[3:] == [
        "",
        f"== {logs / f'{trial_id}-a1-stack.txt'}",
        "(empty)",
        "",
        f"== {logs / f'{trial_id}-a2.txt'}",
        "epoch 1",
    ]


def test_in_an_object_store_a_log_comes_when_its_attempt_ends() -> None:
    row = {"trial_id": "0123456789ab", "status": Status.RUNNING, "attempt": 2, "started": datetime.now(UTC)}
    folder = UPath("memory://bucket/logs")
    lines = list(_absent(OneTrial("one", Store(folder.parent), row), folder, []))
    assert "attempt 2 in memory://bucket/logs: it is put there when the attempt ends" in lines[0]
    assert "attempt 1 in" in lines[1]
    assert "killed before it put it there" in lines[1]


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
