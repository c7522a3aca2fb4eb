"""Figures are written, whole, the same each time, and nothing in them overlaps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from raybench.config.plan import Cell, Setting, label
from raybench.config.trial import DatasetConfig, DistillationConfig, ModelConfig, TeacherConfig, TrialConfig
from raybench.report.comparison import CellResult, compare
from raybench.report.figures import comparison_figure, curves_figure, make_panels

ALPHA, KIND, SIZE = "distillation.alpha", "distillation.type", "dataset.train_size"
Sweep = tuple[list[CellResult], pl.DataFrame]
Words = Callable[[Path | None], str]


def make_cell(alpha: float, kind: str, size: int) -> Cell:
    def trial(seed: int) -> TrialConfig:
        return TrialConfig(
            dataset=DatasetConfig(name="digits", train_size=size, val_size=100),
            model=ModelConfig(name="resnet8"),
            distillation=DistillationConfig(
                type="soft" if kind == "soft" else "hard", alpha=alpha, teacher=TeacherConfig(name="vit_digits")
            ),
            seed=seed,
        )

    factors = {ALPHA: alpha, **({KIND: kind} if kind else {}), SIZE: size}
    baseline = label({ALPHA: 0.0, SIZE: size}) if alpha else None
    return Cell(label(factors), factors, baseline, (Setting({}, tuple(map(trial, range(3)))),))


def sweep(sizes: tuple[int, ...], alphas: tuple[float, ...]) -> Sweep:
    """Made-up rows: 1 + 2 x alphas cells a train size."""
    generator = np.random.default_rng(0)
    points = [(0.0, "", size) for size in sizes]
    points += [(alpha, kind, size) for alpha in alphas for kind in ("hard", "soft") for size in sizes]
    cells = [make_cell(*point) for point in points]
    trials, epochs = [], []
    for cell in cells:
        for trial in cell.settings[0].trials:
            top1 = 70 + float(generator.normal())
            trials.append({"trial_id": trial.trial_id, "status": "complete", "eval_top1": top1, "test_top1": top1})
            epochs += [{"trial_id": trial.trial_id, "epoch": e, "eval_top1": top1 - 20 / (e + 1)} for e in range(1, 11)]
    return compare(cells, pl.DataFrame(trials)), pl.DataFrame(epochs)


@pytest.fixture(scope="module")
def ten() -> Sweep:
    return sweep((100, 500), (0.5, 0.9))


def size_of(path: Path) -> tuple[int, int]:
    from PIL import Image

    with Image.open(path) as image:
        image.load()
        # Nothing but white at the rim: no text is cut off.
        pixels = np.asarray(image.convert("L"))
        assert pixels[[0, -1]].min() == 255
        assert pixels[:, [0, -1]].min() == 255
        assert pixels.std() > 1
        return image.size


def test_figures_of_ten_cells(ten: Sweep, tmp_path: Path) -> None:
    results, epochs = ten
    assert len(results) == 10
    first = comparison_figure(results, tmp_path / "new folder" / "a.png", "A title", source="results/x")
    again = comparison_figure(results, tmp_path / "b.png", "A title", source="results/x")
    assert first.read_bytes() == again.read_bytes()
    curves = curves_figure(epochs, results, tmp_path / "curves.png", "A title", source="results/x")
    for path in (first, curves):
        width, height = size_of(path)
        assert 1000 <= width <= 1600
        assert height < width


def test_figure_of_forty_cells_with_a_long_title(tmp_path: Path) -> None:
    results, _ = sweep((100, 200, 500, 700, 1000), (0.25, 0.5, 0.75, 0.9))
    assert len(results) == 45
    size_of(comparison_figure(results, tmp_path / "a.png", "A rather long question " * 8, source="results/x"))


def test_panels_hold_every_cell_once(ten: Sweep) -> None:
    results, _ = ten
    panels = make_panels(results)
    assert [panel.title for panel in panels] == ["100 training images", "500 training images"]
    assert all(panel.alone is not None and panel.alone.factors[ALPHA] == 0 for panel in panels)
    assert [list(panel.lines) for panel in panels] == [["hard", "soft"]] * 2
    assert [[r.factors[ALPHA] for r in line] for line in panels[0].lines.values()] == [[0.5, 0.9]] * 2
    drawn = [r.label for p in panels for r in [p.alone, *(c for line in p.lines.values() for c in line)] if r]
    assert sorted(drawn) == sorted(result.label for result in results)


def test_without_alpha_every_cell_is_a_dot(ten: Sweep, tmp_path: Path) -> None:
    plain = [
        replace(r, factors={SIZE: r.factors[SIZE], "model.name": r.label.split()[0]}, baseline=None) for r in ten[0]
    ]
    few, all_of_them = (
        size_of(comparison_figure(plain[:n], tmp_path / f"{n}.png", "Which size?")) for n in (3, len(plain))
    )
    assert all_of_them[1] > few[1]


def test_nothing_measured_is_said_not_raised(ten: Sweep, tmp_path: Path) -> None:
    blank = [replace(r, test=None, by_seed=(), selected=()) for r in ten[0]]
    size_of(comparison_figure(blank, tmp_path / "a.png", "Nothing"))
    size_of(comparison_figure([], tmp_path / "b.png", "Nothing"))
    size_of(curves_figure(pl.DataFrame(), blank, tmp_path / "c.png", "Nothing"))


def test_one_seed_and_lost_cells_are_drawn(ten: Sweep, tmp_path: Path) -> None:
    results = [replace(r, test=None, by_seed=()) if i % 3 == 0 else r for i, r in enumerate(ten[0])]
    size_of(comparison_figure(results, tmp_path / "a.png", "Some"))


def test_a_curve_ends_with_the_first_of_its_seeds(ten: Sweep, tmp_path: Path, words_of: Words) -> None:
    results, epochs = ten
    early = "A line ends where the first of its seeds stopped."
    assert early not in words_of(curves_figure(epochs, results, tmp_path / "whole.svg", "All"))
    short = results[0].selected[1].trial_id
    stopped = epochs.filter((pl.col("trial_id") != short) | (pl.col("epoch") <= 6))
    assert early in words_of(curves_figure(stopped, results, tmp_path / "stopped.svg", "One stopped"))


def test_svg_is_possible(ten: Sweep, tmp_path: Path) -> None:
    path = comparison_figure(ten[0], tmp_path / "a.svg", "Vector")
    assert path.read_text().lstrip().startswith("<?xml")
