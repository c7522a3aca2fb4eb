"""A sweep file with its preset and overrides: what they change, and every fault at once with its place."""

from __future__ import annotations

import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from raybench.config.document import list_sweeps, read_document
from raybench.config.load import PRESETS, load_sweep
from raybench.config.plan import make_plan
from raybench.config.sweep import SweepConfig
from raybench.config.trial import get
from raybench.errors import ConfigError

SWEEP = """\
# Does it help?
base:
  dataset: {name: digits, val_size: 200}
  model: {name: resnet8}
  distillation:
    type: hard
    teacher: {name: vit_micro_patch2_8, epochs: 5}
  optimizer: {lr: 0.1}
  schedule: {epochs: 4}
factors:
  distillation.alpha: [0.0, 0.5]
  dataset.train_size: [100, all]
tune:
  space:
    optimizer.lr: [0.03, 0.1]
seeds: [0, 1]
presets:
  small:
    base:
      optimizer: {weight_decay: 0.01}
      distillation: {teacher: {options: {depth: 2}}}
      schedule: {epochs: 3}
    seeds: [5]
  quick:
    base: {distillation: {teacher: null, type: none}}
    factors:
      dataset.train_size: [50]
    tune: {algorithm: random, num_samples: 3, space: {optimizer.lr: {loguniform: [0.001, 0.1]}}}
"""


@pytest.fixture
def sweep(tmp_path: Path) -> str:
    return written(tmp_path, SWEEP)


def written(folder: Path, text: str) -> str:
    path = folder / "some.yaml"
    path.write_text(textwrap.dedent(text))
    return str(path)


def faults(name: str, *overrides: str, preset: str = "paper", options: dict[str, Any] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        make_plan(load_sweep(name, preset, overrides, options))
    return caught.value.problems


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


def test_options_of_a_model_are_replaced_as_a_whole(tmp_path: Path) -> None:
    name = written(
        tmp_path,
        """\
        base: {dataset: {name: digits}, model: {name: a, options: {x: 1}}}
        presets: {quick: {base: {model: {name: b, options: {y: 2}}}}}
        """,
    )
    assert base(load_sweep(name, "quick"), "model") == {"name": "b", "options": {"y": 2}}


def test_presets_that_are_not_there(sweep: str, tmp_path: Path) -> None:
    assert faults(sweep, preset="tiny") == (
        "command line: --preset tiny: no such preset; allowed: paper, small, quick",
    )
    bare = written(tmp_path, "base: {dataset: {name: digits}, model: {name: resnet8}}\n")
    assert faults(bare, preset="quick") == ("command line: --preset quick: some.yaml has no such preset; it has paper",)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("optimizer.weight_decay=1e-3", "optimizer.weight_decay", 0.001),
        ("batch_size=010", "batch_size", 10),
        ("optimizer.nesterov=true", "optimizer.nesterov", True),
        ("model.name=on", "model.name", "on"),
        ("model.name='8'", "model.name", "8"),
        ("model.weights=a=b.pt", "model.weights", "a=b.pt"),
        ("dataset.augment=[crop1, hflip]", "dataset.augment", ["crop1", "hflip"]),
        ("dataset.augment=[]", "dataset.augment", []),
        ("model.mean=[0.5]", "model.mean", [0.5]),
        ("model.options.depth=3", "model.options", {"depth": 3}),
        ("distillation.teacher.options.depth=3", "distillation.teacher.options.depth", 3),
        ("distillation.teacher.optimizer.lr=1", "distillation.teacher.optimizer.lr", 1),
        ("optimizer={name: adam}", "optimizer", {"name": "adam"}),
        ("dataset.image_size=null", "dataset.image_size", None),
        ("dataset.image_size=", "dataset.image_size", None),
    ],
)
def test_an_override_of_a_plain_key_sets_the_base(tmp_path: Path, override: str, key: str, value: Any) -> None:
    name = written(tmp_path, SWEEP.replace("    optimizer.lr: [0.03, 0.1]", "    distillation.tau: [1.0]"))
    changed = load_sweep(name, "paper", [override])
    found = base(changed, key)
    assert found == value
    assert type(found) is type(value)
    assert "options" in key or changed.places[key] == "command line"
    untouched = load_sweep(name, "paper")
    assert changed.factors == untouched.factors


