"""A sweep on its way to a cluster: what is said before anybody is asked for anything, and what goes along."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from raybench.cluster import ssh
from raybench.cluster.ssh import Answer, Host
from raybench.commands.submitting import Wanted, asked_for, hand_over, job_name
from raybench.config.document import find_sweep
from raybench.errors import ConfigError, RaybenchError
from raybench.sweep import parser

HEAD = Host("10.0.0.1", "me")


def asked(*arguments: str) -> Wanted:
    return asked_for(arguments, parser)


def test_a_sweep_is_checked_before_it_is_sent() -> None:
    assert asked("deit_reverse", "--preset", "quick", "--seeds", "2").sweep == "deit_reverse"
    for arguments, said in (
        (["deit_reverse", "distillation.alpa=0.5"], r"did you mean distillation\.alpha"),
        (["--preset", "quick"], "NAME is missing"),
        (["deit_revers"], "nearest: deit_reverse"),
        (["deit_reverse", "--address", "10.0.0.1:6379"], r"--address 10\.0\.0\.1:6379: the cluster file says which"),
    ):
        with pytest.raises(ConfigError, match=said):
            asked(*arguments)
    with pytest.raises(SystemExit):
        asked("deit_reverse", "--sedes", "3")


def test_the_sweep_is_named_by_its_file_and_all_else_stays() -> None:
    found = asked("--rerun", "deit_reverse", "deit_reverse", "model.name=resnet8", "--seeds=2", "--profile", "-q")
    assert found.arguments("~/there") == [
        *("--rerun", "deit_reverse"),
        *("~/there/deit_reverse.yaml", "model.name=resnet8", "--seeds", "2", "--profile", "-q"),
    ]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The head's home folder; its shell is one of this machine."""
    folder = tmp_path / "head"
    folder.mkdir()

    def run(host: Host, remote: str, *, given: str = "", timeout_s: float) -> Answer:  # noqa: ARG001
        environment = {"HOME": str(folder), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(["sh", "-c", remote], input=given, env=environment, capture_output=True, text=True)
        return Answer(done.returncode, done.stdout, done.stderr)

    monkeypatch.setattr(ssh, "run", run)
    return folder


def test_the_head_runs_the_file_that_is_here_whatever_it_has_itself(home: Path) -> None:
    older = home / "raybench" / "sweeps" / "deit_reverse.yaml"
    older.parent.mkdir(parents=True)
    older.write_text("# an older one\n")
    arguments = hand_over(HEAD, asked("deit_reverse", "--seeds", "2"), "job-1")
    assert arguments == ["~/.raybench/sent/job-1/deit_reverse.yaml", "--seeds", "2", "--address", "auto"]
    sent = home / ".raybench" / "sent" / "job-1" / "deit_reverse.yaml"
    assert sent.read_bytes() == find_sweep("deit_reverse").read_bytes()
    # The shell there finds it, and what else was given stays one word.
    shown = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {ssh.words([*arguments, 'a b=$x'])}"],
        env={"HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert (shown[0], shown[-1]) == (str(sent), "a b=$x")


def test_a_file_of_ones_own_keeps_its_name(home: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yml"
    mine.write_bytes(find_sweep("smoke").read_bytes())
    wanted = asked(str(mine))
    assert wanted.sweep == "mine"
    assert hand_over(HEAD, wanted, "job-2")[0] == "~/.raybench/sent/job-2/mine.yaml"
    assert (home / ".raybench/sent/job-2/mine.yaml").read_bytes() == mine.read_bytes()


def test_a_head_that_cannot_be_written_to_is_said(home: Path) -> None:
    (home / ".raybench").write_text("a file")
    with pytest.raises(RaybenchError, match=r"sent/job-3/smoke\.yaml could not be written on 10\.0\.0\.1: .*"):
        hand_over(HEAD, asked("smoke"), "job-3")


def test_the_name_of_a_job_says_what_and_when() -> None:
    assert job_name("deit_reverse", datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC), "ab12") == (
        "deit_reverse-20300102-030405-ab12"
    )
