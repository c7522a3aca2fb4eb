"""What is said to keep our cells from being a published setting."""

from __future__ import annotations

import math
from typing import Any

import polars as pl
import pytest

from raybench.config.load import load_sweep
from raybench.config.plan import make_plan
from raybench.report.comparison import CellResult, compare
from raybench.report.references import closest, differing, published_lines
from raybench.report.reproduction import reproduction_sheet, reproductions
from raybench.report.tables import comparison_lines, comparison_markdown
from raybench.results.published import published

TINY = "tiny_vit_5m_224.dist_in22k_ft_in1k"
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


B16, B32 = {"name": "vit_base_patch16_224"}, {"name": "vit_base_patch32_224"}
OF_MODEL: list[tuple[str, str, dict[str, dict[str, Any] | None]]] = [
    # Sweep, preset, published model -> the name and some options of the cell that may stand beside it; none: no cell.
    (
        "ci2p",
        "paper",
        {
            "ViT-B/16": {"name": "vit_b16_gap"},
            "ViT-B/32": B32,
            "CI2P-ViT": {"name": "ci2p_vit"},
            "CI2P-ViT-ds": {"name": "ci2p_vit_ds"},
            "CNN-ViT": {"name": "cnn_vit"},
            **dict.fromkeys(("DeiT-B", "T2T-ViT-24", "TNT-B", "CPVT-B", "Swin-B")),
        },
    ),
    (
        "ci2p",
        "small",
        {
            "ViT-B/16": {"name": "vit_b16_gap", "patch_size": 16},
            "ViT-B/32": {"name": "vit_b16_gap", "patch_size": 32},
            "CI2P-ViT": {"name": "ci2p_vit"},
            "CI2P-ViT-ds": {"name": "ci2p_vit_ds"},
            "CNN-ViT": {"name": "cnn_vit"},
            **dict.fromkeys(("DeiT-B", "T2T-ViT-24", "TNT-B", "CPVT-B", "Swin-B")),
        },
    ),
    (
        "pretrained",
        "paper",
        {
            "basic ViT, from scratch": None,
            "ResNet-18, pretrained": {"name": "resnet18"},
            "ViT, pretrained": {**B16, "tome_r": None},
            "ViT + ToMe, pretrained": {**B16, "tome_r": 8},
            "ViT-B/16": {**B16, "tome_r": None},
            "ViT-B/16, ToMe r = 13": {**B16, "tome_r": 13},
            **dict.fromkeys(("ViT-S", "ViT-S, ToMe", "DeiT-S", "DeiT-S, trained with ToMe")),
        },
    ),
    ("train_size", "paper", {"basic ViT, from scratch": {"name": "basic_vit"}}),
    ("tinyvit_resnet", "small", {"ResNet-18": {"name": "resnet18"}, "TinyViT-5M": {"name": TINY}}),
    ("deit_reverse", "quick", {"ResNet-50, alone": None, "ResNet-50, distilled": None}),
    ("multi30k", "paper", {"Transformer base, de -> en": {"name": "multi30k_transformer"}}),
]


@pytest.mark.parametrize(("sweep", "preset", "expected"), OF_MODEL)
def test_only_a_cell_of_the_same_model_stands_beside_a_published_number(
    sweep: str, preset: str, expected: dict[str, dict[str, Any] | None]
) -> None:
    plan = make_plan(load_sweep(sweep, preset))
    about = {"status": "complete", "eval_top1": 50.0, "test_top1": 50.0, "preset": preset}
    results = compare(plan.cells, pl.DataFrame([{"trial_id": t.trial_id, **about} for t in plan.trials()]))
    assert {row.model for row in published(sweep)} == set(expected)
    for row in published(sweep):
        wanted, nearest = expected[row.model], closest(row, results)
        (found,) = reproductions([row], results, pl.DataFrame())
        if wanted is None:
            assert nearest is None, row.model
            assert (found.cell, found.measured, found.difference) == (None, None, None)
            assert found.differs == ("this model was not measured here",)
        else:
            assert nearest is not None, row.model
            model = nearest.selected[0].model
            assert {key: model.name if key == "name" else model.options.get(key) for key in wanted} == wanted
            assert found.cell == nearest.label


def test_the_trained_encoder_stands_beside_the_published_one() -> None:
    plan = make_plan(load_sweep("ci2p", "small"))
    about = {"status": "complete", "eval_top1": 50.0, "test_top1": 50.0, "preset": "small"}
    results = compare(plan.cells, pl.DataFrame([{"trial_id": t.trial_id, **about} for t in plan.trials()]))
    (row,) = [row for row in published("ci2p") if row.model == "CI2P-ViT" and row.setting.epochs and row.unit == "%"]
    nearest = closest(row, results)
    assert nearest is not None
    assert nearest.selected[0].model.weights != "none"
    # One of the same name that is narrower is said to be.
    narrow = "model with encoder_channels=32, latent_channels=48, dim=128, depth=4, heads=4"
    assert narrow in differing(row, nearest)


