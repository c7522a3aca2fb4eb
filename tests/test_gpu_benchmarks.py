"""The benchmarks for a GPU start where only torch, timm, pyarrow and pydantic are, and say what the others say."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BARE = """
import runpy, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "psutil", "polars", "rich"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a file as a machine without those packages does."""
SMALL = {
    "gpu_models": ["--models", "resnet20", "--batch", "2"],
    "gpu_packing": ["--trials", "2", "--images", "128"],
    "gpu_vit": ["--model", "vit_tiny_patch16_224", "--images", "4", "--batch", "2", "--side", "64"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_starts_with_few_packages_and_prints_an_object_a_claim(name: str, tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text(BARE)
    given = [str(tmp_path / "bare.py"), f"benchmarks/{name}.py", "--cpu", "--json", "--pairs", "1", *SMALL[name]]
    found = subprocess.run(
        [sys.executable, *given], cwd=ROOT, env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}, capture_output=True
    )
    assert found.returncode == 0, found.stderr.decode()
    claims = [json.loads(line) for line in found.stdout.splitlines()]
    assert claims
    for claim in claims:
        assert {"claim", "ours", "peer", "ratio", "bar", "holds", "n", "hardware"} <= claim.keys()
        assert claim["ours"] > 0


def test_make_installs_nothing_where_there_is_no_environment(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "gpu_any.py").write_text("print('ran')")
    ran = subprocess.run(
        ["make", "bench-gpu", f"PYTHON={sys.executable}"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert ran.stdout.splitlines() == ["== benchmarks/gpu_any.py", "ran"]
    assert not (tmp_path / ".venv").exists()
