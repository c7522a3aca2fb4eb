"""Questions answered from part of the tables: the answers are those of the whole ones."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from raybench.errors import ResultsError
from raybench.results import compact, parts, queries
from raybench.results.schema import Status, epoch_schema
from raybench.results.store import Store

if TYPE_CHECKING:
    from conftest import Rows  # type: ignore[import-not-found]


@pytest.fixture(params=["parts", "one file", "many files", "beside"])
def store(request: pytest.FixtureRequest, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Twelve trials in three cells: two pruned, one without its metric, one run again, one still running."""
    if request.param == "many files":
        monkeypatch.setattr(parts, "LARGE_VALUES", 10 * len(epoch_schema()))
        monkeypatch.setattr(compact, "GROUP_ROWS", 6)
    store = Store(tmp_path)
    for number in range(12):
        trial_id = f"t{number:02d}"
        status = Status.PRUNED if number in (4, 5) else Status.RUNNING if number == 11 else Status.COMPLETE
        written = [
            each
            for epoch in range(1, 3 + number % 3)
            for each in rows.epochs(trial_id, count=epoch, eval_top1=10.0 * number + epoch, train_loss=1 / (3 + epoch))
            if each.epoch == epoch
        ]
        store.write_epochs(trial_id, 1, written)
        score = None if number == 6 else float(number)
        store.write_trial(rows.trial(trial_id, status, cell=f"c{number % 3}", test_top1=score))
        if request.param != "parts" and number in (3, 7, 9, 11):
            store.compact()
    if request.param == "beside":
        store.write_epochs("t02", 2, rows.epochs("t02", 2, count=6, eval_top1=-1.0))
        store.write_trial(rows.trial("t02", attempt=2, cell="c2", test_top1=-1.0))
    return Store(tmp_path)


def test_the_last_epoch_of_each_trial(store: Store) -> None:
    whole = store.epochs()
    last = whole.filter(pl.col("epoch") == pl.col("epoch").max().over("trial_id"))
    for where in (store, store.folder):
        found = queries.final_epochs(where, "eval_top1")
        assert_frame_equal(found, last.select("trial_id", "epoch", "eval_top1"))
    assert found.height == 12


def test_a_curve(store: Store) -> None:
    whole = store.epochs()
    for trial_id in ("t00", "t02", "t11"):
        wanted = whole.filter(pl.col("trial_id") == trial_id).select("epoch", "train_loss")
        for where in (store, store.folder):
            assert_frame_equal(queries.curve(where, trial_id, "train_loss"), wanted)


def test_a_summary(store: Store) -> None:
    whole = store.trials()
    found = queries.summary(store.folder)
    assert found["cell"].to_list() == ["c0", "c1", "c2"]
    assert found["trials"].to_list() == [4, 4, 4]
    for row in found.iter_rows(named=True):
        scores = whole.filter(pl.col("cell") == row["cell"], pl.col("status") == "complete")["test_top1"].drop_nulls()
        assert (row["complete"], row["least"], row["most"]) == (len(scores), scores.min(), scores.max())
        # Two ways to add up a few numbers.
        assert row["mean"] == pytest.approx(statistics.mean(scores), rel=1e-14)
        assert row["sd"] == pytest.approx(statistics.stdev(scores), rel=1e-14)
    by_status = queries.summary(store, "test_top1", by=["status", "cell"])
    assert by_status["trials"].sum() == 12
    assert by_status.filter(pl.col("status") == "running")["mean"].to_list() == [None]


def test_what_is_not_there_is_said(store: Store) -> None:
    with pytest.raises(ResultsError, match=r"eval_topp1: no row of .* near it: eval_top1"):
        queries.final_epochs(store, "eval_topp1")
    with pytest.raises(ResultsError, match=r"trian_loss: no row of .* near it: train_loss"):
        queries.curve(store, "t00", "trian_loss")
    with pytest.raises(ResultsError, match=r"none: .* has no epoch of such a trial"):
        queries.curve(store, "none", "train_loss")
    with pytest.raises(ResultsError, match=r"sell: no row of .* near it: cell"):
        queries.summary(store, by=["sell"])
    with pytest.raises(ResultsError, match="eval_top3: no row"):
        queries.summary(store, "eval_top3")


def test_a_metric_of_ones_own_that_some_trials_have(store: Store, rows: Rows) -> None:
    store.write_epochs("t05", 2, rows.epochs("t05", 2, metrics={"eval_top3": 5.0}))
    found = queries.final_epochs(store, "eval_top3")
    assert found.filter(pl.col("eval_top3").is_not_null()).rows() == [("t05", 2, 5.0)]
    assert queries.curve(store, "t05", "eval_top3")["eval_top3"].to_list() == [5.0, 5.0]
    with pytest.raises(ResultsError, match="eval_top3: no row"):
        queries.curve(store, "t01", "eval_top3")


def test_nothing_there(tmp_path: Path) -> None:
    assert queries.final_epochs(tmp_path, "eval_top1").height == 0
    assert queries.summary(tmp_path).height == 0
