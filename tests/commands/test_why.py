"""How a trial stands, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from raybench.__main__ import main
from raybench.results.schema import Status

if TYPE_CHECKING:
    from .conftest import Settled


def said(capsys: pytest.CaptureFixture[str], settled: Settled, trial_id: str) -> str:
    assert main(["why", trial_id, "--results", str(settled.results)]) == 0
    return capsys.readouterr().out


def test_a_selected_and_an_unselected_trial(settled: Settled, capsys: pytest.CaptureFixture[str]) -> None:
    plan = settled.plan()
    settled.settle(plan.trials(), dataset_variant="embedded")
    settled.ran(plan)
    cell = plan.cells[0]
    # Later settings score higher, by how the fixture numbers them.
    worse, better = (setting.trials[0] for setting in cell.settings)
    text = said(capsys, settled, better.trial_id)
    assert "complete after 4 epochs; scored with the weights of epoch 4." in text
    assert "Its setting is the one selected in its cell" in text
    assert "no reproduction of published results" in text
    assert "Stale" not in text
    assert said(capsys, settled, better.trial_id[:6]).splitlines()[0].startswith(better.trial_id)
    assert "selected in its cell" not in said(capsys, settled, worse.trial_id)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"status": Status.PRUNED, "reason": "halving: rung 2"}, "gave up its setting (halving: rung 2)"),
        ({"status": Status.DIVERGED, "reason": "loss is nan"}, "diverged after 4 epochs: loss is nan."),
        ({"status": Status.FAILED, "reason": "worker died", "failures": 3}, "3 broken attempts: worker died."),
        ({"status": Status.RUNNING, "node": "one"}, "running or cut off: 4 epochs finished in attempt 1 on one."),
        ({"deviation": "batch normalisation over 5"}, "departs from its configuration: batch normalisation over 5"),
        ({"env": {"torch": "1.0"}}, "torch 1.0 (here "),
    ],
)
def test_why_it_is_not_compared(
    settled: Settled, capsys: pytest.CaptureFixture[str], changes: dict[str, object], expected: str
) -> None:
    plan = settled.plan()
    (trial_id,) = settled.settle(list(plan.trials())[:1], **changes)
    settled.ran(plan)
    text = said(capsys, settled, trial_id)
    assert expected in text
    complete = changes.get("status") in (None, Status.COMPLETE)
    assert ("Only complete trials stand in means" in text) == (not complete)


def test_a_trial_of_an_earlier_recipe_is_stale(settled: Settled, capsys: pytest.CaptureFixture[str]) -> None:
    trial = next(settled.plan().trials())
    trial.__dict__["trial_id"] = "0123456789ab"
    settled.settle([trial])
    assert "Stale: made by another recipe" in said(capsys, settled, "0123456789ab")


def test_no_such_trial(settled: Settled, capsys: pytest.CaptureFixture[str]) -> None:
    settled.settle(settled.plan().trials())
    for name, expected in (("ffffffffffff", "no such trial below"), ("", "may be ")):
        assert main(["why", name, "--results", str(settled.results)]) == 2
        assert expected in capsys.readouterr().err
