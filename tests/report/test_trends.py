"""Trends of a comparison: the published ones come out, and so does their crossing."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from raybench.config.plan import Cell, Setting, label
from raybench.config.trial import (
    DatasetConfig,
    DistillationConfig,
    ModelConfig,
    ScheduleConfig,
    TeacherConfig,
    TrialConfig,
)
from raybench.report.comparison import CellResult, compare
from raybench.report.crossing import Crossing
from raybench.report.fits import LogFit
from raybench.report.holdout import Holdout
from raybench.report.tables import sheet_lines
from raybench.report.trends import trend_sheet, trends

EPOCHS = np.arange(1, 151)
PUBLISHED = 100 * (-0.112 + 0.139 * np.log(EPOCHS))
"""Jeong and Arnoud: the distilled student's trend, %."""
PLATEAU = np.full(len(EPOCHS), 72.0)
"""About what their baseline reached, %."""


def trial(alpha: float, seed: int) -> TrialConfig:
    return TrialConfig(
        dataset=DatasetConfig(name="digits", val_size=100),
        model=ModelConfig(name="resnet8"),
        distillation=DistillationConfig(type="hard", alpha=alpha, teacher=TeacherConfig(name="vit_digits")),
        schedule=ScheduleConfig(epochs=150),
        seed=seed,
    )


def compared(noise: float) -> tuple[list[CellResult], pl.DataFrame]:
    """Two cells of three seeds: the plateau alone, and the trend with a teacher."""
    cells, rows, epochs = [], [], []
    for alpha, curve in ((0.0, PLATEAU), (0.5, PUBLISHED)):
        trials = tuple(trial(alpha, seed) for seed in range(3))
        factors = {"distillation.alpha": alpha}
        cells.append(Cell(label(factors), factors, "alpha=0" if alpha else None, (Setting({}, trials),)))
        for each in trials:
            numbers = np.random.default_rng([each.seed, int(10 * alpha)])
            values = curve + noise * numbers.normal(size=len(EPOCHS))
            rows.append(
                {
                    "trial_id": each.trial_id,
                    "status": "complete",
                    "eval_top1": float(values[-1]),
                    "test_top1": float(values[-1]),
                }
            )
            epochs.append(pl.DataFrame({"trial_id": each.trial_id, "epoch": EPOCHS, "eval_top1": values}))
    return compare(cells, pl.DataFrame(rows)), pl.concat(epochs)


def test_the_published_trend_and_its_crossing_come_out() -> None:
    results, epochs = compared(noise=1.0)
    (alone, taught), horizon = trends(results, epochs, "eval_top1")
    assert horizon == 1500
    assert isinstance(taught.log, LogFit)
    assert isinstance(taught.hidden, Holdout)
    # Three seeds of 150 points with noise of 1 %: a standard error of 0.05 of b.
    assert (taught.log.a, taught.log.b) == pytest.approx((-11.2, 13.9), abs=0.6)
    assert taught.log.r2 > 0.99
    assert taught.hidden.mean_absolute < 1
    assert alone.crossing is None
    assert isinstance(taught.crossing, Crossing)
    # exp((72 + 11.2) / 13.9) = 398; b's error of 0.05 makes it 1.5 % either way.
    assert taught.crossing.epoch == pytest.approx(398, rel=0.06)
    assert taught.crossing.rises
    assert taught.crossing.extrapolated


def test_the_table_says_it_in_words() -> None:
    results, epochs = compared(noise=1.0)
    found, horizon = trends(results, epochs, "eval_top1")
    text = "\n".join(sheet_lines(trend_sheet(found, horizon, results, "eval_top1")))
    assert "overtakes *" in text
    assert "up to epoch 1,500" in text


def test_without_curves_there_is_no_trend() -> None:
    results, epochs = compared(noise=1.0)
    assert trends(results, epochs.drop("eval_top1"), "eval_top1") == ([], 0.0)
    assert trends(results, epochs.head(0), "eval_top1") == ([], 0.0)


@pytest.mark.parametrize(("ceiling", "remarked"), [(120.0, True), (80.0, False)])
def test_a_ceiling_that_no_accuracy_reaches_is_remarked(ceiling: float, remarked: bool) -> None:
    curve = ceiling - 70 / np.sqrt(EPOCHS)
    cell = Cell("one", {"model.name": "resnet8"}, None, (Setting({}, (trial(0.0, 0),)),))
    trial_id = cell.settings[0].trials[0].trial_id
    rows = pl.DataFrame([{"trial_id": trial_id, "status": "complete", "eval_top1": 60.0, "test_top1": 60.0}])
    results = compare([cell], rows)
    noise = 0.01 * np.random.default_rng(0).normal(size=len(EPOCHS))
    epochs = pl.DataFrame({"trial_id": trial_id, "epoch": EPOCHS, "eval_top1": curve + noise})
    found, horizon = trends(results, epochs, "eval_top1")
    text = " ".join(" ".join(sheet_lines(trend_sheet(found, horizon, results, "eval_top1"))).split())
    assert ("! above 100 %" in text) == remarked
    assert ("] !" in text) == remarked
