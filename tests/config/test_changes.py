"""What is said of two configurations of a sweep that differ."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from raybench.config.changes import changes, makes_other_trials, read_resolved, resolved
from raybench.config.load import load_sweep
from raybench.config.plan import make_plan
from raybench.config.sweep import SweepConfig
from raybench.errors import ConfigError

SWEEP = """\
base:
  dataset: {name: digits, val_size: 200}
  model: {name: resnet8}
  distillation: {type: soft, tau: 2.0, teacher: {name: vit_micro_patch2_8, epochs: 5}}
  schedule: {epochs: 4}
factors:
  distillation.alpha: [0.0, 0.5]
tune: {space: {optimizer.lr: [0.03, 0.1]}}
seeds: [0, 1]
presets:
  quick: {seeds: [0]}
  small: {tune: {algorithm: random, num_samples: 2, space: {optimizer.lr: {loguniform: [0.01, 0.1]}}}}
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "some.yaml"
    path.write_text(SWEEP)
    return str(path)


def again(sweep: SweepConfig) -> SweepConfig:
    """The sweep as a run writes it and the next one reads it."""
    return read_resolved(resolved(sweep))


def told(before: SweepConfig, now: SweepConfig) -> dict[str, bool]:
    """What is said of each change -> whether it makes other trials."""
    plan = make_plan(before)
    return {str(change): makes_other_trials(change, plan) for change in changes(before, now)}


def test_the_same_is_no_change_however_it_is_written(file: str) -> None:
    before = load_sweep(file, "paper")
    assert again(before) == before.model_copy(update={"places": {}})
    same = ["optimizer.momentum=0.9", "batch_size=128", "schedule.epochs=4", "limits.max_failures=2", "resources.cpu=1"]
    assert told(again(before), load_sweep(file, "paper", same)) == {}


@pytest.mark.parametrize(
    ("override", "said", "others"),
    [
        ("schedule.epochs=6", "schedule.epochs 4 -> 6", True),
        ("schedule.name=constant", "schedule.name cosine -> constant", True),
        ("seeds=[0, 1, 2]", "seeds 2 -> 3", False),
        ("seeds=[0]", "seeds 2 -> 1", False),
        ("seeds=[0, 7]", "seeds [0, 1] -> [0, 7]", True),
        ("distillation.alpha=[0.0, 0.5, 0.9]", "distillation.alpha [0.0, 0.5] -> [0.0, 0.5, 0.9]", False),
        ("distillation.alpha=[0.5]", "distillation.alpha [0.0, 0.5] -> [0.5]", False),
        ("distillation.alpha=[0.0, 0.9]", "distillation.alpha [0.0, 0.5] -> [0.0, 0.9]", True),
        ("factors.optimizer.lr=[0.03, 0.1]", "optimizer.lr tuned [0.03, 0.1] -> compared [0.03, 0.1]", False),
        ("factors.batch_size=[128, 64]", "batch_size fixed 128 -> compared [128, 64]", False),
        ("factors.batch_size=[32, 64]", "batch_size fixed 128 -> compared [32, 64]", True),
        ("optimizer.nesterov=true", "optimizer.nesterov false -> true", True),
        ("schedule.horizon_epochs=4", "schedule.horizon_epochs none -> 4", False),  # which is what none means
        ("distillation.teacher.gate=stop", "distillation.teacher.gate warn -> stop", False),
        ("model.options.depth=3", "model.options.depth none -> 3", True),
        ("limits.trial_time_s=60", "limits.trial_time_s none -> 60.0", False),
        ("checkpoints.keep=last", "checkpoints.keep best -> last", False),
        ("resources.cpu=2", "resources.cpu 1.0 -> 2.0", False),
    ],
)
def test_one_key(file: str, override: str, said: str, others: bool) -> None:
    before, now = load_sweep(file, "paper"), load_sweep(file, "paper", [override])
    assert told(again(before), now) == {said: others}
    back = {f"{change}" for change in changes(now, before)}
    assert len(back) == 1


