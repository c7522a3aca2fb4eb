"""Cells from rows: trials that differ in their seeds alone are read once and stay trials of their own."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from raybench.config.recorded import recorded_trial
from raybench.config.trial import (
    DatasetConfig,
    DistillationConfig,
    ModelConfig,
    OptimizerConfig,
    TeacherConfig,
    TrialConfig,
)
from raybench.report import cells
from raybench.report.cells import Axes, Grouped, grouped


def trial(lr: float, seed: int) -> TrialConfig:
    return TrialConfig(
        dataset=DatasetConfig(name="digits", val_size=100),
        model=ModelConfig(name="resnet8"),
        optimizer=OptimizerConfig(lr=lr),
        seed=seed,
    )


def row(of: TrialConfig, **changes: Any) -> dict[str, Any]:
    known = {"trial_id": of.trial_id, "setting_id": of.setting_id, "status": "complete", "preset": "quick"}
    return known | {f"config/{key}": value for key, value in of.flat().items()} | changes


def cells_of(*rows: dict[str, Any]) -> Grouped:
    return grouped(pl.DataFrame(rows, infer_schema_length=None), Axes(tuned=("optimizer.lr",)))


def test_a_configuration_is_read_once_for_all_its_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counting(found: dict[str, Any]) -> TrialConfig:
        asked.append(found["trial_id"])
        return recorded_trial(found)

    monkeypatch.setattr(cells, "recorded_trial", counting)
    trials = [trial(lr, seed) for seed in (3, 0, 2) for lr in (0.1, 0.2)]
    (cell,) = cells_of(*(row(each) for each in trials)).cells
    assert len(asked) == 2
    assert [setting.tuned["optimizer.lr"] for setting in cell.settings] == [0.1, 0.2]
    for setting in cell.settings:
        expected = [trial(setting.tuned["optimizer.lr"], seed) for seed in (0, 2, 3)]
        assert list(setting.trials) == expected
        assert [each.trial_id for each in setting.trials] == [each.trial_id for each in expected]
        assert {each.setting_id for each in setting.trials} == {expected[0].setting_id}


def test_a_row_keeps_the_identity_that_it_ran_under() -> None:
    names = {"setting_id": "ba9876543210"}
    rows = [row(trial(0.1, seed), trial_id=f"0123456789a{seed}", **names) for seed in (0, 1)]
    (cell,) = cells_of(*rows).cells
    older = cell.settings[0].trials[1]
    assert (older.seed, older.trial_id, older.setting_id) == (1, "0123456789a1", "ba9876543210")


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_is_none_leaves_its_row_out_and_no_other(seed: int) -> None:
    bad = row(trial(0.1, 1), trial_id="0123456789ab", **{"config/seed": seed})
    for rows in ([row(trial(0.1, 0)), bad], [bad, row(trial(0.1, 0))]):
        found = cells_of(*rows)
        assert [each.seed for each in found.cells[0].settings[0].trials] == [0]
        assert list(found.left_out) == ["0123456789ab"]
        assert "seed" in found.left_out["0123456789ab"]


def of_recipe(version: int, lr: float, seed: int, **changes: Any) -> dict[str, Any]:
    of = trial(lr, seed)
    (earlier,) = of.ids_of_seeds([seed], version)
    return row(of, trial_id=earlier, setting_id="earlier", **changes)


def test_ids_of_seeds_are_those_of_the_trials() -> None:
    assert trial(0.1, 5).ids_of_seeds([0, 1, 4_000_000_000]) == [trial(0.1, s).trial_id for s in (0, 1, 4_000_000_000)]


def test_a_stale_trial_stands_beside_none_of_this_recipe() -> None:
    # The stale rows alone have seeds 1 and 2: they would fill up the cell of this recipe.
    stale = [of_recipe(1, 0.1, 1), of_recipe(1, 0.1, 2), of_recipe(1, 0.2, 0, status="failed")]
    found = cells_of(row(trial(0.1, 0)), *stale)
    (cell,) = found.cells
    assert [each.seed for setting in cell.settings for each in setting.trials] == [0]
    assert set(found.left_out) == {each["trial_id"] for each in stale}
    assert all("stale" in why for why in found.left_out.values())
    assert not found.stale


def test_where_all_is_stale_it_is_said_and_compared_with_itself_alone() -> None:
    running = row(trial(0.1, 2), status="running")
    found = cells_of(of_recipe(1, 0.1, 0), of_recipe(1, 0.1, 1), running)
    (cell,) = found.cells
    assert [each.seed for setting in cell.settings for each in setting.trials] == [0, 1]
    assert found.stale
    assert found.notes[0].startswith("STALE: all 2 trials are of another recipe (version 1) than version")
    assert list(found.left_out) == [running["trial_id"]]


def test_stale_trials_of_two_recipes_are_two_populations() -> None:
    unknown = [row(trial(0.1, seed), trial_id=f"0123456789a{seed}", setting_id="older") for seed in (0, 1)]
    found = cells_of(of_recipe(1, 0.1, 0), of_recipe(1, 0.1, 1), *unknown)
    assert [cell.factors for cell in found.cells] == [{"recipe": "unknown"}, {"recipe": "version 1"}]
    assert [cell.baseline for cell in found.cells] == [None, None]


def test_tasks_are_never_averaged_together() -> None:
    codec = trial(0.1, 0).model_copy(update={"task": "compression"})
    found = grouped(
        pl.DataFrame([row(trial(0.1, 0)), row(codec)], infer_schema_length=None), Axes(), by=("optimizer.lr",)
    )
    assert sorted(str(cell.factors["task"]) for cell in found.cells) == ["compression", "image_classification"]


def taught(tau: float | None, lr: float, seed: int = 0, size: int = 500) -> dict[str, Any]:
    """A trial with a teacher, whose tau acts; without one of the student alone, where it does not."""
    teacher = TeacherConfig(name="vit_digits") if tau is not None else None
    distillation = DistillationConfig(type="soft", alpha=0.5 if teacher else 0.0, tau=tau or 1.0, teacher=teacher)
    dataset = DatasetConfig(name="digits", val_size=100, train_size=size)
    return row(trial(lr, seed).model_copy(update={"distillation": distillation, "dataset": dataset}))


def tuned_with_tau(*rows: dict[str, Any]) -> tuple[dict[bool, list[dict[str, Any]]], tuple[str, ...]]:
    """Whether a cell has a teacher -> the settings that compete in it, and the notes."""
    axes = Axes(("distillation.alpha", "dataset.train_size"), ("optimizer.lr", "distillation.tau"))
    found = grouped(pl.DataFrame(rows, infer_schema_length=None), axes)
    competing = {cell.factors["distillation.alpha"] > 0: [dict(s.tuned) for s in cell.settings] for cell in found.cells}
    return competing, found.notes


def test_a_key_that_does_not_act_in_the_baseline_is_no_other_setting_of_it() -> None:
    # The teacher's cell alone has tried a third rate: it was tuned harder.
    rows = [taught(None, lr) for lr in (0.1, 0.2)] + [taught(tau, lr) for tau in (1.0, 3.0) for lr in (0.1, 0.2, 0.3)]
    competing, notes = tuned_with_tau(*rows)
    assert [tuned["optimizer.lr"] for tuned in competing[False]] == [0.1, 0.2]
    both = [(tuned["optimizer.lr"], tuned["distillation.tau"]) for tuned in competing[True]]
    assert both == [(0.1, 1.0), (0.1, 3.0), (0.2, 1.0), (0.2, 3.0)]
    assert notes == (
        "cells have tried 2 to 3 settings; only the 2 tried in every cell compete",
        "tau can be tuned in some cells alone: there 4 settings compete, elsewhere 2",
    )


def test_a_note_on_tuning_names_its_data_where_others_are_not_concerned() -> None:
    rows = [taught(None, lr, size=100) for lr in (0.1, 0.2)] + [taught(1.0, 0.1, size=100)]
    rows += [taught(None, 0.1), taught(1.0, 0.1)]
    _, notes = tuned_with_tau(*rows)
    note = "cells have tried 1 to 2 settings; only the 1 tried in every cell compete (of train_size=100)"
    assert notes == (note,)


def test_trials_of_settings_that_do_not_compete_stay_with_their_cell() -> None:
    rows = [taught(None, 0.1), taught(1.0, 0.1), taught(1.0, 0.2) | {"status": "failed"}]
    axes = Axes(("distillation.alpha",), ("optimizer.lr", "distillation.tau"))
    alone, distilled = grouped(pl.DataFrame(rows, infer_schema_length=None), axes).cells
    assert [setting.tuned["optimizer.lr"] for setting in distilled.settings] == [0.1]
    assert [trial.optimizer.lr for trial in distilled.aside] == [0.2]
    assert alone.aside == ()


def test_augmentation_is_no_other_data_and_tuned_no_harder() -> None:
    plain = [trial(lr, 0) for lr in (0.1, 0.2)]
    flipped = plain[0].model_copy(update={"dataset": plain[0].dataset.model_copy(update={"augment": ("hflip",)})})
    found = cells_of(*(row(each) for each in [*plain, flipped]))
    assert [[setting.tuned["optimizer.lr"] for setting in cell.settings] for cell in found.cells] == [[0.1], [0.1]]
    assert found.notes == ("cells have tried 1 to 2 settings; only the 1 tried in every cell compete",)
