"""What is said to keep our cells from being a published setting."""

from __future__ import annotations

import polars as pl
import pytest

from raybench.config.load import load_sweep
from raybench.config.plan import make_plan
from raybench.report.comparison import CellResult, compare
from raybench.report.references import differing, published_lines
from raybench.report.tables import comparison_lines, comparison_markdown
from raybench.results.published import published

HELD_OUT = "train images all but 5,000 held out for validation, not all"
FIXED_VIEWS = "views 50 fixed an image, not fresh each epoch"


@pytest.fixture(scope="module")
def alone() -> CellResult:
    """The student alone of the paper preset on all its training images, as if measured on official CIFAR-100."""
    plan = make_plan(load_sweep("deit_reverse", "paper"))
    wanted = {"distillation.alpha": 0.0, "dataset.train_size": "all"}
    (cell,) = [cell for cell in plan.cells if cell.factors == wanted]
    rows = [
        {
            "trial_id": trial.trial_id,
            "status": "complete",
            "eval_top1": 70.0 + trial.seed,
            "test_top1": 71.0 + trial.seed,
            "preset": "paper",
            "dataset_variant": "official",
        }
        for setting in cell.settings
        for trial in setting.trials
    ]
    (result,) = compare([cell], pl.DataFrame(rows))
    assert len(result.selected) == 3
    return result


def test_the_paper_preset_is_never_the_published_setting(alone: CellResult) -> None:
    rows = published("deit_reverse")
    assert rows
    for row in rows:
        assert HELD_OUT in differing(row, alone)
        assert FIXED_VIEWS in differing(row, alone)
    for text in (
        "\n".join(published_lines(rows, [alone])),
        " ".join(" ".join(comparison_lines([alone], "reversed", rows)).split()),
        comparison_markdown([alone], "reversed", rows),
    ):
        assert "about 72 %" in text
        assert "same setting as ours" not in text
        assert HELD_OUT in text


def test_nothing_else_keeps_its_student_alone_from_it(alone: CellResult) -> None:
    # So that a learning rate, a seed or a number of workers is not mistaken for another setting.
    for row in published("deit_reverse"):
        if row.teacher is None:
            assert differing(row, alone) == (HELD_OUT, FIXED_VIEWS)


@pytest.mark.parametrize(
    ("augment", "views", "named"), [(("crop4",), "all", False), ((), 1, False), (("crop4",), 8, True)]
)
def test_views_are_named_where_they_are_fewer_than_augmentation_allows(
    alone: CellResult, augment: tuple[str, ...], views: int | str, named: bool
) -> None:
    from dataclasses import replace

    trial = alone.selected[0]
    dataset = trial.dataset.model_copy(update={"augment": augment, "views": views})
    changed = replace(alone, selected=(trial.model_copy(update={"dataset": dataset}),))
    found = differing(published("deit_reverse")[0], changed)
    assert any(what.startswith("views") for what in found) == named


def test_from_scratch_a_tag_is_no_other_model() -> None:
    plan = make_plan(load_sweep("tinyvit_resnet", "paper"))
    by_weights = {}
    for cell in plan.cells:
        trial = next(trial for setting in cell.settings for trial in setting.trials)
        if trial.model.name.startswith("tiny_vit"):
            rows = [{"trial_id": trial.trial_id, "status": "complete", "eval_top1": 88.0, "test_top1": 88.0}]
            (by_weights[trial.model.weights],) = compare([cell], pl.DataFrame(rows))
    theirs = [row for row in published("tinyvit_resnet") if row.model == "TinyViT-5M"]
    assert {row.setting.pretrained for row in theirs} == {True, False}
    for row in theirs:
        for weights, result in by_weights.items():
            named = [line for line in differing(row, result) if line.startswith("model ")]
            # The source's two rows name one architecture; with weights the tag says which.
            assert bool(named) == (weights == "pretrained" and row.setting.pretrained is False), (weights, named)


def test_sentences_have_a_validation_set_of_their_own() -> None:
    (cell,) = make_plan(load_sweep("multi30k", "paper", ["dataset.train_size=all"])).cells
    trial = next(trial for setting in cell.settings for trial in setting.trials)
    (result,) = compare([cell], pl.DataFrame([{"trial_id": trial.trial_id, "status": "complete", "eval_loss": 1.6}]))
    for row in published("multi30k"):
        assert not [line for line in differing(row, result) if "held out" in line]
