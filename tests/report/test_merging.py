"""Speed and accuracy against r: equal models on one device, r = 0 as the reference."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from raybench.report.merging import SPEED, lines_against_r, r_of, speed_against_r

Frame = Callable[[list[dict[str, Any]]], pl.DataFrame]
Picture = Callable[[Path | None], tuple[int, int]]
Words = Callable[[Path | None], str]


def rows(model: str, rs: tuple[Any, ...], speed: float = 100.0, **columns: Any) -> list[dict[str, Any]]:
    return [
        {
            "cell": f"{model} {r}",
            "seed": seed,
            "config/model.name": model,
            "config/model.options": json.dumps({"depth": 4} | ({} if r is None else {"tome_r": r})),
            SPEED: speed + 10 * (r if isinstance(r, int) else 0) + seed,
            "eval_top1": 70.0 + seed,
            "test_top1": 70.0 + seed,
            "env/gpu": "A",
            **columns,
        }
        for r in rs
        for seed in range(3)
    ]


@pytest.mark.parametrize(
    ("value", "r"),
    [(None, 0), (0, 0), (13, 13), ("8", 8), ("(8, -1)", None), ([10, 5], None), ("x", None), (True, None)],
)
def test_r_is_one_number_or_none(value: Any, r: int | None) -> None:
    assert r_of(value) == r


def test_lines_are_of_models_with_two_r(frame: Frame) -> None:
    trials = frame(rows("vit", (None, 4, 8, "(8, -1)")) + rows("resnet20", (None,), speed=900))
    (line,), left_out = lines_against_r(trials, SPEED)
    assert left_out == 1
    assert line.cell["model.name"] == "vit"
    assert [(point.value, point.setting.estimate.mean) for point in line.points] == [(0, 101.0), (4, 141.0), (8, 181.0)]


def test_each_r_has_its_setting_selected_on_validation(frame: Frame) -> None:
    slow = [{**row, "config/optimizer.lr": 0.1} for row in rows("vit", (0, 4))]
    fast = [{**row, "config/optimizer.lr": 0.3, "eval_top1": 60.0, SPEED: 9e9} for row in rows("vit", (0, 4))]
    (line,), _ = lines_against_r(frame(slow + fast), SPEED)
    assert [point.setting.estimate.mean for point in line.points] == [101.0, 141.0]


def test_devices_are_never_averaged(frame: Frame) -> None:
    trials = frame(rows("vit", (0, 4)) + rows("vit", (0, 4), speed=500.0, **{"env/gpu": "B"}))
    lines, _ = lines_against_r(trials, SPEED)
    assert [line.panel.device for line in lines] == ["A", "B"]
    assert [line.points[0].setting.estimate.mean for line in lines] == [101.0, 501.0]


def test_figure(frame: Frame, whole_picture: Picture, words_of: Words, tmp_path: Path) -> None:
    trials = frame(rows("vit", (None, 4, 8)) + rows("deit", (None, 8)) + rows("resnet20", (None,)))
    whole_picture(speed_against_r(trials, tmp_path / "a.png", source="results/x"))
    two = frame(rows("vit", (0, 4)) + rows("vit", (0, 4), preset="paper") + rows("vit", ("[1, 2]",)))
    drawn = words_of(speed_against_r(two, tmp_path / "b.svg"))
    assert "preset paper" in drawn
    assert f"{141 / 101:.2f}×" in drawn
    assert "Not shown: 1 setting whose r changes" in drawn


def test_nothing_to_see(frame: Frame, tmp_path: Path) -> None:
    for trials in (frame(rows("vit", (8,)) + rows("deit", (None,))), frame(rows("vit", ("[1]", 2))), pl.DataFrame()):
        assert speed_against_r(trials, tmp_path / "a.png") is None
    assert list(tmp_path.iterdir()) == []
