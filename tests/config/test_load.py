"""A sweep file with its preset: what that changes, and every fault at once with its place."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from raybench.config.document import list_sweeps, read_document
from raybench.config.keys import get
from raybench.config.load import PRESETS, load_sweep
from raybench.config.plan import make_plan
from raybench.config.sweep import SweepConfig

if TYPE_CHECKING:
    from .conftest import Faults, Written


def base(sweep: SweepConfig, key: str) -> Any:
    return get(sweep.base, key)


def test_every_shipped_sweep_loads_and_plans_in_every_preset_it_has() -> None:
    for name, path in list_sweeps().items():
        for preset in ("paper", *read_document(path).content.get("presets", {})):
            assert make_plan(load_sweep(name, preset)).cells
            assert preset in PRESETS


def test_a_preset_is_merged_and_axes_are_replaced(sweep: str) -> None:
    small, quick = load_sweep(sweep, "small"), load_sweep(sweep, "quick")
    assert base(small, "optimizer") == {"lr": 0.1, "weight_decay": 0.01}
    assert base(small, "distillation.teacher") == {"name": "vit_micro_patch2_8", "epochs": 5, "options": {"depth": 2}}
    assert (small.seeds, base(small, "schedule.epochs")) == ([5], 3)
    assert small.factors == {"distillation.alpha": [0.0, 0.5], "dataset.train_size": [100, "all"]}
    assert base(quick, "distillation.teacher") is None
    assert quick.factors == {"dataset.train_size": [50]}
    assert (quick.tune.algorithm, quick.tune.num_samples) == ("random", 3)
    assert (quick.name, quick.preset, quick.question) == ("some", "quick", "Does it help?")


def test_options_of_a_model_are_replaced_as_a_whole(written: Written) -> None:
    name = written(
        """\
        base: {dataset: {name: digits}, model: {name: a, options: {x: 1}}}
        presets: {quick: {base: {model: {name: b, options: {y: 2}}}}}
        """,
    )
    assert base(load_sweep(name, "quick"), "model") == {"name": "b", "options": {"y": 2}}


def test_presets_that_are_not_there(sweep: str, faults: Faults, written: Written) -> None:
    assert faults(sweep, preset="tiny") == (
        "command line: --preset tiny: no such preset; allowed: paper, small, quick",
    )
    bare = written("base: {dataset: {name: digits}, model: {name: resnet8}}\n")
    assert faults(bare, preset="quick") == ("command line: --preset quick: some.yaml has no such preset; it has paper",)


EVERYTHING_WRONG = """\
# Wrong?
bass: {}
metric: {name: 5, mod: max}
base:
  dataset: {name: digits, trian_size: 5, val_size: true}
  model: {name: resnet8, weight: none}
  distillation: {type: sooft, alpha: 2, tau: 0}
  optimizer: {lr: -1, momentum: .nan}
  schedul: {epochs: 3}
  batch_size: 0
factors:
  optimizer.weight_dekay: [0.1]
  optimizer.weight_decay: []
  dataset.views: [0]
  label_smoothing: {uniform: [0, 1]}
tune:
  algorthm: grid
  space:
    seed: {eval: "1"}
    precision: [fp32, fp8]
seeds: [0, 0]
resources: {cpu: -1}
presets:
  quik: {}
  small: {bas: {}}
