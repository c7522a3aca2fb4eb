"""What a run finds when it holds the sweep's lock at last, and what it was asked to run again."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from raybench.commands.estimating import estimate
from raybench.commands.loading import Asked, load
from raybench.commands.reopening import REOPENED
from raybench.commands.running import Watch, make_progress, run_sweep, takes_all_workers
from raybench.commands.sharing import Machines
from raybench.commands.sweeping import Sweep
from raybench.config.costs import TrialCost
from raybench.config.placement import Node, Share
from raybench.config.trial import TrialConfig
from raybench.results.schema import Status
from raybench.search.outcomes import Known
from raybench.training.cost import START_S, Estimator

if TYPE_CHECKING:
    from .conftest import Settled

LATER = "4" * 12
"""No trial's id."""


def loaded(settled: Settled, *rerun: str) -> Sweep:
    """The sweep as the command knows it before it starts."""
    with redirect_stdout(io.StringIO()):
        return load(Asked(str(settled.file), "quick", results=str(settled.results), rerun=rerun))


def due(sweep: Sweep) -> set[str]:
    """The trials that would run."""
    return {trial.trial_id for trial in sweep.due_trials()}


@pytest.mark.scenario(16)
def test_a_second_driver_that_waited_finds_nothing_left_to_do(
    settled: Settled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had read the rows before the first one finished; under the lock it reads them again, and Ray never starts."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # where a Ray that it joined would not be found
    sweep = loaded(settled)
    assert len(due(sweep)) == 8
    ids = settled.settle(settled.plan().trials())
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()):
        sweep.console.file = out
        cost = estimate(sweep)
        code = run_sweep(
            sweep, command="the command", estimate=cost, started=datetime.now(UTC), time_budget_s=None, verbose=False
        )
    assert code == 0
    assert "nothing to do: 8 of 8 trials settled (8 complete)" in out.getvalue()
    assert not (settled.folder / "manifest.json").exists()
    rows = sweep.store.trials()
    assert sorted(rows["trial_id"]) == sorted(ids)
    assert rows["attempt"].to_list() == [1] * 8


@pytest.mark.parametrize(
    ("cpus", "share", "at_most", "settled_before", "address", "all_of_them"),
    [
        (2, Share(), None, 0, None, True),
        (2, Share(), None, 6, None, True),
        (2, Share(), None, 7, None, False),  # one trial is left
        (9, Share(), None, 0, None, False),  # of eight
        (8, Share(0.5), None, 0, None, True),
        (2, Share(2), None, 0, None, False),
        (2, Share(), 1, 0, None, False),
        (2, Share(1, 0.5), None, 0, None, False),
        (2, Share(), None, 0, "head:6379", False),
    ],
)
def test_whether_trials_take_all_workers(
    settled: Settled,
    cpus: int,
    share: Share,
    at_most: int | None,
    settled_before: int,
    address: str | None,
    all_of_them: bool,
) -> None:
    settled.settle(list(settled.plan().trials())[:settled_before])
    sweep = loaded(settled)
    sweep.machines = Machines((Node("here", cpus, 1),), address)
    sweep.max_concurrent = at_most
    sweep.take(share)
    assert takes_all_workers(sweep) == all_of_them


def test_what_is_asked_to_run_again_is_due_and_nothing_else(settled: Settled) -> None:
    first, *others = settled.settle(settled.plan().trials())
    assert due(loaded(settled)) == set()
    assert due(loaded(settled, first)) == {first}
    assert due(loaded(settled, first, others[2])) == {first, others[2]}
    assert due(loaded(settled, "failed")) == set()


def test_failed_and_diverged_trials_are_asked_for_by_their_status(settled: Settled) -> None:
    trials = list(settled.plan().trials())
    settled.settle(trials[:4])
    failed = settled.settle(trials[4:6], status=Status.FAILED, reason="a reason")
    diverged = settled.settle(trials[6:], status=Status.DIVERGED, reason="loss is nan")
    assert due(loaded(settled, "failed")) == set(failed)
    assert due(loaded(settled, "failed", "diverged")) == {*failed, *diverged}


def test_a_rerun_that_was_cut_off_goes_on_without_being_asked_again(settled: Settled) -> None:
    trials = list(settled.plan().trials())
    first, second, *_ = settled.settle(trials)
    cut_off = loaded(settled, first, second)
    cut_off.begin()  # under the lock; then the driver dies
    assert due(loaded(settled)) == {first, second}
    # One of the two was run again before that: it is not run a third time, asked for or not.
    settled.settle(trials[:1], attempt=2)
    assert due(loaded(settled)) == {second}
    assert due(loaded(settled, first, second)) == {second}
    settled.settle(trials[1:2], attempt=2)
    goes_on = loaded(settled)
    assert due(goes_on) == set()
    goes_on.begin()
    goes_on.end()
    assert not (settled.folder / REOPENED).exists()
    # All of it is over, so asking is asking anew.
    assert due(loaded(settled, first)) == {first}


