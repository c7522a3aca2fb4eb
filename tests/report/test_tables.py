"""The printed comparison: a golden table, any width, markdown, and published rows beneath."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace
from typing import Any, Literal

import polars as pl
import pytest
from rich.console import Console

from raybench.config.plan import Cell, Setting, label
from raybench.config.trial import (
    DatasetConfig,
    DistillationConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    TeacherConfig,
    TrialConfig,
)
from raybench.report.comparison import CellResult, compare
from raybench.report.export import records
from raybench.report.references import differing
from raybench.report.sheet import make_sheet, signed_text
from raybench.report.tables import comparison_lines, comparison_markdown, comparison_table
from raybench.results.published import PublishedRow, PublishedSetting, published

ALPHA, KIND, SIZE = "distillation.alpha", "distillation.type", "dataset.train_size"

# (alpha, kind, train size) -> status and validation top-1 of seeds 0, 1, 2; the test is 1 lower. None: never begun.
CASES: dict[tuple[float, str, int], list[tuple[str, float | None] | None]] = {
    (0.0, "", 500): [("complete", 70.0), ("complete", 71.0), ("complete", 72.0)],
    (0.25, "soft", 500): [("complete", 73.0), ("complete", 74.2), ("complete", 75.0)],
    (0.5, "hard", 500): [("complete", 70.2), ("complete", 71.5), ("complete", 72.1)],
    (0.5, "soft", 500): [("complete", 69.8), ("complete", 71.1), ("complete", 71.9)],
    (0.0, "", 1000): [("complete", 80.0), ("complete", 80.5), ("complete", None)],
    (0.25, "soft", 1000): [("failed", None), ("pruned", 60.0), None],
    (0.5, "hard", 1000): [("complete", 80.9), None, None],
    (0.5, "soft", 1000): [("complete", 80.2), ("complete", 81.2), ("diverged", None)],
}

GOLDEN = """\
reversed
preset quick

                    test              difference                                seeds  validation  not                             selected    teacher  train  95 % interval
train  alpha  kind  top-1 (%)         95 % interval      verdict              to tell   top-1 (%)  complete                              lr  top-1 (%)    (s)        of test
----------------------------------------------------------------------------------------------------------------------------------------------------------------------------
  500   0.00  –     70.0 ± 1.0 (3)                       student alone                       71.0                                      0.03                12   67.5 to 72.5
  500   0.25  soft  73.1 ± 1.0 (3) *  +3.1 [+2.8, +3.4]  better                              74.1                                      0.03       96.2     12   70.6 to 75.6
  500   0.50  hard  70.3 ± 1.0 (3)    +0.3 [-0.3, +0.8]  not distinguishable       10        71.3                                      0.03       96.2     12   67.9 to 72.7
  500   0.50  soft  69.9 ± 1.1 (3)    -0.1 [-0.4, +0.3]  not distinguishable       58        70.9                                      0.03       96.2     12   67.3 to 72.6

1,000   0.00  –     79.2 ± 0.4 (2)                       student alone                       80.2  1 without test_top1 of 3            0.03                12   76.1 to 82.4
1,000   0.25  soft                                                                                 1 failed, 1 pruned, 1 due of 3
1,000   0.50  hard  79.9       (1)    +0.9 (1 pair)      too few seeds                       80.9  2 due of 3                          0.03       96.2     12
1,000   0.50  soft  79.7 ± 0.7 (2)    +0.5 [-2.7, +3.6]  too few seeds             10        80.7  1 diverged of 3                     0.03       96.2     12   73.3 to 86.1

test: mean ± sample sd (n seeds) of the setting selected on validation top-1; test scored once.
difference: to the student alone with the same other factors, paired by seed, t interval of each alone. verdict: paired
  t test, two-sided, 5 %, Holm-corrected over 3 comparisons.
seeds vary the initial weights and the order of the images; the split and the teacher are the same for all.
seeds to tell: pairs that would tell the observed difference (80 % power, 5 % over all of them).
* best, and better than every other cell with the same student alone (same tests, Bonferroni-corrected over 5
  comparisons).
