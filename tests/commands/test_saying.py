"""How much a run says, and to whom: to a person, briefly or not, or to a program."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

import pytest

from raybench import sweep as command
from raybench.results.schema import Status

if TYPE_CHECKING:
    from .conftest import Settled


def test_quiet_is_the_results_only(settled: Settled) -> None:
    settled.settle(settled.plan().trials())
    code, loud, _ = settled.run()
    quiet_code, quiet, err = settled.run("-q")
    assert (code, quiet_code, err) == (0, 0, "")
    assert loud.endswith(quiet)
    assert loud.startswith("tiny · Does it all hang together?")
    assert quiet.startswith("nothing to do: 8 of 8 trials settled")
    assert "alpha" in quiet  # the table
    assert "±" in quiet


def test_a_quiet_dry_run_still_says_the_plan(settled: Settled) -> None:
    code, out, _ = settled.run("-q", "--dry-run")
    assert code == 0
    assert "8 trials, 0 settled" in out


def test_json_lines_and_nothing_else(settled: Settled) -> None:
    trials = list(settled.plan().trials())
    settled.settle(trials[:-1])
    (failed,) = settled.settle(trials[-1:], status=Status.FAILED, reason="out of memory: at last", test_top1=None)
    code, out, err = settled.run("--log-json")
    assert (code, err) == (1, "")
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["event"] for event in events] == ["plan", "nothing_to_do", "cell", "cell", "trouble", "finished"]
    plan, nothing, cell, _, trouble, finished = events
    assert (plan["sweep"], plan["preset"], plan["trials"], plan["settled"]) == ("tiny", "quick", 8, 8)
    assert plan["text"][0] == "tiny · Does it all hang together?"
    assert (nothing["complete"], nothing["failed"]) == (7, 1)
    assert cell["cell"].startswith("alpha=0")
    assert (trouble["trial_id"], trouble["reason"]) == (failed, "out of memory: at last")
    assert finished["exit_code"] == 1


def test_what_failed_is_followed_by_what_to_do(settled: Settled) -> None:
    trials = list(settled.plan().trials())
    settled.settle(trials[:-1])
    (failed,) = settled.settle(trials[-1:], status=Status.FAILED, reason="out of memory: at last", test_top1=None)
    _, out, _ = settled.run("-q")
    *_, told, memory, logs = out.splitlines()
    assert told == f"failed: {failed} a cell seed=1: out of memory: at last"
    assert memory.startswith("out of memory: a smaller batch_size with accumulate")
    assert logs.endswith("--rerun failed runs them again")


@pytest.mark.parametrize("both", [["-q", "-v"], ["-q", "--log-json"], ["-v", "--log-json"]])
def test_one_way_to_say_it(settled: Settled, both: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as err:
        command.main([str(settled.file), *both])
    assert stopped.value.code == 2
    assert "not allowed with argument" in err.getvalue()
