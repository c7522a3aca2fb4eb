"""The Pareto front against brute force, what shares a panel, and the figure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybench.report.comparison import CellResult
from raybench.report.pareto import Cost, Mode, cost_panels, pareto_figure, pareto_front

Picture = Callable[[Path | None], tuple[int, int]]
Words = Callable[[Path | None], str]
Make = Callable[..., CellResult]
Points = list[tuple[float | None, float | None]]
SIZE = "dataset.train_size"


def by_hand(points: Points, cost_mode: Mode, value_mode: Mode) -> set[int]:
    """Every point against every other."""

    def usable(point: tuple[float | None, float | None]) -> bool:
        return all(each is not None and math.isfinite(each) for each in point)

    def signed(point: tuple[float | None, float | None]) -> tuple[float, float]:
        cost, value = point
        assert cost is not None
        assert value is not None
        return cost * (1 if cost_mode == "min" else -1), value * (-1 if value_mode == "min" else 1)

    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one[0] <= other[0] and one[1] >= other[1] and one != other

    known = {index: signed(point) for index, point in enumerate(points) if usable(point)}
    return {i for i, own in known.items() if not any(beats(other, own) for other in known.values())}


@pytest.mark.parametrize("value_mode", ["max", "min"])
@pytest.mark.parametrize("cost_mode", ["max", "min"])
@pytest.mark.parametrize("seed", range(20))
def test_front_as_by_hand(seed: int, cost_mode: Mode, value_mode: Mode) -> None:
    generator = np.random.default_rng(seed)
    # Few levels make ties of one, of the other and of both; some points are missing.
    levels = generator.integers(0, 6 if seed % 2 else 1000, (40, 2)).astype(float)
    points: Points = [(float(cost), float(value)) for cost, value in levels]
    points[3], points[7], points[11] = (None, 5.0), (math.nan, 5.0), (0.0, math.inf)
    front = pareto_front(points, cost_mode, value_mode)
    assert set(front) == by_hand(points, cost_mode, value_mode)
    assert len(set(front)) == len(front)
    costs = [points[index][0] or 0.0 for index in front]
    assert costs == sorted(costs)


def test_trivial_fronts() -> None:
    assert pareto_front([]) == []
    assert pareto_front([(None, None)]) == []
    assert pareto_front([(1.0, 1.0)]) == [0]
    assert pareto_front([(1.0, 1.0), (1.0, 1.0)]) == [0, 1]
    assert pareto_front([(1.0, 1.0), (2.0, 1.0), (1.0, 0.0)]) == [0]


@pytest.fixture
def cell(cell_result: Callable[..., CellResult]) -> Make:
    """A model with what it costs."""

    def make(name: str, cost: float | None, values: tuple[float, ...], **known: Any) -> CellResult:
        costs = {"param_count": cost, "gmacs": cost, "infer_samples_per_sec": None if cost is None else 100 / cost}
        return cell_result(name, {"model.name": name}, values, **costs | known)

    return make


@pytest.fixture
def models(cell: Make) -> list[CellResult]:
    """Three on the front, one behind it, two that are not measured."""
    return [
        cell("tiny", 1.0, (60.0, 61.0, 62.0)),
        cell("mid", 4.0, (70.0, 71.0, 72.0)),
        cell("bad", 5.0, (65.0, 66.0, 67.0)),
        cell("big", 20.0, (80.0, 81.0, 82.0)),
        cell("unmeasured", None, (99.0,)),
        cell("failed", 0.1, ()),
    ]


@pytest.mark.parametrize("cost", ["gmacs", "infer_samples_per_sec", "param_count"])
def test_points_of_a_panel(cost: Cost, models: list[CellResult]) -> None:
    (panel,) = cost_panels(models, cost)
    points = panel.points
    assert panel.title == ""
    assert {point.name: point.on_front for point in points} == {"tiny": True, "mid": True, "bad": False, "big": True}
    assert [point.value for point in points] == [61.0, 71.0, 66.0, 81.0]


def test_a_loss_is_better_when_lower(models: list[CellResult]) -> None:
    losses = [replace(each, test_mode="min", test_metric="test_loss") for each in models]
    (panel,) = cost_panels(losses, "gmacs")
    assert [point.name for point in panel.points if point.on_front] == ["tiny"]


def test_populations_have_fronts_of_their_own(models: list[CellResult]) -> None:
    def of(**changes: Any) -> list[CellResult]:
        return [replace(each, **changes) for each in models]

    sized = [replace(r, factors={**r.factors, SIZE: size}) for size in (500, "all") for r in models]
    cases = {
        ("preset small", "preset paper"): of() + of(presets=("paper",)),
        ("official", "own split"): of() + of(variants=("own split",)),
        ("500 training images", "all training images"): sized,
    }
    for titles, results in cases.items():
        panels = cost_panels(results, "gmacs")
        assert tuple(panel.title for panel in panels) == titles
        assert all([p.name for p in each.points if p.on_front] == ["tiny", "mid", "big"] for each in panels)


def test_speed_of_equal_models_is_noise(cell: Make, tmp_path: Path) -> None:
    equal = [cell(str(n), 4.0, (70.0 + n,), infer_samples_per_sec=100.0 + n) for n in range(3)]
    assert cost_panels(equal, "infer_samples_per_sec") == []
    unknown = [replace(each, gmacs=None) for each in equal]
    (panel,) = cost_panels(unknown, "infer_samples_per_sec")
    assert len(panel.points) == 3
    assert pareto_figure(equal, "gmacs", tmp_path / "a.png") is None
    assert pareto_figure([], "gmacs", tmp_path / "a.png") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cost", ["gmacs", "infer_samples_per_sec", "param_count"])
def test_figure(cost: Cost, models: list[CellResult], whole_picture: Picture, tmp_path: Path) -> None:
    first = pareto_figure(models, cost, tmp_path / "a.png", source="results/x")
    again = pareto_figure(models, cost, tmp_path / "b.png", source="results/x")
    whole_picture(first)
    assert first is not None
    assert again is not None
    assert first.read_bytes() == again.read_bytes()


def test_crowded_figure_in_two_panels(cell: Make, whole_picture: Picture, words_of: Words, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    crowd = [
        replace(
            cell(f"a model with a rather long name {n}", 1 + n % 3, tuple(generator.normal(70, 1, 3))),
            factors={"model.name": f"a model with a rather long name {n}", SIZE: size},
        )
        for size in (500, 1000)
        for n in range(16)
    ]
    whole_picture(pareto_figure(crowd, "gmacs", tmp_path / "a.png"))
    path = pareto_figure(crowd, "gmacs", tmp_path / "a.svg")
    assert "8 cells off the front are not named." in words_of(path)
