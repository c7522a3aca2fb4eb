"""`raybench doctor`: quick, and each problem comes with what to do about it."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import runpy
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from raybench.__main__ import main as raybench
from raybench.commands import examination
from raybench.commands.examination import GIB, Finding, examine

ROOT = Path(__file__).parents[2]


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def states(findings: list[Finding]) -> list[str]:
    return [finding.state for finding in findings]


def test_it_says_what_is_here(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = raybench(["doctor", "--data-root", str(tmp_path), "--results", str(tmp_path / "results")])
    said = capsys.readouterr().out.splitlines()
    areas = [line[6:16].strip() for line in said[:-1] if line[:6].strip()]
    expected = {"python", "packages", "cpu", "gpu", "memory", "shared", "disk", "data", "weights", "ray"}
    assert expected <= set(areas)
    assert any("copy_task, digits, " in line and " found (looked in " in line for line in said)
    assert any("-> raybench data get cifar10" in line for line in said)
    assert code == (1 if any(line.startswith("fault") for line in said) else 0)
    assert list(tmp_path.iterdir()) == []


def test_for_programs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    raybench(["doctor", "--json", "--data-root", str(tmp_path)])
    found = json.loads(capsys.readouterr().out)
    assert {frozenset(each) for each in found} == {frozenset(("state", "area", "text", "cure"))}
    assert {each["state"] for each in found} <= {"ok", "note", "fault"}
    assert [each for each in found if each["state"] == "fault" and not each["cure"]] == []


def test_it_imports_neither_torch_nor_ray_and_is_quick(tmp_path: Path) -> None:
    script = (
        "import sys; from raybench.__main__ import main; main(['doctor'])\n"
        "print('\\0' + ' '.join({name.partition('.')[0] for name in sys.modules}))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    # Processor time, since other processes may make it wait; torch alone would take more.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 10
    assert not {"torch", "ray", "timm", "torchvision"} & set(done.stdout.partition("\0")[2].split())


def test_packages_that_are_missing_or_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requires = [
        "numpy>=1.0",
        "numpy>=9999; extra == 'text'",
        "no-such-package-x>=2",
        "pydantic[email]>=9999",
        "a-codec; extra == 'codec'",
    ]
    folder = tmp_path / "some_tool-1.dist-info"
    folder.mkdir()
    lines = ["Metadata-Version: 2.1", "Name: some-tool", "Version: 1", *(f"Requires-Dist: {each}" for each in requires)]
    (folder / "METADATA").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = list(examination.packages("some-tool"))
    assert states(found) == ["fault", "ok", "note", "note"]
    assert found[0].text.startswith("no-such-package-x is not installed; pydantic 2.")
    assert found[0].cure == 'pip install "no-such-package-x>=2" "pydantic[email]>=9999"'
    assert found[1].text.startswith("1 as required (torch ")
    assert found[2].cure == 'pip install "some-tool[text]"'
    assert found[3].text == "a-codec is not installed: for the model bmshj2018_factorized and the sweep ci2p_codec"
    (absent,) = examination.packages("no-such-package-x")
    assert absent.state == "note"


def smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A driver's tool that answers so, in front of any other."""
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


CARD = """\
case "$1" in
  --query*) echo "NVIDIA H100, 580.65, 81559, 80000";;
  *) echo "| NVIDIA-SMI 580.65   Driver Version: 580.65   CUDA Version: {} |";;
esac"""


@pytest.mark.parametrize(
    ("built", "known", "expected", "cure"),
    [
        ("13.0", "13.1", ["ok"], ""),
        ("12.8", "13.1", ["ok"], ""),
        ("13.0", "12.4", ["ok", "fault"], "update the driver, or install torch for CUDA 12"),
        (None, "13.1", ["ok", "fault"], "install torch from an index of its CUDA builds (pytorch.org says which)"),
    ],
)
def test_a_gpu_and_the_torch_that_is_to_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: str | None, known: str, expected: list[str], cure: str
) -> None:
    smi(tmp_path, monkeypatch, CARD.format(known))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(examination, "_torch_cuda", lambda: built)
    found = list(examination.gpus())
    assert states(found) == expected
    assert found[0].text == "NVIDIA H100, 80000 of 81559 MiB free, driver 580.65"
    assert found[-1].cure == cure


def test_memory_that_the_driver_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, monkeypatch, CARD.format("13.1").replace("81559, 80000", "[N/A], [N/A]"))
    found = next(examination.gpus())
    assert (found.state, found.text) == ("ok", "NVIDIA H100, ? of ? MiB free, driver 580.65")


