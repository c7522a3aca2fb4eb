"""Every sweep that comes with raybench: each preset is a plan, each `quick` runs without files or a network."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raybench.config.load import load_sweep
from raybench.config.plan import make_plan
from raybench.config.sweep import SweepConfig
from raybench.models.weights import IMAGENET_MEAN, IMAGENET_STD
from raybench.results.published import published
from raybench.results.schema import Status
from raybench.training.preflight import check, unknown
from raybench.training.recorder import Setup
from raybench.training.trial import run_trial

FOLDER = Path(__file__).parents[2] / "sweeps"
SWEEPS = sorted(path.stem for path in FOLDER.glob("*.yaml"))
ASKED = {
    "deit_reverse",
    "deit_reverse_head",
    "deit_reverse_pairs",
    "deit",
    "train_size",
    "pretrained",
    "tinyvit_resnet",
    "ci2p",
    "multi30k",
}
"""Sweeps that repeat what a paper or a report has published."""
OWN = {"smoke", "pretrain", "ci2p_codec"}
"""Sweeps of which nothing is published."""
PRESETS = [(name, preset) for name in SWEEPS for preset in ("paper", "small", "quick")]


def load(name: str, preset: str, *overrides: str) -> SweepConfig:
    return load_sweep(str(FOLDER / f"{name}.yaml"), preset, overrides)


def test_all_the_papers_are_here() -> None:
    assert set(SWEEPS) == ASKED | OWN


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_every_preset_is_a_plan(name: str, preset: str) -> None:
    plan = make_plan(load(name, preset))
    trials = list(plan.trials())
    assert trials
    assert len({trial.trial_id for trial in trials}) == len(trials)
    for task, dataset, model in {(trial.task, trial.dataset.name, trial.model.name) for trial in trials}:
        assert unknown("dataset.name", dataset, task) is None
        assert unknown("model.name", model, task) is None


@pytest.mark.parametrize("name", SWEEPS)
def test_small_is_of_real_data(name: str) -> None:
    used = {trial.dataset.name for trial in make_plan(load(name, "small")).trials()}
    assert used <= {"cifar10", "cifar100", "image_folder", "multi30k"}


def test_from_scratch_too_tinyvit_resnet_has_imagenets_normalisation() -> None:
    models = [trial.model for trial in make_plan(load("tinyvit_resnet", "paper")).trials()]
    assert {model.weights for model in models} == {"none", "pretrained"}
    assert {(model.mean, model.std) for model in models} == {(IMAGENET_MEAN, IMAGENET_STD)}
    smaller = [
        trial.model for preset in ("small", "quick") for trial in make_plan(load("tinyvit_resnet", preset)).trials()
    ]
    assert {(model.mean, model.std) for model in smaller} == {(None, None)}


@pytest.mark.parametrize("name", SWEEPS)
def test_the_header_says_question_command_and_what_is_assumed(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text()
    header = text[: text.index("\nmetric:")]
    assert re.match(r"# .*[?.]\n", header)
    assert f"python -m raybench.sweep {name}" in header
    if name in ASKED:
        assert re.search(r"Sources?:", header)
        assert load(name, "paper").assumed
        assert published(name)


@pytest.mark.parametrize("name", SWEEPS)
def test_quick_needs_no_file_and_one_trial_of_it_runs(name: str, tmp_path: Path) -> None:
    config = load(name, "quick", "schedule.epochs=1", "schedule.warmup_epochs=0")
    plan = make_plan(config)
    setup = Setup(
        sweep=name,
        preset="quick",
        results=tmp_path / name,
        data_root=tmp_path / "nothing here",
        metric=config.metric.name,
        mode=config.metric.mode,
    )
    found = check(plan, setup, lambda key: key, download=False)
    assert set(found.variants.values()) == {"embedded"}
    outcome = run_trial(next(plan.trials()), setup)
    assert (outcome.status, outcome.reason) == (Status.COMPLETE, None)
