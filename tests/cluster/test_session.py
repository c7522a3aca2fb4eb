"""How a session of Ray begins, without one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from raybench.cluster.session import configure, session
from raybench.errors import RaybenchError


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
