"""Selection, pairing, verdicts and counts of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from raybench.config.plan import Cell, Setting, label
from raybench.config.trial import (
    DatasetConfig,
    DistillationConfig,
    ModelConfig,
    OptimizerConfig,
    TeacherConfig,
    TrialConfig,
)
from raybench.report.cell_result import PassedOver
from raybench.report.comparison import CellResult, Counts, compare
from raybench.report.sheet import make_sheet

ALPHA = "distillation.alpha"


def trial(alpha: float, lr: float, seed: int) -> TrialConfig:
    return TrialConfig(
        dataset=DatasetConfig(name="digits", val_size=100),
        model=ModelConfig(name="resnet8"),
        distillation=DistillationConfig(type="hard", alpha=alpha, teacher=TeacherConfig(name="vit_digits")),
        optimizer=OptimizerConfig(lr=lr),
        seed=seed,
    )


def cell(alpha: float, seeds: int = 3, lrs: Sequence[float] = (0.1,)) -> Cell:
    settings = tuple(Setting({"optimizer.lr": lr}, tuple(trial(alpha, lr, s) for s in range(seeds))) for lr in lrs)
    return Cell(label({ALPHA: alpha}), {ALPHA: alpha}, label({ALPHA: 0.0}) if alpha else None, settings)


def row(alpha: float, lr: float, seed: int, top1: float | None, status: str = "complete") -> dict[str, Any]:
    return {
        "trial_id": trial(alpha, lr, seed).trial_id,
        "status": status,
        "eval_top1": top1,
        "test_top1": None if top1 is None else top1 - 1,
    }


def frame(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, infer_schema_length=None)


def rows_of(tops: Mapping[float, Sequence[float]], lr: float = 0.1) -> list[dict[str, Any]]:
    return [row(alpha, lr, seed, top) for alpha, values in tops.items() for seed, top in enumerate(values)]


def compared(tops: Mapping[float, Sequence[float]], **options: Any) -> list[CellResult]:
    seeds = max(len(values) for values in tops.values())
    return compare([cell(alpha, seeds) for alpha in tops], frame(rows_of(tops)), **options)


def test_differences_are_paired_by_seed() -> None:
    from scipy import stats

    # Seeds differ by far more than the effect: only pairing can tell.
    alone, taught = [60.0, 70.0, 80.0, 90.0], [61.1, 70.9, 81.0, 91.0]
    base, result = compared({0.0: alone, 0.5: taught})
    found = result.difference
    assert found is not None
    assert base.difference is None
    assert [seed for seed, _ in found.by_seed] == [0, 1, 2, 3]
    test = stats.ttest_rel(taught, alone)
    interval = test.confidence_interval(0.95)
    # Two implementations of the same sums: rounding only.
    assert (found.p, found.low, found.high) == pytest.approx((test.pvalue, interval.low, interval.high), rel=1e-6)
    assert (found.verdict, found.compared, found.p_holm) == ("better", 1, found.p)
    assert result.test is not None
    assert result.test.n == 4
    assert result.test.mean == pytest.approx(75.0)


def test_pairs_are_matched_by_seed_not_by_position() -> None:
    rows = [row(0.0, 0.1, seed, 70 + 5 * seed) for seed in range(5)]
    rows += [row(0.5, 0.1, seed, 72 + 5 * seed + 0.1 * seed) for seed in (4, 1, 3)]
    found = compare([cell(0.0, 5), cell(0.5, 5)], frame(rows))[1].difference
    assert found is not None
    assert [seed for seed, _ in found.by_seed] == [1, 3, 4]
    assert [value for _, value in found.by_seed] == pytest.approx([2.1, 2.3, 2.4])


def test_the_correction_spans_all_comparisons() -> None:
    alone = [70.0, 71.0, 72.0]
    near = [70.8, 72.0, 73.3]
    (_, alone_result), family = (
        compared({0.0: alone, 0.5: near}),
        compared({0.0: alone, 0.5: near, 0.6: [70.3, 70.8, 72.1], 0.7: [69.9, 71.4, 72.0], 0.9: [70.2, 70.9, 71.7]}),
    )
    single, corrected = alone_result.difference, family[1].difference
    assert single is not None
    assert corrected is not None
    assert corrected.p == single.p
    assert corrected.p_holm == pytest.approx(4 * (single.p or 0))
    assert (single.verdict, corrected.verdict) == ("better", "not distinguishable")
    assert corrected.compared == 4


@pytest.mark.parametrize(
    ("taught", "verdict"),
    [
        ([72.0, 73.1, 74.0], "better"),
        ([68.0, 69.1, 70.0], "worse"),
        ([70.0, 71.5, 71.6], "not distinguishable"),
        ([70.0, 71.0, 72.0], "not distinguishable"),
        # Equal differences leave t undefined; three seeds are no proof.
        ([72.0, 73.0, 74.0], "not distinguishable"),
        ([75.0, 76.1], "too few seeds"),
    ],
)
def test_verdicts(taught: list[float], verdict: str) -> None:
    found = compared({0.0: [70.0, 71.0, 72.0], 0.5: taught})[1].difference
    assert found is not None
    assert found.verdict == verdict
    assert (found.p is None) == (verdict == "too few seeds")


def test_lower_is_better_turns_the_verdict_but_not_the_difference() -> None:
    found = compared({0.0: [70.0, 71.0, 72.0], 0.5: [68.0, 69.1, 70.0]}, mode="min")[1].difference
    assert found is not None
    assert found.mean < 0
    assert found.verdict == "better"


def test_selecting_on_a_loss_leaves_accuracy_upwards() -> None:
    rows = [{**entry, "eval_loss": 1.0} for entry in rows_of({0.0: [70.0, 71.0, 72.0], 0.5: [72.0, 73.1, 74.0]})]
    result = compare([cell(0.0), cell(0.5)], frame(rows), metric="eval_loss", mode="min")[1]
    assert result.difference is not None
    assert (result.test_mode, result.difference.verdict) == ("max", "better")


def test_selection_is_on_validation_only() -> None:
    rows = rows_of({0.0: [80.0, 80.0, 80.0]}, lr=0.1)
    rows += [{**entry, "test_top1": 99.0} for entry in rows_of({0.0: [79.0, 79.0, 79.0]}, lr=0.2)]
    (result,) = compare([cell(0.0, lrs=(0.2, 0.1))], frame(rows))
    assert result.tuned == {"optimizer.lr": 0.1}
    assert result.test is not None
    assert result.test.mean == 79.0


@pytest.mark.parametrize("status", ["diverged", "failed", "pruned", "running", None])
def test_an_incomplete_setting_never_beats_a_complete_one(status: str | None) -> None:
    rows = rows_of({0.0: [99.0, 99.0]}, lr=0.2) + rows_of({0.0: [50.0, 50.0, 50.0]}, lr=0.1)
    if status is not None:
        rows.append(row(0.0, 0.2, 2, None, status))
    (result,) = compare([cell(0.0, lrs=(0.2, 0.1))], frame(rows))
    assert result.tuned == {"optimizer.lr": 0.1}
    counts = {"complete": 5, "due": 1} if status in ("running", None) else {"complete": 5, str(status): 1}
    assert result.counts == Counts(**counts)


def test_among_incomplete_settings_more_seeds_come_first() -> None:
    rows = rows_of({0.0: [99.0]}, lr=0.2) + rows_of({0.0: [50.0, 52.0]}, lr=0.1)
    (result,) = compare([cell(0.0, lrs=(0.2, 0.1))], frame(rows))
    assert result.tuned == {"optimizer.lr": 0.1}
    assert result.validation is not None
    assert (result.validation.n, result.validation.mean) == (2, 51.0)


def seeds_each(**tops: Sequence[float]) -> tuple[Cell, pl.DataFrame]:
    """A cell of two settings, `low` and `high` in rate, each with its own number of seeds, and their rows."""
    rates = {"low": 0.1, "high": 0.2}
    settings = tuple(
        Setting({"optimizer.lr": rates[name]}, tuple(trial(0.0, rates[name], seed) for seed in range(len(values))))
        for name, values in tops.items()
    )
    rows = [entry for name, values in tops.items() for entry in rows_of({0.0: values}, lr=rates[name])]
    return Cell("alone", {ALPHA: 0.0}, None, settings), frame(rows)


def test_more_seeds_than_were_asked_for_are_no_merit() -> None:
    many, rows = seeds_each(low=[70.0] * 5, high=[80.0] * 3)
    (result,) = compare([replace(many, asked=3)], rows)
    assert (result.tuned, result.passed_over) == ({"optimizer.lr": 0.2}, ())


def test_where_it_is_not_known_how_many_seeds_were_asked_a_better_setting_with_fewer_is_named() -> None:
    many, rows = seeds_each(low=[70.0] * 5, high=[80.0] * 3)
    (result,) = compare([many], rows)
    assert result.tuned == {"optimizer.lr": 0.1}
    assert result.passed_over == (PassedOver({"optimizer.lr": 0.2}, 3, 5, 80.0),)


def test_trials_of_settings_that_do_not_compete_count_and_cost() -> None:
    tried, rows = seeds_each(low=[70.0] * 3)
    failed = [row(0.0, 0.2, seed, None, "failed") | {"device_hours": 5.0} for seed in range(3)]
    rows = pl.concat([rows.with_columns(device_hours=pl.lit(0.5)), frame(failed)], how="diagonal_relaxed")
    (result,) = compare([replace(tried, aside=tuple(trial(0.0, 0.2, seed) for seed in range(3)))], rows)
    assert (result.counts, result.device_hours) == (Counts(complete=3, failed=3), 16.5)
    assert result.tuned == {"optimizer.lr": 0.1}


def test_minimising_selects_the_lowest() -> None:
    rows = rows_of({0.0: [3.0] * 3}, lr=0.2) + rows_of({0.0: [2.0] * 3}, lr=0.1)
    (result,) = compare([cell(0.0, lrs=(0.2, 0.1))], frame(rows), mode="min")
    assert result.tuned == {"optimizer.lr": 0.1}


def test_a_cell_without_a_complete_trial_has_no_numbers() -> None:
    rows = [row(0.5, 0.1, 0, None, "failed"), row(0.5, 0.1, 1, 70.0, "pruned"), row(0.5, 0.1, 2, None, "diverged")]
    for trials in (frame(rows), pl.DataFrame()):
        _, result = compare([cell(0.0), cell(0.5)], trials)
        numbers = (result.test, result.validation, result.difference, result.train_time, result.teacher_top1)
        assert numbers == (None,) * 5
        assert result.tuned == {}
    assert compare([cell(0.0), cell(0.5)], frame(rows))[1].counts == Counts(failed=1, diverged=1, pruned=1)


def test_missing_and_not_finite_metrics_are_left_out_never_zero() -> None:
    rows = rows_of({0.0: [70.0, 71.0, 72.0]})
    rows[1]["test_top1"] = None
    rows[2]["test_top1"] = float("nan")
    (result,) = compare([cell(0.0)], frame(rows))
    assert result.test is not None
    assert (result.test.n, result.test.mean, result.test.sd) == (1, 69.0, None)
    assert result.by_seed == ((0, 69.0),)


def test_median_time_size_teacher_presets_and_variants() -> None:
    same = {"param_count": 0.08, "preset": "quick", "dataset_variant": "embedded"}
    rows = [
        row(0.5, 0.1, seed, 70.0) | same | {"train_time": time, "teacher_top1": teacher}
        for seed, (time, teacher) in enumerate([(10.0, 96.0), (12.0, 95.5), (30.0, None)])
    ]
    (_, result) = compare([cell(0.0), cell(0.5)], frame(rows))
    assert (result.train_time, result.param_count, result.teacher_top1) == (12.0, 0.08, (95.5, 96.0))
    assert (result.presets, result.variants) == (("quick",), ("embedded",))


def test_false_better_rate_without_an_effect() -> None:
    draws = np.random.default_rng(7).normal(70, 1, (500, 2, 4))
    verdicts = []
    cells = [cell(0.0, 4), cell(0.5, 4)]
    trial_ids = [trial.trial_id for each in cells for trial in each.settings[0].trials]
    for tops in draws.reshape(500, 8).tolist():
        rows = {"trial_id": trial_ids, "status": ["complete"] * 8, "eval_top1": tops, "test_top1": tops}
        found = compare(cells, pl.DataFrame(rows))[1].difference
        verdicts.append(found.verdict if found else "")
    # Half of 5 % on either side; 3.3 standard errors of a share of 0.025 in 500.
    assert verdicts.count("better") / 500 == pytest.approx(0.025, abs=0.023)
    assert verdicts.count("worse") / 500 == pytest.approx(0.025, abs=0.023)


def settings(index: int) -> Cell:
    """A cell of the student alone at a width of its own: nobody to compare it with but the others."""
    trials = tuple(trial(0.0, 0.01 * (index + 1), seed) for seed in range(4))
    return Cell(label({"optimizer.lr": index}), {"optimizer.lr": index}, None, (Setting({}, trials),))


def test_without_an_effect_among_20_the_best_is_not_called_better() -> None:
    # Validation and test share what a seed makes of a model, so that the best on validation is lucky on test too.
    cells = [settings(index) for index in range(20)]
    trial_ids = [each.trial_id for found in cells for each in found.settings[0].trials]
    draws = np.random.default_rng(11).normal(70, 1, (300, 80))
    told = 0
    for tops in draws.tolist():
        rows = {"trial_id": trial_ids, "status": ["complete"] * 80, "eval_top1": tops, "test_top1": tops}
        results = compare(cells, pl.DataFrame(rows))
        found = [result.difference for result in results if result.difference]
        assert len(found) == 19
        assert {difference.compared for difference in found} == {190}
        told += any(difference.verdict in ("better", "worse") for difference in found)
    # At most 5 % of families: 15 of 300, and three standard errors of that.
    assert told <= 26


ALONE = [70.0, 71.0, 72.0, 73.0]


def starred(results: Sequence[CellResult]) -> list[Any]:
    return [result.factors[ALPHA] for result in results if result.best]


def shifted(by: float, rough: float = 0.1) -> list[float]:
    """The student alone's, each seed better by about so much."""
    return [top + by + rough * sign for top, sign in zip(ALONE, (1, -1, 0.5, -0.5), strict=True)]