def test_a_section_that_is_none_is_said_as_a_whole(file: str) -> None:
    alone = load_sweep(file, "paper", ["distillation.teacher=null", "distillation.alpha=0"])
    assert told(load_sweep(file, "paper"), alone) == {
        "distillation.alpha [0.0, 0.5] -> [0]": False,
        "distillation.teacher vit_micro_patch2_8 -> none": True,
    }
    assert "distillation.teacher none -> vit_micro_patch2_8" in told(alone, load_sweep(file, "paper"))


def test_a_preset_comes_first_and_a_distribution_is_another(file: str) -> None:
    assert told(load_sweep(file, "paper"), load_sweep(file, "small")) == {
        "preset paper -> small": False,
        'optimizer.lr [0.03, 0.1] -> {"loguniform": [0.01, 0.1]}': True,
        "tune.algorithm grid -> random": False,
        "tune.num_samples none -> 2": False,
    }


def test_other_data_are_named_by_their_fingerprints(file: str) -> None:
    sweep = load_sweep(file, "paper")
    before, now = (sweep.model_copy(update={"fingerprints": {"digits": each}}) for each in ("abc", "def"))
    assert told(before, now) == {"data of digits abc -> def": True}


DIGESTS = ["12345e678901", "012345678912", "123456789012", "1e0123456789", "000000000000", "0123456789ab"]
"""What SHA-256 makes now and then: most of them read as numbers."""
TEXTS = [
    "1e-3",
    "08",
    "0x1f",
    "on",
    "null",
    "1:30",
    "2024-01-01",
    "a\x85b",
    "a\u2028 b",
    "a\nb",
    "\U0001f600",
    "- x",
    "",
]


def odd(file: str) -> SweepConfig:
    sweep = load_sweep(file, "paper", ["model.options.x=a"])
    sweep.base["model"]["options"] = {f"o{place}": text for place, text in enumerate(TEXTS)}
    found = {f"d{place}": digest for place, digest in enumerate(DIGESTS)}
    return sweep.model_copy(update=dict.fromkeys(("fingerprints", "codes", "digests"), found) | {"places": {}})


def test_digests_and_texts_that_read_as_numbers_come_back_as_they_were(file: str) -> None:
    assert again(odd(file)) == odd(file)
    content = yaml.safe_load(resolved(odd(file)))  # what other programs read
    assert content == odd(file).model_dump(mode="json", exclude={"places"})


def test_what_was_written_by_yaml_1_1_is_understood(file: str) -> None:
    sweep = odd(file)
    sweep.base["model"]["options"].pop(f"o{TEXTS.index('a' + chr(0x85) + 'b')}")  # was lost when it was written
    sweep.base["model"]["options"].pop(f"o{TEXTS.index('a' + chr(0x2028) + ' b')}")
    content = sweep.model_dump(mode="json", exclude={"places"})
    before = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    assert "d0: 12345e678901\n" in before
    assert read_resolved(before.encode()) == sweep


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "must be a mapping"),
        (b"\xff\xfe", "not UTF-8 text"),
        (b"name: [", "line 1: "),
        (b'name: "\\UFFFFFFFF"', "line 1: not readable as YAML"),
        (b"name: some\n", "preset: is missing"),
        (b"{name: a, preset: quick, base: {}}", "dataset: is missing"),
        (b"{name: a, preset: quick, base: {dataset: {name: a}, model: {name: b}}, extra: 1}", "extra: no such key"),
        (b"a: &a [*a]", "line 1: *a: aliases are refused"),
        (b"!!python/object/apply:os.system [exit]", "line 1: !!python/object/apply:os.system: tags are refused"),
        (b"#" * 300_000, "larger than 256 KiB"),
    ],
)
def test_what_is_no_sweep_is_said(content: bytes, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_resolved(content)
    assert any(said in problem for problem in caught.value.problems), caught.value.problems
    assert all(problem.isprintable() for problem in caught.value.problems)
