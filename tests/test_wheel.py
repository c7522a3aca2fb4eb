"""The wheel: everything that a run needs from its own files, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(find_spec("hatchling") is None, reason="hatchling is not installed")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built here, without a network, as `make install` would build it."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    """Files in it."""
    with ZipFile(wheel) as archive:
        return archive.namelist()


def test_data_of_the_package_is_inside(names: list[str]) -> None:
    assert "raybench/sweeps/deit_reverse.yaml" in names
    sweeps = {f"raybench/sweeps/{file.name}" for file in (ROOT / "sweeps").glob("*.yaml")}
    numbers = {
        f"raybench/results/published/{file.name}" for file in (ROOT / "raybench/results/published").glob("*.yaml")
    }
    assert numbers
    looks = {f"raybench/report/page{kind}" for kind in (".css", "_dark.css", ".js")}
    assert sweeps | numbers | looks <= set(names)


def test_every_module_is_inside(names: list[str]) -> None:
    modules = {file.relative_to(ROOT).as_posix() for file in (ROOT / "raybench").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules


def test_nothing_else_is_inside(names: list[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"raybench"}
    assert {Path(name).suffix for name in names if name.startswith("raybench/")} == {
        ".py",
        ".pyi",
        ".typed",
        ".yaml",
        ".css",
        ".js",
    }
    assert [name for name in names if "/tests/" in name or "__pycache__" in name] == []


@pytest.mark.slow
def test_a_sweep_of_the_wheel_runs_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    """Away from the repository: all that is raybench's comes from the wheel."""
    pytest.importorskip("ray")
    with ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    (here := tmp_path / "here").mkdir()
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path / "home"), "PYTHONPATH": str(tmp_path / "installed")}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=here, env=environment, capture_output=True, text=True, timeout=1800
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert str(tmp_path / "installed") in run("-c", "import raybench; print(raybench.__file__)")
    assert "deit_reverse" in run("-m", "raybench", "list", "sweeps")
    short = ["schedule.epochs=1", "schedule.warmup_epochs=0", "dataset.train_size=100", "--seeds", "2"]
    said = run("-m", "raybench", "sweep", "deit_reverse", "--preset", "quick", *short)
    assert "complete" in said
    assert "student alone" in said
    assert sorted(path.name for path in here.iterdir()) == ["results"]