def test_the_best_is_marked_only_where_its_runner_up_is_really_worse() -> None:
    # Both are better than the student alone, and all but the last pair are told apart.
    told = compared({0.0: ALONE, 0.5: shifted(3.0), 0.6: shifted(6.0, 0.05)})
    assert starred(told) == [0.6]
    near = compared({0.0: ALONE, 0.5: shifted(3.0), 0.6: shifted(3.2, -0.1)})
    assert [result.difference.verdict for result in near if result.difference] == ["better", "better"]
    assert starred(near) == []


def test_a_third_that_cannot_be_told_takes_the_mark_away() -> None:
    # Its mean is lower than the runner-up's, its spread is not.
    tops = {0.0: ALONE, 0.5: shifted(3.0), 0.6: shifted(6.0, 0.05), 0.7: shifted(2.0, 8.0)}
    assert starred(compared(tops)) == []
    few = {0.0: ALONE, 0.6: shifted(6.0, 0.05), 0.7: shifted(2.0)[:2]}
    assert starred(compared(few)) == []


def test_the_student_alone_may_be_the_best() -> None:
    assert starred(compared({0.0: ALONE, 0.5: shifted(-3.0), 0.6: shifted(-6.0, 0.05)})) == [0.0]
    assert starred(compared({0.0: ALONE, 0.5: shifted(-3.0)}, mode="min")) == [0.5]
    assert starred(compared({0.0: ALONE})) == []


