"""Settings from rows: only seeds are averaged, only trials that count are in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from raybench.report.settings import (
    Population,
    SettingRow,
    complete,
    effective,
    options_of,
    row_facts,
    select,
    settings_of,
    tuned_keys,
    validation_of,
    varying_keys,
)
from raybench.report.statistics import estimate

Frame = Callable[[list[dict[str, Any]]], pl.DataFrame]
LR, ALPHA, SIZE = "optimizer.lr", "distillation.alpha", "dataset.train_size"


def rows(lr: float, tops: list[float], **columns: Any) -> list[dict[str, Any]]:
    return [{"config/optimizer.lr": lr, "seed": seed, "eval_top1": top, **columns} for seed, top in enumerate(tops)]


def setting(values: dict[str, Any], mean: float = 0.0, **about: Any) -> SettingRow:
    found = estimate([mean])
    assert found is not None
    return SettingRow(Population(**about), "c", repr(values), values, ((0, mean),), found, asked=1)


def test_only_trials_that_count(frame: Frame) -> None:
    trials = frame(
        [
            {"eval_top1": 1.0},
            {"eval_top1": 2.0, "status": "pruned"},
            {"eval_top1": 3.0, "status": "failed"},
            {"eval_top1": 4.0, "deviation": "ran out of memory"},
            {"eval_top1": None},
            {"eval_top1": float("nan")},
        ]
    )
    (only,) = settings_of(trials, "eval_top1")
    assert only.by_seed == ((0, 1.0),)
    assert len(complete(trials)) == 3
    assert settings_of(trials, "eval_top5") == []
    assert settings_of(pl.DataFrame(), "eval_top1") == []
    facts = row_facts([only], trials, "results/x")
    assert facts.startswith("n = 1 seed a setting. Preset small. Data: digits (official).")
    assert "1 deviating, 1 failed, 1 pruned" in facts
    assert facts.endswith("Source: results/x.")


def test_seeds_of_a_setting_are_one_estimate(frame: Frame) -> None:
    trials = frame(rows(0.1, [60.0, 62.0, 64.0]) + rows(0.3, [50.0]))
    first, second = settings_of(trials, "eval_top1")
    assert first.estimate == estimate([60.0, 62.0, 64.0])
    assert first.by_seed == ((0, 60.0), (1, 62.0), (2, 64.0))
    assert (first.values, second.values) == ({LR: 0.1}, {LR: 0.3})


@pytest.mark.parametrize(
    "column", ["sweep", "preset", "dataset_variant", "dataset_fingerprint", "config/dataset.train_size"]
)
def test_populations_are_never_averaged(frame: Frame, column: str) -> None:
    # The same setting_id in both: only what the rows are of keeps them apart.
    both = [{"setting_id": "x", "eval_top1": top, column: name} for top, name in ((50.0, "one"), (90.0, "other"))]
    found = settings_of(frame(both), "eval_top1")
    assert [each.estimate.mean for each in found] == [50.0, 90.0]
    assert len({each.population for each in found}) == 2


def test_speeds_of_two_devices_are_apart_only_when_asked(frame: Frame) -> None:
    both = [{"setting_id": "x", "eval_top1": 1.0, "seed": n, "env/gpu": gpu} for n, gpu in enumerate(("A", "B"))]
    assert len(settings_of(frame(both), "eval_top1")) == 1
    assert [s.population.device for s in settings_of(frame(both), "eval_top1", by_device=True)] == ["A", "B"]


def test_constant_columns_are_dropped_unless_asked_for(frame: Frame) -> None:
    trials = frame(rows(0.1, [1.0, 2.0], **{"config/batch_size": 32, "config/seed": 7}))
    (dropped,), (kept,) = settings_of(trials, "eval_top1"), settings_of(trials, "eval_top1", [LR])
    assert dropped.values == {}
    assert kept.values == {LR: 0.1}


def test_options_of_models_are_keys(frame: Frame) -> None:
    texts = ['{"tome_r": 8, "dim": 64}', '{"dim": 64}', None]
    trials = frame([{"config/model.options": text, "eval_top1": 1.0, "cell": str(text)} for text in texts])
    found = [each.values for each in settings_of(trials, "eval_top1")]
    assert found == [{"model.options.tome_r": 8, "model.options.dim": 64}, {"model.options.dim": 64}, {}]
    assert options_of("no json") == {}
    assert options_of("[1]") == {}


def test_selection_is_per_cell_and_prefers_repeated_settings(frame: Frame) -> None:
    trials = frame(
        rows(0.1, [60.0, 60.0], cell="a")
        + rows(0.3, [70.0, 70.0], cell="a")
        + rows(1.0, [99.0], cell="a")
        + rows(0.1, [80.0, 80.0], cell="b")
    )
    settings = settings_of(trials, "eval_top1")
    chosen = select(settings, "eval_top1")
    by_id = {each.setting_id: each for each in settings}
    assert {cell: by_id[found].values[LR] for (_, cell), found in chosen.items()} == {"a": 0.3, "b": 0.1}
    lowest = select(settings, "eval_loss")
    assert {cell: by_id[found].values[LR] for (_, cell), found in lowest.items()} == {"a": 0.1, "b": 0.1}


def test_a_setting_whose_seeds_broke_comes_after_whole_ones(frame: Frame) -> None:
    broken = [{"config/optimizer.lr": 0.3, "seed": 9, "eval_top1": None, "status": "failed"}]
    trials = frame(rows(0.1, [60.0] * 4) + rows(0.3, [70.0, 70.0, 70.0]) + broken)
    settings = settings_of(trials, "eval_top1")
    assert [each.asked for each in settings] == [4, 4]
    assert [*select(settings, "eval_top1").values()] == [settings[0].setting_id]


def test_the_validation_metric_of_a_test_metric(frame: Frame) -> None:
    trials = frame([{"eval_top1": 1.0, "eval_loss": 2.0, "eval_top5": None}])
    assert validation_of("test_loss", trials) == "eval_loss"
    assert validation_of("test_top5", trials) == "eval_top1"
    assert validation_of("infer_samples_per_sec", trials) == "eval_top1"


def test_tuned_keys_differ_within_a_cell(frame: Frame) -> None:
    trials = frame(
        rows(0.1, [1.0], cell="a", **{"config/distillation.alpha": 0.0})
        + rows(0.3, [1.0], cell="a", **{"config/distillation.alpha": 0.0})
        + rows(0.1, [1.0], cell="b", **{"config/distillation.alpha": 0.5})
    )
    assert tuned_keys(settings_of(trials, "eval_top1")) == {LR}


def test_keys_that_follow_from_each_other_are_one() -> None:
    points = [(0.1, 32, "a", "x", 3), (0.2, 64, "b", "y", 2), (0.3, 128, "b", "y", 1), (0.2, 64, "a", "x", 2)]
    settings = [setting(dict(zip(("lr", "dim", "name", "weights", "falls"), point, strict=True))) for point in points]
    assert varying_keys(settings) == ["lr", "name"]
    # Draws of a random search are all distinct, and still two keys.
    drawn = [setting({"lr": lr, "wd": wd}) for lr, wd in ((0.1, 3.0), (0.2, 1.0), (0.3, 2.0))]
    assert varying_keys(drawn) == ["lr", "wd"]
    assert varying_keys([]) == []


def test_the_student_alone_has_no_distillation() -> None:
    taught = {ALPHA: 0.5, "distillation.type": "hard", "distillation.tau": 2.0, LR: 0.1}
    assert effective(taught) == {ALPHA: 0.5, "distillation.type": "hard", LR: 0.1}
    soft = {**taught, "distillation.type": "soft"}
    assert effective(soft) == soft
    assert effective({**taught, ALPHA: 0.0}) == {ALPHA: 0.0, LR: 0.1}
    assert effective({**taught, "distillation.type": "none"}) == {ALPHA: 0.0, LR: 0.1}