"""


@pytest.mark.scenario(21)
def test_all_faults_come_at_once_each_with_its_line(faults: Faults, written: Written) -> None:
    found = faults(written(EVERYTHING_WRONG), "optimzer.lr=1", "batch_size=-3")
    assert sorted(found) == sorted(
        [
            "some.yaml:2: bass: no such key; did you mean base?",
            "some.yaml:3: metric.name = 5: must be text",
            "some.yaml:3: metric.mod: no such key; did you mean metric.mode?",
            "some.yaml:5: dataset.trian_size: no such key; did you mean dataset.train_size?",
            "some.yaml:5: dataset.val_size = true: must be a whole number",
            "some.yaml:6: model.weight: no such key; did you mean model.weights?",
            'some.yaml:7: distillation.type = "sooft": must be none, hard, soft or both; did you mean soft?',
            "some.yaml:7: distillation.alpha = 2: must be at most 1",
            "some.yaml:7: distillation.tau = 0: must be greater than 0",
            "some.yaml:8: optimizer.lr = -1: must be greater than 0",
            "some.yaml:8: optimizer.momentum = nan: must be a finite number",
            "some.yaml:9: schedul: no such key; did you mean schedule?",
            "some.yaml:12: factors.optimizer.weight_dekay: no such key; did you mean optimizer.weight_decay?",
            "some.yaml:13: factors.optimizer.weight_decay: must not be empty",
            "some.yaml:14: dataset.views = 0: must be greater than 0 or all",
            'some.yaml:15: factors.label_smoothing: {"uniform": [0, 1]}: must be a list of values',
            "some.yaml:17: tune.algorthm: no such key; did you mean tune.algorithm?",
            "some.yaml:19: tune.space.seed: {eval: …}: must be one of loguniform, uniform, randint, choice",
            'some.yaml:20: precision = "fp8": must be auto, amp, fp32, tf32, bf16 or fp16',
            "some.yaml:21: seeds: seeds must be distinct",
            "some.yaml:22: resources.cpu = -1: must be greater than 0",
            "some.yaml:24: presets.quik: no such key; did you mean quick?",
            "some.yaml:25: presets.small.bas: no such key; did you mean base?",
            "command line: optimzer.lr: no such key; did you mean optimizer.lr?",
            "command line: batch_size = -3: must be greater than 0",
        ]
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seeds: [0]\n", "some.yaml: base: is missing"),
        ("base: 5\n", "some.yaml:1: base: must be a mapping"),
        ("base:\n", "some.yaml:1: base: must be a mapping"),
        ("base: {}\n", "some.yaml:1: dataset: is missing"),
        ("base: {dataset: {}, model: {name: a}}\n", "some.yaml:1: dataset.name: is missing"),
        ("base: {dataset: {name: a}, model: {name: b}}\nfactors:\n", "some.yaml:2: factors = null: must be a mapping"),
        ("base: {dataset: {name: a}, model: {name: b}}\ntune: {space: }\n", "some.yaml:2: tune.space = null: must be"),
        ("base: {dataset: {name: a}, model: {name: b}}\ntune: [1]\n", "some.yaml:2: tune = [1]: must be a mapping"),
        ("base: {dataset: {name: a}, model: {name: b}}\npresets: [1]\n", "some.yaml:2: presets: must be a mapping"),
        ("base: {dataset: {name: a}, model: {name: b}}\npresets: {quick: 1}\n", "some.yaml:2: presets.quick: must be"),
        ("base: {dataset: {name: a}, model: {name: b}}\nplaces: {}\n", "some.yaml:2: places: no such key"),
        ("base: {dataset: {name: a}, model: {name: b}}\nname: x\n", "some.yaml:2: name: no such key"),
    ],
)
def test_files_that_hold_too_little(text: str, said: str, faults: Faults, written: Written) -> None:
    assert any(line.startswith(said) for line in faults(written(text)))


@pytest.mark.scenario(21)
@pytest.mark.parametrize(
    ("tune", "said"),
    [
        ("{algorithm: random, space: {optimizer.lr: [1]}}", "tune: algorithm = random needs num_samples"),
        ("{algorithm: tpe, num_samples: 3}", "tune: algorithm = tpe needs a space"),
        ("{algorithm: random, num_samples: 0}", "tune.num_samples = 0: must be greater than 0"),
        ("{space: {optimizer.lr: {loguniform: [0.1, 1]}}}", "tune: a grid needs lists"),
        ("{num_samples: 3, space: {optimizer.lr: [1]}}", "tune: num_samples means nothing for a grid"),
        (
            "{space: {optimizer.lr: {uniform: [1, 0]}}}",
            "tune.space.optimizer.lr: uniform: low = 1 must be below high = 0",
        ),
        ("{space: {optimizer.lr: {uniform: [0]}}}", "tune.space.optimizer.lr: uniform: must be [low, high]"),
        ("{space: {optimizer.lr: {uniform: [0, true]}}}", "tune.space.optimizer.lr: uniform: must be [low, high]"),
        (
            "{space: {optimizer.lr: {uniform: [0, .inf]}}}",
            "tune.space.optimizer.lr: uniform: low and high must be finite",
        ),
        (
            "{space: {optimizer.lr: {uniform: [.nan, 1]}}}",
            "tune.space.optimizer.lr: uniform: low and high must be finite",
        ),
        (
            "{space: {optimizer.lr: {loguniform: [0, 1]}}}",
            "tune.space.optimizer.lr: loguniform: low = 0 must be greater",
        ),
        ("{space: {batch_size: {randint: [1, 2.5]}}}", "tune.space.batch_size: randint: low and high must be whole"),
        ("{space: {optimizer.lr: {choice: []}}}", "tune.space.optimizer.lr: choice: must not be empty"),
        ("{space: {optimizer.lr: {choice: 5}}}", "tune.space.optimizer.lr: choice: must be a list"),
        (
            "{space: {optimizer.lr: {uniform: [0, 1], choice: [1]}}}",
            "tune.space.optimizer.lr: {uniform: …, choice: …}:",
        ),
        ("{space: {seed: [1]}, seeds: first, algorithm: tpe, num_samples: 2}", "tune: seeds = first goes with grid"),
        (
            "{algorithm: random, num_samples: 2, space: {batch_size: {randint: [0, 9]}}}",
            "batch_size = 0: must be greater",
        ),
        (
            "{algorithm: tpe, num_samples: 2, space: {optimizer.momentum: {uniform: [0, 1]}}}",
            "optimizer.momentum = 1: mu",
        ),
    ],
)
def test_faults_of_tuning(tune: str, said: str, faults: Faults, written: Written) -> None:
    found = faults(written(f"base: {{dataset: {{name: a}}, model: {{name: b}}}}\ntune: {tune}\n"))
    assert [line for line in found if line.startswith(f"some.yaml:2: {said}")], found


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("factors: {seed: [1]}\ntune: {space: {seed: [2]}}", "seed: either a factor (compared) or tuned (selected)"),
        ("scheduler: {name: halving}\ntune: {seeds: first}", "a scheduler judges settings on all their seeds"),
        (
            "scheduler: {name: asha}\ntune: {algorithm: tpe, num_samples: 2, space: {seed: [2]}}",
            "asha goes with grid or random",
        ),
        ("scheduler: {name: halving}\ntune: {space: {schedule.epochs: [2, 4]}}", "schedule.epochs: a scheduler judges"),
    ],
)
def test_rules_between_sections(rest: str, said: str, faults: Faults, written: Written) -> None:
    (found,) = faults(written(f"base: {{dataset: {{name: a}}, model: {{name: b}}}}\n{rest}\n"))
    assert said in found


@pytest.mark.scenario(21)
def test_a_billion_points_are_refused_without_counting_them(faults: Faults, written: Written) -> None:
    values = "[" + ", ".join(str(n) for n in range(1, 1001)) + "]"
    axes = "\n".join(f"  {key}: {values}" for key in ("batch_size", "dataset.train_size", "dataset.val_size"))
    name = written(f"base: {{dataset: {{name: a}}, model: {{name: b}}}}\nfactors:\n{axes}\n")
    started = time.monotonic()
    (found,) = faults(name)
    assert "1,000,000,000 cells x 1 settings x 1 seeds = 1,000,000,000 trials; at most 100,000 are allowed" in found
    assert time.monotonic() - started < 5  # reading 3,000 values; enumerating the grid would take a day
    (many,) = faults(name, "factors.seed=[" + ", ".join(map(str, range(1001))) + "]")
    assert "factors.seed: has 1,001 values; at most 1,000 are allowed" in many


def test_many_samples_are_refused_too(sweep: str, faults: Faults) -> None:
    (found,) = faults(sweep, "tune.num_samples=1000000000", preset="quick")
    assert "at most 100,000 are allowed. Ask for fewer" in found


def test_faults_beyond_fifty_are_counted(faults: Faults, written: Written) -> None:
    keys = "\n".join(f"key{n}: 1" for n in range(70))
    found = faults(written(f"base: {{dataset: {{name: a}}, model: {{name: b}}}}\n{keys}\n"))
    assert len(found) == 51
    assert found[-1] == "… and 20 more"


def test_places_name_the_preset_the_file_and_the_command_line(sweep: str) -> None:
    small = load_sweep(sweep, "small", ["model.name=resnet20"])
    assert small.places["model.name"] == "command line"
    assert small.places["dataset.name"] == "some.yaml:3"
    assert small.places["optimizer.weight_decay"] == "some.yaml:20"
    assert small.places["dataset.train_size"] == "some.yaml:12"
    assert small.places["optimizer.lr"] == "some.yaml:15"
