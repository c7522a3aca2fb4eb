"""Equal cost: device time counts by the share of a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import polars as pl
import pytest

from raybench.config.plan import Cell, Setting, label
from raybench.config.trial import DatasetConfig, ModelConfig, TrialConfig
from raybench.report.budget import Budget, at_equal_cost, budget_sheet
from raybench.report.comparison import CellResult, compare

EPOCHS = 6
TRAIN_S, EVAL_S = 8.0, 2.0


def trial(model: str, seed: int) -> TrialConfig:
    return TrialConfig(dataset=DatasetConfig(name="digits", val_size=100), model=ModelConfig(name=model), seed=seed)


def made(shares: Mapping[str, float | None]) -> tuple[list[CellResult], pl.DataFrame]:
    """Models of two seeds, each 10 points an epoch from 10 % on, 10 s an epoch on such a share of a device."""
    cells, rows, epochs = [], [], []
    for model, share in shares.items():
        trials = tuple(trial(model, seed) for seed in range(2))
        cells.append(Cell(label({"model.name": model}), {"model.name": model}, None, (Setting({}, trials),)))
        for each in trials:
            spent: dict[str, Any] = {"train_time": EPOCHS * TRAIN_S, "eval_time": EPOCHS * EVAL_S}
            if share is not None:
                spent["device_hours"] = share * EPOCHS * (TRAIN_S + EVAL_S) / 3600
            done = {"status": "complete", "eval_top1": 10.0 * EPOCHS, "test_top1": 60.0}
            rows.append({"trial_id": each.trial_id, **done, **spent})
            epochs += [
                {
                    "trial_id": each.trial_id,
                    "epoch": epoch,
                    "eval_top1": 10.0 * epoch,
                    "train_time": TRAIN_S,
                    "eval_time": EVAL_S,
                }
                for epoch in range(1, EPOCHS + 1)
            ]
    return compare(cells, pl.DataFrame(rows, infer_schema_length=None)), pl.DataFrame(epochs)


def budget_of(results: list[CellResult], epochs: pl.DataFrame, **asked: Any) -> Budget:
    found = at_equal_cost(results, epochs, "eval_top1", "max", **asked)
    assert found is not None
    return found


@pytest.mark.parametrize("seconds", [20.0, 30.0, 45.0])
def test_a_trial_on_half_a_device_has_twice_the_time(seconds: float) -> None:
    budget = budget_of(*made({"whole": 1.0, "half": 0.5}), at_device_seconds=seconds)
    whole, half = (cell.at_time.mean if cell.at_time else None for cell in budget.cells)
    assert whole == 10 * (seconds // 10)
    assert half == 10 * min(EPOCHS, seconds // 5)
    assert [cell.at_epochs.mean for cell in budget.cells if cell.at_epochs] == [60.0, 60.0]


def test_the_time_that_all_have_spent_is_that_of_the_smallest_share() -> None:
    results, epochs = made({"whole": 1.0, "quarter": 0.25})
    budget = budget_of(results, epochs, target=30.0)
    assert budget.device_seconds == pytest.approx(60 / 4)
    assert [(cell.target.epochs, cell.target.device_seconds) for cell in budget.cells] == [(3, 30.0), (3, 7.5)]
    whole, quarter = budget.cells
    assert whole.at_time is not None
    assert quarter.at_time is not None
    assert (whole.at_time.mean, quarter.at_time.mean) == (10.0, 60.0)
    text = " ".join(" ".join(column.title.split()) for column in budget_sheet(budget, results).columns)
    assert "after 15 device-s" in text
    assert "device-s to 30.0 %" in text


def test_of_several_devices_a_second_counts_as_often() -> None:
    assert budget_of(*made({"two": 2.0, "one": 1.0})).device_seconds == pytest.approx(60.0)


def test_a_share_that_is_not_known_is_taken_as_the_whole_and_said() -> None:
    results, epochs = made({"whole": 1.0, "unknown": None})
    budget = budget_of(results, epochs)
    assert [cell.unknown for cell in budget.cells] == [0, 2]
    assert budget.device_seconds == pytest.approx(60.0)
    assert "of 2 trials the share of the device is not known" in " ".join(budget_sheet(budget, results).footnotes)
    known, epochs = made({"whole": 1.0, "half": 0.5})
    assert not any("not known" in note for note in budget_sheet(budget_of(known, epochs), known).footnotes)


def test_one_target_over_unlike_data_is_remarked() -> None:
    results, epochs = made({"resnet8": 1.0, "resnet20": 1.0})
    budget = at_equal_cost(results, epochs, "eval_top1", "max")
    assert budget is not None
    unlike = [
        replace(result, factors={**result.factors, "dataset.name": name})
        for result, name in zip(results, ("digits", "cifar10"), strict=True)
    ]
    said = "the same for all data"
    assert not any(said in note for note in budget_sheet(budget, results).footnotes)
    assert any(said in note for note in budget_sheet(budget, unlike).footnotes)


def test_a_time_that_is_not_known_is_not_none() -> None:
    results, epochs = made({"whole": 1.0, "unknown": 1.0, "partly": 1.0})
    lost = {each.trial_id for each in (*results[1].selected, results[2].selected[0])}
    gone = (
        pl.when(pl.col("trial_id").is_in(list(lost)) & (pl.col("epoch") > 1)).then(None).otherwise(pl.col("train_time"))
    )
    budget = budget_of(results, epochs.with_columns(train_time=gone), target=30.0)
    assert budget.device_seconds == pytest.approx(60.0)
    assert [cell.at_time.n if cell.at_time else 0 for cell in budget.cells] == [2, 0, 1]
    assert [cell.target.device_seconds for cell in budget.cells] == [30.0, None, 30.0]
    assert "of 3 trials the time of an epoch is not known" in " ".join(budget_sheet(budget, results).footnotes)


def test_a_loss_has_the_decimals_that_its_spread_needs() -> None:
    results, epochs = made({"whole": 1.0, "half": 0.5})
    first = [result.selected[0].trial_id for result in results]
    loss = pl.when(pl.col("trial_id").is_in(first)).then(1.441).otherwise(1.456)
    budget = at_equal_cost(results, epochs.with_columns(eval_loss=loss), "eval_loss", "min")
    assert budget is not None
    assert budget_sheet(budget, results).columns[0].texts[0] == "1.449 ± 0.011 (2)"