teacher: vit_digits.
data: embedded; not a reproduction of results on the official split."""  # noqa: E501


def case_cell(alpha: float, kind: str, size: int, precision: Literal["auto", "amp", "fp32", "bf16"] = "auto") -> Cell:
    def trial(seed: int) -> TrialConfig:
        teacher = TeacherConfig(name="vit_digits") if alpha else None
        return TrialConfig(
            dataset=DatasetConfig(name="digits", train_size=size, val_size=100),
            model=ModelConfig(name="resnet8"),
            distillation=DistillationConfig(type="soft" if kind == "soft" else "hard", alpha=alpha, teacher=teacher),
            optimizer=OptimizerConfig(lr=0.03),
            schedule=ScheduleConfig(epochs=20),
            precision=precision,
            seed=seed,
        )

    factors: dict[str, Any] = {ALPHA: alpha, **({KIND: kind} if kind else {}), SIZE: size}
    baseline = label({ALPHA: 0.0, SIZE: size}) if alpha else None
    return Cell(label(factors), factors, baseline, (Setting({"optimizer.lr": 0.03}, tuple(map(trial, range(3)))),))


@pytest.fixture(scope="module")
def results() -> list[CellResult]:
    cells, rows = [], []
    for (alpha, kind, size), seeds in CASES.items():
        cells.append(case_cell(alpha, kind, size))
        for trial, outcome in zip(cells[-1].settings[0].trials, seeds, strict=True):
            if outcome is None:
                continue
            status, top1 = outcome
            rows.append(
                {
                    "trial_id": trial.trial_id,
                    "status": status,
                    "eval_top1": top1,
                    "test_top1": None if top1 is None else top1 - 1,
                    "train_time": 12.0,
                    "teacher_top1": 96.25 if alpha else None,
                    "preset": "quick",
                    "dataset_variant": "embedded",
                }
            )
    return compare(cells, pl.DataFrame(rows, infer_schema_length=None))


def numbers(text: str) -> list[str]:
    return sorted(re.findall(r"[+-]?\d[\d,]*\.?\d*", text))


def test_golden_table(results: list[CellResult]) -> None:
    assert "\n".join(comparison_lines(results, "reversed")) == GOLDEN


@pytest.mark.parametrize("width", [200, 120, 100, 80, 60, 50])
def test_every_number_survives_any_width(results: list[CellResult], width: int) -> None:
    lines = comparison_lines(results, "reversed", width=width)
    assert max(map(len, lines)) <= width
    text, whole = "\n".join(lines), "\n".join(comparison_lines(results, "reversed"))
    assert set(numbers(text)) == set(numbers(whole))


@pytest.mark.parametrize("width", [30, 12])
def test_narrow_lines_are_a_block_a_cell(results: list[CellResult], width: int) -> None:
    text = "\n".join(comparison_lines(results, "reversed", width=width))
    assert {"+3.1", "73.1", "96.2"} <= set(numbers(text))
    assert text.count("alpha=") == len(CASES)


@pytest.mark.parametrize("width", [200, 120, 80])
def test_the_terminal_table_fits_and_says_what_it_leaves_out(results: list[CellResult], width: int) -> None:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(comparison_table(results, "reversed", published("deit_reverse"), width=width))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    assert "73.1 ± 1.0 (3) *" in text
    assert ("left out at this width" in text) == (width < 160)


def test_only_a_real_best_is_marked(results: list[CellResult]) -> None:
    text = "\n".join(comparison_lines(results, "reversed"))
    # The highest mean of 1,000 images has one seed only: no mark there.
    assert [line.split()[:3] for line in text.splitlines() if " * " in line] == [["500", "0.25", "soft"]]


def test_markdown(results: list[CellResult]) -> None:
    text = comparison_markdown(results, "deit_reverse", published("deit_reverse"))
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert len(table) == 2 + len(CASES)
    assert "**73.1 ± 1.0 (3)**" in table[3]
    assert "deit\\_reverse" in text
    assert "about 72 %" in text


def test_a_sweep_without_a_student_alone_has_no_verdicts(results: list[CellResult]) -> None:
    text = "\n".join(comparison_lines([replace(r, baseline=None, difference=None) for r in results], "sizes"))
    assert "verdict" not in text
    assert "difference" not in text
    assert "no cells" in "\n".join(comparison_lines([], "nothing"))


def test_published_rows_say_what_differs(results: list[CellResult]) -> None:
    text = " ".join(" ".join(comparison_lines(results, "reversed", published("deit_reverse"))).split())
    assert "published, as printed in the source, not measured here" in text
    assert "Jeong and Arnoud" in text
    assert "about 72 %" in text
    assert "not comparable: this model was not measured here" in text
    ours = [row.model_copy(update={"model_name": "resnet8"}) for row in published("deit_reverse")]
    text = " ".join(" ".join(comparison_lines(results, "reversed", ours)).split())
    assert "not comparable: data set digits, not cifar100; " in text
    assert "preset quick, not paper" in text


def test_the_published_setting_is_recognised(results: list[CellResult]) -> None:
    row = PublishedRow(
        sweep="s",
        model="ResNet-8",
        model_name="resnet8",
        setting=PublishedSetting(dataset="digits", train_size=500, epochs=20, pretrained=False),
        metric="top1",
        value=70.5,
        source="a paper",
    )
    alone = next(result for result in results if result.label == label({ALPHA: 0.0, SIZE: 500}))
    same = replace(alone, presets=("paper",), variants=("official",))
    assert differing(row, same) == ()
    assert "same setting as ours" in "\n".join(comparison_lines([same], "t", [row]))
    assert differing(row, alone) == ("data embedded, not official", "preset quick, not paper")
    longer = row.model_copy(update={"setting": row.setting.model_copy(update={"epochs": 200})})
    assert differing(longer, same) == ("epochs 20, not 200",)
    unknown = row.model_copy(update={"setting": row.setting.model_copy(update={"train_size": None})})
    assert differing(unknown, same) == ("train images 500, theirs not stated",)


def test_few_test_images_get_a_binomial_interval(results: list[CellResult]) -> None:
    text = " ".join(comparison_lines(results, "t", published("train_size")))
    assert "23.60 % [20.1, 27.5] (n inferred)" in " ".join(text.split())
    assert "(n inferred): their number is not in the source" in " ".join(text.split())


@pytest.mark.parametrize(("value", "text"), [(0.04, "0.0"), (-0.04, "0.0"), (0.06, "+0.1"), (-1.25, "-1.2")])
def test_signs(value: float, text: str) -> None:
    assert signed_text(value, 1) == text


@pytest.mark.parametrize(
    ("commits", "note"),
    [
        ([("a" * 40, False)] * 3, None),
        ([(None, None)] * 3, None),
        ([("a" * 40, False), (None, None), ("a" * 40, False)], None),
        ([("a" * 40, False), ("b" * 40, True), ("a" * 40, None)], "aaaaaaaa (2 trials), bbbbbbbb+changes (1 trial)"),
        (
            [("a" * 40, False), ("a" * 40, True), (None, None)],
            "aaaaaaaa (1 trial), aaaaaaaa+changes (1 trial), unknown (1 trial)",
        ),
    ],
)
def test_rows_of_different_code_are_noted(commits: list[tuple[str | None, bool | None]], note: str | None) -> None:
    cell = case_cell(0.0, "", 500)
    rows = [
        {
            "trial_id": trial.trial_id,
            "status": "complete",
            "eval_top1": 70.0,
            "test_top1": 70.0,
            "env/git_commit": commit,
            "env/git_dirty": dirty,
        }
        for trial, (commit, dirty) in zip(cell.settings[0].trials, commits, strict=True)
    ]
    # Not selected, so its code is no part of what is compared.
    rows.append({**rows[0], "trial_id": "0" * 12, "env/git_commit": "c" * 40})
    results = compare([cell], pl.DataFrame(rows, infer_schema_length=None))
    text = " ".join(" ".join(comparison_lines(results, "t")).split())
    assert ("code:" in text) == (note is not None)
    if note is not None:
        assert f"code: the trials compared were made by different commits: {note}." in text
        assert note.split(" (")[0] in comparison_markdown(results, "t")


@pytest.mark.parametrize(
    ("used", "note"),
    [
        (("fp32", "fp32", "fp32"), None),
        ((None, "bf16", None), None),
        (("bf16", "fp32", "bf16"), "precision: amp was not the same on all machines: bf16 (2 trials), fp32 (1 trial)."),
    ],
)
def test_what_machines_made_of_one_precision_is_noted(used: tuple[str | None, ...], note: str | None) -> None:
    cell = case_cell(0.0, "", 500, precision="amp")
    rows = [
        {"trial_id": t.trial_id, "status": "complete", "eval_top1": 70.0, "test_top1": 70.0, "env/precision": precision}
        for t, precision in zip(cell.settings[0].trials, used, strict=True)
    ]
    results = compare([cell], pl.DataFrame(rows, infer_schema_length=None))
    text = " ".join(" ".join(comparison_lines(results, "t")).split())
    assert ("precision:" in text) == (note is not None)
    assert (note or "") in text


def test_precisions_that_were_asked_for_are_not_noted() -> None:
    cells = [case_cell(0.0, "", 500, precision="fp32"), case_cell(0.0, "", 500, precision="bf16")]
    scored = {"status": "complete", "eval_top1": 70.0, "test_top1": 70.0}
    rows = [
        {**scored, "trial_id": trial.trial_id, "env/precision": trial.precision}
        for cell in cells
        for trial in cell.settings[0].trials
    ]
    results = compare(cells, pl.DataFrame(rows, infer_schema_length=None))
    assert "precision:" not in " ".join(comparison_lines(results, "t"))


@pytest.mark.scenario(8)
def test_trials_of_other_maths_are_left_out_and_said() -> None:
    cell, why = case_cell(0.0, "", 500), "batch normalisation over 16 instead of 32 images"
    rows = [
        {"trial_id": trial.trial_id, "status": "complete", "eval_top1": 70.0 + seed, "test_top1": 70.0 + seed}
        for seed, trial in enumerate(cell.settings[0].trials)
    ]
    deviations = [why, None, None]
    found = compare([cell], pl.DataFrame(rows).with_columns(pl.Series("deviation", deviations)))
    text = "\n".join(comparison_lines(found, "reversed", width=300))
    assert "71.5 ± 0.7 (2)" in text
    assert "1 deviating of 3" in text
    note = f"left out: 1 complete trial that ran out of memory and whose maths is another since ({why})."
    assert note in " ".join(text.split())
    assert note in comparison_markdown(found, "reversed")


def with_scores(*scores: tuple[float | None, float | None]) -> CellResult:
    """A cell of one setting by the validation and test top-1 of its seeds."""
    cell = case_cell(0.0, "", 500)
    rows = [
        {"trial_id": trial.trial_id, "status": "complete", "eval_top1": validation, "test_top1": test}
        for trial, (validation, test) in zip(cell.settings[0].trials, scores, strict=True)
    ]
    (result,) = compare([cell], pl.DataFrame(rows, infer_schema_length=None))
    return result


def test_complete_trials_without_a_metric_are_counted_in_every_form() -> None:
    result = with_scores((70.0, 69.0), (80.0, None), (math.nan, 67.0))
    assert (result.counts.complete, result.counts.without_metric) == (3, 2)
    assert "1 without eval_top1, 1 without test_top1 of 3" in "\n".join(comparison_lines([result], "t"))
    assert records([result])[0]["without_metric"] == 2
    # Both means are over the same seeds.
    assert result.by_seed == ((0, 69.0),)
    assert result.validation is not None
    assert (result.validation.n, result.validation.mean) == (1, 70.0)


def test_a_metric_that_no_seed_has_hides_no_other() -> None:
    result = with_scores((70.0, None), (71.0, None), (72.0, None))
    assert result.test is None
    assert result.validation is not None
    assert result.validation.mean == 71.0


@pytest.mark.parametrize("missing", ["nan", "failed"])
def test_a_setting_that_lacks_a_seed_is_passed_over_aloud(missing: str) -> None:
    kept = case_cell(0.0, "", 500)
    optimizer = OptimizerConfig(lr=0.1)
    other = tuple(t.model_copy(update={"optimizer": optimizer}) for t in kept.settings[0].trials)
    cell = Cell(kept.label, kept.factors, None, (kept.settings[0], Setting({"optimizer.lr": 0.1}, other)))
    rows: list[dict[str, Any]] = [
        {"trial_id": t.trial_id, "status": "complete", "eval_top1": value, "test_top1": value}
        for setting, value in zip(cell.settings, (70.0, 75.0), strict=True)
        for t in setting.trials
    ]
    rows[-1] |= {"eval_top1": math.nan} if missing == "nan" else {"status": "failed", "eval_top1": None}
    (result,) = compare([cell], pl.DataFrame(rows, infer_schema_length=None))
    assert result.tuned == {"optimizer.lr": 0.03}
    text = " ".join(" ".join(comparison_lines([result], "t")).split())
    said = "passed over, for a setting is selected before others only with a score of every seed: lr 0.1 of"
    assert said in text
    assert "(75 over 2 of 3 seeds)" in text


def test_fewer_pairs_than_seeds_are_said() -> None:
    cells = [case_cell(0.0, "", 500), case_cell(0.5, "soft", 500)]
    # Seed 2 of one and seed 0 of the other have no score: two seeds each, and one pair.
    scores = [(70.0, 71.0, None), (None, 72.5, 73.0)]
    rows = [
        {"trial_id": t.trial_id, "status": "complete", "eval_top1": value, "test_top1": value}
        for cell, values in zip(cells, scores, strict=True)
        for t, value in zip(cell.settings[0].trials, values, strict=True)
    ]
    results = compare(cells, pl.DataFrame(rows, infer_schema_length=None))
    text = "\n".join(comparison_lines(results, "t"))
    assert "+1.5 (1 pair)" in text
    # Of one seed beside two there is one pair, and nowhere else are there fewer.
    assert GOLDEN.split("test: mean")[0].count("pair") == 1


def test_the_teacher_is_named(results: list[CellResult]) -> None:
    assert {each["teacher"] for each in records(results)} == {None, "vit_digits"}
    taught = [result for result in results if result.selected and result.teacher]
    trial = taught[0].selected[0]
    other = trial.distillation.model_copy(update={"teacher": TeacherConfig(name="vit_other")})
    changed = replace(taught[0], selected=(trial.model_copy(update={"distillation": other}),))
    sheet = make_sheet([changed, taught[1]], "t")
    (column,) = [column for column in sheet.columns if column.title == "\nteacher"]
    assert set(column.texts) == {"vit_other", "vit_digits"}
    assert not any(note.startswith("teacher:") for note in sheet.footnotes)
