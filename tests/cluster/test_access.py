"""Who can reach a running sweep's Ray, and where its token is to be found."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from conftest import Sweeps  # type: ignore[import-not-found]

STRANGER = """\
import sys, ray
try:
    ray.init(address=sys.argv[1], logging_level="CRITICAL")
    print("let in", len(ray.nodes()), "node")
except Exception as error:
    print("refused", type(error).__name__)
"""


@pytest.mark.scenario(30)
@pytest.mark.slow
def test_strangers_are_refused_and_the_token_is_ours_alone(sweeps: Sweeps, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    driver = subprocess.Popen(
        sweeps.command("access", "--seeds", "1", "distillation.alpha=0.0", "schedule.epochs=20000"),
        env=sweeps.environment | {"HOME": str(home)},
        cwd=sweeps.folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    epochs = sweeps.folder / "access" / "tiny" / "epochs"
    deadline = time.monotonic() + 300
    while not list(epochs.glob("*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.1)
    processes = psutil.Process(driver.pid).children(recursive=True)
    (gcs,) = [process for process in processes if process.cmdline()[0].endswith("gcs_server")]
    logs = Path(next(part.partition("=")[2] for part in gcs.cmdline() if part.startswith("--log_dir=")))
    token = Path(sweeps.environment["RAYBENCH_CACHE"]) / "ray_token"
    secret = token.read_bytes().strip()
    address = _address(gcs)
    ours = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secret.decode()}
    environment = sweeps.environment | {"HOME": str(home)}
    assert "let in" in _stranger(address, environment | ours, 90)
    for variables in (ours | {"RAY_AUTH_TOKEN": "0" * 64}, {"RAY_AUTH_MODE": "disabled"}):
        assert "let in" not in (said := _stranger(address, environment | variables, 30)), said
    assert driver.poll() is None  # nor was it for want of anybody to let them in
    assert not any("dashboard.py" in " ".join(p.cmdline()) and _listens(p, 8265) for p in processes if p.is_running())
    driver.send_signal(signal.SIGINT)
    output = driver.communicate(timeout=60)[0]
    assert driver.returncode == 130, output
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert list(home.rglob("*token*")) == []
    assert len(secret) == 64
    told = [path for folder in (sweeps.folder / "access", logs) for path in folder.rglob("*") if path.is_file()]
    assert len(told) > 5
    assert [path for path in told if secret in path.read_bytes()] == []
    assert secret.decode() not in output


def _address(gcs: psutil.Process) -> str:
    """Where Ray's head listens."""
    (port,) = {each.laddr.port for each in gcs.net_connections("tcp") if each.status == psutil.CONN_LISTEN}
    return f"127.0.0.1:{port}"


def _stranger(address: str, environment: dict[str, str], patience_s: float) -> str:
    """What a process says that tries to run a task there."""
    command = [sys.executable, "-c", STRANGER, address]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=patience_s, check=False)
    except subprocess.TimeoutExpired:
        return "no answer"
    return done.stdout + done.stderr


def _listens(process: psutil.Process, port: int) -> bool:
    return any(each.laddr.port == port and each.status == psutil.CONN_LISTEN for each in process.net_connections("tcp"))
