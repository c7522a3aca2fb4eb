"""Parallel coordinates: which settings are lines, which keys are axes, what is thinned."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from raybench.report.parallel import MAX_LINES, axes_of, coordinates, parallel_coordinates, thinned

Frame = Callable[[list[dict[str, Any]]], pl.DataFrame]
Picture = Callable[[Path | None], tuple[int, int]]
Words = Callable[[Path | None], str]
KEYS = ("optimizer.lr", "distillation.alpha", "distillation.type", "batch_size")


def sweep(lrs: int = 3, **columns: Any) -> list[dict[str, Any]]:
    return [
        {
            "seed": seed,
            "config/optimizer.lr": 10.0**-lr,
            "config/distillation.alpha": alpha,
            "config/distillation.type": kind,
            "config/batch_size": 32,
            "eval_top1": 70.0 - lr + 5 * alpha + seed,
            **columns,
        }
        for lr, alpha, kind, seed in product(range(lrs), (0.0, 0.5), ("hard", "soft"), range(2))
    ]


def test_a_line_is_a_setting(frame: Frame) -> None:
    ((population, settings),) = coordinates(frame(sweep()), KEYS, "eval_top1").items()
    assert population.preset == "small"
    assert len(settings) == 3 * 2 * 2
    assert all(each.estimate.n == 2 for each in settings)
    # The student alone has no kind of distillation.
    kinds = {(each.values["distillation.alpha"], each.values.get("distillation.type")) for each in settings}
    assert kinds == {(0.0, None), (0.5, "hard"), (0.5, "soft")}


def test_axes_are_what_varies(frame: Frame) -> None:
    (settings,) = coordinates(frame(sweep()), KEYS, "eval_top1").values()
    assert axes_of(settings, KEYS) == list(KEYS[:3])
    sizes = [{**row, "config/dataset.train_size": size} for size in ("500", "all") for row in sweep()]
    (settings,) = coordinates(frame(sizes), KEYS, "eval_top1").values()
    assert axes_of(settings, KEYS[:1]) == ["dataset.train_size", "optimizer.lr"]
    assert axes_of(settings, ["optimizer.lr", "dataset.train_size"]) == ["optimizer.lr", "dataset.train_size"]


def test_thinning_keeps_the_ends_and_the_spread(frame: Frame) -> None:
    rows = [{"config/optimizer.lr": 1.0 + n, "eval_top1": float((7 * n) % 1000)} for n in range(1000)]
    (settings,) = coordinates(frame(rows), KEYS, "eval_top1").values()
    kept = [each.estimate.mean for each in thinned(settings)]
    assert len(kept) == MAX_LINES == len(set(kept))
    assert (kept[0], kept[-1]) == (0.0, 999.0)
    gaps = {round(b - a) for a, b in pairwise(kept)}
    assert gaps <= {8, 9}
    assert len(thinned(settings[:10])) == 10


def test_figure(frame: Frame, whole_picture: Picture, words_of: Words, tmp_path: Path) -> None:
    trials = frame(sweep() + sweep(preset="paper"))
    first = parallel_coordinates(trials, KEYS, "eval_top1", tmp_path / "a.png", source="results/x")
    again = parallel_coordinates(trials, KEYS, "eval_top1", tmp_path / "b.png", source="results/x")
    whole_picture(first)
    assert first is not None
    assert again is not None
    assert first.read_bytes() == again.read_bytes()
    drawn = words_of(parallel_coordinates(trials, KEYS, "eval_top1", tmp_path / "a.svg"))
    for text in ("preset small", "preset paper", "learning rate, log", "hard", "none", "n = 2 seeds a setting"):
        assert text in drawn


def test_thinning_is_said(frame: Frame, words_of: Words, tmp_path: Path) -> None:
    rows = [{"config/optimizer.lr": 1.0 + n, "eval_loss": float(n)} for n in range(MAX_LINES + 1)]
    drawn = words_of(parallel_coordinates(frame(rows), KEYS, "eval_loss", tmp_path / "a.svg"))
    assert f"{MAX_LINES} of {MAX_LINES + 1} settings, evenly by rank" in drawn


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"config/optimizer.lr": 0.1, "eval_top1": 1.0}],
        [{"config/optimizer.lr": lr, "eval_top1": 1.0} for lr in (0.1, 0.3)],
        [{"config/momentum": m, "eval_top1": m} for m in (0.1, 0.3)],
        [{"config/optimizer.lr": lr, "eval_top1": lr, "status": "failed"} for lr in (0.1, 0.3)],
    ],
)
def test_nothing_to_see(frame: Frame, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    assert parallel_coordinates(frame(rows), KEYS, "eval_top1", tmp_path / "a.png") is None
    assert list(tmp_path.iterdir()) == []
