"""Runs read from rows, and that a sink is told of each once."""

from __future__ import annotations

import pytest

from raybench.errors import RaybenchError
from raybench.results.schema import Status
from raybench.results.store import Store
from raybench.sinks.runs import Attempt, Run, Sent, need, runs, send
from tests.sinks.conftest import leave


class Memory:
    """A sink that keeps runs, and may refuse after so many."""

    def __init__(self, most: int = 99) -> None:
        self.runs: dict[str, Run] = {}
        self.written = 0
        self.most = most

    def known(self) -> set[Attempt]:
        return {run.attempt for run in self.runs.values()}

    def write(self, run: Run) -> None:
        if self.written == self.most:
            raise RaybenchError("full")
        self.written += 1
        self.runs[run.attempt.trial_id] = run


def test_a_run_says_what_its_rows_say(store: Store) -> None:
    rows = store.trials()
    found = {run.params["seed"]: run for run in runs(store, rows)}
    assert len(found) == 4
    run = found[0]
    assert run.name == "alpha=0.5 seed=0"
    assert run.params["model.name"] == "resnet8"
    assert None not in run.params.values()
    assert run.curve == tuple(
        (e, {"train_loss": loss, "eval_top1": 50.0 + e}) for e, loss in ((1, 2.0), (2, 1.0), (3, 0.5))
    )
    assert run.scores == {
        "test_top1": 51.5,
        "best_eval_top1": 53.0,
        "train_time": 1.5,
        "best_epoch": 3.0,
        "epochs": 3.0,
    }
    assert run.tags["env.torch"] == "2.15.0"
    assert run.tags["status"] == "complete"
    assert "train_loss" not in found[2].curve[1][1]  # it was infinite


def test_two_times_are_once_and_what_has_come_since_is_added(store: Store) -> None:
    sink = Memory()
    assert send(store, sink) == Sent(written=3, there=0, unsettled=1)
    assert send(store, sink) == Sent(written=0, there=3, unsettled=1)
    leave(store, 3)
    assert send(store, sink) == Sent(written=1, there=3, unsettled=0)
    assert sink.written == 4


def test_a_trial_that_was_run_again_takes_the_place_of_the_earlier_attempt(store: Store) -> None:
    sink = Memory()
    send(store, sink)
    trial_id = leave(store, 2, attempt=2, top1=70.0)
    assert send(store, sink) == Sent(written=1, there=2, unsettled=1)
    assert sink.runs[trial_id].status == Status.COMPLETE
    assert sink.runs[trial_id].scores["test_top1"] == 71.5


def test_a_sending_that_was_stopped_goes_on(store: Store) -> None:
    sink = Memory(most=2)
    with pytest.raises(RaybenchError, match="full"):
        send(store, sink)
    sink.most = 99
    assert send(store, sink) == Sent(written=1, there=2, unsettled=1)
    assert len(sink.runs) == 3


def test_an_absent_package_names_its_extra() -> None:
    with pytest.raises(RaybenchError, match=r'no-such is not installed: pip install "raybench\[such\]"'):
        need("no_such_module", "no-such", "such")
