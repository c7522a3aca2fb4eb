"""From a sweep to cells, settings and trials: the full grid, every cell stays, baselines are right, nothing twice."""

from __future__ import annotations

import time
from typing import Any

import pytest

from raybench.config.keys import get
from raybench.config.plan import Cell, Plan, label, make_plan, short_key, show, trial_at
from raybench.config.space import draw
from raybench.config.sweep import SweepConfig
from raybench.config.trial import TrialConfig
from raybench.errors import ConfigError

BASE: dict[str, Any] = {
    "dataset": {"name": "digits", "val_size": 200},
    "model": {"name": "resnet8"},
    "distillation": {"type": "hard", "alpha": 0.5, "teacher": {"name": "vit_micro_patch2_8", "epochs": 5}},
}
ALPHA, TYPE, SIZE = "distillation.alpha", "distillation.type", "dataset.train_size"


def sweep(base: dict[str, Any] | None = None, **content: Any) -> SweepConfig:
    """A sweep over small data; `space` and the like go to its `tune`."""
    tune = {key: content.pop(key) for key in ("algorithm", "num_samples", "space") if key in content}
    return SweepConfig.model_validate(
        {"name": "some", "preset": "paper", "base": BASE if base is None else base, "tune": tune, **content}
    )


def plan(**content: Any) -> Plan:
    return make_plan(sweep(**content))


def labels(found: Plan) -> dict[str, str | None]:
    return {cell.label: cell.baseline for cell in found.cells}


def ids(cell: Cell) -> list[str]:
    return [trial.trial_id for setting in cell.settings for trial in setting.trials]


def test_a_plan_fills_in_what_weight_files_hold() -> None:
    teacher = {"name": "resnet8", "weights": "t.pt"}
    base = {"dataset": {"name": "digits"}, "model": {"name": "resnet8", "weights": "s.pt"}}
    config = sweep(base | {"distillation": {"type": "soft", "teacher": teacher}})
    known = config.model_copy(update={"digests": {"resnet8 t.pt": "a" * 12, "resnet8 s.pt": "b" * 12}})
    trial = trial_at(known, {})
    assert trial.model.digest == "b" * 12
    assert trial.distillation.teacher is not None
    assert trial.distillation.teacher.digest == "a" * 12
    assert trial.trial_id != trial_at(config, {}).trial_id


def test_the_full_grid_with_the_student_alone_once_for_each_size() -> None:
    found = plan(
        factors={ALPHA: [0.0, 0.5, 0.9], TYPE: ["hard", "soft"], SIZE: [100, "all"]},
        space={"optimizer.lr": [0.03, 0.1]},
        seeds=[0, 1, 2],
    )
    taught = {
        f"alpha={alpha} type={kind} train_size={size}": f"alpha=0 train_size={size}"
        for alpha in (0.5, 0.9)
        for kind in ("hard", "soft")
        for size in (100, "all")
    }
    assert labels(found) == {"alpha=0 train_size=100": None, "alpha=0 train_size=all": None, **taught}
    for cell in found.cells:
        assert [setting.tuned for setting in cell.settings] == [{"optimizer.lr": 0.03}, {"optimizer.lr": 0.1}]
        assert [[trial.seed for trial in setting.trials] for setting in cell.settings] == [[0, 1, 2]] * 2
    every = [trial.trial_id for trial in found.trials()]
    assert len(every) == len(set(every)) == 10 * 2 * 3


def test_each_trial_has_the_values_of_its_cell_and_setting() -> None:
    found = plan(factors={ALPHA: [0.0, 0.5], SIZE: [50, 100]}, space={"batch_size": [16, 32]}, seeds=[4])
    for cell in found.cells:
        for setting in cell.settings:
            (trial,) = setting.trials
            content = trial.canonical().model_dump(mode="json")
            assert {key: get(content, key) for key in cell.factors} == cell.factors
            assert trial.batch_size == setting.tuned["batch_size"]
            assert (trial.seed, trial.dataset.val_size, trial.model.name) == (4, 200, "resnet8")