def test_an_override_of_an_axis_replaces_it_wherever_it_is(sweep: str) -> None:
    changed = load_sweep(sweep, "paper", ["distillation.alpha=0.9", "dataset.train_size=[10, 20]", "optimizer.lr=0.2"])
    assert changed.factors == {"distillation.alpha": [0.9], "dataset.train_size": [10, 20]}
    assert changed.tune.space == {"optimizer.lr": [0.2]}
    assert base(changed, "optimizer.lr") == 0.1
    drawn = load_sweep(sweep, "quick", ["optimizer.lr={uniform: [0.1, 0.2]}"])
    assert drawn.tune.space == {"optimizer.lr": {"uniform": [0.1, 0.2]}}


def test_axes_can_be_made_and_moved(sweep: str) -> None:
    changed = load_sweep(
        sweep,
        "paper",
        ["factors.optimizer.lr=[0.1, 0.2]", "tune.space.dataset.train_size=50", "factors.model.options.depth=[1, 2]"],
    )
    assert changed.factors == {
        "distillation.alpha": [0.0, 0.5],
        "optimizer.lr": [0.1, 0.2],
        "model.options.depth": [1, 2],
    }
    assert changed.tune.space == {"dataset.train_size": [50]}
    assert len({trial.trial_id for trial in make_plan(changed).trials()}) == 2 * 2 * 2 * 2


def test_a_list_valued_axis_tells_one_value_from_several(sweep: str) -> None:
    one = load_sweep(sweep, "paper", ["factors.dataset.augment=[crop1, hflip]"])
    assert one.factors["dataset.augment"] == [["crop1", "hflip"]]
    several = load_sweep(sweep, "paper", ["factors.dataset.augment=[[crop1], [hflip], []]"])
    assert several.factors["dataset.augment"] == [["crop1"], ["hflip"], []]
    assert len(make_plan(several).cells) == 12


def test_the_sweeps_own_keys(sweep: str) -> None:
    changed = load_sweep(
        sweep,
        "quick",
        ["seeds=[3, 4]", "tune.num_samples=7", "metric.name=eval_loss", "metric.mode=min", "resources.cpu=2"],
        {"seeds": [0, 1, 2]},
    )
    assert changed.seeds == [0, 1, 2]  # --seeds comes after key=value
    assert changed.tune.num_samples == 7
    assert changed.tune.space == {"optimizer.lr": {"loguniform": [0.001, 0.1]}}
    assert (changed.metric.name, changed.metric.mode, changed.resources.cpu) == ("eval_loss", "min", 2.0)
    assert changed.places["metric.name"] == "command line"


