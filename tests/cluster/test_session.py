"""How a session of Ray begins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from raybench.cluster.session import KEPT, PRELOAD, PRELOADED, THREADS, configure, session
from raybench.errors import RaybenchError

if TYPE_CHECKING:
    from conftest import Sweeps  # type: ignore[import-not-found]

PRELOADING = """
import json, os, sys, time
from raybench.cluster.session import PRELOADED, configure, session
configure(None)
import ray
class Trial:
    def tells(self):
        return os.getpid(), [name in sys.modules for name in PRELOADED.split(",")], os.environ["PL_DISABLE_FORK"]
with session(cpus=1, preload=sys.argv[1] == "True"):
    import psutil
    from ray.tune.execution.class_cache import _ActorClassCache
    from raybench.cluster.driver import workers_of_the_session
    idle, until = set(), time.monotonic() + 60
    while not idle and time.monotonic() < until:
        children = psutil.Process().children(recursive=True)
        idle = {each.pid for each in children if "ray::IDLE" in each.cmdline()}
    with workers_of_the_session():
        actor = _ActorClassCache().get(Trial).options(num_cpus=1).remote()
    pid, knows, variable = ray.get(actor.tells.remote())
    print(json.dumps({"knows": knows, "was_there": pid in idle, "variable": variable}))
"""


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (
            Exception("The current node timed out during startup. This could happen because some of the raylet failed"),
            r"^cannot start Ray: The current node timed out during startup\. Its processes have 30 s .* run the same ",
        ),
        (ConnectionError("no such address\nand more"), "^cannot start Ray: no such address$"),
    ],
)
def test_ray_that_does_not_come_up(raised: Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def init(**_: Any) -> None:
        raise raised

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(RaybenchError, match=said), session():
        pytest.fail("there is no session")


def test_a_fault_of_our_own_is_not_told_as_ray_s(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def init(**_: Any) -> None:
        raise KeyError("num_cpu")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(KeyError), session():
        pytest.fail("there is no session")


@pytest.mark.parametrize("left", [None, b"", b"\xff\xfe\x00garbled", b"of another program"])
def test_a_token_that_is_none_is_made_anew(left: bytes | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAYBENCH_CACHE", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "ray_token"
    if left is not None:
        path.write_bytes(left)
    configure(None)
    token = path.read_text()
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert (len(token) == 64) != (left == b"of another program")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    configure(None)
    assert path.read_text() == token


@pytest.mark.parametrize("preload", [True, False])
def test_a_trial_finds_a_worker_that_has_imported_what_it_needs(preload: bool, sweeps: Sweeps) -> None:
    pytest.importorskip("ray")
    done = subprocess.run(
        [sys.executable, "-c", PRELOADING, str(preload)],
        cwd=sweeps.folder,
        env=sweeps.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["knows"] == [preload] * len(PRELOADED.split(","))
    assert found["was_there"], "Ray started another process for the variables that Tune gives its trials"
    assert found["variable"] == "1"


@pytest.mark.parametrize("own", [{}, {THREADS: "3"}, {PRELOAD: "theirs"}])
def test_only_ray_s_processes_are_told(own: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    told = {}

    def init(**_: Any) -> None:
        told.update({name: os.environ.get(name) for name in (PRELOAD, KEPT, THREADS)})
        raise ConnectionError("enough")

    monkeypatch.setattr(ray, "init", init)
    for name in (PRELOAD, KEPT, THREADS):
        monkeypatch.delenv(name, raising=False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RaybenchError, match="enough"), session(preload=True):
        pytest.fail("there is no session")
    assert told == {PRELOAD: PRELOADED, KEPT: str(os.cpu_count()), THREADS: "1"} | own
    assert {name: os.environ[name] for name in (PRELOAD, KEPT, THREADS) if name in os.environ} == own