def test_a_driver_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, monkeypatch, "echo 'NVIDIA-SMI has failed: no driver' >&2; exit 9")
    (found,) = examination.gpus()
    assert found.state in ("note", "fault")  # a fault where the device is there
    assert "the driver does not answer: NVIDIA-SMI has failed: no driver" in found.text
    assert "docker run --gpus all" in found.cure


def test_the_cuda_that_torch_was_built_for_is_read_without_importing_it() -> None:
    package = importlib.util.find_spec("torch")
    assert package is not None
    assert package.origin is not None
    version = runpy.run_path(str(Path(package.origin).with_name("version.py")))  # what torch.version is
    assert examination._torch_cuda() == version["cuda"]


@pytest.mark.parametrize(("free", "state"), [(0.5, "fault"), (3.0, "note"), (50.0, "ok")])
def test_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, state: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100 * GIB, 10 * GIB, int(free * GIB)))
    found = list(examination.disks(str(tmp_path / "not" / "yet")))
    assert states(found) == [state] * 3
    assert found[0].text == f"results: {free:.1f} GiB free in {tmp_path}/not/yet"
    assert all(
        ("RAYBENCH_CACHE" in each.cure or "--results" in each.cure or "RAY_TMPDIR" in each.cure) == (state != "ok")
        for each in found
    )


def test_a_disk_that_ray_finds_too_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1000 * GIB, 960 * GIB, 40 * GIB))
    cache, temporary = examination.disks("s3://bucket/prefix")
    assert (cache.state, temporary.state) == ("ok", "note")
    assert "more than 95% in use" in temporary.text


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    results, *_ = examination.disks(str(tmp_path / "file"))
    assert results.state == "fault"
    assert "cannot be written" in results.text


def test_little_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(GIB // 16, 0, GIB // 16))
    (found,) = examination.shared_memory(tmp_path)
    assert (found.state, found.text) == ("note", f"0.1 of 0.1 GiB free in {tmp_path}")
    assert "docker run --shm-size=2g" in found.cure


@pytest.mark.parametrize(
    ("limit", "used", "state"),
    [("max", "0", "ok"), (str(3 * GIB), str(GIB // 2), "ok"), (str(GIB), str(GIB // 2), "fault")],
)
def test_memory_is_that_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, used: str, state: str
) -> None:
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text(used)
    number = examination._number
    monkeypatch.setattr(examination, "_number", lambda name: number(name, tmp_path))
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("M", (), {"total": 64 * GIB, "available": 32 * GIB}))
    (found,) = examination.memory()
    assert found.state == state
    assert (found.cure != "") == (state != "ok")


def test_cores_are_those_of_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert examination._cpu_share(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert examination._cpu_share(tmp_path) is None
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(examination, "_cpu_share", lambda: 1.5)
    (found,) = examination.processors()
    assert (found.state, found.cure) == ("note", "--max-concurrent 1 keeps trials from sharing them")


def test_variables_that_name_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYBENCH_DATA", str(tmp_path / "gone"))
    monkeypatch.setenv("RAYBENCH_SWEEPS", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    found = list(examination.variables())
    assert [each.text.split()[0] for each in found] == ["RAYBENCH_DATA", "RAY_ADDRESS"]
    assert found[0].cure == "make it, or unset RAYBENCH_DATA"


def test_data_and_weights_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    assert [each.state for each in examination.weights(tmp_path)] == ["note"]
    (tmp_path / "hub" / "hub" / "models--timm--resnet18.a1_in1k").mkdir(parents=True)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "resnet20-12fca82f.th").touch()
    (found,) = examination.weights(tmp_path)
    assert found.text == "resnet20-12fca82f.th, resnet18.a1_in1k (timm) found"
    for part in ("train", "test"):
        (tmp_path / f"cifar10_{part}.parquet").touch()
    there, absent = examination.data_sets(tmp_path)
    assert there.text.startswith("cifar10, copy_task, digits, ")
    assert there.text.endswith(f" found (looked in {tmp_path})")
    assert absent.text == "cifar100, multi30k not found"


def test_ports_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1)
        port = listening.getsockname()[1]
        monkeypatch.setattr(examination, "CLUSTER_PORTS", {port: "a Ray head"})
        found = list(examination.ray_ports())[-1]
    assert (found.state, f"{port} (a Ray head)" in found.text) == ("note", True)


def test_every_problem_has_a_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(GIB, GIB, 0))
    found = examine(tmp_path, str(tmp_path / "results"))
    assert "fault" in states(found)
    assert [each for each in found if each.state != "ok" and not each.cure] == []
