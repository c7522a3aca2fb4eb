"""Rows that lack a metric: a blank cell wherever it would stand, no zero, no crash."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from raybench.results.schema import EpochRow, Status
from raybench.results.tensorboard import TrialBoard

if TYPE_CHECKING:
    from .conftest import Settled


def cells(settled: Settled) -> list[dict[str, str]]:
    """The rows of comparison.md by their columns."""
    lines = (settled.folder / "comparison.md").read_text().splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [dict(zip(table[0], row, strict=True)) for row in table[2:]]


def drawn(settled: Settled) -> None:
    """Both figures are there and show something."""
    for name in ("comparison.png", "curves.png"):
        with Image.open(settled.folder / name) as image:
            assert len(image.convert("L").getcolors(256) or []) > 1


@pytest.mark.scenario(27)
def test_a_cell_without_the_test_metric_is_blank(settled: Settled) -> None:
    alone, taught = settled.plan().cells
    settled.settle(trial for setting in alone.settings for trial in setting.trials)
    settled.settle((trial for setting in taught.settings for trial in setting.trials), test_top1=None, param_count=None)
    code, out, err = settled.run()
    assert (code, err) == (0, "")
    assert "8 of 8 trials settled (8 complete)" in out
    first, second = cells(settled)
    assert first["test top-1 (%)"] == "42.5 ± 0.7 (2)"
    assert second["test top-1 (%)"] == ""
    assert second["size (M)"] == ""
    assert not any(title.startswith("difference") for title in second)  # nothing to compare: no such column
    assert second["validation top-1 (%)"] == "52.9"
    drawn(settled)


@pytest.mark.scenario(27)
def test_a_seed_without_it_is_not_counted(settled: Settled) -> None:
    trials = list(settled.plan().trials())
    settled.settle(trials[:2], test_top1=40.0)
    settled.settle(trials[2:3], test_top1=None, eval_top1=60.0, train_time=None)
    settled.settle(trials[3:4], test_top1=44.0, eval_top1=60.0)
    settled.settle(trials[4:], test_top1=math.nan)
    code, _, err = settled.run()
    assert (code, err) == (0, "")
    first, second = cells(settled)
    assert first["test top-1 (%)"] == "44.0 (1)"
    assert first["train (s)"] == "1"
    assert second["test top-1 (%)"] == ""
    drawn(settled)


@pytest.mark.scenario(27)
def test_what_is_selected_by_may_be_missing_everywhere(settled: Settled) -> None:
    settled.settle(settled.plan().trials())  # eval_loss and test_loss are in no row
    code, out, err = settled.run("metric.name=eval_loss", "metric.mode=min")
    assert (code, err) == (0, "")
    assert "tiny, quick, test loss" in out
    assert "0.0000" not in out
    assert {row["selected lr"] for row in cells(settled)} == {"0.05"}  # the first of equals
    drawn(settled)


@pytest.mark.scenario(27)
def test_a_further_metric_in_some_rows(settled: Settled) -> None:
    trials = list(settled.plan().trials())
    settled.settle(trials[:4], metrics={"test_top3": 70.0})
    settled.settle(trials[4:])
    code, out, err = settled.run()
    assert (code, err) == (0, "")
    assert "42.5 ± 0.7 (2)" in out


@pytest.mark.scenario(27)
def test_curves_have_no_point_where_there_is_no_number(tmp_path: Path) -> None:
    board = TrialBoard(tmp_path, "0123456789ab", {"optimizer.lr": 0.1}, ("test_top1", "eval_top1"), 0)
    for epoch, top1 in enumerate([50.0, None, 52.0], start=1):
        board.epoch(EpochRow(trial_id="0123456789ab", attempt=1, epoch=epoch, eval_top1=top1))
    board.close(Status.COMPLETE, {"test_top1": None, "eval_top1": 52.0})
    events = EventAccumulator(str(tmp_path / "tensorboard" / "0123456789ab"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("eval/top1")] == [(1, 50.0), (3, 52.0)]
    assert "eval/loss" not in events.Tags()["scalars"]
    assert "test_top1" not in events.Tags()["scalars"]