def test_an_option_that_the_source_leaves_open_is_named() -> None:
    plan = make_plan(load_sweep("pretrained", "paper"))
    about = {"status": "complete", "eval_top1": 50.0, "test_top1": 50.0, "preset": "paper"}
    results = compare(plan.cells, pl.DataFrame([{"trial_id": t.trial_id, **about} for t in plan.trials()]))
    row = next(row for row in published("pretrained") if row.model == "ViT + ToMe, pretrained")
    nearest = closest(row, results)
    assert nearest is not None
    assert "tome_r 8, theirs not stated" in differing(row, nearest)


@pytest.mark.parametrize(("preset", "said"), [("paper", "assumed, since"), ("small", "assumed in preset paper, since")])
def test_what_is_assumed_is_said_of_the_preset_that_it_is_written_for(preset: str, said: str) -> None:
    config = load_sweep("train_size", preset)
    about = {"status": "complete", "eval_top1": 50.0, "test_top1": 50.0, "preset": preset}
    plan = make_plan(config)
    results = compare(plan.cells, pl.DataFrame([{"trial_id": t.trial_id, **about} for t in plan.trials()]))
    found = reproductions(published("train_size"), results, pl.DataFrame(), config.assumed)
    notes = reproduction_sheet(found, "t", results).footnotes
    assert any(note.startswith(f"{said} the source is silent: depth, heads") for note in notes)


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ("deit_reverse", "ResNet-50, distilled (overtakes_at): extrapolated by the authors, not run."),
        ("tome", "the two rows may use different backbones."),
        ("ci2p", "CI2P-ViT-ds (flops): without the products of attention, which ours counts."),
    ],
)
def test_what_is_to_be_known_of_a_published_number_stands_beneath_once(sweep: str, said: str) -> None:
    notes = reproduction_sheet(reproductions(published(sweep), [], pl.DataFrame()), "t").footnotes
    assert sum(note.endswith(said) for note in notes) == 1


def measured(sweep: str, metric: str) -> dict[tuple[str, str], tuple[Any, str]]:
    """Published model and quantity (its place in the run, else its unit) -> ours, of trials that are all complete."""
    plan = make_plan(load_sweep(sweep, "paper"))
    test, times = metric.replace("eval_", "test_"), {}
    for trial in plan.trials():
        times[trial.trial_id] = 14_400.0 if trial.canonical().distillation.teacher else 7_200.0
    about = {"status": "complete", metric: 50.0, test: 50.0, "epochs": 9}
    rows = [{"trial_id": name, **about, "train_time": seconds} for name, seconds in times.items()]
    epochs = [
        {"trial_id": t.trial_id, "epoch": epoch, "train_loss": 8 / epoch, "train_top1": 60.0 + epoch}
        | {"eval_loss": 15 / epoch, "eval_top1": (math.log(epoch) - 1) * times[t.trial_id] / 7_200}
        for t in plan.trials()
        for epoch in sorted({1, 2, 3, 5, 8, t.schedule.epochs})
    ]
    results = compare(plan.cells, pl.DataFrame(rows), metric, "max", test)
    found = reproductions(published(sweep), results, pl.DataFrame(epochs))
    ours = [(each.measured.mean if each.measured else None, each.measured_as) for each in found]
    names = [(row.model, f"{row.metric} {row.at or row.unit}".strip()) for row in published(sweep)]
    return dict(zip(names, ours, strict=True))


def test_what_is_stored_of_the_run_stands_beside_published_numbers_of_it() -> None:
    found = {metric: ours for (_, metric), ours in measured("multi30k", "eval_loss").items()}
    assert found["train_time min"] == (120.0, "median, 8 epochs")
    # The source counts epochs from 0.
    assert found["train_loss end of epoch 0"] == (8.0, "training at epoch 1")
    assert found["train_loss epoch 7"] == (1.0, "training at epoch 8")
    for metric in ("train_loss first step", "train_loss epoch 3 step 281", "vocabulary_de words", "lr end"):
        assert found[metric] == (None, "not compared")


def test_training_accuracy_and_loss_are_those_of_the_last_epoch() -> None:
    found = measured("tinyvit_resnet", "eval_top1")
    assert found["ResNet-18", "train_top1 %"] == (90.0, "training at epoch 30")
    assert found["ResNet-18", "eval_loss"] == (0.5, "validation at epoch 30")
    assert found["ResNet-18", "eval_top1 %"] == (50.0, "validation")


def test_what_the_curves_tell_stands_beside_published_fits() -> None:
    found = measured("deit_reverse", "eval_top1")
    assert found["ResNet-50, alone", "r2"] == (pytest.approx(1.0), "fit to validation")
    assert found["ResNet-50, distilled", "train_cost x"] == (2.0, "medians, an epoch")
    assert found["ResNet-50, distilled", "train_time h"] == (4.0, "median, 200 epochs")
    # ln(e) - 1 and twice that meet where both are 0.
    crossing = (pytest.approx(math.e), "crossing of both fits")
    assert found["ResNet-50, distilled", "overtakes_at epoch"] == crossing