def test_checkpoints_that_a_killed_worker_left_of_a_complete_trial_are_removed(settled: Settled) -> None:
    trials = list(settled.plan().trials())
    ids = settled.settle(trials[:3])
    kept = {
        ids[0]: "a1-epoch-000003.pt",  # killed before it could remove them
        ids[2]: ".a1-epoch-000003.pt.7.tmp",  # killed while writing
        ids[1]: "a1-epoch-000004.pt",  # as `checkpoints.keep: last` asks
        trials[3].trial_id: "a1-epoch-000002.pt",  # to be gone on with
    }
    for trial_id, name in kept.items():
        path = settled.folder / "checkpoints" / trial_id / name
        path.parent.mkdir(parents=True)
        path.touch()
    loaded(settled).begin()
    left = {path.parent.name for path in (settled.folder / "checkpoints").rglob("*.pt")}
    assert left == {ids[1], trials[3].trial_id}
    assert not (settled.folder / "checkpoints" / ids[0]).exists()
    assert not (settled.folder / "checkpoints" / ids[2]).exists()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "7", '{"a": "b"}', json.dumps({LATER: 3}), json.dumps({LATER: None}), "[" * 100_000],
    ids=["empty", "torn", "list", "number", "text for an attempt", "no trial of this plan", "no attempt", "too deep"],
)
def test_a_list_of_reruns_that_is_damaged_or_foreign_reopens_nothing(settled: Settled, content: str) -> None:
    settled.settle(settled.plan().trials())
    (settled.folder / REOPENED).write_text(content)
    assert due(loaded(settled)) == set()


def test_a_list_of_reruns_that_cannot_be_read_is_not_taken_for_none(settled: Settled) -> None:
    settled.settle(settled.plan().trials())
    (settled.folder / REOPENED).symlink_to(REOPENED)
    code, _, err = settled.run("--dry-run")
    assert code == 2
    assert f"{REOPENED} cannot be read: Too many levels of symbolic links; mend it" in err


def test_asking_for_an_unknown_trial_starts_and_keeps_nothing(settled: Settled) -> None:
    first, *_ = settled.settle(settled.plan().trials())
    code, out, err = settled.run("--rerun", LATER, "--rerun", first)
    assert (code, out) == (2, "")
    assert f"--rerun {LATER}: no such trial in this sweep" in err
    assert not Path(settled.folder / REOPENED).exists()


def test_the_time_of_a_plan_is_never_less_than_its_longest_trial(
    settled: Settled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of 100 s and six of a second: eight at a time as long as one of them, two at a time three seconds more."""
    long = next(settled.plan().trials()).setting_id

    def cost(_: Estimator, trial: TrialConfig) -> TrialCost:
        return TrialCost(trial.setting_id, 0.0, 100.0 if trial.setting_id == long else 1.0)

    monkeypatch.setattr(Estimator, "cost", cost)
    sweep = loaded(settled)
    monkeypatch.setattr(Estimator, "teacher_s", lambda *_: 0.0)
    for width, trials_s in ((8, 100.0), (2, 103.0)):
        monkeypatch.setattr(type(sweep), "width", width)
        assert estimate(sweep).wall_s == trials_s + START_S


def test_a_weak_teacher_is_looked_for_once_the_student_alone_is_done(
    settled: Settled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is done after every trial makes no cell anew, however many there are."""
    sweep = loaded(settled)
    search = sweep.search(1)
    watch = Watch(sweep, make_progress(sweep, estimate(sweep)), search)
    looked: list[int] = []
    ended, said = 0, io.StringIO()

    def weak_teachers(_: object) -> list[str]:
        looked.append(ended)
        return ["the teacher is weak"]

    monkeypatch.setattr(sweep, "weak_teachers", weak_teachers)
    monkeypatch.setattr(search, "cells", lambda: pytest.fail("every cell was made anew"))
    sweep.console.file = said
    while (job := search.next_job()) is not None:
        outcomes = {trial.trial_id: Known(Status.COMPLETE, {4: 1.0}) for trial in job.trials}
        search.tell(job, outcomes)
        ended += 1
        watch.ended(job, outcomes)
    assert (ended, looked) == (8, [4])  # two settings of two seeds are the student alone
    assert said.getvalue().count("warning: the teacher is weak") == 1
