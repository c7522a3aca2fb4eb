"""raybench from Python: light to import, the same as the command line, and its results as tables."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import raybench as rb
from raybench.config.load import load_sweep
from raybench.config.plan import make_plan
from raybench.data import load
from raybench.results.schema import EpochRow, Status, TrialRow
from raybench.results.store import Store

ROOT = Path(__file__).parents[1]
SWEEP = """\
# Does it all hang together?
base:
  dataset: {name: digits, train_size: 60, val_size: 100, image_size: 8}
  model: {name: resnet8}
  schedule: {epochs: 2}
factors: {optimizer.lr: [0.05, 0.1]}
seeds: [0, 1]
presets: {quick: {}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A sweep whose trials are settled, in `results` beside it."""
    path = tmp_path / "tiny.yaml"
    path.write_text(SWEEP)
    config = load_sweep(str(path), "quick")
    plan = make_plan(config.model_copy(update={"fingerprints": {"digits": load("digits").fingerprint}}))
    store = Store(tmp_path / "results" / "tiny")
    planned = [(trial, each.label) for each in plan.cells for setting in each.settings for trial in setting.trials]
    for place, (trial, cell) in enumerate(planned):
        about = {"trial_id": trial.trial_id, "attempt": 1}
        store.write_epochs(trial.trial_id, 1, [EpochRow(**about, epoch=1, eval_top1=50.0 + place)])  # type: ignore[arg-type]
        row = TrialRow(
            trial_id=trial.trial_id,
            attempt=1,
            sweep="tiny",
            preset="quick",
            cell=cell,
            status=Status.COMPLETE,
            setting_id=trial.setting_id,
            seed=trial.seed,
            epochs=1,
            best_epoch=1,
            eval_top1=50.0 + place,
            test_top1=40.0 + place,
            config=trial.flat(),
        )
        store.write_trial(row)
    return path


def test_importing_it_imports_nothing_heavy() -> None:
    script = "import sys, raybench; print(' '.join({name.partition('.')[0] for name in sys.modules}))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    heavy = {"torch", "ray", "timm", "torchvision", "scipy", "matplotlib", "polars", "pyarrow", "pydantic", "numpy"}
    assert not heavy & set(done.stdout.split())


def test_the_stub_says_what_there_is() -> None:
    stub = (ROOT / "raybench" / "__init__.pyi").read_text()
    assert [name for name in rb.__all__ if f" as {name}\n" not in stub and f"{name}: " not in stub] == []
    assert all(getattr(rb, name) is not None for name in rb.__all__)
    with pytest.raises(AttributeError, match="module 'raybench' has no attribute 'run_swep'"):
        _ = rb.run_swep  # type: ignore[attr-defined]


def test_it_says_what_the_command_says(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from raybench import sweep

    root = file.parent / "results"
    assert sweep.main([str(file), "--preset", "quick", "--results", str(root)]) == 0
    said = capsys.readouterr().out
    results = rb.run_sweep(file, preset="quick", results=root)
    assert capsys.readouterr().out == said
    assert "nothing to do: 4 of 4 trials settled (4 complete)" in said
    assert (results.exit_code, results.name) == (0, "tiny")


def test_overrides_and_options_are_those_of_the_command(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = {"optimizer.lr": [0.1], "dataset.augment": ["crop1"], "schedule.patience": None, "label_smoothing": 0.1}
    root = file.parent / "other"
    results = rb.run_sweep(file, preset="quick", overrides=changed, seeds=5, results=root, dry_run=True)
    assert results.exit_code is None
    assert "1 cell (lr) x 5 seeds = 5 trials, 0 settled" in capsys.readouterr().out
    assert not root.exists()


def test_what_the_command_refuses_is_raised(file: Path) -> None:
    with pytest.raises(rb.ConfigError) as raised:
        rb.run_sweep(file, preset="quick", overrides={"optimizer.lr": [-1], "model.name": "resnet21"}, seeds=1)
    assert len(raised.value.problems) == 2
    with pytest.raises(rb.RaybenchError, match="without yes=True"):
        rb.run_sweep(file, preset="quick", overrides={"schedule.epochs": 1_000_000}, results=file.parent / "other")


def test_results_are_tables(file: Path) -> None:
    results = rb.load_results("tiny", file.parent / "results")
    assert results.trials.sort("test_top1")["test_top1"].to_list() == [40.0, 41.0, 42.0, 43.0]
    assert results.epochs.height == 4
    assert results.trials.select("trial_id").to_pandas().shape == (4, 1)
    (comparison,) = results.comparisons()
    assert comparison.cells.select("cell", "n", "mean").rows() == [("lr=0.05", 2, 40.5), ("lr=0.1", 2, 42.5)]
    assert comparison._repr_markdown_() == comparison.text("md")
    assert str(comparison).startswith("tiny, quick, test top-1")
    (by,) = results.comparisons(by=["optimizer.lr"])
    assert by.cells.height == 2


def test_results_that_are_not_there(file: Path) -> None:
    with pytest.raises(rb.ResultsError, match=r"tinny: no rows of such a sweep in .*; it has tiny"):
        rb.load_results("tinny", file.parent / "results")


def test_overrides_reach_the_sweep_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from raybench import sweep
    from raybench.config.document import parse

    given: list[str] = []

    def run(arguments: list[str], _: str) -> int:
        given.extend(arguments)
        return 0

    monkeypatch.setattr(sweep, "run", run)
    values = {"a": "\U0001f431", "b": ["012345678912", "1e-3"], "c": {"x": (1e-7, None, True)}, "d": "a\nb", "e": 0.1}
    rb.run_sweep("any", overrides=values)
    read = {key: parse(text)[1] for key, _, text in (each.partition("=") for each in given[1:6])}
    assert read == values | {"c": {"x": [1e-7, None, True]}}
