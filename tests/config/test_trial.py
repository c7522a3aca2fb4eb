"""Identity of a trial: what decides its numbers and differs from its default, and nothing else."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from raybench.config import trial as trial_module
from raybench.config.keys import flatten, put
from raybench.config.trial import OptimizerConfig, Section, TrialConfig, trial_keys

TEACHER: dict[str, Any] = {"name": "vit_micro_patch2_8", "epochs": 30, "optimizer": {"name": "adamw", "lr": 0.002}}


def make(**values: Any) -> TrialConfig:
    """A trial on digits with dotted keys set (`optimizer__lr` for optimizer.lr)."""
    content: dict[str, Any] = {"dataset": {"name": "digits"}, "model": {"name": "resnet8"}}
    for key, value in values.items():
        put(content, key.replace("__", "."), deepcopy(value))
    return TrialConfig.model_validate(content)


def soft(**values: Any) -> TrialConfig:
    """The same distilled softly at alpha 0.5 from a small ViT."""
    return make(**{"distillation__type": "soft", "distillation__teacher": TEACHER, **values})


def test_golden_ids() -> None:
    # Computed once. A change here makes every row ever written another trial: raise RECIPE_VERSION on purpose, or undo.
    assert (make().trial_id, make().setting_id) == GOLDEN_PLAIN
    assert (soft(seed=2, distillation__tau=4.0).trial_id, soft(distillation__tau=4.0).setting_id) == GOLDEN_SOFT
    adam = make(optimizer__name="adam", optimizer__lr=0.001, dataset__train_size=500, dataset__augment=["crop1"])
    assert (adam.trial_id, adam.setting_id) == GOLDEN_ADAM


def test_id_is_12_hex_digits_and_the_same_in_another_process() -> None:
    program = (
        "from raybench.config.trial import TrialConfig as T;"
        "print(T.model_validate({'dataset': {'name': 'digits'}, 'model': {'name': 'resnet8'}}).trial_id)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    assert told == make().trial_id
    assert len(told) == 12
    assert set(told) <= set("0123456789abcdef")


def test_seed_changes_the_trial_and_not_the_setting() -> None:
    trials = [soft(seed=seed) for seed in range(5)]
    assert len({trial.trial_id for trial in trials}) == 5
    assert len({trial.setting_id for trial in trials}) == 1


def test_a_copy_finds_its_own_identity() -> None:
    trial = make()
    before = trial.trial_id, trial.setting_id, trial.canonical()
    copy = trial.model_copy(update={"seed": 7, "batch_size": 32})
    assert copy.trial_id == make(seed=7, batch_size=32).trial_id
    assert copy.setting_id == make(batch_size=32).setting_id
    assert copy.canonical().batch_size == 32
    assert (trial.trial_id, trial.setting_id, trial.canonical()) == before


def test_what_is_remembered_is_no_part_of_the_trial() -> None:
    asked, fresh = make(), make()
    assert asked.trial_id
    assert asked == fresh
    assert asked.model_dump() == fresh.model_dump()
    assert pickle.loads(pickle.dumps(asked)) == fresh
    assert pickle.loads(pickle.dumps(asked)).trial_id == fresh.trial_id


def test_writing_a_default_changes_nothing() -> None:
    content = make().model_dump(mode="json")
    assert TrialConfig.model_validate(content).trial_id == make().trial_id
    assert make(optimizer__lr=0.1, schedule__epochs=10, batch_size=128).trial_id == make().trial_id


def test_a_number_is_the_same_written_as_whole_or_fraction() -> None:
    assert make(optimizer__weight_decay=0).trial_id == make(optimizer__weight_decay=0.0).trial_id
    assert make(optimizer__lr=1).trial_id == make(optimizer__lr=1.0).trial_id


def test_a_new_option_with_a_default_orphans_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    class WiderOptimizer(OptimizerConfig):
        beta2: float = 0.999

    class Ema(Section):
        decay: float = 0.0

    class WiderTrial(TrialConfig):
        optimizer: WiderOptimizer = WiderOptimizer()
        ema: Ema = Ema()

    contents = [make().model_dump(), soft(seed=1).model_dump(), make(optimizer__name="adamw").model_dump()]
    before = [TrialConfig.model_validate(content).trial_id for content in contents]
    monkeypatch.setattr(trial_module, "TrialConfig", WiderTrial)
    trial_module.sections.cache_clear()
    assert [WiderTrial.model_validate(content).trial_id for content in contents] == before
    changed = WiderTrial.model_validate(contents[0] | {"optimizer": {"beta2": 0.9}})
    assert changed.trial_id != before[0]
    monkeypatch.undo()
    trial_module.sections.cache_clear()


def test_recipe_version_makes_other_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    before = make().trial_id, make().setting_id
    monkeypatch.setattr(trial_module, "RECIPE_VERSION", trial_module.RECIPE_VERSION + 1)
    assert make().trial_id != before[0]
    assert make().setting_id != before[1]


def test_paths_do_not_count_and_file_names_do() -> None:
    here, there = make(model__weights="/data/a/net-1.pt"), make(model__weights="other/net-1.pt")
    assert here.trial_id == there.trial_id
    assert make(model__weights="/data/a/net-2.pt").trial_id != here.trial_id
    assert make(model__weights="pretrained").trial_id != make().trial_id
    first = soft(distillation__teacher=TEACHER | {"weights": "/x/teacher.pt"})
    second = soft(distillation__teacher=TEACHER | {"weights": "/y/teacher.pt"})
    assert first.trial_id == second.trial_id != soft().trial_id


def test_what_a_file_named_by_its_path_holds_counts_and_of_others_their_name() -> None:
    def ids(weights: object) -> set[str]:
        student = [make(model={"name": "resnet8", "weights": weights, "digest": each}) for each in ("", "a" * 12)]
        taught = [soft(distillation__teacher=TEACHER | {"weights": weights, "digest": each}) for each in ("", "a" * 12)]
        assert len({trial.setting_id for trial in student}) == len({trial.trial_id for trial in student})
        return {trial.trial_id for trial in (*student, *taught)}

    assert len(ids("some.pt")) == 4
    for named in ("none", "pretrained", {"sweep": "ci2p_codec", "trial": "0123456789ab"}):
        assert len(ids(named)) == 2


def test_where_data_lie_does_not_count_once_their_fingerprint_is_known() -> None:
    def photos(**dataset: Any) -> TrialConfig:
        return make(dataset={"name": "image_folder", "path": "/a/x.zip", "image_size": 224} | dataset)

    assert photos().trial_id == photos(path="/b/x.zip").trial_id != photos(path="/a/y.zip").trial_id
    known = photos(fingerprint="0123456789ab")
    others: list[dict[str, Any]] = [
        {"path": "elsewhere"},
        {"test_path": "t"},
        {"label_column": "l"},
        {"decode_size": 256},
    ]
    for other in others:
        assert photos(fingerprint="0123456789ab", **other).trial_id == known.trial_id
        assert photos(**other).trial_id != photos().trial_id
    assert photos(fingerprint="0123456789ab", image_size=256).trial_id != known.trial_id


def test_data_that_trials_share_have_one_key() -> None:
    def key(**dataset: Any) -> str:
        return make(dataset={"name": "parquet", **dataset}).dataset.data_key

    assert make(dataset__image_size=16).dataset.data_key == "digits"
    assert key(path="a", image_size=224) == key(path="a", decode_size=224, image_size=200) == "parquet a 224px"
    distinct: list[dict[str, Any]] = [
        {},
        {"test_path": "b"},
        {"label_column": "c"},
        {"image_size": 8},
        {"decode_size": 9},
    ]
    assert len({key(path="a", **more) for more in distinct}) == 5


@pytest.mark.parametrize(
    "same",
    [
        pytest.param([make(), make(distillation__type="none", distillation__alpha=0.9)], id="type none"),
        pytest.param(
            [
                make(),
                soft(distillation__alpha=0.0),
                soft(distillation__alpha=0.0, distillation__tau=9.0, distillation__type="hard"),
                soft(distillation__alpha=0.0, distillation__cache="off", distillation__reduction="deit"),
            ],
            id="alpha 0",
        ),
        pytest.param(
            [
                soft(distillation__type="hard"),
                soft(distillation__type="hard", distillation__tau=4.0, distillation__reduction="deit"),
            ],
            id="tau of hard labels",
        ),
        pytest.param(
            [
                make(optimizer__name="adam"),
                make(optimizer__name="adam", optimizer__momentum=0.5, optimizer__nesterov=True),
            ],
            id="momentum of adam",
        ),
        pytest.param(
            [soft(), soft(distillation__teacher__optimizer__momentum=0.1), soft(distillation__teacher__gate="stop")],
            id="teacher's momentum of adamw, gate",
        ),
        pytest.param(
            [
                soft(distillation__teacher__prepare="none"),
                soft(distillation__teacher__prepare="none", distillation__teacher__epochs=3),
                soft(distillation__teacher__prepare="none", distillation__teacher__optimizer__lr=0.5),
            ],
            id="training of an untrained head",
        ),
        pytest.param([make(), make(schedule__horizon_epochs=10)], id="horizon that is the end"),
        pytest.param(
            [
                make(schedule__name="constant"),
                make(schedule__name="constant", schedule__horizon_epochs=90, schedule__min_lr=0.01),
            ],
            id="horizon of a constant rate",
        ),
        pytest.param(
            [make(dataset__augment=["crop4", "hflip"]), make(dataset__augment=["hflip", "crop4"])],
            id="order of augmentation",
        ),
    ],
)
def test_inert_settings_collapse(same: list[TrialConfig]) -> None:
    assert len({trial.trial_id for trial in same}) == 1
    assert len({trial.setting_id for trial in same}) == 1
    assert len({trial.canonical().model_dump_json() for trial in same}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (soft(), soft(distillation__tau=4.0)),
        (soft(), soft(distillation__type="hard")),
        (soft(), soft(distillation__alpha=0.6)),
        (soft(), soft(distillation__teacher__epochs=31)),
        (soft(), soft(distillation__teacher__seed=1)),
        (soft(), soft(distillation__teacher__prepare="head")),
        (soft(), soft(distillation__cache="off")),
        (make(), make(optimizer__momentum=0.5)),
        (make(), make(optimizer__nesterov=True)),
        (make(), make(schedule__horizon_epochs=20)),
        (make(), make(precision="fp32")),
        (make(), make(label_smoothing=0.1)),
        (make(), make(dataset__fingerprint="0123456789ab")),
        (make(), make(model__options={"img_size": 8})),
        (make(model__options={"depth": 1}), make(model__options={"depth": True})),
    ],
)
def test_what_matters_makes_another_trial(one: TrialConfig, other: TrialConfig) -> None:
    assert one.trial_id != other.trial_id
    assert one.setting_id != other.setting_id


def random_trials() -> st.SearchStrategy[dict[str, Any]]:
    """Contents of trials, valid or not."""
    optimizer = st.fixed_dictionaries(
        {},
        optional={
            "name": st.sampled_from(["sgd", "adam", "adamw"]),
            "lr": st.sampled_from([0.01, 0.1, 1]),
            "momentum": st.sampled_from([0.0, 0.5, 0.9]),
            "nesterov": st.booleans(),
        },
    )
    teacher = st.fixed_dictionaries(
        {"name": st.sampled_from(["a", "b"])},
        optional={
            "prepare": st.sampled_from(["none", "head", "finetune"]),
            "epochs": st.integers(1, 4),
            "warmup_epochs": st.integers(0, 4),
            "optimizer": optimizer,
            "gate": st.sampled_from(["warn", "stop"]),
        },
    )
    distillation = st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["none", "hard", "soft", "both"]),
            "alpha": st.sampled_from([0.0, 0.5, 1.0]),
            "tau": st.sampled_from([1.0, 2.0]),
            "teacher": st.none() | teacher,
        },
    )
    schedule = st.fixed_dictionaries(
        {},
        optional={
            "name": st.sampled_from(["cosine", "constant"]),
            "epochs": st.integers(1, 4),
            "horizon_epochs": st.none() | st.integers(1, 9),
            "warmup_epochs": st.integers(0, 4),
        },
    )
    return st.fixed_dictionaries(
        {"dataset": st.just({"name": "digits"}), "model": st.just({"name": "m"})},
        optional={"optimizer": optimizer, "distillation": distillation, "schedule": schedule},
    )


@settings(max_examples=150, deadline=None)
@given(random_trials())
def test_canonical_is_valid_stable_and_has_the_same_identity(content: dict[str, Any]) -> None:
    try:
        trial = TrialConfig.model_validate(content)
    except ValidationError:
        return
    canonical = trial.canonical()
    assert canonical.canonical() == canonical
    assert canonical.trial_id == trial.trial_id
    assert TrialConfig.model_validate_json(trial.model_dump_json()).trial_id == trial.trial_id
    own = trial.teacher_trial()
    assert own is None or own.distillation.type == "none"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer.lr", -1),
        ("optimizer.lr", True),
        ("optimizer.lr", "0.1"),
        ("optimizer.lr", float("nan")),
        ("optimizer.lr", float("inf")),
        ("optimizer.momentum", 1.0),
        ("batch_size", 0),
        ("batch_size", 1.5),
        ("batch_size", True),
        ("seed", -1),
        ("seed", 2**32),
        ("distillation.alpha", 1.01),
        ("distillation.tau", 0),
        ("label_smoothing", 1.0),
        ("schedule.warmup_epochs", 10),
        ("schedule.horizon_epochs", 9),
        ("dataset.augment", ["crop0"]),
        ("dataset.augment", ["crop1", "crop2"]),
        ("dataset.augment", ["crop1", "rrc"]),
        ("dataset.augment", ["rand-m9", "randaugment-n2-m9"]),
        ("dataset.train_size", "some"),
        ("model.options", {"x": ["a"]}),
        ("model.options", {"x": [[1]]}),
        ("model.options", {"x": float("nan")}),
        ("model.mean", []),
        ("precision", "fp8"),
    ],
)
def test_values_refused(key: str, value: Any) -> None:
    content = make().model_dump()
    put(content, key, value)
    with pytest.raises(ValidationError):
        TrialConfig.model_validate(content)


def test_rules_between_keys() -> None:
    with pytest.raises(ValidationError, match="needs a teacher"):
        make(distillation__type="hard")
    with pytest.raises(ValidationError, match="decode_size = 200 must be at least image_size = 224"):
        make(dataset__decode_size=200, dataset__image_size=224)
    with pytest.raises(ValidationError, match="needs a momentum"):
        make(optimizer__nesterov=True, optimizer__momentum=0.0)
    with pytest.raises(ValidationError, match="warmup_epochs = 30 must be below epochs = 30"):
        soft(distillation__teacher=TEACHER | {"warmup_epochs": 30})
    with pytest.raises(ValidationError, match="must be below the schedule's length, 10"):
        make(schedule__name="constant", schedule__horizon_epochs=90, schedule__warmup_epochs=10)
    assert soft(distillation__teacher=TEACHER | {"warmup_epochs": 30, "prepare": "none"}).canonical()


def test_teacher_trial_shares_data_and_has_no_seed_of_the_student() -> None:
    own = soft(seed=3, dataset__train_size=100, dataset__val_size=200).teacher_trial()
    assert own is not None
    assert (own.dataset.train_size, own.dataset.val_size, own.seed, own.schedule.epochs) == ("all", 200, 0, 30)
    assert own.model.name == "vit_micro_patch2_8"
    assert make().teacher_trial() is None
    assert soft(distillation__alpha=0.0).teacher_trial() is None


def test_flat_has_every_key_and_json_for_lists() -> None:
    flat = soft(dataset__augment=["crop1"], model__options={"b": 1, "a": 2}).flat()
    assert flat["optimizer.lr"] == 0.1
    assert flat["dataset.augment"] == '["crop1"]'
    assert flat["model.options"] == '{"a": 2, "b": 1}'
    assert flat["distillation.teacher.optimizer.lr"] == 0.002
    assert set(flatten(json.loads(soft().model_dump_json()))) <= set(trial_keys())


GOLDEN_PLAIN = ("81d2726a9902", "bde8c8998903")
GOLDEN_SOFT = ("acb6c4980c1b", "519623ec49e1")
GOLDEN_ADAM = ("9343a438de60", "5a9437b97a2e")
