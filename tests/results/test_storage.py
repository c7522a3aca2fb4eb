"""Where results may lie: addresses, what is told of places that cannot be used, and how quickly."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING

import pytest

from raybench.errors import ResultsError
from raybench.results.storage import (
    check_writable,
    create,
    entries,
    folder_at,
    local_copy,
    read,
    read_range,
    read_ranges,
    remove,
    stamp,
    write_atomically,
)
from raybench.results.store import Store

if TYPE_CHECKING:
    from conftest import Servers  # type: ignore[import-not-found]
    from upath import UPath

WITHIN_S = 15.0
"""What a person may wait before being told; 0.1 to 11 s were measured."""


def test_paths_and_addresses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert folder_at("results") == tmp_path / "results"
    assert folder_at("~/results") == Path("/home/me/results")
    folder = folder_at("s3://bucket/some prefix/a[b]*?") / "sweep"
    assert not isinstance(folder, Path)
    assert str(folder) == "s3://bucket/some prefix/a[b]*?/sweep"
    assert folder_at(str(folder)) == folder, "it goes through text to other processes"


@pytest.mark.scenario(18)
@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("s3://", "a bucket is missing; give s3://BUCKET/PREFIX"),
        ("s3:///prefix", "a bucket is missing"),
        ("https://bucket/prefix", "give a folder, or an address of s3://"),
        ("memory://results", "give a folder, or an address of s3://"),
        ("gs://bucket/x", "pip install .* gcsfs"),
        ("s3://key:hidden@bucket/prefix", "credentials do not belong in the address"),
    ],
)
def test_addresses_that_cannot_hold_results(address: str, told: str) -> None:
    with pytest.raises(ResultsError, match=told) as raised:
        folder_at(address)
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize("remote", [False, True])
def test_ranges_of_a_file(request: pytest.FixtureRequest, tmp_path: Path, remote: bool) -> None:
    folder = request.getfixturevalue("s3") if remote else tmp_path
    content = bytes(range(1, 256)) * 40
    write_atomically(folder / "x", content)
    ranges = [(9000, 9010), (0, 4), (2, 8), (8, 10), (500, 500), (len(content) - 3, len(content))]
    view = read_ranges(folder / "x", len(content), ranges)
    assert len(view) == len(content)
    for start, end in [(0, 10), (9000, 9010), (len(content) - 3, len(content))]:
        assert view[start:end] == content[start:end]
    assert not any(view[10:9000])
    assert not any(view[9010:-3])
    assert read_range(folder / "x", 9000, 9010) == content[9000:9010]
    with pytest.raises(FileNotFoundError):
        read_ranges(folder / "none", 10, [(0, 10)])
    with pytest.raises(FileNotFoundError):
        read_range(folder / "none", 0, 10)


def test_ranges_beyond_the_end_are_zeros(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert bytes(read_ranges(tmp_path / "x", 6, [(1, 6)])) == b"\0bc\0\0\0"


def test_without_the_package_it_says_what_to_install() -> None:
    """In an environment that has everything but s3fs: nothing of it is imported before it is needed."""
    script = (
        "import importlib.util, sys\n"
        "found = importlib.util.find_spec\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('s3fs', 'upath', 'fsspec'): raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "importlib.util.find_spec = lambda name: None if name in ('s3fs', 'upath') else found(name)\n"
        "from raybench.results.storage import folder_at\n"
        "import raybench.results.lock, raybench.results.store, raybench.results.manifest\n"
        "print(folder_at('x').name)\n"
        "folder_at('s3://bucket/x')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.stdout == "x\n"
    assert 'results on s3:// need a package that is not installed: pip install "raybench[s3]"' in done.stderr


def told(folder: UPath) -> str:
    """What a check says of a place, in time."""
    begun = time.monotonic()
    with pytest.raises(ResultsError) as raised:
        Store(folder).check_writable()
    assert time.monotonic() - begun < WITHIN_S
    return str(raised.value)


@pytest.mark.scenario(18, 19)
class TestPlacesThatCannotBeUsed:
    """Found by the check that comes before Ray starts."""

    @pytest.mark.usefixtures("s3")
    def test_no_bucket(self) -> None:
        folder = folder_at("s3://no-such-bucket/results/sweep")
        assert not isinstance(folder, Path)
        assert "there is no bucket of that name" in told(folder)
        assert Store(folder).trials().height == 0
        with pytest.raises(ResultsError, match="no bucket"):
            write_atomically(folder / "x", b"")

    @pytest.mark.usefixtures("s3")
    def test_a_name_no_bucket_can_have(self) -> None:
        folder = folder_at("s3://Not A Bucket/x")
        assert not isinstance(folder, Path)
        assert "Invalid bucket name" in told(folder)

    def test_refused_key(self, servers: Servers) -> None:
        servers.use(servers.start(INITIAL_NO_AUTH_ACTION_COUNT="0"))
        said = told(servers.folder("bucket"))
        assert "The AWS Access Key Id you provided does not exist" in said
        assert "check the credentials (for S3 AWS_ACCESS_KEY_ID" in said
        assert servers.secret not in said

    def test_no_credentials(self, s3: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("HOME", "/nowhere")
        assert "Unable to locate credentials; check the credentials" in told(s3)

    def test_endpoint_that_refuses(self, servers: Servers) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers, and nobody else takes the port
            servers.use(f"http://127.0.0.1:{unused.getsockname()[1]}")
            said = told(servers.folder("bucket"))
        assert "the storage does not answer" in said
        assert "127.0.0.1" not in said, "an endpoint is told by the name of its variable"

    @pytest.mark.slow
    def test_endpoint_that_is_silent(self, servers: Servers) -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            servers.use(f"http://127.0.0.1:{silent.getsockname()[1]}")
            assert "the storage does not answer" in told(servers.folder("bucket"))


@pytest.mark.parametrize("links", [True, False])
def test_create_leaves_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    """But on a file system without hard links, where only a lock can keep two writers apart."""
    if not links:

        def refused(*_: object) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refused)
    path = tmp_path / "new" / "one"
    assert create(path, b"first") is True
    assert create(path, b"second") is not links
    assert path.read_bytes() == (b"first" if links else b"second")
    (tmp_path / "new" / "gone").symlink_to(tmp_path / "nowhere")
    assert create(tmp_path / "new" / "gone", b"") is not links
    assert [*tmp_path.rglob(".*")] == []


def test_objects(s3: UPath) -> None:
    path = s3 / "x" / "one"
    assert stamp(path) is None
    assert entries(s3) == {}
    with pytest.raises(FileNotFoundError):
        read(path)
    write_atomically(path, b"first")
    before = stamp(path)
    write_atomically(path, memoryview(b"other"))
    assert read(path) == b"other"
    assert before != stamp(path) == entries(s3 / "x")["one"]
    assert create(path, b"third") is False
    assert create(s3 / "x" / "two", b"") is True
    assert [*entries(s3 / "x")] == ["one", "two"]
    remove([path, s3 / "none"])
    assert [*entries(s3 / "x")] == ["two"]
    check_writable(s3)
    assert [*entries(s3)] == ["x"]


def test_a_stamp_tells_of_replaced_files_and_passes_over_pipes(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", b"1")
    before = stamp(tmp_path / "a")
    write_atomically(tmp_path / "a", b"2")
    assert stamp(tmp_path / "a") != before
    os.mkfifo(tmp_path / "pipe")
    assert {*entries(tmp_path)} == {"a", "pipe"}


def test_a_home_of_nobody_is_no_place_for_results() -> None:
    with pytest.raises(ResultsError, match="there is no user nobody-of-that-name here"):
        folder_at("~nobody-of-that-name/r")


@pytest.mark.parametrize(
    "how",
    [
        read,
        lambda path: read_range(path, 0, 9),
        lambda path: read_ranges(path, 9, [(0, 9)]),
        lambda path: local_copy(path, path.parent),
    ],
)
def test_a_pipe_or_device_is_not_waited_for(tmp_path: Path, how: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = os.open(tmp_path / "pipe", os.O_RDWR)
    gone = Timer(5, os.close, [writer])  # lets a reader go who waits
    gone.start()
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(OSError, match="a pipe or device, not a file"):
            how(path)
    with pytest.raises(IsADirectoryError):
        how(tmp_path)
    gone.cancel()
    gone.join()
    os.close(writer)
