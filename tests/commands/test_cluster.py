"""`raybench cluster`: what is said before anybody is asked for anything, and how a followed job ends."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from raybench.__main__ import main
from raybench.commands import cluster
from raybench.commands.cluster import _followed, _stopped
from raybench.errors import RaybenchError


def test_faults_of_the_command_line_end_with_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["cluster", "check", "-f", str(tmp_path / "absent.yaml")]) == 2
    assert "absent.yaml: no such file" in capsys.readouterr().err
    assert main(["cluster", "submit", "deit_revers"]) == 2
    assert "deit_reverse" in capsys.readouterr().err
    with pytest.raises(SystemExit) as error:
        main(["cluster", "chek"])
    assert error.value.code == 2


ROOT = Path(__file__).parents[2]


def test_a_cluster_that_is_not_there_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(file: Path, rest: Sequence[str]) -> int:  # noqa: ARG001
        raise RaybenchError("no tunnel to me@10.0.0.1: Connection refused")

    monkeypatch.setitem(cluster.COMMANDS, "follow", unreachable)
    assert main(["cluster", "follow"]) == 1
    assert capsys.readouterr().err == "error: no tunnel to me@10.0.0.1: Connection refused\n"


class Server:
    """A job server whose job ends as told."""

    def __init__(self, error: BaseException | None, status: str = "SUCCEEDED", code: int | None = 0) -> None:
        self.error, self.status, self.code = error, status, code

    def follow(self, job: str, write: object) -> None:
        """Its log, or what ends the following."""
        assert callable(write)
        write(f"log of {job}\n")
        if self.error:
            raise self.error

    def ended(self, job: str, within_s: float = 0.0) -> tuple[str, int | None]:  # noqa: ARG002
        """How it ended."""
        self.waited_s = within_s
        return self.status, self.code

    def stop(self, job: str) -> bool:  # noqa: ARG002
        """Have it end."""
        return True


@pytest.mark.parametrize(
    ("status", "code", "expected"), [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", -9, 1), ("STOPPED", None, 1)]
)
def test_the_exit_code_is_that_of_the_sweep(
    status: str, code: int | None, expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _followed(Server(None, status, code), "job", Path("cluster.yaml")) == expected  # type: ignore[arg-type]
    said = capsys.readouterr()
    assert said.out == "log of job\n"
    assert said.err == ("" if expected == 0 else said.err)
    assert (status.lower() in said.err) == (expected != 0)


def test_ctrl_c_detaches_and_says_how_to_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert _followed(Server(KeyboardInterrupt()), "job", Path("clusters/aws.yaml")) == 130  # type: ignore[arg-type]
    said = capsys.readouterr().err
    assert "detached; job goes on" in said
    assert "raybench cluster follow job -f clusters/aws.yaml" in said
    assert "raybench cluster stop job -f clusters/aws.yaml" in said


def test_a_lost_connection_says_that_the_sweep_goes_on() -> None:
    lost = Server(RaybenchError("the connection to job job was lost: closed"))
    with pytest.raises(RaybenchError, match=r"(?s)was lost: closed\njob goes on by itself; come back:"):
        _followed(lost, "job", Path("cluster.yaml"))  # type: ignore[arg-type]


def test_a_log_that_closes_before_the_end_of_its_job_says_how_to_come_back() -> None:
    with pytest.raises(RaybenchError, match=r"(?s)was closed while it is running\njob goes on by itself; come back:"):
        _followed(Server(None, "RUNNING", None), "job", Path("cluster.yaml"))  # type: ignore[arg-type]


def test_a_job_has_longer_to_stop_than_the_cluster_gives_it(capsys: pytest.CaptureFixture[str]) -> None:
    server = Server(None, "STOPPED", None)
    assert _stopped(server, "job", Path("cluster.yaml")) == 0  # type: ignore[arg-type]
    assert capsys.readouterr().out == (
        "job: told to stop\njob: stopped; what was done stays, and `raybench cluster submit` goes on\n"
    )
    for name in ("cluster.yaml", "clusters/aws.yaml", "clusters/gcp.yaml"):
        (given,) = re.findall(r"RAY_JOB_STOP_WAIT_TIME_S=(\d+)", (ROOT / name).read_text())
        assert server.waited_s >= int(given) + 10


def test_a_job_that_does_not_stop_is_not_said_to_have(capsys: pytest.CaptureFixture[str]) -> None:
    assert _stopped(Server(None, "RUNNING", None), "job", Path("cluster.yaml")) == 1  # type: ignore[arg-type]
    said = capsys.readouterr()
    assert "what was done stays" not in said.out
    assert "job: still running 60 s later. come back:  raybench cluster follow job" in said.err
