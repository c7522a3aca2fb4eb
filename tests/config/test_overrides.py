"""`key=value` on top of a sweep file: what it sets, and what it says is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from raybench.config.augmentation import ALLOWED
from raybench.config.keys import get
from raybench.config.load import load_sweep
from raybench.config.plan import make_plan
from raybench.config.sweep import SweepConfig

if TYPE_CHECKING:
    from .conftest import Faults, Written


def base(sweep: SweepConfig, key: str) -> Any:
    return get(sweep.base, key)


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
def test_an_override_of_a_plain_key_sets_the_base(
    sweep: str, override: str, key: str, value: Any, written: Written
) -> None:
    name = written(Path(sweep).read_text().replace("    optimizer.lr: [0.03, 0.1]", "    distillation.tau: [1.0]"))
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


@pytest.mark.scenario(21)
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
        ("seed=4294967296", "seed = 4294967296: must be below 4294967296"),
        ("dataset.train_size=-5", "dataset.train_size = -5: must be greater than 0 or all"),
        ("dataset.train_size=al", 'dataset.train_size = "al": must be a whole number or all; did you mean all?'),
        (
            "dataset.augment=[crop]",
            f'dataset.augment: unknown augmentation "crop"; allowed: {ALLOWED}',
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
        ("batch_size=2147483648", "batch_size = 2147483648: must be below 2147483648"),
        (f"schedule.epochs={'1' * 31}", f"schedule.epochs = {'1' * 31}: must be below 2147483648"),
        (f"schedule.warmup_epochs={'1' * 31}", f"schedule.warmup_epochs = {'1' * 31}: must be below 2147483648"),
        (f"dataset.train_size={'1' * 31}", f"dataset.train_size = {'1' * 31}: must be below 2147483648 or all"),
        (f"scheduler.grace_epochs={'1' * 400}", "scheduler.grace_epochs = 1111"),
        ("model.std=[0]", "model.std: [0.0]: each must be greater than 0"),
        ("resources={gpu: 1e300, workers: 2147483647}", "resources: gpu = 1e+300: a process trains on one GPU"),
        (
            f"tune.space.optimizer.lr={{uniform: [1, {'1' * 400}]}}",
            "tune.space.optimizer.lr: uniform: low",
        ),
        (
            f"tune.space.optimizer.lr={{randint: [1, {'1' * 400}]}}",
            "tune.space.optimizer.lr: randint: low",
        ),
        ("tune.space.optimizer.lr={uniform: [1, .nan]}", "tune.space.optimizer.lr: uniform: low"),
        ('model.weights={sweep: "../../etc"}', "model.weights: 'sweep:../../etc/best': a sweep's name has letters"),
        ("model.weights=sweep:../../etc/best", "model.weights: 'sweep:../../etc/best': a sweep's name has letters"),
        (
            "model.weights={sweep: a, trial: ../b}",
            "model.weights: trial '../b' of sweep a: must be best",
        ),
        ("model.weights={sweep: a, trial: 12345678901}", "model.weights: trial '12345678901' of sweep a: must"),
        ("model.weights=sweep:a/x", "model.weights: trial 'x' of sweep a: must be best, or a trial's 12 digits"),
        ("batch_size=[1", "batch_size: "),
        ('model.name="\\UFFFFFFFF"', "model.name: not readable as YAML"),
        ('dataset.path="\\ud800"', "dataset.path: text with '\\ud800', which no file can hold"),
        ('model.weights={sweep: "a\\0b"}', "model.weights: text with '\\x00', which no file can hold"),
        ("batch_size=!!python/object:os.system x", "batch_size: !!python/object:os.system: tags are refused"),
        ("batch_size=&a [*a]", "batch_size: *a: aliases are refused"),
        ("batch_size=" + "[" * 100, "batch_size: nested deeper than"),
        ("batch_size=" + "9" * 5000, "batch_size: a number with too many digits"),
        ("batch_size=\udcff", "batch_size: unacceptable character"),
    ],
)
def test_faults_of_the_command_line(sweep: str, override: str, said: str, faults: Faults) -> None:
    found = faults(sweep, override)
    assert len(found) == 1
    assert found[0].startswith(f"command line: {said}")
    assert "\n" not in found[0]


def test_an_axis_that_is_a_section_is_not_overridden_from_below(faults: Faults, written: Written) -> None:
    name = written(
        """\
        base: {dataset: {name: digits}, model: {name: resnet8}, distillation: {type: hard}}
        factors: {distillation.teacher: [{name: a}, {name: b}]}
        """,
    )
    (found,) = faults(name, "distillation.teacher.prepare=head")
    assert "distillation.teacher is an axis of this sweep; override that key instead" in found


def test_options_of_the_command_line_are_its_fault(sweep: str, faults: Faults) -> None:
    (found,) = faults(sweep, options={"tune.num_samples": 5})
    assert found.startswith("command line: tune: num_samples means nothing for a grid")


def test_the_command_line_is_named_where_it_breaks_a_rule(sweep: str, faults: Faults) -> None:
    (found,) = faults(sweep, "scheduler.name=halving", "tune.seeds=first")
    assert found.startswith("command line: a scheduler judges")
