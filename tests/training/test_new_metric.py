"""A metric is one entry: it reaches both tables, TensorBoard and the names a sweep may select by."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from raybench.results.store import Store
from raybench.training import metrics
from raybench.training.recorder import Setup
from raybench.training.trial import run_trial

if TYPE_CHECKING:
    from conftest import Digits  # type: ignore[import-not-found]


def test_an_entry_more_is_a_column_more(digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(metrics.SUMS, "top3", metrics.top(3))
    config = digits.trial(schedule__epochs=1)
    outcome = run_trial(config, Setup(results=tmp_path, metric="eval_top3"))
    assert outcome.reason is None
    store = Store(tmp_path)
    (trial,) = store.trials().to_dicts()
    (epoch,) = store.epochs().to_dicts()
    assert epoch["eval_top1"] <= epoch["eval_top3"] <= epoch["eval_top5"]
    assert trial["eval_top3"] == epoch["eval_top3"] == outcome.scores[1]
    assert trial["test_top1"] <= trial["test_top3"] <= trial["test_top5"]
    assert store.last_epochs(config.trial_id)[0].value("eval_top3") == epoch["eval_top3"]
