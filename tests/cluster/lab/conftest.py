"""Three hosts and a laptop on one Linux machine, for a real `ray up` without a cloud.

Each is a set of namespaces of its own (processes, mounts, names, and for hosts the network) with a disk of its own over
that of this machine, a user and, on hosts, an SSH server. All lie in the namespaces of a rack, apart from those of this
machine: nothing that happens inside, `ray stop` for one, reaches a process outside, and all of it ends with the rack,
which ends with the process that made it. No registry can be reached from inside: a host begins with the packages of
this clone's .venv, mounted copy-on-write where its own is to be.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

HERE = Path(__file__).parent
CLONE = HERE.parents[2]
HOME, USER = Path("/home/raybench"), 2001
HOSTS = {"host1": "10.77.0.11", "host2": "10.77.0.12", "host3": "10.77.0.13"}
LAPTOP = "laptop"
PROGRAMS = {"ip": "iproute2", "sshd": "openssh-server", "ssh": "openssh-client", "rsync": "rsync"}
"""What is needed beside util-linux, and the Debian package it comes in."""
TIED = ("setpriv", "--pdeathsig", "KILL")
OWN = ("unshare", "--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child")


def lacking() -> str | None:
    """Why no lab can be built here; none where one can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "the lab of hosts needs Linux and root: sudo make test-cluster"
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    absent = [package for program, package in PROGRAMS.items() if shutil.which(program, path=path) is None]
    if absent:
        return f"the lab of hosts needs {', '.join(absent)}: apt-get install {' '.join(absent)}"
    tried = subprocess.run([*OWN, "--net", "true"], capture_output=True, text=True, check=False)
    return f"no namespaces can be made here: {tried.stderr.strip()}" if tried.returncode else None