def test_no_factors_and_no_tuning_is_one_trial_a_seed() -> None:
    found = plan(seeds=[0, 1])
    assert labels(found) == {"all": None}
    assert [setting.tuned for setting in found.cells[0].settings] == [{}]
    assert len(list(found.trials())) == 2


AXES: list[tuple[str, list[Any]]] = [
    ("distillation.teacher.prepare", ["none", "head", "finetune"]),
    ("distillation.teacher.name", ["vit_micro_patch2_8", "resnet20"]),
    ("distillation.teacher", [{"name": "a"}, {"name": "a", "prepare": "head"}, {"name": "b", "options": {"depth": 2}}]),
    ("distillation.tau", [1.0, 2.0]),
    ("distillation", [{"type": "none"}, {"type": "soft", "teacher": {"name": "a"}}, {"alpha": 0.0}]),
    ("model.name", ["resnet8", "resnet20"]),
    ("model", [{"name": "v", "options": {"depth": 1}}, {"name": "v", "options": {"depth": 2}}, {"name": "v"}]),
    ("model.options.depth", [1, 2, 3]),
    ("batch_size", [16, 32]),
    ("optimizer.weight_decay", [0, 1e-4, 1.00000001e-4]),
    ("optimizer.momentum", [0.0, 0.9]),
    ("optimizer.lr", [0.1, 0.2]),
    ("optimizer", [{"name": "sgd"}, {"name": "adam", "lr": 0.001}, {}]),
    ("schedule.epochs", [3, 4]),
    ("dataset.augment", [[], ["crop1"], ["crop1", "hflip"]]),
    ("dataset.image_size", [None, 16]),
    ("label_smoothing", [0.0, 0.1]),
    (SIZE, [10, 100, "all"]),
]


@pytest.mark.parametrize(("key", "values"), AXES)
def test_every_key_can_be_a_factor_and_be_tuned(key: str, values: list[Any]) -> None:
    base = {**BASE, "distillation": {**BASE["distillation"], "type": "soft"}}
    # `sgd` by name and by default are one optimizer; without a teacher's term, so are all kinds of distillation.
    expected = 2 if key in ("optimizer", "distillation") else len(values)
    compared = plan(base=base, factors={key: values})
    assert len(compared.cells) == expected
    assert len({trial.trial_id for trial in compared.trials()}) == expected
    assert len(labels(compared)) == expected
    tuned = plan(base=base, space={key: values})
    assert len(tuned.cells) == 1
    assert len(tuned.cells[0].settings) == expected
    assert {trial.trial_id for trial in tuned.trials()} == {trial.trial_id for trial in compared.trials()}


def test_an_axis_reaches_a_section_that_the_base_does_not_write() -> None:
    base = {"dataset": {"name": "digits"}, "model": {"name": "resnet8"}}
    found = plan(base=base, factors={"optimizer.lr": [0.1, 0.2]}, space={"schedule.epochs": [3, 4]})
    assert [(t.optimizer.lr, t.schedule.epochs) for t in found.trials()] == [(0.1, 3), (0.1, 4), (0.2, 3), (0.2, 4)]


def test_duplicates_merge() -> None:
    found = plan(factors={ALPHA: [0.5, 0.5, 0.0, 0]}, space={"optimizer.lr": [0.1, 0.1, 1, 1.0]})
    assert labels(found) == {"alpha=0.5": "alpha=0", "alpha=0": None}
    assert [len(cell.settings) for cell in found.cells] == [2, 2]


def test_settings_that_cannot_differ_are_one() -> None:
    found = plan(factors={ALPHA: [0.0, 0.5]}, space={"distillation.tau": [1.0, 2.0], "optimizer.lr": [0.1, 0.2]})
    assert {cell.label: len(cell.settings) for cell in found.cells} == {"alpha=0": 2, "alpha=0.5": 2}


