"""The epochs of selected trials, cell by cell."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from raybench.config.plan import Cell, Setting
from raybench.config.trial import DatasetConfig, ModelConfig, TrialConfig
from raybench.report.comparison import compare
from raybench.report.selected import selected_epochs


def test_each_cell_has_the_rows_of_its_trials_in_order_and_no_others() -> None:
    trials = [
        TrialConfig(dataset=DatasetConfig(name="digits", val_size=100), model=ModelConfig(name="resnet8"), seed=seed)
        for seed in range(4)
    ]
    one, other, third, left_out = (trial.trial_id for trial in trials)
    cells = [
        Cell(name, {"cell": name}, None, (Setting({}, tuple(trials[index] for index in which)),))
        for name, which in {"a": (0, 1), "b": (1, 2)}.items()
    ]
    rows = pl.DataFrame(
        [{"trial_id": t.trial_id, "status": "complete", "eval_top1": 1.0, "test_top1": 1.0} for t in trials]
    )
    results = compare(cells, rows)
    epochs = pl.DataFrame(
        [
            {"trial_id": trial_id, "epoch": epoch, "value": 10.0 * epoch, "further": 0}
            for epoch in (2, 1)
            for trial_id in (left_out, third, other, one)
        ]
    )
    found = selected_epochs(results, epochs, ("value",))
    assert {label: part.columns for label, part in found.items()} == {
        label: ["trial_id", "epoch", "value"] for label in "ab"
    }
    # A trial that two cells share is in both.
    for label, members in {"a": sorted([one, other]), "b": sorted([other, third])}.items():
        assert found[label].rows() == [(t, epoch, 10.0 * epoch) for t in members for epoch in (1, 2)]
    assert selected_epochs(results, epochs, ("absent",)) == {}
    assert selected_epochs([replace(result, selected=()) for result in results], epochs, ()) == {}
    assert selected_epochs(results, pl.DataFrame(), ()) == {}