class Lab:
    """The rack, and what is done with the machines in it."""

    clone, laptop, hosts = CLONE, LAPTOP, HOSTS
    home = HOME

    def __init__(self, folder: Path, venv: str) -> None:
        """`folder`: on a disk, its path short (it may hold sockets), not below /tmp, which each machine has its own of.
        `venv`: the packages of the lock, as `layers` names them."""
        self.folder = folder
        self.venv = venv
        self.shared = folder / "shared"
        """What every host has as /mnt/raybench."""
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._first: dict[str, psutil.Process] = {}
        """The first process of each machine, and of the rack."""

    def __enter__(self) -> Lab:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _build(self) -> None:
        for name in ("results", "data"):
            (self.shared / name).mkdir(parents=True)
            os.chown(self.shared / name, USER, USER)
        os.chown(self.shared, USER, USER)
        key = self.folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        (self.folder / "token").write_text(secrets.token_hex(32))
        rack: list[str | Path] = [HERE / "rack.sh", self.folder, str(USER), " ".join([LAPTOP, *HOSTS])]
        self._start("rack", [*OWN, "--net", "--mount-proc", *rack])
        wait_until(lambda: (self.folder / "rack-is-up").exists(), "the rack", 30)
        for name in (LAPTOP, *HOSTS):
            self.boot(name)

    def boot(self, name: str) -> None:
        """Start a machine with the disk it has."""
        script: list[str | Path] = [HERE / "machine.sh", self.folder, name, CLONE, self.venv, sys.executable]
        own: Sequence[str | Path] = [*OWN, *script] if name == LAPTOP else [*OWN, "--net", *script, HOSTS[name]]
        self._start(name, ["nsenter", "--all", "--target", str(self._first["rack"].pid), *own])
        if name != LAPTOP:
            # A cable from the bridge; its far end becomes the host's eth0.
            self._in("rack", f"ip link add {name} type veth peer name eth0 netns {self._inner(name)}")
            self._in("rack", f"ip link set {name} master br0 up")
        wait_until(lambda: self._in(name, "test -e /run/up", check=False).returncode == 0, name, 60)

    def _start(self, name: str, command: Sequence[str | Path]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            started = subprocess.Popen([*TIED, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._running[name] = started
        wait_until(lambda: self._find(name, started.pid), name, 30)

    def _find(self, name: str, pid: int) -> bool:
        """Its first process is the innermost of nsenter, unshare and the script."""
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(pid).children(recursive=True):
                if process.name() in ("rack.sh", "machine.sh"):
                    self._first[name] = process
                    return True
        return False

    def _inner(self, name: str) -> int:
        """The id of a machine's first process as the rack sees it."""
        status = Path(f"/proc/{self._first[name].pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("NSpid:")]
        return int(line.split()[2])

    def _in(self, name: str, command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command on a machine as root."""
        return subprocess.run(
            ["nsenter", "--all", "--target", str(self._first[name].pid), "bash", "-c", command],
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
            capture_output=True,
            text=True,
            check=check,
        )

    # -- what a person does --------------------------------------------------------------------------------------------

    def command(self, name: str, command: str) -> list[str]:
        """The command line that runs a command on a machine as its user, in the clone where that is the laptop."""
        inside = CLONE if name == LAPTOP else HOME
        variables = [f"HOME={HOME}", "USER=raybench", "LANG=C.UTF-8", f"PYTHONPATH={CLONE}" if name == LAPTOP else "A="]
        return [
            *(*TIED, "nsenter", "--all", "--target", str(self._first[name].pid)),
            *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"),
            *("env", "-i", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", *variables),
            *("bash", "-c", f"cd {inside}; {command}"),
        ]

    def run(self, name: str, command: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command on a machine as its user; standard error is part of its output."""
        return subprocess.run(
            self.command(name, command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    # -- what happens to machines --------------------------------------------------------------------------------------

    def kill(self, name: str) -> None:
        """A host loses its power: every process on it is gone at once, its network too; its disk stays."""
        self._first[name].kill()
        self._running.pop(name).wait()

    def cut_off(self, name: str) -> None:
        """The cable of a host is pulled: it runs on, and nobody hears it."""
        self._in("rack", f"ip link set {name} down")

    def plug_in(self, name: str) -> None:
        """… and put back."""
        self._in("rack", f"ip link set {name} up")

    def processes(self, name: str) -> list[str]:
        """The command lines of what runs on a machine beside its first processes; SSH's servers left out."""
        inside = Path(f"/proc/{self._first[name].pid}/ns/pid").readlink()
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if Path(f"/proc/{process.pid}/ns/pid").readlink() == inside:
                    line = " ".join(process.cmdline())
                    if not line.startswith(("/bin/bash /", "bash /", "sleep infinity", "sshd: ", "/usr/sbin/sshd")):
                        found.append(line)
        return found

    def close(self) -> None:
        """End everything, by id, and wait for it."""
        with contextlib.suppress(KeyError, psutil.Error):
            self._first["rack"].kill()
            self._running["rack"].wait(60)  # unshare, which ends when all in the rack is gone
        for started in self._running.values():
            started.kill()
            started.wait()


def wait_until(done: object, what: str, seconds: float, every_s: float = 0.1) -> None:
    """Call `done` until it says yes. Raises TimeoutError when it has not within so many seconds."""
    assert callable(done)
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(every_s)


def layer(folder: Path) -> None:
    """Make what hosts have over the packages of this clone's .venv."""
    about: list[str | Path] = [HERE / "layer.sh", Path(sys.prefix).resolve(), folder, HOME, str(USER)]
    command: list[str | Path] = ["unshare", "--mount", *about]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def layers(folder: Path) -> str:
    """The packages of a host as overlayfs takes them: what `layer` made, over this clone's .venv."""
    return f"{folder / 'upper'}:{Path(sys.prefix).resolve()}"


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder for labs, on a disk, removed in the end."""
    folder = Path(tempfile.mkdtemp(prefix="lab-", dir="/var/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder for labs, with the packages of their hosts in `layer`. Skips where no lab can be built."""
    if why := lacking():
        pytest.skip(why)
    with workplace() as folder:
        layer(folder / "layer")
        yield folder


@pytest.fixture
def lab(place: Path) -> Iterator[Lab]:
    """Three hosts and a laptop, up."""
    folder = Path(tempfile.mkdtemp(prefix="rack-", dir=place))
    folder.chmod(0o755)
    with Lab(folder, layers(place / "layer")) as built:
        yield built


if __name__ == "__main__":
    # By hand: `sudo .venv/bin/python tests/cluster/lab/conftest.py` leaves you on the laptop, with the hosts up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with workplace() as made:
        layer(made / "layer")
        (made / "rack").mkdir(mode=0o755)
        with Lab(made / "rack", layers(made / "layer")) as by_hand:
            print(f"hosts {', '.join(HOSTS.values())}; shared folder {by_hand.shared}; exit with Ctrl-D", flush=True)
            subprocess.run(by_hand.command(LAPTOP, "bash -i"), check=False)
