"""Importance of hyperparameters on functions whose shares are known."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from raybench.report.importance import (
    MIN_SETTINGS,
    importance,
    importance_figure,
    importances,
    noise_share,
    populations,
    thinned,
)

Frame = Callable[[list[dict[str, Any]]], pl.DataFrame]
Picture = Callable[[Path | None], tuple[int, int]]
Words = Callable[[Path | None], str]
LR, WD, KIND, SIZE = "optimizer.lr", "optimizer.weight_decay", "distillation.type", "dataset.train_size"


def drawn(count: int = 60) -> list[dict[str, Any]]:
    """A random search in which the logarithm of the rate decides, and the decay nothing."""
    generator = np.random.default_rng(0)
    powers, decays = generator.uniform(-5, -1, count), generator.uniform(-4, -1, count)
    return [
        {
            "config/optimizer.lr": float(10**power),
            "config/optimizer.weight_decay": float(10**decay),
            "config/batch_size": 32,
            "eval_top1": 80 - 5 * float(power + 3) ** 2,
        }
        for power, decay in zip(powers, decays, strict=True)
    ]


def test_what_decides_is_told_from_what_does_not(frame: Frame) -> None:
    trials = frame(drawn())
    first, second = importance(trials, [WD, LR, "batch_size"], "eval_top1")
    assert (first.key, second.key) == (LR, WD)
    # The function is of the rate alone; a forest of 60 points leaves some of it to splits by chance.
    assert first.mean > 0.8
    assert second.mean < 0.05
    assert 0 < first.spread < 0.2
    key, mean, spread = first
    assert (key, mean, spread) == (LR, first.mean, first.spread)


def test_the_same_rows_give_the_same_numbers(frame: Frame) -> None:
    trials = frame(drawn(12))
    assert importance(trials, None, "eval_top1") == importance(trials, [LR, WD, "no.such.key"], "eval_top1")


def test_shares_of_a_factorial_are_those_of_its_analysis_of_variance(frame: Frame) -> None:
    kinds, powers = {"hard": 0.0, "soft": 3.0, "both": 1.0}, {-4: 0.0, -3: 2.0, -2: 1.0, -1: 4.0}
    rows = [
        {"config/distillation.type": kind, "config/optimizer.lr": 10.0**power, "eval_top1": kinds[kind] + powers[power]}
        for kind, power in product(kinds, powers)
    ]
    shares = {each.key: each.mean for each in importance(frame(rows), [KIND, LR], "eval_top1")}
    variances = {KIND: np.var(list(kinds.values())), LR: np.var(list(powers.values()))}
    # Each tree sees two thirds of twelve settings: a tenth off, and the order right.
    for key, variance in variances.items():
        assert shares[key] == pytest.approx(variance / sum(variances.values()), abs=0.15)


def test_many_names_are_no_trouble(frame: Frame) -> None:
    rows = [
        {"config/model.name": f"m{n:02}", "config/optimizer.lr": lr, "eval_top1": float(n % 7) + lr}
        for n, lr in product(range(20), (0.1, 0.2))
    ]
    first, second = importance(frame(rows), None, "eval_top1")
    assert (first.key, second.key) == ("model.name", LR)
    assert first.mean > 0.9


def test_the_train_size_is_never_noise(frame: Frame) -> None:
    rows = [
        {**row, "config/dataset.train_size": size, "eval_top1": row["eval_top1"] + bonus}
        for size, bonus in (("100", 0.0), ("500", 40.0))
        for row in drawn(20)
    ]
    assert [each.key for each in importance(frame(rows), [LR], "eval_top1")] == [SIZE, LR]


def test_seeds_are_averaged_first(frame: Frame) -> None:
    rows = [
        {**row, "seed": seed, "eval_top1": row["eval_top1"] + noise}
        for row in drawn(20)
        for seed, noise in enumerate((-30.0, 30.0))
    ]
    (settings,) = populations(frame(rows), "eval_top1").values()
    assert len(settings) == 20
    plain = importance(frame(drawn(20)), None, "eval_top1")
    averaged = importances(settings, None, "eval_top1")
    assert [each.key for each in averaged] == [each.key for each in plain]
    # The means are the plain values up to the last bits, which may turn a split.
    assert [each.mean for each in averaged] == pytest.approx([each.mean for each in plain], abs=0.02)
    assert noise_share(settings) == 1.0


def test_noise_of_seeds_as_a_share(frame: Frame) -> None:
    rows = [
        {"config/optimizer.lr": lr, "seed": seed, "eval_top1": 10 * lr + seed} for lr in (1.0, 2.0) for seed in range(2)
    ]
    (settings,) = populations(frame(rows), "eval_top1").values()
    # Variance over two seeds 1/2, of their mean 1/4; between the settings 25.
    assert noise_share(settings) == pytest.approx(0.25 / 25)
    (single,) = populations(frame(rows[::2]), "eval_top1").values()
    assert noise_share(single) is None


def test_a_loss_is_explained_as_well(frame: Frame) -> None:
    rows = [{**row, "eval_loss": -row["eval_top1"]} for row in drawn(30)]
    assert importance(frame(rows), None, "eval_loss")[0].key == LR


def test_populations_are_not_mixed(frame: Frame) -> None:
    rows = drawn(10)
    mixed = frame(rows + [{**row, "preset": "paper"} for row in rows])
    with pytest.raises(ValueError, match="preset small; preset paper"):
        importance(mixed, [LR], "eval_top1")


def test_thinning_is_the_same_each_time(frame: Frame) -> None:
    (settings,) = populations(frame(drawn(400)), "eval_top1").values()
    kept = thinned(settings, 50)
    assert len({each.setting_id for each in kept}) == 50
    assert kept == thinned(settings, 50)
    assert thinned(kept, 50) == kept


def test_figure(frame: Frame, whole_picture: Picture, words_of: Words, tmp_path: Path) -> None:
    rows = drawn(12)
    trials = frame(rows + [{**row, "preset": "paper"} for row in rows])
    whole_picture(importance_figure(frame(rows), None, "eval_top1", tmp_path / "a.png", source="results/x"))
    drawn_text = words_of(importance_figure(trials, [LR, WD], "eval_top1", tmp_path / "a.svg"))
    for text in ("preset small", "preset paper", "learning rate", "together only", "12 settings."):
        assert text in drawn_text


def test_nothing_to_see(frame: Frame, tmp_path: Path) -> None:
    same = [{**row, "eval_top1": 1.0} for row in drawn(10)]
    for rows in ([], drawn(MIN_SETTINGS - 1), same):
        assert importance(frame(rows), None, "eval_top1") == []
        assert importance_figure(frame(rows), None, "eval_top1", tmp_path / "a.png") is None
    assert importance_figure(frame(drawn(10)), ["batch_size"], "eval_top1", tmp_path / "a.png") is None
    assert list(tmp_path.iterdir()) == []
