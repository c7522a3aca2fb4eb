"""The four panels: which cells, how far a curve goes, and where its final value is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from raybench.config.plan import Cell, Setting, label
from raybench.config.trial import DatasetConfig, DistillationConfig, ModelConfig, TeacherConfig, TrialConfig
from raybench.report.comparison import CellResult, compare
from raybench.report.curves import METRICS, few, four_panels, spread_out
from raybench.report.selected import mean_curve

Picture = Callable[[Path | None], tuple[int, int]]
Words = Callable[[Path | None], str]
ALPHA = "distillation.alpha"


def make_cell(alpha: float) -> Cell:
    def trial(seed: int) -> TrialConfig:
        return TrialConfig(
            dataset=DatasetConfig(name="digits", val_size=100),
            model=ModelConfig(name="resnet8"),
            distillation=DistillationConfig(type="hard", alpha=alpha, teacher=TeacherConfig(name="vit_digits")),
            seed=seed,
        )

    factors = {ALPHA: alpha}
    baseline = label({ALPHA: 0.0}) if alpha else None
    return Cell(label(factors), factors, baseline, (Setting({}, tuple(map(trial, range(3)))),))


def sweep(alphas: Sequence[float] = (0.0, 0.5, 0.9), epochs: int = 10) -> tuple[list[CellResult], pl.DataFrame]:
    cells = [make_cell(alpha) for alpha in alphas]
    trials: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for cell in cells:
        for trial in cell.settings[0].trials:
            top = 70 + 10 * trial.distillation.alpha + trial.seed
            trials.append({"trial_id": trial.trial_id, "status": "complete", "eval_top1": top, "test_top1": top})
            for epoch in range(1, epochs + 1):
                values = {
                    "train_loss": 2 / epoch,
                    "eval_loss": 3 / epoch,
                    "train_top1": top,
                    "eval_top1": top - 9 / epoch,
                }
                rows.append({"trial_id": trial.trial_id, "epoch": epoch, **values})
    return compare(cells, pl.DataFrame(trials)), pl.DataFrame(rows)


def test_mean_and_band_over_seeds() -> None:
    results, epochs = sweep()
    found = mean_curve(epochs, results[0], "eval_top1")
    assert found["epoch"].to_list() == list(range(1, 11))
    # 70, 71, 72 less 9 at the first epoch; sums of whole numbers and ninths: rounding.
    assert found["mean"][0] == pytest.approx(71 - 9)
    assert found["sd"].to_list() == pytest.approx([1.0] * 10)
    assert set(found["n"]) == {3}


def test_a_curve_ends_with_the_first_of_its_seeds() -> None:
    results, epochs = sweep()
    short = results[0].selected[1].trial_id
    stopped = epochs.filter((pl.col("trial_id") != short) | (pl.col("epoch") <= 6))
    found = mean_curve(stopped, results[0], "eval_top1")
    assert found["epoch"].to_list() == [1, 2, 3, 4, 5, 6]
    assert set(found["n"]) == {3}
    assert len(mean_curve(epochs, results[0], "test_top1")) == 0
    assert len(mean_curve(pl.DataFrame(), results[0], "eval_top1")) == 0


def test_numbers_that_are_none_are_left_out() -> None:
    results, epochs = sweep()
    holed = epochs.with_columns(train_top1=pl.lit(None, pl.Float64), eval_loss=pl.lit(float("nan")))
    assert len(mean_curve(holed, results[0], "train_top1")) == 0
    assert len(mean_curve(holed, results[0], "eval_loss")) == 0


def test_at_most_four_cells_the_student_alone_among_them() -> None:
    results, _ = sweep((0.0, 0.1, 0.2, 0.3, 0.4, 0.5))
    assert [r.factors[ALPHA] for r in few(results)] == [0.0, 0.3, 0.4, 0.5]
    assert [r.factors[ALPHA] for r in few(results[1:])] == [0.2, 0.3, 0.4, 0.5]
    falling = [replace(r, metric="eval_loss") for r in results]
    assert [r.factors[ALPHA] for r in few(falling)] == [0.0, 0.1, 0.2, 0.3]
    assert few(results[:2]) == results[:2]
    assert few([replace(r, selected=()) for r in results]) == []


@pytest.mark.parametrize("seed", range(10))
def test_final_values_keep_apart_and_in_order(seed: int) -> None:
    heights = [float(value) for value in np.random.default_rng(seed).uniform(0, 100, 5)]
    places = spread_out(heights, 12, 0, 100)
    order = sorted(range(5), key=lambda index: heights[index])
    assert order == sorted(range(5), key=lambda index: places[index])
    # Rounding of the middles of blocks.
    assert all(abs(a - b) >= 12 - 1e-9 for a, b in combinations(places, 2))
    assert all(-1e-9 <= place <= 100 + 1e-9 for place in places)


def test_values_with_room_stay_where_they_are() -> None:
    assert spread_out([50, 10, 90], 12, 0, 100) == [50, 10, 90]
    assert spread_out([50, 50], 12, 0, 100) == [44, 56]
    assert spread_out([0, 1], 12, 0, 100) == [0, 12]
    assert spread_out([], 12, 0, 100) == []
    # Where there is no room they keep apart all the same.
    assert spread_out([5, 5, 5], 12, 0, 10) == pytest.approx([-7, 5, 17])


def test_figure(whole_picture: Picture, words_of: Words, tmp_path: Path) -> None:
    results, epochs = sweep((0.0, 0.1, 0.2, 0.3, 0.4, 0.5))
    first = four_panels(epochs, results, tmp_path / "a.png", source="results/x")
    again = four_panels(epochs, results, tmp_path / "b.png", source="results/x")
    whole_picture(first)
    assert first is not None
    assert again is not None
    assert first.read_bytes() == again.read_bytes()
    drawn = words_of(four_panels(epochs, results, tmp_path / "a.svg"))
    for text in ("training loss", "validation loss", "training top-1 (%)", "validation top-1 (%)", "student alone"):
        assert text in drawn
    for text in ("4 of 6 cells: the student alone", "does not compare across alphas", "n = 3 seeds"):
        assert text in drawn
    # The end of each curve of validation, and the loss that all share.
    for result in few(results):
        assert f"{71 + 10 * result.factors[ALPHA] - 0.9:.1f}" in drawn
    assert drawn.count("0.300") == 4


def test_panels_without_numbers_are_left_out(whole_picture: Picture, words_of: Words, tmp_path: Path) -> None:
    results, epochs = sweep()
    narrow = four_panels(epochs.drop("train_loss", "train_top1", "eval_top1"), results, tmp_path / "a.svg")
    drawn = words_of(narrow)
    assert "validation loss" in drawn
    assert "training" not in drawn.removeprefix("Training and validation")
    whole_picture(four_panels(epochs.drop("train_top1"), results[:1], tmp_path / "b.png"))
    assert four_panels(epochs.drop(METRICS), results, tmp_path / "c.png") is None
    assert four_panels(pl.DataFrame(), results, tmp_path / "c.png") is None
    assert four_panels(epochs, [], tmp_path / "c.png") is None
    assert not (tmp_path / "c.png").exists()
