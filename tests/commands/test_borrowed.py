"""Weights that another sweep has trained: which trial is best, and that its weights are found and used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from raybench.commands.borrowed import with_best_trials
from raybench.config.load import load_sweep
from raybench.config.plan import make_plan
from raybench.config.sweep import SweepConfig
from raybench.config.trial import ModelConfig, TrialConfig
from raybench.errors import ConfigError, WeightsError
from raybench.models import build
from raybench.results.schema import Status
from raybench.training.device import choose_device
from raybench.training.ingredients import gather, located
from raybench.training.recorder import Setup
from raybench.training.trial import run_trial

if TYPE_CHECKING:
    from .conftest import Settled

BORROWER = """\
# Does it begin where the other ended?
base:
  dataset: {name: digits, train_size: 60, val_size: 100, image_size: 8}
  model: {name: resnet8, weights: {sweep: tiny, trial: best}}
  schedule: {epochs: 1}
  batch_size: 30
factors:
  model.weights: [none, {sweep: tiny}]
presets: {quick: {}, small: {}}
"""


def borrower(folder: Path, preset: str = "quick") -> SweepConfig:
    file = folder / "borrower.yaml"
    file.write_text(BORROWER)
    return load_sweep(str(file), preset, [])


def test_the_best_complete_trial_of_the_same_preset_is_named(settled: Settled, tmp_path: Path) -> None:
    plan = settled.plan()
    settled.ran(plan)
    trials = list(plan.trials())
    settled.settle(trials[:3])
    settled.settle(trials[3:4], status=Status.FAILED, eval_top1=99.0)
    settled.settle(trials[4:5], preset="small", eval_top1=99.0)
    settled.settle(trials[5:6], eval_top1=float("nan"))
    settled.settle(trials[6:7], eval_top1=99.0, deviation="other maths")
    found, unlent = with_best_trials(borrower(tmp_path), settled.results)
    assert unlent == ()
    best = f"sweep:tiny/{trials[2].trial_id}"
    assert found.base["model"]["weights"] == best
    assert found.factors["model.weights"] == ["none", best]
    ids = {trial.trial_id for trial in make_plan(found).trials()}
    assert len(ids) == 2
    # Another best is another trial.
    settled.settle(trials[7:8], eval_top1=100.0)
    again, _ = with_best_trials(borrower(tmp_path), settled.results)
    assert len({trial.trial_id for trial in make_plan(again).trials()} & ids) == 1


def test_what_is_not_there_is_said_once_with_the_command_to_make_it(settled: Settled, tmp_path: Path) -> None:
    found, (unlent,) = with_best_trials(borrower(tmp_path), settled.results)
    assert found.factors["model.weights"] == ["none", "sweep:tiny/best"]
    place, said = str(unlent).split(": ", 1)
    assert place == "borrower.yaml:8"
    command = f"python -m raybench.sweep tiny --preset quick --results {settled.results}"
    assert said == (
        f"model.weights = {{sweep: tiny, trial: best}}: no results in {settled.folder}; run  {command}  first"
    )
    settled.ran(settled.plan())
    settled.settle(settled.plan().trials())
    _, (unlent,) = with_best_trials(borrower(tmp_path, "small"), settled.results)
    assert "no complete trial of preset small" in str(unlent)
    # In the usual folder the command needs no --results.
    _, (unlent,) = with_best_trials(borrower(tmp_path), Path("results").absolute())
    assert unlent.command == "python -m raybench.sweep tiny --preset quick"


def test_weights_that_are_tuned_are_named_too(settled: Settled, tmp_path: Path) -> None:
    settled.ran(settled.plan())
    (trial_id,) = settled.settle(list(settled.plan().trials())[:1])
    choice = "tune.space.model.weights={choice: [none, {sweep: tiny}]}"
    file = tmp_path / "tuned.yaml"
    file.write_text(BORROWER.replace("factors:\n  model.weights: [none, {sweep: tiny}]\n", "tune: {num_samples: 4}\n"))
    config = load_sweep(str(file), "quick", [choice, "tune.algorithm=random"])
    found, unlent = with_best_trials(config, settled.results)
    assert unlent == ()
    assert found.tune.space["model.weights"] == {"choice": ["none", f"sweep:tiny/{trial_id}"]}


def test_the_place_is_where_the_weights_are_asked_for(settled: Settled, tmp_path: Path) -> None:
    axis = "factors.model=[{name: resnet8, weights: {sweep: tiny}}]"
    content = BORROWER.replace(", weights: {sweep: tiny, trial: best}", ", weights: none")
    file = tmp_path / "inside.yaml"
    file.write_text(content.replace("  model.weights: [none, {sweep: tiny}]", "  seed: [0]"))
    _, (unlent,) = with_best_trials(load_sweep(str(file), "quick", [axis]), settled.results)
    assert (unlent.place, unlent.key) == ("command line", "model.weights")


def borrowing(settled: Settled, tmp_path: Path) -> Settled:
    """The command over the sweep that borrows, with the results of the one that lends."""
    borrower(tmp_path)
    return replace(settled, file=tmp_path / "borrower.yaml")


def test_a_lender_not_yet_run_is_told_with_all_other_faults(settled: Settled, tmp_path: Path) -> None:
    run = borrowing(settled, tmp_path).run
    code, out, err = run("metric.reported=test_nothing", "dataset.train_size=5000")
    assert (code, out) == (2, "")
    assert "3 errors, nothing started" in err
    for words in ("run  python -m raybench.sweep tiny --preset quick", "test_nothing", "dataset.train_size = 5000"):
        assert err.count(words) == 1, words
    # So it is with a fault of single points of the plan, of which there is none then.
    momenta = ("factors.optimizer.momentum=[0.9, 0.0]", "factors.optimizer.nesterov=[false, true]")
    code, _, err = run(*momenta)
    assert code == 2
    assert "2 errors, nothing started" in err
    assert "run  python -m raybench.sweep tiny" in err
    assert "nesterov = true needs a momentum" in err
    # Nothing else is wrong.
    code, out, err = run()
    assert (code, out) == (2, "")
    assert "1 error, nothing started" in err
    assert not settled.results.exists()


def test_a_dry_run_plans_without_the_lender_and_says_what_is_unknown(settled: Settled, tmp_path: Path) -> None:
    run = borrowing(settled, tmp_path).run
    code, out, err = run("--dry-run")
    assert (code, err) == (0, "")
    assert "plan: 2 cells (weights) x 1 seed = 2 trials" in out
    (line,) = [line for line in out.splitlines() if line.startswith("run first:  ")]
    assert f"python -m raybench.sweep tiny --preset quick --results {settled.results}" in line
    assert "no results in" in line
    assert "unknown" in line
    assert not settled.results.exists()
    code, out, err = run("--dry-run", "dataset.train_size=5000")
    assert (code, out) == (2, "")
    assert "2 errors" in err


def lend(settled: Settled, channels: int) -> Path:
    """Settle one trial of the lender, with the weights of a fresh ResNet-8; their file."""
    settled.ran(settled.plan())
    (trial_id,) = settled.settle(list(settled.plan().trials())[:1])
    path = settled.folder / "weights" / f"{trial_id}.safetensors"
    path.parent.mkdir()
    sizes: dict[str, Any] = {"num_classes": 4, "in_channels": channels, "image_size": 8}
    module = build(ModelConfig(name="resnet8"), **sizes, mean=(0.5,) * channels, std=(0.5,) * channels).module
    save_file(module.state_dict(), path)
    return path


def test_lent_weights_that_do_not_fit_are_told_before_anything_starts(settled: Settled, tmp_path: Path) -> None:
    path = lend(settled, channels=3)
    before = sorted(settled.results.rglob("*"))
    for more in ((), ("--dry-run",)):
        code, _, err = borrowing(settled, tmp_path).run(*more)
        assert code == 2
        assert "1 error, nothing started" in err
        assert f"{path}: does not fit the model resnet8" in err
        assert "conv1.weight (16, 3, 3, 3) where (16, 1, 3, 3) is wanted" in err
    assert sorted(settled.results.rglob("*")) == before


def test_lent_weights_of_other_classes_fit(settled: Settled, tmp_path: Path) -> None:
    lend(settled, channels=1)
    code, out, err = borrowing(settled, tmp_path).run("--dry-run")
    assert (code, err) == (0, "")
    assert "run first" not in out


def trial(**changes: Any) -> TrialConfig:
    content: dict[str, Any] = {
        "dataset": {"name": "digits", "train_size": 60, "val_size": 100, "image_size": 8},
        "model": {"name": "resnet8"},
        "schedule": {"epochs": 1},
        "batch_size": 30,
    }
    return TrialConfig.model_validate(content | changes)


def test_a_trial_begins_with_the_weights_another_has_kept(tmp_path: Path) -> None:
    first = trial(model={"name": "resnet8", "mean": [0.25], "std": [0.5]})
    outcome = run_trial(first, Setup(sweep="tiny", results=tmp_path / "tiny"))
    assert outcome.reason is None
    wanted = {"name": "resnet8", "weights": {"sweep": "tiny", "trial": first.trial_id}}
    second = trial(model=wanted)
    assert second.model.of_sweep == ("tiny", first.trial_id)
    setup = Setup(sweep="borrower", results=tmp_path / "borrower")
    built = gather(second, setup, choose_device("fp32", 0)).built
    kept = tmp_path / "tiny" / "weights" / f"{first.trial_id}.safetensors"
    state = built.module.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in load_file(kept).items())
    # They see their input as they were trained to.
    assert (built.mean, built.std) == ((0.25,), (0.5,))
    assert run_trial(second, setup).reason is None


def test_weights_that_were_not_kept_are_named(tmp_path: Path) -> None:
    model = trial(model={"name": "resnet8", "weights": {"sweep": "tiny", "trial": "0" * 12}}).model
    with pytest.raises(WeightsError, match=r"has kept no weights: .*0{12}.safetensors is not there; run .*tiny"):
        located(model, Setup(results=tmp_path / "borrower"))


def test_the_place_of_a_trial_is_no_part_of_the_identity() -> None:
    one, other = (
        trial(model={"name": "resnet8", "weights": {"sweep": name, "trial": "ab" * 6}}) for name in ("tiny", "moved")
    )
    assert one.trial_id == other.trial_id
    assert one.trial_id != trial(model={"name": "resnet8", "weights": {"sweep": "tiny", "trial": "cd" * 6}}).trial_id


@pytest.mark.parametrize("weights", [{"sweep": ["a"]}, {"trial": "best"}, {"sweep": "a", "seed": 1}, {}])
def test_odd_mappings_are_refused_in_words(weights: Any, tmp_path: Path) -> None:
    content = yaml.safe_load(BORROWER)
    content["base"]["model"]["weights"] = weights
    content.pop("factors")
    file = tmp_path / "odd.yaml"
    file.write_text("# Odd?\n" + json.dumps(content))
    with pytest.raises(ConfigError, match=r"\{sweep: NAME, trial: best \| 12 digits\}"):
        load_sweep(str(file), "quick", [])
