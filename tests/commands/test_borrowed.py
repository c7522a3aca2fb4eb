"""Weights that another sweep has trained: which trial is best, and that its weights are found and used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from raybench.commands.borrowed import with_best_trials
from raybench.config.load import load_sweep
from raybench.config.plan import make_plan
from raybench.config.sweep import SweepConfig
from raybench.config.trial import TrialConfig
from raybench.errors import ConfigError, WeightsError
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
    found = with_best_trials(borrower(tmp_path), settled.results)
    best = f"sweep:tiny/{trials[2].trial_id}"
    assert found.base["model"]["weights"] == best
    assert found.factors["model.weights"] == ["none", best]
    ids = {trial.trial_id for trial in make_plan(found).trials()}
    assert len(ids) == 2
    # Another best is another trial.
    settled.settle(trials[7:8], eval_top1=100.0)
    again = with_best_trials(borrower(tmp_path), settled.results)
    assert len({trial.trial_id for trial in make_plan(again).trials()} & ids) == 1


def test_what_is_not_there_is_said_once_with_the_command_to_make_it(settled: Settled, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        with_best_trials(borrower(tmp_path), settled.results)
    (problem,) = caught.value.problems
    assert "no results in" in problem
    assert "python -m raybench.sweep tiny --preset quick" in problem
    settled.ran(settled.plan())
    settled.settle(settled.plan().trials())
    with pytest.raises(ConfigError, match="no complete trial of preset small"):
        with_best_trials(borrower(tmp_path, "small"), settled.results)


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


@pytest.mark.parametrize("weights", [{"sweep": 3}, {"trial": "best"}, {"sweep": "a", "seed": 1}, {}])
def test_odd_mappings_are_refused_in_words(weights: Any, tmp_path: Path) -> None:
    content = yaml.safe_load(BORROWER)
    content["base"]["model"]["weights"] = weights
    content.pop("factors")
    file = tmp_path / "odd.yaml"
    file.write_text("# Odd?\n" + json.dumps(content))
    with pytest.raises(ConfigError, match=r"\{sweep: NAME, trial: best \| 12 digits\}"):
        load_sweep(str(file), "quick", [])