def test_a_factor_that_matters_for_some_of_what_is_tuned_keeps_its_cells() -> None:
    found = plan(factors={"optimizer.momentum": [0.0, 0.9]}, space={"optimizer.name": ["adam", "sgd"]})
    assert labels(found) == {"momentum=0": None, "momentum=0.9": None}
    whole = plan(
        factors={"optimizer": [{"momentum": 0.5}, {"momentum": 0.9}]}, space={"optimizer.name": ["adam", "sgd"]}
    )
    assert len(whole.cells) == 2
    never = plan(factors={"optimizer.momentum": [0.0, 0.9]}, space={"optimizer.name": ["adam", "adamw"]})
    assert labels(never) == {"all": None}


def test_a_tuned_alpha_keeps_the_kinds_apart() -> None:
    found = plan(factors={TYPE: ["hard", "soft"]}, space={ALPHA: [0.0, 0.5]})
    assert labels(found) == {"type=hard": None, "type=soft": None}
    hard, soft = map(ids, found.cells)
    assert hard[0] == soft[0]
    assert hard[1] != soft[1]


def test_type_none_is_the_student_alone() -> None:
    found = plan(factors={TYPE: ["none", "hard", "soft"], SIZE: [10, 20]})
    assert labels(found) == {
        f"type={kind} train_size={size}": None if kind == "none" else f"type=none train_size={size}"
        for kind in ("none", "hard", "soft")
        for size in (10, 20)
    }
    both = plan(factors={ALPHA: [0.0, 0.5], TYPE: ["none", "hard"]})
    assert labels(both) == {"alpha=0": None, "alpha=0.5 type=hard": "alpha=0"}


def test_a_whole_distillation_as_a_factor_has_its_baseline() -> None:
    found = plan(factors={"distillation": [{"type": "none"}, {"type": "soft", "teacher": {"name": "a"}, "tau": 2.0}]})
    (alone, taught) = found.cells
    assert taught.baseline == alone.label
    assert alone.baseline is None
    assert taught.label == "distillation=(type=soft,tau=2,teacher=a)"


def test_without_a_cell_of_the_student_alone_there_is_no_baseline() -> None:
    assert labels(plan(factors={ALPHA: [0.5, 0.9]})) == {"alpha=0.5": None, "alpha=0.9": None}
    assert labels(plan(factors={"distillation.teacher.name": ["a", "b"]})) == {"teacher=a": None, "teacher=b": None}
    assert labels(plan(factors={SIZE: [10, 20]})) == {"train_size=10": None, "train_size=20": None}


def test_baselines_share_every_other_factor() -> None:
    found = plan(factors={"model.name": ["a", "b"], ALPHA: [0.0, 0.5], "batch_size": [8, 16], TYPE: ["hard", "soft"]})
    by_label = {cell.label: cell for cell in found.cells}
    taught = [cell for cell in found.cells if cell.factors[ALPHA] > 0]
    assert len(taught) == 8
    assert len(found.cells) == 12
    for cell in taught:
        assert cell.baseline is not None
        alone = by_label[cell.baseline]
        assert alone.factors[ALPHA] == 0
        assert all(alone.factors[key] == cell.factors[key] for key in ("model.name", "batch_size"))


def test_cells_that_would_read_the_same_have_labels_of_their_own() -> None:
    found = plan(factors={"model.image_size": [8, 16], "dataset.image_size": [8, 16]})
    assert len(labels(found)) == 4
    nothing = plan(base={**BASE, "model": {"name": "m"}}, factors={"model.weights": ["None", "none"]})
    assert len(labels(nothing)) == 2


def test_every_cell_stays_whatever_the_sizes() -> None:
    found = plan(factors={SIZE: list(range(10, 110)), ALPHA: [0.0, 0.5]})
    assert len(found.cells) == 200
    assert len({cell.label for cell in found.cells}) == 200


RANDOM: dict[str, Any] = {
    "optimizer.lr": {"loguniform": [0.001, 0.1]},
    "optimizer.momentum": {"uniform": [0.1, 0.9]},
    "batch_size": {"randint": [8, 64]},
    "precision": ["fp32", "bf16"],
    "optimizer.nesterov": {"choice": [True, False]},
}