def test_without_a_student_alone_the_best_on_validation_is_marked_if_all_are_worse() -> None:
    cells = [settings(index) for index in range(3)]

    def marked(*tops: Sequence[float]) -> list[int]:
        rows = []
        for found, values in zip(cells, tops, strict=True):
            ids = [each.trial_id for each in found.settings[0].trials]
            rows += [
                {"trial_id": trial_id, "status": "complete", "eval_top1": top, "test_top1": top}
                for trial_id, top in zip(ids, values, strict=True)
            ]
        return [index for index, result in enumerate(compare(cells, frame(rows))) if result.best]

    assert marked(ALONE, shifted(6.0, 0.05), shifted(3.0)) == [1]
    assert marked(ALONE, shifted(3.1, -0.1), shifted(3.0)) == []


@pytest.mark.parametrize("effect", [0.0, 5.0])
def test_of_cells_that_are_alike_hardly_any_is_marked(effect: float) -> None:
    # Nine cells equally good, all of them better than the student alone or none.
    alphas = [0.0, *(0.1 * (index + 1) for index in range(9))]
    cells = [cell(alpha, 4) for alpha in alphas]
    trial_ids = [each.trial_id for found in cells for each in found.settings[0].trials]
    draws = np.random.default_rng(5).normal(70, 1, (300, 10, 4))
    draws[:, 1:] += effect
    marks = 0
    for tops in draws.reshape(300, 40).tolist():
        rows = {"trial_id": trial_ids, "status": ["complete"] * 40, "eval_top1": tops, "test_top1": tops}
        marks += bool(starred(compare(cells, pl.DataFrame(rows))))
    # At most 5 % of tables: 15 of 300, and three standard errors of that.
    assert marks <= 26


