"""The command line of profiles: what it imports, and one whole run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raybench.__main__ import main as raybench

REPOSITORY = Path(__file__).parents[1]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=REPOSITORY, text=True, capture_output=True, check=False
    )


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys, raybench.profile as p\n"
        "try:\n    p.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print('\\0' + ' '.join({name.partition('.')[0] for name in sys.modules}))"
    )
    done = run("-c", script)
    printed, _, names = done.stdout.partition("\0")
    assert "usage: python -m raybench.profile" in printed
    assert not set(names.split()) & {"torch", "timm", "ray", "torchvision", "pydantic", "rich", "numpy", "polars"}


def test_the_console_script_knows_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        raybench(["profile", "--help"])
    assert caught.value.code == 0
    assert "usage: raybench profile" in capsys.readouterr().out
    assert raybench(["profil"]) == 2
    assert "did you mean profile?" in capsys.readouterr().err


@pytest.mark.slow  # three processes import torch
def test_a_run_in_which_one_model_cannot_be_trained() -> None:
    # At 32 px the last map of timm's small ResNet is one pixel, and a batch of one has no variance there.
    asked = ["test_resnet", "vit_micro_patch2_8", "--image-size", "32", "--batch-size", "1", "--threads", "1"]
    done = run("-m", "raybench.profile", *asked, "--repeats", "2", "--json")
    assert done.returncode == 1, done.stderr
    failed, good = json.loads(done.stdout)
    assert failed["error"].startswith("ValueError: Expected more than 1 value per channel when training")
    assert failed["param_count"] > 0
    assert "train_samples_per_sec" not in failed
    assert "error" not in good
    for kind in ("train", "infer"):
        low, high = good[f"{kind}_samples_per_sec_range"]
        assert 0 < low <= good[f"{kind}_samples_per_sec"] <= high
    assert good["peak_memory"] > good["memory_before_model"] > 0
    assert (good["batch_size"], good["image_size"], good["repeats"]) == (1, 32, 2)