def test_random_draws_are_the_same_in_every_cell_and_begin_the_same_when_there_are_more() -> None:
    short = plan(factors={ALPHA: [0.0, 0.5], SIZE: [10, 20]}, algorithm="random", num_samples=4, space=RANDOM)
    long = plan(factors={SIZE: [10, 20, 30], ALPHA: [0.0, 0.5]}, algorithm="random", num_samples=9, space=RANDOM)
    drawn = [setting.tuned for setting in short.cells[0].settings]
    assert len(drawn) == 4
    for cell in (*short.cells, *long.cells):
        assert [setting.tuned for setting in cell.settings][:4] == drawn
    assert {trial.trial_id for trial in short.trials()} < {trial.trial_id for trial in long.trials()}


def test_a_new_axis_leaves_the_draws_of_the_others() -> None:
    narrow = [draw({"optimizer.lr": RANDOM["optimizer.lr"]}, index) for index in range(5)]
    wide = [draw({"batch_size": RANDOM["batch_size"], "optimizer.lr": RANDOM["optimizer.lr"]}, i) for i in range(5)]
    assert [point["optimizer.lr"] for point in wide] == [point["optimizer.lr"] for point in narrow]


def test_draws_fill_their_range_and_stay_inside() -> None:
    points = [draw(RANDOM, index) for index in range(2000)]
    rates = sorted(point["optimizer.lr"] for point in points)
    # Log-uniform: half lies below the geometric mean. 2,000 draws: standard deviation 1.1 %, so 5 % is beyond chance.
    assert abs(sum(rate < 0.01 for rate in rates) / 2000 - 0.5) < 0.05
    assert rates[0] >= 0.001
    assert rates[-1] <= 0.1
    assert {point["batch_size"] for point in points} == set(range(8, 64))
    assert abs(sum(point["optimizer.momentum"] for point in points) / 2000 - 0.5) < 0.03  # sd of the mean 0.005
    assert {point["precision"] for point in points} == {"fp32", "bf16"}
    assert {point["optimizer.nesterov"] for point in points} == {True, False}


def test_golden_draws() -> None:
    # Computed once; rounded to six digits, so that another machine's exp and log make the same trials.
    assert [draw({"optimizer.lr": {"loguniform": [0.001, 0.1]}}, index)["optimizer.lr"] for index in range(3)] == GOLDEN


def test_random_draws_that_are_the_same_are_one_setting() -> None:
    found = plan(algorithm="random", num_samples=50, space={"precision": ["fp32", "bf16"]})
    assert len(found.cells[0].settings) == 2


def test_tpe_plans_cells_without_settings() -> None:
    found = plan(
        factors={ALPHA: [0.0, 0.5], TYPE: ["hard", "soft"]}, algorithm="tpe", num_samples=5, space=RANDOM, seeds=[0]
    )
    assert labels(found) == {"alpha=0": None, "alpha=0.5 type=hard": "alpha=0", "alpha=0.5 type=soft": "alpha=0"}
    assert [cell.settings for cell in found.cells] == [(), (), ()]
    assert found.cells[1].point == {ALPHA: 0.5, TYPE: "hard"}


def test_tpe_and_random_refuse_a_space_with_a_corner_that_is_no_trial() -> None:
    space = {"schedule.epochs": {"randint": [2, 9]}, "schedule.warmup_epochs": {"randint": [0, 3]}}
    with pytest.raises(ConfigError, match=r"warmup_epochs = 2 must be below the schedule's length, 2"):
        plan(algorithm="tpe", num_samples=1, space=space)
    assert plan(algorithm="tpe", num_samples=1, space=space | {"schedule.epochs": {"randint": [3, 9]}})