def test_later_overrides_win(sweep: str) -> None:
    changed = load_sweep(sweep, "paper", ["batch_size=1", "batch_size=2", "seeds=[1]", "seeds=[2]"])
    assert (base(changed, "batch_size"), changed.seeds) == (2, [2])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("distillation.alpa=0.5", "distillation.alpa: no such key; did you mean distillation.alpha?"),
        ("optimizer.lr=-1", "optimizer.lr = -1: must be greater than 0"),
        ("optimizer.lr=0", "optimizer.lr = 0: must be greater than 0"),
        ("optimizer.lr=.nan", "optimizer.lr = nan: must be a finite number"),
        ("optimizer.lr=.inf", "optimizer.lr = inf: must be a finite number"),
        ("optimizer.lr=1e999", "optimizer.lr = inf: must be a finite number"),
        ("optimizer.lr=true", "optimizer.lr = true: must be a number"),
        ("optimizer.lr=fast", 'optimizer.lr = "fast": must be a number'),
        ("optimizer.lr=null", "optimizer.lr = null: must be a number"),
        ("optimizer.lr={eval: 1+1}", "tune.space.optimizer.lr: {eval: …}: must be one of loguniform, uniform"),
        ("optimizer.lr=[]", "tune.space.optimizer.lr: must not be empty"),
        ("distillation.alpha=1.5", "distillation.alpha = 1.5: must be at most 1"),
        ("distillation.alpha=-0.1", "distillation.alpha = -0.1: must be at least 0"),
        ("distillation.alpha={eval: 1}", 'distillation.alpha = {"eval": 1}: must be a number'),
        ("distillation.tau=0", "distillation.tau = 0: must be greater than 0"),
        ("distillation.type=sof", 'distillation.type = "sof": must be none, hard, soft or both; did you mean soft?'),
        ("batch_size=0", "batch_size = 0: must be greater than 0"),
        ("batch_size=1.5", "batch_size = 1.5: must be a whole number"),
        ("batch_size=true", "batch_size = true: must be a whole number"),
        ("batch_size=[1, 2]", "batch_size = [1, 2]: takes one value; to compare several write factors.batch_size=…"),
        ("seed=4294967296", "seed = 4294967296: must be below 4.29497e+09"),
        ("dataset.train_size=-5", "dataset.train_size = -5: must be greater than 0 or all"),
        ("dataset.train_size=al", 'dataset.train_size = "al": must be a whole number or all; did you mean all?'),
        (
            "dataset.augment=[crop]",
            'dataset.augment: unknown augmentation "crop"; allowed: cropN (such as crop4), hflip',
        ),
        ("dataset.augment=crop1", 'dataset.augment = "crop1": must be a list'),
        (
            "model.options.x={a: 1}",
            'model.options.x = {"a": 1}: must be a whole number or a number or true or false or text',
        ),
        ("model=resnet", 'model = "resnet": must be a mapping'),
        ("optimizer=3", "optimizer: optimizer.lr is an axis of this sweep; override that key instead"),
        ("schedule.warmup_epochs=9", "schedule: warmup_epochs = 9 must be below the schedule's length, 4"),
        ("distillation.teacher=null", "distillation: type = hard with alpha = 0.5 needs a teacher"),
        ("seeds=3", "seeds = 3: must be a list"),
        ("seeds=[]", "seeds: must not be empty"),
        ("seeds=[1, 1]", "seeds: seeds must be distinct"),
        ("seeds=[-1]", "seeds.0 = -1: must be at least 0"),
        ("seeds=[true]", "seeds.0 = true: must be a whole number"),
        ("scheduler.name=hyperband", 'scheduler.name = "hyperband": must be none, halving or asha'),
        ("scheduler.reduction_factor=1", "scheduler.reduction_factor = 1: must be at least 2"),
        ("resources.cpu=0", "resources.cpu = 0: must be greater than 0"),
        ("resources.cpus=1", "resources.cpus: no such key; did you mean resources.cpu?"),
        ("limits=5", "limits = 5: must be a mapping"),
        ("tune=5", "tune = 5: must be a mapping"),
        ("tune.space=5", "tune.space = 5: must be a mapping"),
        ("tune.space={optimizer.lr: 5}", "tune.space.optimizer.lr: 5: must be a list of values or one of loguniform"),
        ("tune.algoritm=grid", "tune.algoritm: no such key; did you mean tune.algorithm?"),
        ("tune.num_samples=5", "tune: num_samples means nothing for a grid"),
        ("tune.space.optimizer.lr={uniform: [0.1, 1]}", "tune: a grid needs lists, but optimizer.lr is a distribution"),
        ("tune.space.optimizer.lx=[1]", "tune.space.optimizer.lx: no such key; did you mean optimizer.lr?"),
        ("factors.optimizer.lx=[1]", "factors.optimizer.lx: no such key; did you mean optimizer.lr?"),
        ("factors=[1]", "factors: no such key"),
        ("factors.=1", "factors.: no such key"),
        ("base={}", "base: no such key"),
        ("base.optimizer.lr=1", "base.optimizer.lr: no such key; did you mean optimizer.lr?"),
        ("nonsense=1", "nonsense: no such key"),
        ("model.options.=1", "model.options.: no such key"),
        ("places={}", "places: no such key"),
        ("preset=quick", "preset: no such key"),
        ("fingerprints={}", "fingerprints: no such key"),
        ("quick", "'quick': must be key=value, such as optimizer.lr=0.1"),
        ("=1", "'=1': must be key=value"),
        ("batch_size=[1", "batch_size: "),
        ("batch_size=!!python/object:os.system x", "batch_size: !!python/object:os.system: tags are refused"),
        ("batch_size=&a [*a]", "batch_size: *a: aliases are refused"),
        ("batch_size=" + "[" * 100, "batch_size: nested deeper than"),
        ("batch_size=" + "9" * 5000, "batch_size: a number with too many digits"),
        ("batch_size=\udcff", "batch_size: unacceptable character"),
    ],
)
def test_faults_of_the_command_line(sweep: str, override: str, said: str) -> None:
    found = faults(sweep, override)
    assert len(found) == 1
    assert found[0].startswith(f"command line: {said}")
    assert "\n" not in found[0]