def of_sizes(alphas: Mapping[float, Sequence[Sequence[float]]]) -> list[CellResult]:
    """Cells at one train size after another, by weight of distillation; of one with no values every trial diverged."""
    cells, rows = [], []
    for alpha, sizes in alphas.items():
        for size, values in zip((100, 1000), sizes, strict=False):
            trials = [trial(alpha, 0.1, seed) for seed in range(4)]
            trials = [
                t.model_copy(update={"dataset": t.dataset.model_copy(update={"train_size": size})}) for t in trials
            ]
            factors = {ALPHA: alpha, "dataset.train_size": size}
            alone = (
                label({**factors, ALPHA: 0.0}) if alpha and 0.0 in alphas and len(alphas[0.0]) * 900 > size else None
            )
            cells.append(Cell(label(factors), factors, alone, (Setting({}, tuple(trials)),)))
            for place, each in enumerate(trials):
                top = values[place] if values else None
                status = "complete" if values else "diverged"
                rows.append({"trial_id": each.trial_id, "status": status, "eval_top1": top, "test_top1": top})
    return compare(cells, frame(rows))


def test_where_the_student_alone_has_no_result_the_best_on_validation_stands_in() -> None:
    alone, worse, best = of_sizes({0.0: [[]], 0.5: [ALONE], 0.6: [shifted(6.0, 0.05)]})
    assert alone.difference is best.difference is None
    assert worse.difference is not None
    assert (worse.difference.to, worse.difference.verdict, best.best) == ("best on validation", "worse", True)
    sheet = make_sheet([alone, worse, best], "any")
    assert "to the best on validation with the same data" in " ".join(sheet.footnotes)