def test_faults_between_axes_come_once_with_the_first_point() -> None:
    base = {**BASE, "distillation": {"type": "hard", "alpha": 0.0}}
    with pytest.raises(ConfigError) as caught:
        plan(base=base, factors={ALPHA: [0.0, 0.5, 0.9], SIZE: list(range(1, 30))})
    assert caught.value.problems == (
        "some: distillation: type = hard with alpha = 0.5 needs a teacher (distillation.teacher.name) "
        "(at distillation.alpha = 0.5, dataset.train_size = 1)",
        "some: distillation: type = hard with alpha = 0.9 needs a teacher (distillation.teacher.name) "
        "(at distillation.alpha = 0.9, dataset.train_size = 1)",
    )


def test_the_fingerprint_of_the_data_is_part_of_every_trial() -> None:
    config = sweep(factors={SIZE: [10, 20]})
    one, other = (
        make_plan(config.model_copy(update={"fingerprints": {"digits": value}})) for value in ("a" * 12, "b" * 12)
    )
    assert all(trial.dataset.fingerprint == "a" * 12 for trial in one.trials())
    assert not {t.trial_id for t in one.trials()} & {t.trial_id for t in other.trials()}
    assert labels(one) == labels(other)


def test_too_many_trials_are_refused_before_any_is_made() -> None:
    started = time.monotonic()
    with pytest.raises(ConfigError, match=r"1,000,000,000,000 trials; at most 100,000 are allowed. Shorten an axis"):
        plan(factors={"batch_size": list(range(1, 10_001)), SIZE: list(range(1, 10_001))}, seeds=list(range(10_000)))
    assert time.monotonic() - started < 1  # multiplying three lengths


def test_500_cells_with_three_seeds_plan_in_two_seconds() -> None:
    config = sweep(
        factors={SIZE: list(range(1, 126)), ALPHA: [0.0, 0.3, 0.5, 0.9]}, space={"optimizer.lr": [0.1]}, seeds=[0, 1, 2]
    )
    started = time.monotonic()
    found = make_plan(config)
    assert len({trial.trial_id for trial in found.trials()}) == 1500
    assert time.monotonic() - started < 2  # about 0.3 s on one core of the machine it was written on


def test_rungs() -> None:
    assert sweep().scheduler.rungs(10) == (10,)
    halving = sweep(scheduler={"name": "halving", "grace_epochs": 1, "reduction_factor": 3}).scheduler
    assert halving.rungs(20) == (1, 3, 9, 20)
    assert halving.rungs(9) == (1, 3, 9)
    assert halving.rungs(1) == (1,)


@pytest.mark.parametrize(
    ("key", "short"),
    [
        ("optimizer.lr", "lr"),
        ("optimizer.name", "optimizer"),
        ("model.name", "model"),
        ("seed", "seed"),
        ("distillation.teacher", "teacher"),
        ("distillation.teacher.name", "teacher"),
        ("distillation.teacher.prepare", "prepare"),
        ("distillation.teacher.optimizer.lr", "teacher.optimizer.lr"),
    ],
)
def test_short_keys(key: str, short: str) -> None:
    assert short_key(key) == short


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.5"),
        (0.0, "0"),
        (1e-4, "0.0001"),
        (1.00000001e-4, "0.000100000001"),
        (100, "100"),
        ("all", "all"),
        (None, "None"),
        (True, "True"),
        (["crop1", "hflip"], "crop1+hflip"),
        ([], "none"),
        ({"name": "vit", "prepare": "head"}, "vit(prepare=head)"),
        ({"lr": 0.1}, "(lr=0.1)"),
        ({}, "default"),
    ],
)
def test_values_as_shown(value: Any, text: str) -> None:
    assert show(value) == text


def test_label_is_the_same_wherever_the_same_factors_are() -> None:
    assert label({ALPHA: 0.5, TYPE: "hard", SIZE: 500}) == "alpha=0.5 type=hard train_size=500"
    assert label({}) == "all"


def test_trials_are_what_their_ids_say() -> None:
    for trial in plan(factors={ALPHA: [0.0, 0.5]}, seeds=[0, 1]).trials():
        assert TrialConfig.model_validate_json(trial.model_dump_json()).trial_id == trial.trial_id


GOLDEN = [0.00230511, 0.00779868, 0.0177873]