def test_an_axis_that_is_a_section_is_not_overridden_from_below(tmp_path: Path) -> None:
    name = written(
        tmp_path,
        """\
        base: {dataset: {name: digits}, model: {name: resnet8}, distillation: {type: hard}}
        factors: {distillation.teacher: [{name: a}, {name: b}]}
        """,
    )
    (found,) = faults(name, "distillation.teacher.prepare=head")
    assert "distillation.teacher is an axis of this sweep; override that key instead" in found


def test_options_of_the_command_line_are_its_fault(sweep: str) -> None:
    (found,) = faults(sweep, options={"tune.num_samples": 5})
    assert found.startswith("command line: tune: num_samples means nothing for a grid")


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


def test_all_faults_come_at_once_each_with_its_line(tmp_path: Path) -> None:
    found = faults(written(tmp_path, EVERYTHING_WRONG), "optimzer.lr=1", "batch_size=-3")
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
            'some.yaml:20: precision = "fp8": must be auto, fp32, bf16 or fp16',
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
def test_files_that_hold_too_little(tmp_path: Path, text: str, said: str) -> None:
    assert any(line.startswith(said) for line in faults(written(tmp_path, text)))


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
def test_faults_of_tuning(tmp_path: Path, tune: str, said: str) -> None:
    found = faults(written(tmp_path, f"base: {{dataset: {{name: a}}, model: {{name: b}}}}\ntune: {tune}\n"))
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
def test_rules_between_sections(tmp_path: Path, rest: str, said: str) -> None:
    (found,) = faults(written(tmp_path, f"base: {{dataset: {{name: a}}, model: {{name: b}}}}\n{rest}\n"))
    assert said in found


def test_the_command_line_is_named_where_it_breaks_a_rule(sweep: str) -> None:
    (found,) = faults(sweep, "scheduler.name=halving", "tune.seeds=first")
    assert found.startswith("command line: a scheduler judges")


def test_a_billion_points_are_refused_without_counting_them(tmp_path: Path) -> None:
    values = "[" + ", ".join(str(n) for n in range(1, 1001)) + "]"
    axes = "\n".join(f"  {key}: {values}" for key in ("batch_size", "dataset.train_size", "dataset.val_size"))
    name = written(tmp_path, f"base: {{dataset: {{name: a}}, model: {{name: b}}}}\nfactors:\n{axes}\n")
    started = time.monotonic()
    (found,) = faults(name)
    assert "1,000,000,000 cells x 1 settings x 1 seeds = 1,000,000,000 trials; at most 100,000 are allowed" in found
    assert time.monotonic() - started < 5  # reading 3,000 values; enumerating the grid would take a day
    (many,) = faults(name, "factors.seed=[" + ", ".join(map(str, range(1001))) + "]")
    assert "factors.seed: has 1,001 values; at most 1,000 are allowed" in many


def test_many_samples_are_refused_too(sweep: str) -> None:
    (found,) = faults(sweep, "tune.num_samples=1000000000", preset="quick")
    assert "at most 100,000 are allowed. Ask for fewer" in found


def test_faults_beyond_fifty_are_counted(tmp_path: Path) -> None:
    keys = "\n".join(f"key{n}: 1" for n in range(70))
    found = faults(written(tmp_path, f"base: {{dataset: {{name: a}}, model: {{name: b}}}}\n{keys}\n"))
    assert len(found) == 51
    assert found[-1] == "… and 20 more"


def test_places_name_the_preset_the_file_and_the_command_line(sweep: str) -> None:
    small = load_sweep(sweep, "small", ["model.name=resnet20"])
    assert small.places["model.name"] == "command line"
    assert small.places["dataset.name"] == "some.yaml:3"
    assert small.places["optimizer.weight_decay"] == "some.yaml:20"
    assert small.places["dataset.train_size"] == "some.yaml:12"
    assert small.places["optimizer.lr"] == "some.yaml:15"
