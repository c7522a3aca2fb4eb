"""How a session of Ray begins, without one."""

from __future__ import annotations

from typing import Any

import pytest

from raybench.cluster.session import session
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
