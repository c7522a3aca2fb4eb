"""Mistakes of a new user, each answered in one or two lines that say what to do.

Ten were foreseen. Those that are not here: no data, and a misspelt model (test_sweep.py); a full disk, and memory that
the kernel takes back (cluster/test_faults.py, cluster/test_crashes.py); a killed driver (there, too); a plugin that
raises (commands/test_plugins.py).
"""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raybench import sweep
from raybench.results.lock import SweepLock

ROOT = Path(__file__).parents[1]
QUICK = ["deit_reverse", "--preset", "quick", "--results"]


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that must refuse says: at most two lines beneath their heading."""
    assert sweep.main(list(arguments)) == 2
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line != "1 error, nothing started:"]
    assert 1 <= len(lines) <= 2, said
    return said


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("dataset={name: image_folder, path: photoz, val_size: 9, image_size: 8}", "did you mean photos?"),
        ("dataset={name: parquet, path: gone.parquet, val_size: 9, image_size: 8}", "gone.parquet"),
        ("model.weights=gone.safetensors", 'no weight file "gone.safetensors": looked for '),
    ],
)
def test_a_wrong_path(capsys: pytest.CaptureFixture[str], tmp_path: Path, override: str, said: str) -> None:
    (tmp_path / "photos").mkdir()
    file = tmp_path / "some.yaml"
    file.write_text("base: {dataset: {name: digits, val_size: 200}, model: {name: resnet8}}\n")
    root = ["--preset", "paper", "--data-root", str(tmp_path), "--results", str(tmp_path / "results")]
    assert said in refusal(capsys, str(file), *root, override)


def test_a_sweep_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert "gone.yaml: no such file" in refusal(capsys, "gone.yaml")


def test_no_gpu(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    said = refusal(capsys, *QUICK, str(tmp_path), "resources.gpu=1")
    assert "command line: resources.gpu = 1: this machine has none (resources.gpu=0 trains on the CPU)" in said


def test_a_model_too_large_for_the_memory(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\nfrom torch import nn\n\n\n"
        "class Large(nn.Linear):\n"
        "    def forward(self, x):\n"
        "        return torch.empty(2**46) + super().forward(x.flatten(1))\n\n\n"
        "def large_net(*, num_classes, in_channels, image_size):\n"
        "    return Large(in_channels * image_size**2, num_classes)\n\n\n"
        "MODELS = {'large_net': large_net}\n"
    )
    (tmp_path / "some.yaml").write_text("base: {dataset: {name: digits, val_size: 200}, model: {name: large_net}}\n")
    arguments = ["--preset", "paper", "--results", str(tmp_path / "results"), "--plugin", str(file)]
    said = refusal(capsys, str(tmp_path / "some.yaml"), *arguments)
    assert "model large_net on digits: out of memory: " in said
    assert "a smaller model or image_size, or a machine with more, is needed" in said


def test_two_sweeps_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with SweepLock(tmp_path / "deit_reverse"):
        assert sweep.main([*QUICK, str(tmp_path), "--yes"]) == 2
    said = capsys.readouterr().err
    assert f"is being run by process {os.getpid()} on host " in said
    assert said.rstrip().endswith("wait for it, stop it, or give --results ROOT for a run of its own")
    assert len(said.splitlines()) == 1


def test_a_terminal_that_is_closed() -> None:
    pytest.importorskip("ray")
    from raybench.cluster.stopping import Stop, Stopped

    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup, which these tests may run under, has it ignored
    stop = Stop(None)
    try:
        with stop.installed():
            os.kill(os.getpid(), signal.SIGHUP)
            with pytest.raises(Stopped) as stopped:
                stop.check()
        assert stopped.value.number == signal.SIGHUP
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_old_python() -> None:
    script = "import sys; sys.version_info = (3, 9, 7, 'final', 0); import raybench"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("raybench needs Python 3.11 or newer, and this is 3.9 (")
    assert "make install PYTHON=/path/to/python3.11" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    # An old Python can read as far as that.
    ast.parse((ROOT / "raybench" / "__init__.py").read_text(), feature_version=(3, 7))


def test_what_failed_is_told_with_what_to_do() -> None:
    from raybench.commands.results_text import cures

    lines = cures(["out of memory: 8 MiB more were asked for", "ValueError: x"], Path("results/some"))
    assert lines[0].startswith("out of memory: ")
    assert "--max-concurrent 1" in lines[0]
    assert lines[1] == "their logs: results/some/logs (raybench why ID says more); --rerun failed runs them again"
    assert cures([], Path("results/some")) == []
