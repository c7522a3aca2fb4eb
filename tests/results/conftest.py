"""Rows to store, and real places to store them: small and read-only disks, an S3 server, a network file system."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import s3fs

from raybench.results.schema import EpochRow, Status, TrialRow
from raybench.results.storage import Folder, folder_at

if TYPE_CHECKING:
    from upath import UPath

REPOSITORY = Path(__file__).parents[2]


class Rows:
    """Makes rows, and lists the files they are in."""

    def trial(
        self, trial_id: str = "a", status: Status = Status.COMPLETE, attempt: int = 1, **further: Any
    ) -> TrialRow:
        """A trial's row."""
        content: dict[str, Any] = {"sweep": "s", "preset": "quick", "cell": "c", "seed": 0}
        content |= {"config": {"dataset.train_size": 500}, **further}
        return TrialRow(trial_id=trial_id, status=status, attempt=attempt, **content)

    def epochs(self, trial_id: str = "a", attempt: int = 1, count: int = 2, **further: Any) -> list[EpochRow]:
        """The first epochs of a trial."""
        return [EpochRow(trial_id=trial_id, attempt=attempt, epoch=1 + done, **further) for done in range(count)]

    def files(self, folder: Path) -> list[str]:
        """The files below a folder that are not hidden."""
        found = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
        return sorted(str(path.relative_to(folder)) for path in found)


@pytest.fixture(scope="session")
def rows() -> Rows:
    """The maker of rows."""
    return Rows()


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a script in a process of its own, killed at the latest when the test ends; arguments are sys.argv[1:]."""
    started = []

    def process(script: str, *arguments: object, wrapper: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        command = [*wrapper, sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
        started.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
        )
        return started[-1]

    yield process
    for each in started:
        each.kill()
        each.communicate()


# --- disks ---


@pytest.fixture
def small_disk(disk: Callable[[str], Path]) -> Path:
    """A file system of 512 KiB."""
    return disk("size=512k")


@pytest.fixture
def read_only(disk: Callable[[str], Path]) -> Path:
    """A folder on a file system that is mounted read-only: root may not write there either."""
    return disk("ro,size=64k")


# --- S3 ---

SERVER = """\
import sys
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print("http://%s:%d" % server.get_host_and_port(), flush=True)
sys.stdin.read()  # ends with whoever started it
"""
SECRET = "raybench-secret-of-the-tests"


class Servers:
    """S3 servers of moto, each a process of its own on the loopback interface."""

    secret = SECRET

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, **variables: str) -> str:
        """A server's address."""
        with (self.logs / f"server-{len(self.processes)}.txt").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", SERVER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | variables,
            )
        self.processes.append(process)
        assert process.stdout is not None
        return process.stdout.readline().strip()

    def use(self, address: str) -> None:
        """Name a server to this process and its children as a user would, by the environment."""
        s3fs.S3FileSystem.clear_instance_cache()  # a process has one endpoint, but for tests
        os.environ |= {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "raybench-tests",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def folder(self, bucket: str) -> UPath:
        """A sweep's folder in a bucket."""
        folder = folder_at(f"s3://{bucket}/results/a [sweep]*")
        assert not isinstance(folder, Path)
        return folder


@pytest.fixture(scope="session")
def all_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Those of the whole session."""
    servers = Servers(tmp_path_factory.mktemp("s3"))
    yield servers
    for process in servers.processes:
        process.communicate()


@pytest.fixture(scope="session")
def s3_address(all_servers: Servers) -> str:
    """One for the whole session."""
    return all_servers.start()


@pytest.fixture
def servers(all_servers: Servers) -> Iterator[Servers]:
    """Those of the session, with an environment that is put back."""
    before = dict(os.environ)
    yield all_servers
    os.environ.clear()
    os.environ.update(before)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def s3(servers: Servers, s3_address: str) -> UPath:
    """A sweep's folder in a bucket of its own."""
    servers.use(s3_address)
    folder = servers.folder(bucket := f"bucket-{secrets.token_hex(4)}")
    folder.fs.mkdir(bucket)
    return folder


# --- a network file system ---


def free_port() -> int:
    """A TCP port that nobody uses yet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def network_mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on a network file system: that of RAYBENCH_TEST_NFS, else one served by sshd on the loopback interface.

    Both processes are told to end when this one does, however it does; sshfs then takes its mount away.
    """
    if named := os.environ.get("RAYBENCH_TEST_NFS"):
        folder = Path(named) / f"raybench-{secrets.token_hex(4)}"
        folder.mkdir()
        yield folder
        shutil.rmtree(folder)
        return
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    lacking = [name for name in ("sshfs", "ssh-keygen", "setpriv", "unshare") if not shutil.which(name)]
    if lacking or not sshd or os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip(
            "no network file system: set RAYBENCH_TEST_NFS to a mounted one (or run as root with sshd and sshfs)"
        )
    base = tmp_path_factory.mktemp("network")
    served, mounted, port = base / "served", base / "mounted", free_port()
    served.mkdir()
    mounted.mkdir()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", base / name], check=True)
    server = f"{sshd} -D -e -f /dev/null -h {base}/host -p {port} -o ListenAddress=127.0.0.1 -o PidFile=none"
    server += f" -o AuthorizedKeysFile={base}/user.pub -o StrictModes=no -o UsePAM=no -o Subsystem='sftp internal-sftp'"
    # sshd wants a folder in /run: one of its own, in a mount namespace of its own.
    inside = f"mount -t tmpfs tmpfs /run && mkdir /run/sshd && exec {server}"
    ssh = f"ssh -p {port} -i {base}/user -o UserKnownHostsFile={base}/known -o StrictHostKeyChecking=no"
    ends_with_us = ["setpriv", "--pdeathsig", "TERM"]
    with (base / "log.txt").open("w") as log:
        output: dict[str, Any] = {"stdout": log, "stderr": log}
        sshd_process = subprocess.Popen([*ends_with_us, "unshare", "-m", "sh", "-c", inside], **output)
        wait_for(lambda: socket.create_connection(("127.0.0.1", port), 1).close(), base / "log.txt")
        command = ["sshfs", "-f", f"root@127.0.0.1:{served}", str(mounted), "-o", f"ssh_command={ssh}"]
        sshfs_process = subprocess.Popen([*ends_with_us, *command], **output)
        try:
            wait_for(lambda: mounted.joinpath("up").write_text("up") and (served / "up").read_text(), base / "log.txt")
            yield mounted
        finally:
            for process in (sshfs_process, sshd_process):
                process.terminate()
                process.wait(10)
            assert not mounted.is_mount()


def wait_for(act: Callable[[], object], log: Path) -> None:
    """Until `act` goes well; a failure with what the log says after 10 s."""
    deadline = time.monotonic() + 10
    while True:
        try:
            act()
            return
        except OSError:
            if time.monotonic() > deadline:
                pytest.fail(f"the network file system does not come up: {log.read_text()}")
            time.sleep(0.05)


@pytest.fixture
def network_folder(network_mount: Path) -> Path:
    """A folder of its own for each test."""
    folder = network_mount / secrets.token_hex(4)
    folder.mkdir()
    return folder


@pytest.fixture(params=["s3", "network"])
def remote(request: pytest.FixtureRequest) -> Folder:
    """A sweep's folder on S3, and on a network file system."""
    folder: Folder = request.getfixturevalue("s3" if request.param == "s3" else "network_folder")
    return folder
