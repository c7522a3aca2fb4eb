"""A sweep on its way to a cluster: what is said before anybody is asked for anything, and what goes along."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from raybench.cluster import job_server, ssh
from raybench.cluster.ssh import Answer, Host
from raybench.commands import cluster
from raybench.commands.submitting import Wanted, agreed, asked_for, hand_over, job_name
from raybench.config import plugins
from raybench.config.document import find_sweep
from raybench.errors import ConfigError, RaybenchError
from raybench.sweep import parser

ROOT = Path(__file__).parents[2]
HEAD = Host("10.0.0.1", "me")


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Every test begins and ends without plugins."""
    plugins.forget()
    yield
    plugins.forget()


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


LOSS = """\
def mine(student, teacher, labels, config):
    return student.sum()
LOSSES = {"mine": mine}
"""


def test_plugins_go_along(home: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "my_loss.py"
    plugin.write_bytes(LOSS.replace("\n", "\r\n").encode())
    rest = ("smoke", f"--plugin={plugin}", "distillation.type=mine", "--plugin", "raybench.config.price")
    with pytest.raises(ConfigError, match=r"raybench\.config\.price.*defines none"):
        asked(*rest)  # what is wrong with one is told here
    wanted = asked(*rest[:3])
    assert hand_over(HEAD, wanted, "job-4")[:3] == [
        "~/.raybench/sent/job-4/smoke.yaml",
        *("--plugin", "~/.raybench/sent/job-4/my_loss.py"),
    ]
    assert (home / ".raybench/sent/job-4/my_loss.py").read_bytes() == plugin.read_bytes()


def test_folders_are_those_of_the_cluster(home: Path) -> None:
    with pytest.raises(ConfigError) as error:
        asked("smoke", "--data-root", "data", "--results=results", "--weights-root", "./w", "optimizer.lrr=1")
    options = ("--data-root data", "--results results", "--weights-root ./w")
    assert [problem.partition(": is")[0] for problem in error.value.problems[:3]] == [
        f"command line: {option}" for option in options
    ]
    assert "lrr" in error.value.problems[3]
    there = home / "data sets"
    there.mkdir()
    rest = ("--data-root", str(there), "--results", "s3://bucket/results", "--weights-root", "~/data sets")
    assert hand_over(HEAD, asked("smoke", *rest), "job-5")[1:7] == list(rest)
    with pytest.raises(RaybenchError, match=r"^--data-root /absent: no such folder there \(10\.0\.0\.1\); their RAY"):
        hand_over(HEAD, asked("smoke", "--data-root", "/absent"), "job-6")


def test_a_head_that_cannot_be_written_to_is_said(home: Path) -> None:
    (home / ".raybench").write_text("a file")
    with pytest.raises(RaybenchError, match=r"sent/job-3/smoke\.yaml could not be written on 10\.0\.0\.1: .*"):
        hand_over(HEAD, asked("smoke"), "job-3")


class Head:
    """What the head says when it is asked for the plan."""

    def __init__(self, hours: float | None, code: int = 0, errors: str = "") -> None:
        self.hours, self.code, self.errors = hours, code, errors
        self.command = ""

    def run(self, host: Host, remote: str, *, given: str = "", timeout_s: float) -> Answer:  # noqa: ARG002
        self.command = remote
        plan = {"event": "plan", "device_hours": self.hours, "text": ["12 cells", "36 trials"]}
        return Answer(self.code, f"a line of something else\n{json.dumps(plan)}\n" * (self.code == 0), self.errors)


@pytest.mark.parametrize(
    ("hours", "typed", "expected", "asked"),
    [(0.9, [], True, False), (12.34, ["y"], True, True), (12.34, [""], False, True), (None, ["no"], False, True)],
)
def test_a_person_is_asked_above_a_device_hour(
    hours: float | None,
    typed: list[str],
    expected: bool,
    asked: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    head, questions = Head(hours), list[str]()

    def ask(question: str) -> str:
        questions.append(question)
        return typed.pop(0)

    monkeypatch.setattr(ssh, "run", head.run)
    monkeypatch.setattr("builtins.input", ask)
    assert agreed(HEAD, ["~/there/some.yaml", "-q", "--address", "auto"]) is expected
    assert "--address auto --dry-run --log-json" in head.command
    assert " -q " not in head.command  # which the JSON would contradict
    assert capsys.readouterr().out == "the plan, as 10.0.0.1 makes it:\n12 cells\n36 trials\n"
    assert bool(questions) is asked
    assert all("device-hours, as 10.0.0.1 estimates. Start?" in each for each in questions)


def test_what_the_head_finds_wrong_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "run", Head(None, 2, "1 error, nothing started:\n  cifar100 not found\n").run)
    with pytest.raises(RaybenchError, match=r"(?s)^10\.0\.0\.1 does not plan it:\n.*cifar100 not found$"):
        agreed(HEAD, ["some.yaml"])


@pytest.mark.parametrize(
    ("terminal", "arguments", "expected"),
    [
        (True, [], ["agreed", "--yes"]),
        (True, ["--yes"], ["--yes"]),
        (True, ["--dry-run"], ["--dry-run"]),
        (False, [], []),  # the job says what is missing, and ends
    ],
)
def test_a_job_is_told_what_a_person_said(
    terminal: bool, arguments: list[str], expected: list[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, jobs = list[str](), list[str]()
    monkeypatch.setattr("sys.stdin.isatty", lambda: terminal)

    def agreed(*_: object) -> bool:
        asked.append("agreed")
        return True

    monkeypatch.setattr(cluster, "agreed", agreed)
    monkeypatch.setattr(cluster, "_followed", lambda *_: 0)

    class Server:
        def submit(self, job: str, entrypoint: str, about: dict[str, str]) -> None:  # noqa: ARG002
            jobs.append(entrypoint)

    monkeypatch.setattr(job_server, "job_server", lambda _: contextlib.nullcontext(Server()))
    assert cluster._submit(ROOT / "cluster.yaml", ["smoke", *arguments], parser) == 0
    (job,) = jobs
    assert [*asked, *(each for each in ("--yes", "--dry-run") if each in job)] == expected
    assert (home / ".raybench" / "sent").is_dir()


def test_without_a_yes_nothing_is_handed_over(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr(cluster, "agreed", lambda *_: False)
    monkeypatch.setattr(job_server, "job_server", lambda _: pytest.fail("the job server was asked"))
    assert cluster._submit(ROOT / "cluster.yaml", ["smoke"], parser) == 2
    assert (home / ".raybench").is_dir()


def test_the_name_of_a_job_says_what_and_when() -> None:
    assert job_name("deit_reverse", datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC), "ab12") == (
        "deit_reverse-20300102-030405-ab12"
    )
