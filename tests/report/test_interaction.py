"""The interaction of alpha with another factor: which cells are on a line, and the difference of differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from raybench.report.comparison import CellResult
from raybench.report.interaction import alpha_interaction, interaction_panels, interactions
from raybench.report.statistics import estimate

Picture = Callable[[Path | None], tuple[int, int]]
Words = Callable[[Path | None], str]
Make = Callable[..., CellResult]
Gain = Callable[[float, str, Any], float]
Sweep = Callable[[Gain], list[CellResult]]
ALPHA, KIND, SIZE = "distillation.alpha", "distillation.type", "dataset.train_size"


SEEDS = (0.0, 1.5, -1.0)


@pytest.fixture
def cell(cell_result: Callable[..., CellResult]) -> Make:
    """A cell by its factors."""

    def make(factors: Mapping[str, Any], values: tuple[float, ...], **known: Any) -> CellResult:
        return cell_result(repr(factors), factors, values, **known)

    return make


@pytest.fixture
def sweep(cell: Make) -> Sweep:
    """Alpha x kind x train size; seeds shift every cell alike."""
    base = {100: 50.0, "all": 80.0}

    def make(gain: Gain) -> list[CellResult]:
        alone = [cell({ALPHA: 0.0, SIZE: size}, tuple(base[size] + s for s in SEEDS)) for size in base]
        taught = [
            cell({ALPHA: a, KIND: kind, SIZE: size}, tuple(base[size] + gain(a, kind, size) + s for s in SEEDS))
            for a in (0.5, 0.9)
            for kind in ("hard", "soft")
            for size in base
        ]
        return alone + taught

    return make


def nothing(alpha: float, kind: str, size: Any) -> float:  # noqa: ARG001
    return 0.0


def added(alpha: float, kind: str, size: Any) -> float:  # noqa: ARG001
    return 7 * alpha


def by_kind(alpha: float, kind: str, size: Any) -> float:  # noqa: ARG001
    return 5 * alpha if kind == "soft" else alpha


def test_the_student_alone_begins_every_line(sweep: Sweep) -> None:
    panels = interaction_panels(sweep(nothing), KIND)
    assert [panel.title for panel in panels] == ["100 training images", "all training images"]
    for panel in panels:
        assert list(panel.lines) == ["hard", "soft"]
        assert [[r.factors[ALPHA] for r in line] for line in panel.lines.values()] == [[0.0, 0.5, 0.9]] * 2
        assert len({line[0].label for line in panel.lines.values()}) == 1
    by_size = interaction_panels(sweep(nothing), SIZE)
    assert [panel.title for panel in by_size] == ["hard", "soft"]
    assert list(by_size[0].lines) == ["100 training images", "all training images"]


def test_what_only_adds_up_does_not_interact(sweep: Sweep) -> None:
    for other in (KIND, SIZE):
        for panel in interaction_panels(sweep(added), other):
            (found,) = interactions(panel)
            # The seeds cancel, and so do alpha's own effect and the other factor's: rounding is left.
            assert found.estimate.mean == pytest.approx(0, abs=1e-12)
            assert (found.low, found.high, found.estimate.n) == (0.0, 0.9, 3)


def test_the_difference_of_differences_is_recovered(sweep: Sweep) -> None:
    def gain(alpha: float, kind: str, size: Any) -> float:
        return 2 * alpha + (3 * alpha if kind == "soft" else 0) - (4 * alpha if size == "all" else 0)

    (by_kind, _), (by_size, _) = (interaction_panels(sweep(gain), other) for other in (KIND, SIZE))
    (kind,), (size,) = interactions(by_kind), interactions(by_size)
    assert (kind.level, kind.reference) == ("soft", "hard")
    # Sums of decimal fractions: the last bits.
    assert kind.estimate.mean == pytest.approx(3 * 0.9)
    assert (size.level, size.reference) == ("all training images", "100 training images")
    assert size.estimate.mean == pytest.approx(-4 * 0.9)


def test_only_seeds_of_all_four_cells_count(cell: Make) -> None:
    cells = [
        cell({ALPHA: alpha, SIZE: size}, values)
        for (alpha, size), values in {
            (0.0, 100): (1.0, 2.0, 9.0),
            (0.5, 100): (2.0, 4.0),
            (0.0, 500): (1.0, 2.0, 9.0),
            (0.5, 500): (4.0, 7.0, 0.0),
        }.items()
    ]
    (panel,) = interaction_panels(cells, SIZE)
    (found,) = interactions(panel)
    assert found.estimate == estimate([(4 - 1) - (2 - 1), (7 - 2) - (4 - 2)])


def test_presets_have_panels_of_their_own(cell: Make) -> None:
    cells = [
        cell({ALPHA: alpha, SIZE: size}, (1.0, 2.0), presets=(preset,))
        for preset in ("small", "paper")
        for alpha in (0.0, 0.5)
        for size in (100, 500)
    ]
    panels = interaction_panels(cells, SIZE)
    assert [panel.title for panel in panels] == ["preset small", "preset paper"]
    assert all(r.presets == (panel.title[7:],) for panel in panels for line in panel.lines.values() for r in line)


def test_figure(sweep: Sweep, whole_picture: Picture, words_of: Words, tmp_path: Path) -> None:
    results = sweep(by_kind)
    whole_picture(alpha_interaction(results, KIND, tmp_path / "a.png", source="results/x"))
    drawn = words_of(alpha_interaction(results, SIZE, tmp_path / "b.svg"))
    assert "Parallel lines: alpha acts alike whatever the train size" in drawn
    assert "at 100 training images, paired by seed" in drawn


def test_nothing_to_see(sweep: Sweep, tmp_path: Path) -> None:
    results = sweep(nothing)
    one_size = [r for r in results if r.factors[SIZE] == 100]
    one_alpha = [r for r in results if r.factors[ALPHA] == 0.5]
    for cells, other in ((one_size, SIZE), (one_alpha, KIND), ([], KIND), (results, "optimizer.lr")):
        assert alpha_interaction(cells, other, tmp_path / "a.png") is None
    assert list(tmp_path.iterdir()) == []