def test_each_data_has_its_own_reference() -> None:
    tops = {0.0: [ALONE, []], 0.5: [shifted(3.0), ALONE], 0.6: [shifted(6.0, 0.05), shifted(6.0, 0.05)]}
    results = of_sizes(tops)
    found = [result.difference for result in results if result.difference]
    assert [each.to for each in found] == ["student alone", "best on validation", "student alone"]
    # Two that were planned, and the one pair at the other size.
    assert {each.compared for each in found} == {3}
    notes = " ".join(make_sheet(results, "any").footnotes)
    assert "same other factors or, where that has no result, to the best on validation" in notes


def test_a_student_alone_without_a_result_is_named_where_others_have_one() -> None:
    results = of_sizes({0.0: [[]], 0.5: [ALONE]})
    assert [result.difference for result in results] == [None, None]
    assert any("no student alone complete" in note for note in make_sheet(results, "any").footnotes)


def test_cells_that_vary_their_images_are_compared() -> None:
    cells, rows = [], []
    for augment, tops in {(): ALONE, ("hflip",): shifted(8.0)}.items():
        trials = [trial(0.0, 0.1, seed) for seed in range(4)]
        trials = [t.model_copy(update={"dataset": t.dataset.model_copy(update={"augment": augment})}) for t in trials]
        factors = {"dataset.augment": [*augment]}
        cells.append(Cell(label(factors), factors, None, (Setting({}, tuple(trials)),)))
        rows += [
            {"trial_id": each.trial_id, "status": "complete", "eval_top1": top, "test_top1": top}
            for each, top in zip(trials, tops, strict=True)
        ]
    plain, flipped = compare(cells, frame(rows))
    assert plain.difference is not None
    assert (plain.difference.verdict, plain.difference.n, flipped.best) == ("worse", 4, True)


def test_ties_for_the_reference_are_said() -> None:
    results = of_sizes({0.4: [ALONE], 0.5: [ALONE], 0.6: [shifted(-3.0)]})
    assert [result.tied for result in results if result.baseline] == [2, 2]
    assert any("the first of 2 tied on validation" in note for note in make_sheet(results, "any").footnotes)


def costing(alpha: float, lr: float, energy: Sequence[float | None], share: float = 0.5) -> list[dict[str, Any]]:
    spent = {"train_time": 50.0, "eval_time": 10.0, "device_hours": share * 60 / 3600}
    return [row(alpha, lr, seed, 70.0 + seed) | spent | {"energy": each} for seed, each in enumerate(energy)]


