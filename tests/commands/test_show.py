"""`raybench show` on trials that were really trained: its score, its pictures, its files, and what it cannot show."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from raybench.__main__ import main
from raybench.commands.show import WHAT
from raybench.commands.showing import VIEWS
from raybench.config.trial import TrialConfig
from raybench.results.schema import Status, TrialRow
from raybench.results.store import Store
from raybench.training.recorder import Setup
from raybench.training.trial import run_trial

DIGITS = {"name": "digits", "train_size": 60, "val_size": 100, "image_size": 8, "augment": ["crop1"]}
TINY = {"img_size": 8, "patch_size": 2, "embed_dim": 24, "depth": 2, "num_heads": 3}
TEACHER = {"name": "resnet8", "prepare": "none"}
TRIALS: dict[str, dict[str, Any]] = {
    "vit": {"model": {"name": "vit_micro_patch2_8"}},
    "resnet": {"model": {"name": "resnet8"}},
    "deit": {
        "model": {"name": "deit_tiny_distilled_patch16_224", "options": TINY},
        "distillation": {"type": "hard", "teacher": TEACHER},
    },
    "tome": {"model": {"name": "vit_tiny_patch16_224", "options": {**TINY, "tome_r": 4, "reg_tokens": 2}}},
    "words": {
        "task": "translation",
        "dataset": {"name": "copy_task", "train_size": 64},
        "model": {
            "name": "multi30k_transformer",
            "options": {"layers": 2, "d_model": 16, "d_ff": 32, "heads": 2, "dropout": 0.0},
        },
        "optimizer": {"name": "adam", "lr": 0.01},
    },
}


def trial(kind: str) -> TrialConfig:
    content: dict[str, Any] = {
        "dataset": DIGITS,
        "optimizer": {"name": "adamw", "lr": 0.002},
        "schedule": {"epochs": 2},
        "batch_size": 32,
    }
    return TrialConfig.model_validate(content | TRIALS[kind])


@dataclass(frozen=True)
class Shown:
    """Runs the command over results that are there."""

    results: Path
    out: Path
    capture: pytest.CaptureFixture[str]

    def __call__(self, kind: str, *arguments: str) -> tuple[int, list[str], str]:
        """Exit code, lines of stdout, and stderr."""
        places = ["--results", str(self.results), "--out", str(self.out)]
        code = main(["show", trial(kind).trial_id, *arguments, *places])
        heard = self.capture.readouterr()
        return code, heard.out.splitlines(), heard.err

    @property
    def pictures(self) -> set[str]:
        """Names of the pictures that were drawn, each looked into."""
        found = set()
        for path in self.out.glob("*.png"):
            with Image.open(path) as image:
                assert np.asarray(image.convert("L")).std() > 5  # something is drawn
            found.add(path.name)
        return found


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root with a trial of each kind."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        (cache := tmp_path_factory.getbasetemp() / "cache").mkdir(exist_ok=True)
        patch.setenv("RAYBENCH_CACHE", str(cache))
        root = tmp_path_factory.mktemp("results")
        for kind in TRIALS:
            metric = {"metric": "eval_loss", "mode": "min"} if kind == "words" else {}
            setup = Setup(sweep="s", preset="quick", results=root / "s", **metric)  # type: ignore[arg-type]
            assert run_trial(trial(kind), setup, "a cell").status == Status.COMPLETE
        yield root


@pytest.fixture
def show(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shown:
    return Shown(results, tmp_path / "out", capsys)


@pytest.fixture
def copied(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shown:
    """The same on a copy that a test may harm."""
    shutil.copytree(results, tmp_path / "results")
    return Shown(tmp_path / "results", tmp_path / "out", capsys)


def test_what_is_named_is_what_there_is() -> None:
    assert list(WHAT) == list(VIEWS)


@pytest.mark.parametrize("kind", TRIALS)
def test_the_score_is_the_stored_one(kind: str, show: Shown) -> None:
    code, lines, _ = show(kind, "score")
    assert code == 0
    (line,) = lines
    assert line.startswith("score: test_loss ")
    assert "equal to the stored numbers to the last bit" in line
    assert "1 thread)" in line
    assert ("test_bleu" in line) == (kind == "words")
    assert not show.out.exists()


SHOWS = {
    "vit": {"predictions.png", "confusion.png", "attention-0.png", "rollout.png"},
    "resnet": {"predictions.png", "confusion.png"},
    "deit": {"predictions.png", "confusion.png", "attention-0.png", "rollout.png"},
    "tome": {"predictions.png", "confusion.png", "attention-0.png", "rollout.png", "merging.png"},
    "words": {"attention-0.png"},
}
LACKS = {
    "vit": ["no merging: it merges no tokens", "no reconstruction: vit_micro_patch2_8 has no image codec"],
    "resnet": ["no attention, no rollout: maps are read from", "no merging: it", "no reconstruction: resnet8 has no"],
    "deit": ["no merging: it merges no tokens", "no reconstruction: deit_tiny"],
    "tome": ["no reconstruction: vit_tiny"],
    "words": [
        "no predictions, no confusion, no rollout, no merging, no reconstruction: this is a trial of translation"
    ],
}


@pytest.mark.parametrize("kind", TRIALS)
def test_without_a_name_all_that_a_trial_has_is_shown_and_why_it_has_not_more(kind: str, show: Shown) -> None:
    code, lines, err = show(kind)
    assert code == 0, err
    assert show.pictures == SHOWS[kind]
    lacking = [line for line in lines if line.startswith("no ")]
    assert len(lacking) == len(LACKS[kind])
    for line, expected in zip(sorted(lacking), sorted(LACKS[kind]), strict=True):
        assert line.startswith(expected)


def test_naming_what_a_trial_has_not_is_an_error_before_anything_is_shown(show: Shown) -> None:
    code, lines, err = show("resnet", "files", "attention", "merging")
    assert (code, lines) == (2, [])
    assert err.startswith("2 errors, nothing started:")
    assert "no attention: maps are read from" in err
    assert "no merging: it merges no tokens" in err
    assert not show.out.exists()
    code, _, err = show("resnet", "atention")
    assert code == 2
    assert "did you mean attention?" in err


def test_named_images_are_shown(show: Shown) -> None:
    code, lines, _ = show("tome", "attention", "--image", "3", "499")
    assert code == 0
    assert lines[0].endswith("attention-3.png")
    assert show.pictures == {"attention-3.png", "attention-499.png"}
    assert show("tome", "predictions", "rollout", "merging", "--image", "7")[0] == 0
    for what in ("attention", None):
        code, _, err = show("tome", *([what] if what else []), "--image", "500")
        assert code == 2
        assert "--image 500: there are test examples 0 to 499" in err


def test_the_files_read_back(show: Shown, results: Path) -> None:
    code, lines, _ = show("vit", "files")
    assert code == 0
    config = trial("vit")
    assert TrialConfig.model_validate_json((show.out / "config.json").read_text()).trial_id == config.trial_id
    stored = Store(results / "s").epochs([config.trial_id])
    written = pl.read_csv(show.out / "metrics.csv")
    assert written["val_loss"].to_list() == stored["eval_loss"].to_list()
    assert written["train_acc"].to_list() == stored["train_top1"].to_list()
    with safe_open(show.out / "best.safetensors", "pt") as file:
        about = file.metadata()
    assert about["trial_id"] == config.trial_id
    assert json.loads(about["image_size"]) == 8
    assert not (show.out / "last.safetensors").exists()
    assert lines[-1].strip().startswith("no last.safetensors: only checkpoints.keep: last")


def test_a_kept_checkpoint_gives_best_and_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setup = Setup(sweep="s", preset="quick", results=tmp_path / "results" / "s", keep="last")
    assert run_trial(trial("vit"), setup, "a cell").status == Status.COMPLETE
    show = Shown(tmp_path / "results", tmp_path / "out", capsys)
    code, _, err = show("vit", "score", "files")
    assert code == 0, err
    for name in ("best", "last"):
        with safe_open(show.out / f"{name}.safetensors", "pt") as file:
            about = file.metadata()
        assert about["trial_id"] == trial("vit").trial_id
        assert json.loads(about["image_size"]) == 8
    assert about["epoch"] == "2"
    row = Store(tmp_path / "results" / "s").trials().row(0, named=True)
    best, last = (load_file(show.out / f"{name}.safetensors") for name in ("best", "last"))
    assert best.keys() == last.keys()
    assert all(torch.equal(best[name], last[name]) for name in best) == (row["best_epoch"] == 2)


def test_other_weights_are_told_by_how_much(copied: Shown) -> None:
    path = copied.results / "s" / "weights" / f"{trial('vit').trial_id}.safetensors"
    with safe_open(path, "pt") as file:
        about = file.metadata()
    weights = load_file(path)
    weights["head.bias"][3] += 0.01
    save_file(weights, path, about)
    code, lines, _ = copied("vit", "score", "confusion")
    assert code == 1
    assert "numbers are not the stored ones (500 test examples, fp32, 1 thread)" in lines[0]
    assert any("test_loss: " in line and " stored, " in line for line in lines)
    assert any("what differs: nothing that is recorded" in line for line in lines)
    assert any(line.startswith("confusion: ") for line in lines)  # the rest is shown all the same


def test_without_weights_there_is_still_what_needs_none(copied: Shown) -> None:
    shutil.rmtree(copied.results / "s" / "weights")
    code, lines, _ = copied("vit")
    assert code == 0
    assert copied.pictures == {"confusion.png"}
    assert any(line.startswith("no score, no predictions, no attention, no rollout: no weights in ") for line in lines)
    assert "(checkpoints.keep: " in "".join(lines)
    assert (copied.out / "metrics.csv").exists()
    code, _, err = copied("vit", "score")
    assert code == 2
    assert "no score: no weights in " in err


def test_a_trial_that_failed_has_files_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = trial("vit")
    row = TrialRow(
        trial_id=config.trial_id,
        sweep="s",
        preset="quick",
        cell="",
        status=Status.FAILED,
        attempt=1,
        seed=0,
        config=config.flat(),
    )
    Store(tmp_path / "results" / "s").write_trial(row)
    show = Shown(tmp_path / "results", tmp_path / "out", capsys)
    code, lines, _ = show("vit")
    assert code == 0
    assert {path.name for path in show.out.iterdir()} == {"metrics.csv", "config.json"}
    assert any("is failed: only complete trials have best weights" in line for line in lines)
    assert show("vit", "predictions")[0] == 2
