"""Lines of a metric against a key: what is on one line, what is selected, and what is never joined."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from raybench.report.scale import make_scale
from raybench.report.statistics import estimate
from raybench.report.views import Line, against, cell_key, line_names, lines_against, look, shifts

Frame = Callable[[list[dict[str, Any]]], pl.DataFrame]
Picture = Callable[[Path | None], tuple[int, int]]
Words = Callable[[Path | None], str]
LR, SIZE, ALPHA = "optimizer.lr", "dataset.train_size", "distillation.alpha"
LRS = (0.01, 0.1, 1.0)


def top1(alpha: float, size: str, lr: float, seed: int) -> float:
    """The best rate is 0.1 with 500 images and 1 with all."""
    best = {0.01: 0.0, 0.1: 4.0, 1.0: 2.0} if size == "500" else {0.01: 0.0, 0.1: 4.0, 1.0: 6.0}
    return 60.0 + 10 * alpha + (15 if size == "all" else 0) + best[lr] + 0.5 * seed


def sweep(alphas: tuple[float, ...] = (0.0, 0.5), sizes: tuple[str, ...] = ("500", "all")) -> list[dict[str, Any]]:
    rows = []
    for alpha, size, lr, seed in product(alphas, sizes, LRS, range(3)):
        value = top1(alpha, size, lr, seed)
        rows.append(
            {
                "cell": f"alpha={alpha} train_size={size}",
                "seed": seed,
                "config/dataset.train_size": size,
                "config/distillation.type": "hard",
                "config/distillation.alpha": alpha,
                "config/optimizer.lr": lr,
                "eval_top1": value,
                "test_top1": value - 1,
            }
        )
    return rows


def points(line: Line) -> list[tuple[Any, float, bool]]:
    return [(point.value, point.setting.estimate.mean, point.selected) for point in line.points]


def test_a_tuned_key_is_followed_within_each_cell(frame: Frame) -> None:
    lines = lines_against(frame(sweep()), LR, "eval_top1")
    assert [(line.panel.train_size, line.cell[ALPHA]) for line in lines] == [
        ("500", 0.0),
        ("all", 0.0),
        ("500", 0.5),
        ("all", 0.5),
    ]
    assert points(lines[0]) == [(0.01, 60.5, False), (0.1, 64.5, True), (1.0, 62.5, False)]
    assert points(lines[3]) == [(0.01, 80.5, False), (0.1, 84.5, False), (1.0, 86.5, True)]
    assert lines[0].points[1].setting.estimate == estimate([64.0, 64.5, 65.0])


def test_a_factor_is_followed_through_selected_settings(frame: Frame) -> None:
    lines = lines_against(frame(sweep()), SIZE, "test_top1")
    assert [line.cell[ALPHA] for line in lines] == [0.0, 0.5]
    assert points(lines[0]) == [("500", 63.5, True), ("all", 80.5, True)]
    assert points(lines[1]) == [("500", 68.5, True), ("all", 85.5, True)]
    assert {point.setting.values[LR] for line in lines for point in line.points} == {0.1, 1.0}


def test_selection_is_on_validation_whatever_is_shown(frame: Frame) -> None:
    rows = sweep((0.0,), ("500",))
    for row in rows:
        row["test_top1"] = 90.0 if row["config/optimizer.lr"] == 0.01 else 10.0
    (line,) = lines_against(frame(rows), LR, "test_top1")
    assert [selected for _, _, selected in points(line)] == [False, True, False]
    (line,) = lines_against(frame(rows), LR, "test_top1", select_by="test_top1")
    assert [selected for _, _, selected in points(line)] == [True, False, False]


@pytest.mark.parametrize("column", ["preset", "dataset_variant", "sweep"])
def test_populations_have_panels_of_their_own(frame: Frame, column: str) -> None:
    rows = [{**row, column: name} for name in ("one", "other") for row in sweep((0.0,))]
    by_rate, by_size = (lines_against(frame(rows), key, "eval_top1") for key in (LR, SIZE))
    assert [len({line.panel for line in lines}) for lines in (by_rate, by_size)] == [4, 2]
    assert all(point.setting.estimate.n == 3 for line in by_rate + by_size for point in line.points)


def test_other_tuned_keys_are_held(frame: Frame) -> None:
    rows = [
        {"config/optimizer.lr": lr, "config/optimizer.weight_decay": wd, "eval_top1": 100 * lr + wd}
        for lr, wd in product((0.1, 0.3), (0.0, 1.0))
    ]
    lines = lines_against(frame(rows), LR, "eval_top1")
    assert [[value for value, _, _ in points(line)] for line in lines] == [[0.1, 0.3]] * 2
    assert sum(selected for line in lines for _, _, selected in points(line)) == 1
    # A random search, in which no two settings share a rate or a decay: dots of one cell.
    drawn = [{"config/optimizer.lr": 0.1 * n, "config/optimizer.weight_decay": 5.0 - n, "eval_top1": n} for n in (1, 2)]
    assert [len(line.points) for line in lines_against(frame(drawn), LR, "eval_top1")] == [1, 1]


def test_the_student_alone_has_no_place_on_an_axis_of_distillation(frame: Frame) -> None:
    rows = [
        {"cell": f"{alpha} {tau}", "config/distillation.alpha": alpha, "config/distillation.tau": tau, "eval_top1": tau}
        for alpha, tau in ((0.0, 1.0), (0.5, 1.0), (0.5, 4.0))
    ]
    (line,) = lines_against(frame(rows), "distillation.tau", "eval_top1")
    assert [value for value, _, _ in points(line)] == [1.0, 4.0]


def test_the_student_alone_begins_every_line_of_alpha(frame: Frame) -> None:
    rows = [
        {"cell": f"{kind} {a}", "config/distillation.type": kind, "config/distillation.alpha": a, "eval_top1": top}
        for kind, a, top in (("hard", 0.0, 1.0), ("hard", 0.5, 2.0), ("soft", 0.5, 3.0), ("soft", 0.9, 4.0))
    ]
    lines = lines_against(frame(rows), ALPHA, "eval_top1")
    assert [line.cell["distillation.type"] for line in lines] == ["hard", "soft"]
    assert [[(value, mean) for value, mean, _ in points(line)] for line in lines] == [
        [(0.0, 1.0), (0.5, 2.0)],
        [(0.0, 1.0), (0.5, 3.0), (0.9, 4.0)],
    ]
    # Beside a train size at which nothing was taught, and which is another panel.
    lone = {"cell": "x", "config/distillation.alpha": 0.0, "config/dataset.train_size": "5", "eval_top1": 9.0}
    assert len(lines_against(frame([*rows, lone]), ALPHA, "eval_top1")) == 2


def test_names_say_what_differs_within_a_panel(frame: Frame) -> None:
    rows = [
        {"preset": preset, "cell": kind, "config/distillation.type": kind, "config/batch_size": size, **rest}
        for preset, size in (("small", 32), ("paper", 64))
        for kind in ("hard", "soft")
        for rest in ({"config/optimizer.lr": lr, "eval_top1": lr} for lr in (0.1, 0.3))
    ]
    lines = lines_against(frame(rows), LR, "eval_top1")
    names = line_names(lines)
    assert [names[cell_key(line)] for line in lines] == ["hard", "soft", "hard", "soft"]


def test_nothing_to_see(frame: Frame, tmp_path: Path) -> None:
    one_rate = [row for row in sweep() if row["config/optimizer.lr"] == 0.1]
    failed = [{**row, "status": "failed"} for row in sweep()]
    for rows, key in ((one_rate, LR), (failed, LR), (sweep(), "no.such.key"), (sweep((0.0,), ("500",)), SIZE)):
        assert lines_against(frame(rows), key, "eval_top1") == []
        assert against(frame(rows), key, "eval_top1", tmp_path / "none.png") is None
    assert against(pl.DataFrame(), LR, "eval_top1", tmp_path / "none.png") is None
    assert list(tmp_path.iterdir()) == []


def test_lines_stand_side_by_side() -> None:
    scale = make_scale([0.1, 1.0, 10.0])
    for count in (1, 2, 7, 30):
        beside = shifts(scale, count)
        assert sum(beside) == pytest.approx(0, abs=1e-12)
        # Never as far as halfway to the next value.
        assert max(beside, default=0.0) < 0.5
        assert all(a < b for a, b in pairwise(beside))
    # In print without colours too, and where the colours begin anew.
    looks = [(look(index)["marker"], look(index)["linestyle"]) for index in range(14)]
    assert len(set(looks)) == 14


def test_figures_are_written_whole(frame: Frame, whole_picture: Picture, tmp_path: Path) -> None:
    trials = frame(sweep())
    first = against(trials, LR, "eval_top1", tmp_path / "new" / "a.png", source="results/x")
    again = against(trials, LR, "eval_top1", tmp_path / "b.png", source="results/x")
    assert first is not None
    assert again is not None
    assert first.read_bytes() == again.read_bytes()
    whole_picture(first)
    whole_picture(against(trials, SIZE, "test_top1", tmp_path / "size.png"))
    whole_picture(against(trials, "distillation.alpha", "test_top1", tmp_path / "alpha.png"))


def test_many_cells_and_long_names(frame: Frame, whole_picture: Picture, words_of: Words, tmp_path: Path) -> None:
    rows = [
        {"cell": f"{n}", "config/model.name": f"{'long_name_' * 4}{n}", "config/label_smoothing": s, "eval_top1": n + s}
        for n, s in product(range(14), (0.0, 0.1))
    ]
    path = against(frame(rows), "label_smoothing", "eval_top1", tmp_path / "a.svg")
    assert "The 10 best of 14 cells." in words_of(path)
    named = [
        {"cell": name, "config/model.name": name, "eval_top1": 1.0} for name in (f"{'x_' * 9}{n}" for n in range(5))
    ]
    whole_picture(against(frame(named), "model.name", "eval_top1", tmp_path / "b.png"))
