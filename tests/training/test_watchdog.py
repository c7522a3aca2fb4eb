"""The watchdog, in processes that really hang, lose their parent and are stopped."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from raybench.results.schema import Status
from raybench.training.limits import Limits
from raybench.training.trial import run_trial
from raybench.training.watchdog import Watchdog

if TYPE_CHECKING:
    from conftest import Digits, Processes  # type: ignore[import-not-found]

HANGS = """
    import ctypes, json, sys, time
    from pathlib import Path
    from raybench.config.trial import TrialConfig
    from raybench.training import watchdog
    from raybench.training.batches import TrainingImages
    from raybench.training.recorder import Setup
    from raybench.training.trial import run_trial

    folder, trial, limits, how = sys.argv[1:]
    watchdog.LOOK_EVERY_S, watchdog.GRACE_S, watchdog.BACKSTOP_S = 0.1, 0.3, 10.0 if how == "sleeps" else 1.0
    setup = Setup(results=Path(folder), checkpoint_every_s=0, guarded=True, **json.loads(limits))
    plain = TrainingImages.epoch

    def hang():
        if how == "sleeps":
            time.sleep(1000)
        else:
            # As C code does that forgets to give the interpreter's lock back.
            ctypes.PyDLL(None).sleep(1000)

    def epoch(self, number, *rest):
        for batch in plain(self, number, *rest):
            if number == 2:
                hang()
            yield batch

    TrainingImages.epoch = epoch
    run_trial(TrialConfig.model_validate_json(trial), setup)
"""


@pytest.mark.scenario(10)
@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ('{"trial_time_s": 3}', "timeout: longer than 3 s; hung at "),
        pytest.param('{"stall_s": 0.5}', "stall: no step ended within 0.5 s; hung at ", marks=pytest.mark.slow),
    ],
)
def test_a_hanging_trial_is_ended_with_its_stack_and_its_row(
    digits: Digits, processes: Processes, tmp_path: Path, limits: str, reason: str
) -> None:
    trial = digits.trial()
    start = time.monotonic()
    ended = processes.run(HANGS, tmp_path, trial.model_dump_json(), limits, "sleeps")
    assert time.monotonic() - start < 60
    assert ended.returncode == 1, ended.stderr
    found = digits.row(tmp_path, trial)
    assert (found["status"], found["epochs"], found["written_by"]) == ("failed", 2, "trial")
    assert found["reason"].startswith(reason)
    # The innermost line of ours; the script is nobody's.
    assert "loop.py:" in found["reason"]
    assert found["reason"].endswith(" in _train")
    assert found["train_time"] > 0
    assert found["started"] < found["ended"]
    (stack,) = (tmp_path / "logs").glob("*-stack.txt")
    assert stack.name == f"{trial.trial_id}-a1-stack.txt"
    assert "in hang" in stack.read_text()
    # Settled like any other trial, it leaves no checkpoints.
    assert not list((tmp_path / "checkpoints").rglob("*.*"))


@pytest.mark.scenario(10)
def test_a_hang_that_holds_the_interpreters_lock_is_ended_too(
    digits: Digits, processes: Processes, tmp_path: Path
) -> None:
    trial = digits.trial()
    ended = processes.run(HANGS, tmp_path, trial.model_dump_json(), '{"stall_s": 3}', "holds")
    assert ended.returncode == 1, ended.stderr
    # No thread of Python's could write the row; what it left goes on, or is given up by the driver.
    assert digits.row(tmp_path, trial)["status"] == "running"
    assert list((tmp_path / "checkpoints").rglob("*epoch-000002*"))
    (stack,) = (tmp_path / "logs").glob("*-stack.txt")
    assert "in hang" in stack.read_text()


@pytest.mark.scenario(3)
def test_a_process_whose_parent_was_killed_ends(processes: Processes) -> None:
    parent = processes.start(
        """
        import subprocess, sys
        script = '''
        import time
        from raybench.training.limits import Limits
        from raybench.training.watchdog import Watchdog
        with Watchdog(Limits()):
            print("guarded", flush=True)
            time.sleep(1000)
        '''
        import textwrap
        child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
        print(child.pid, flush=True)
        child.wait()
        """
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    assert parent.stdout.readline() == "guarded\n"
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    # It looks every second.
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_what_was_stopped_and_goes_on_is_not_taken_for_hung(processes: Processes, tmp_path: Path) -> None:
    process = processes.start(
        """
        import sys, time
        from pathlib import Path
        from raybench.training import watchdog
        from raybench.training.limits import Limits

        watchdog.LOOK_EVERY_S, watchdog.GRACE_S = 0.1, 1.0
        limits = Limits(stall_s=1.0)
        with watchdog.Watchdog(limits, Path(sys.argv[1]) / "stack.txt", lambda reason: print(reason, flush=True)):
            for _ in range(60):
                limits.check()
                if _ == 1:
                    print("ready", flush=True)
                time.sleep(0.05)
        print("through", flush=True)
        """,
        tmp_path,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(3)
    os.kill(process.pid, signal.SIGCONT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "through\n"), err


def test_many_in_turn_leave_nothing_armed(tmp_path: Path) -> None:
    said: list[str] = []
    for attempt in range(3):
        limits = Limits(time_s=1000, stall_s=1000)
        # One that was killed left its empty file.
        (tmp_path / f"trial-a{attempt}-stack.txt").touch()
        with Watchdog(limits, tmp_path / f"trial-a{attempt + 1}-stack.txt", said.append) as watchdog:
            limits.check()
            assert [path.name for path in tmp_path.iterdir()] == [f"trial-a{attempt + 1}-stack.txt"]
        assert not watchdog._thread.is_alive()
    assert not list(tmp_path.iterdir())
    assert said == []


def test_a_stack_that_was_written_stays(tmp_path: Path) -> None:
    written = tmp_path / "trial-a1-stack.txt"
    written.write_text("hung")
    with Watchdog(Limits(time_s=1000), tmp_path / "trial-a2-stack.txt"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [written.name]


@pytest.mark.parametrize("obstacle", ["a file", "a folder"])
def test_a_stack_that_cannot_be_written_costs_the_trial_nothing(
    digits: Digits, tmp_path: Path, obstacle: str, caplog: pytest.LogCaptureFixture
) -> None:
    trial = digits.trial()
    logs = tmp_path / "logs"
    if obstacle == "a file":
        logs.write_text("mine")
    else:
        (logs / f"{trial.trial_id}-a1-stack.txt").mkdir(parents=True)
    assert run_trial(trial, digits.setup(tmp_path, guarded=True), "a cell").status == Status.COMPLETE
    assert f"{logs}" in caplog.text
    assert "where a trial hangs is not kept" in caplog.text