def test_energy_is_that_of_all_trials_or_of_none() -> None:
    rows = costing(0.0, 0.1, [1.0, 2.0, 4.0]) + costing(0.0, 0.2, [8.0, 16.0, 32.0])
    rows += costing(0.5, 0.1, [1.0, None, 2.0])
    never_ran = row(0.0, 0.3, 0, None, "failed") | {"device_hours": None, "energy": None}
    base, partly = compare([cell(0.0, lrs=(0.1, 0.2, 0.3)), cell(0.5)], frame([*rows, never_ran]))
    assert base.energy == 63.0
    assert partly.energy is None
    assert base.device_hours == pytest.approx(6 * 0.5 * 60 / 3600)


def test_the_share_of_a_device_is_read_from_the_row() -> None:
    rows = costing(0.0, 0.1, [None] * 3, share=0.25)
    rows[1] |= {"device_hours": None}
    rows[2] |= {"train_time": None}
    (result,) = compare([cell(0.0)], frame(rows))
    assert result.shares == {trial(0.0, 0.1, 0).trial_id: pytest.approx(0.25)}


@pytest.mark.scenario(8)
def test_a_trial_whose_maths_departs_is_counted_and_compared_to_none() -> None:
    rows = rows_of({0.0: [70.0, 71.0, 72.0], 0.5: [72.0, 73.1, 74.0]})
    why = "batch normalisation over 16 instead of 32 images"
    rows[4] |= {"deviation": why, "test_top1": 99.0, "eval_top1": 99.0}
    base, result = compare([cell(0.0), cell(0.5)], frame(rows))
    assert [seed for seed, _ in result.by_seed] == [0, 2]
    assert result.test is not None
    assert result.test.mean == pytest.approx((71 + 73) / 2)
    assert result.difference is not None
    assert (result.difference.n, result.difference.verdict) == (2, "too few seeds")
    assert result.counts == Counts(complete=2, deviating=1)
    assert result.left_out == {trial(0.5, 0.1, 1).trial_id: why}
    assert (base.counts, base.left_out) == (Counts(complete=3), {})


def test_a_setting_with_such_a_trial_is_not_preferred_to_a_whole_one() -> None:
    rows = rows_of({0.0: [99.0, 99.0, 99.0]}, lr=0.2) + rows_of({0.0: [50.0, 50.0, 50.0]}, lr=0.1)
    rows[0]["deviation"] = "other maths"
    (result,) = compare([cell(0.0, lrs=(0.2, 0.1))], frame(rows))
    assert result.tuned == {"optimizer.lr": 0.1}
    assert result.counts == Counts(complete=5, deviating=1)


@pytest.mark.scenario(27)
def test_a_metric_that_rows_lack_is_blank() -> None:
    # Rows of an earlier version have no such column at all, others no value.
    rows = rows_of({0.0: [70.0, 71.0, 72.0], 0.5: [72.0, 73.1, 74.0]})
    for entry in rows[:3]:
        entry["test_top3"] = 90.0
    base, result = compare([cell(0.0), cell(0.5)], frame(rows), test_metric="test_top3")
    assert base.test is not None
    assert base.test.mean == 90.0
    assert (result.test, result.difference, result.by_seed) == (None, None, ())
    assert result.validation is not None
    (none, _) = compare([cell(0.0), cell(0.5)], frame(rows), test_metric="test_top9")
    assert (none.test, none.counts.complete) == (None, 3)


def test_device_hours_are_none_where_those_of_a_complete_trial_are_not_known() -> None:
    rows = costing(0.0, 0.1, [None] * 3)
    rows[1] |= {"device_hours": None}
    (result,) = compare([cell(0.0)], frame(rows))
    assert (result.device_hours, result.unpriced) == (None, 1)
    assert any("not known of 1 complete trial;" in note for note in make_sheet([result], "any").footnotes)


@pytest.mark.parametrize(
    ("taught", "said"), [([71.0, 71.2], "10"), ([70.5, 70.5, 72.5, 72.501], "> 10,000"), ([70.0, 71.0, 72.0, 73.0], "")]
)
def test_seeds_to_tell_are_said_from_two_seeds_on(taught: list[float], said: str) -> None:
    results = compared({0.0: ALONE, 0.5: taught})
    columns = {column.title: column.texts for column in make_sheet(results, "any").columns}
    assert columns.get("seeds\nto tell", ("", ""))[1] == said
