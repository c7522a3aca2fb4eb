"""`raybench init`: what it writes is valid in every way that can be asked, and it overwrites nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raybench.__main__ import main as raybench
from raybench.config.load import load_sweep
from raybench.config.plan import make_plan
from raybench.training.preflight import check, unknown
from raybench.training.recorder import Setup


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_writes_a_sweep_that_is_found_and_valid(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert raybench(["init", "mine"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "sweeps/mine.yaml: paper, 24 trials; quick, 12 trials",
        "next:  raybench sweep mine --preset quick --dry-run",
    ]
    for preset in ("paper", "quick"):
        config = load_sweep("mine", preset, unknown=lambda key, name: unknown(key, name))
        assert config.question == "Which learning rate suits each of two students, and does a teacher help them?"
    found = check(make_plan(config), Setup(results=elsewhere / "results"), lambda key: key, download=False)
    assert found.variants == {"digits": "embedded"}


def photos(folder: Path) -> Path:
    """Two classes of 30 photos."""
    draw = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number in range(30):
            pixels = draw.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


@pytest.mark.parametrize("name", ["my photos: new", "\U0001f431 #1", "a\x85'b"])
def test_it_writes_one_for_photos(elsewhere: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    photos(elsewhere / name)
    assert raybench(["init", "pets", "--photos", name]) == 0
    assert "paper, 24 trials; quick, 12 trials" in capsys.readouterr().out
    assert "60 photos of 2 classes" in (elsewhere / "sweeps" / "pets.yaml").read_text()
    for preset in ("paper", "quick"):
        plan = make_plan(load_sweep("pets", preset, unknown=lambda key, name: unknown(key, name)))
        found = check(plan, Setup(results=elsewhere / "results"), lambda key: key, download=False)
        assert set(found.variants) == {next(plan.trials()).dataset.data_key}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a b"], "'a b': a sweep's name has letters, digits, _ and - only"),
        (["../x"], "a sweep's name has letters, digits, _ and - only"),
        (["deit_reverse"], "deit_reverse: there is such a sweep already, "),
        (["pets", "--photos", "nowhere"], "--photos nowhere: no such folder"),
    ],
)
def test_what_it_refuses(elsewhere: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert raybench(["init", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []


def test_it_overwrites_nothing(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raybench(["init", "mine"])
    (elsewhere / "sweeps" / "mine.yaml").write_text("mine")
    assert raybench(["init", "mine"]) == 2
    assert "there is such a sweep already, sweeps/mine.yaml; choose another name" in capsys.readouterr().err
    assert (elsewhere / "sweeps" / "mine.yaml").read_text() == "mine"


def test_folders_that_are_no_classes(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (elsewhere / "empty").mkdir()
    assert raybench(["init", "pets", "--photos", "empty"]) == 2
    assert "holds no images" in capsys.readouterr().err
    assert not (elsewhere / "sweeps").exists()
