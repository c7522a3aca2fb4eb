"""Other machines over SSH, by the `ssh` program: it knows the user's agent, jump hosts and configuration."""

from __future__ import annotations

import contextlib
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from raybench.errors import RaybenchError

CONNECT_S = 10
TUNNEL_S = 30.0
SEND_S = 60.0
OPTIONS = (
    *("-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_S}", "-o", "LogLevel=ERROR"),
    # A host that was never met is believed, one that has changed since is not.
    *("-o", "StrictHostKeyChecking=accept-new"),
    # A connection that is cut off is given up after a minute rather than never.
    *("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"),
)


@dataclass(frozen=True)
class Host:
    """A machine and how to log in there."""

    address: str
    user: str
    key: Path | None = None

    def command(self, remote: str = "", *options: str) -> list[str]:
        """The command line that runs `remote` in a shell there."""
        key = ("-i", str(self.key), "-o", "IdentitiesOnly=yes") if self.key else ()
        return ["ssh", *OPTIONS, *key, *options, f"{self.user}@{self.address}", *([remote] if remote else [])]


@dataclass(frozen=True)
class Answer:
    """What a command on another machine gave."""

    code: int
    output: str
    errors: str

    @property
    def reached(self) -> bool:
        """Whether it ran at all: 255 is ssh's own."""
        return self.code != 255

    @property
    def last_error(self) -> str:
        """The last line it complained with."""
        lines = [line.strip() for line in self.errors.splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {self.code}"


def in_project(command: str) -> str:
    """A command in the project's folder of a cluster's machine, with the environment that `cluster.yaml` puts there."""
    inside = f"test ! -e ~/.raybench/environment || . ~/.raybench/environment; cd ~/raybench && {command}"
    return f"bash -c {shlex.quote(inside)}"


def words(command: Sequence[str]) -> str:
    """A command line for a shell there. Of a word that begins with `~/` only that shell knows which folder is meant."""
    return " ".join(f"~/{shlex.quote(each[2:])}" if each.startswith("~/") else shlex.quote(each) for each in command)


def send(host: Host, text: str, place: str) -> None:
    """Write a file there, and the folders it is in. Raises RaybenchError where that fails."""
    remote = f"{words(['mkdir', '-p', place.rpartition('/')[0]])} && cat > {words([place])}"
    answer = run(host, remote, given=text, timeout_s=SEND_S)
    if answer.code != 0:
        raise RaybenchError(f"{place} could not be written on {host.address}: {answer.last_error}")


def run(host: Host, remote: str, *, given: str = "", timeout_s: float) -> Answer:
    """Run a command there with `given` as its standard input. Never raises for what happens there: see the answer."""
    try:
        done = subprocess.run(
            host.command(remote), input=given, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return Answer(255, "", f"no answer within {timeout_s:g} s")
    except FileNotFoundError:
        raise RaybenchError("no ssh here; install an SSH client (Debian: apt-get install openssh-client)") from None
    return Answer(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def tunnel(host: Host, port: int) -> Iterator[int]:
    """A port of this machine's loopback that leads to `port` of the host's loopback, as long as this is entered.

    Raises RaybenchError where the host cannot be reached.
    """
    here = _free_port()
    command = host.command("", "-N", "-o", "ExitOnForwardFailure=yes", "-L", f"127.0.0.1:{here}:127.0.0.1:{port}")
    try:
        # In a session of its own: Ctrl-C is for us, who end it in order.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise RaybenchError("no ssh here; install an SSH client (Debian: apt-get install openssh-client)") from None
    try:
        _await(process, here, host)
        yield here
    finally:
        process.terminate()
        process.communicate()


def _await(process: subprocess.Popen[str], port: int, host: Host) -> None:
    deadline = time.monotonic() + TUNNEL_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            assert process.stderr is not None
            answer = Answer(process.returncode, "", process.stderr.read())
            raise RaybenchError(f"no tunnel to {host.user}@{host.address}: {answer.last_error}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise RaybenchError(f"no tunnel to {host.user}@{host.address} within {TUNNEL_S:g} s")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
