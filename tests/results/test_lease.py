"""One driver a sweep on S3, shown with real processes against a real server: two at once, killed, asleep, elsewhere."""

from __future__ import annotations

import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psutil
import pytest

from raybench.errors import ResultsError
from raybench.results.lease import Lease
from raybench.results.lock import SweepLock
from raybench.results.storage import entries, write_atomically

if TYPE_CHECKING:
    from conftest import Servers, Start  # type: ignore[import-not-found]
    from upath import UPath

RENEW_S, EXPIRES_S = 0.3, 2.0

DRIVER = """
import select, sys
from raybench.errors import ResultsError
from raybench.results.lease import Lease
from raybench.results.storage import folder_at

lease = Lease(folder_at(sys.argv[1]), renew_s=float(sys.argv[2]), expires_s=float(sys.argv[3]))
print("ready", flush=True)
sys.stdin.readline()
try:
    lease.acquire()
    print("held", flush=True)
    while not select.select([sys.stdin], [], [], 0.05)[0]:
        lease.check()
    lease.release()
    print("released", flush=True)
except ResultsError as error:
    print(error, flush=True)
"""
ELSEWHERE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
"""A process table of its own, as another host has."""

pytestmark = pytest.mark.scenario(16, 19)


def lease(folder: UPath) -> Lease:
    return Lease(folder, RENEW_S, EXPIRES_S)


def test_it_is_held_given_back_and_held_again(s3: UPath) -> None:
    for _ in range(2):
        with SweepLock(s3) as lock:
            lock.check()
            told = f"process {os.getpid()} on host {os.uname().nodename} since 20"
            with pytest.raises(ResultsError, match=told), SweepLock(s3):
                pass
    assert len(entries(s3 / ".lease")) == 1, "one note stays"


def begin(driver: subprocess.Popen[str]) -> str:
    """Let a driver that is ready ask for the lease; what it says."""
    assert driver.stdin is not None
    assert driver.stdout is not None
    driver.stdin.write("go\n")
    driver.stdin.flush()
    return driver.stdout.readline()


@pytest.fixture
def elsewhere(s3: UPath, start: Start) -> subprocess.Popen[str]:
    """A driver that holds the lease on another machine, as far as anybody can tell."""
    driver: subprocess.Popen[str] = start(DRIVER, s3, RENEW_S, EXPIRES_S, wrapper=ELSEWHERE)
    assert driver.stdout is not None
    if driver.stdout.readline() != "ready\n":
        pytest.skip("no right to make a process table of its own here")
    assert begin(driver) == "held\n"
    return driver


def test_a_killed_holder_of_this_machine_is_followed_at_once(s3: UPath, start: Start) -> None:
    driver = start(DRIVER, s3, RENEW_S, 3600)
    assert driver.stdout.readline() == "ready\n"
    assert begin(driver) == "held\n"
    with pytest.raises(ResultsError, match=f"is being run by process {driver.pid} on host"):
        Lease(s3, RENEW_S, 3600).acquire()
    driver.kill()
    begun = time.monotonic()
    mine = Lease(s3, RENEW_S, 3600)  # before anybody reaped it
    mine.acquire()
    assert time.monotonic() - begun < 5
    mine.release()


def test_a_holder_elsewhere_is_refused_to_others_and_followed_when_it_stands_still(
    s3: UPath, elsewhere: subprocess.Popen[str]
) -> None:
    begun = time.monotonic()
    with pytest.raises(ResultsError, match="is being run by process"):
        lease(s3).acquire()
    assert time.monotonic() - begun < EXPIRES_S, "refused as soon as it was seen to renew"
    elsewhere.kill()
    begun = time.monotonic()
    mine = lease(s3)
    mine.acquire()
    assert EXPIRES_S - RENEW_S < time.monotonic() - begun < EXPIRES_S + 5
    mine.release()


@pytest.mark.slow
def test_a_holder_that_slept_through_a_takeover_finds_out_and_changes_nothing(
    s3: UPath, elsewhere: subprocess.Popen[str]
) -> None:
    (asleep,) = psutil.Process(elsewhere.pid).children()
    asleep.suspend()
    mine = lease(s3)
    mine.acquire()
    time.sleep(3 * RENEW_S)  # so that the number it would take next has come and gone
    asleep.resume()
    assert elsewhere.stdout is not None
    assert "is lost" in elsewhere.stdout.readline()
    time.sleep(2 * RENEW_S)
    mine.check()
    mine.release()


@pytest.mark.slow
def test_of_many_who_start_at_once_one_gets_it(s3: UPath, start: Start) -> None:
    drivers = [start(DRIVER, s3, RENEW_S, EXPIRES_S) for _ in range(3)]
    assert [driver.stdout.readline() for driver in drivers] == ["ready\n"] * 3
    with ThreadPoolExecutor() as together:
        said = list(together.map(begin, drivers))
    (holder,) = [driver.pid for driver, words in zip(drivers, said, strict=True) if words == "held\n"]
    assert sum(f"process {holder} " in words for words in said) == 2, said


@pytest.mark.slow
def test_a_storage_that_does_not_answer_costs_the_lease_in_time(servers: Servers) -> None:
    servers.use(servers.start())
    folder = servers.folder("bucket")
    folder.fs.mkdir("bucket")
    mine = lease(folder)
    mine.acquire()
    time.sleep(2 * RENEW_S)
    mine.check()
    server = psutil.Process(servers.processes[-1].pid)
    server.suspend()
    time.sleep(EXPIRES_S + RENEW_S)
    with pytest.raises(ResultsError, match=f"could not be renewed for {EXPIRES_S:g} s"):
        mine.check()
    begun = time.monotonic()
    mine.release()
    assert time.monotonic() - begun < 2
    server.resume()


def test_a_note_that_cannot_be_read_is_watched_like_any_other(s3: UPath) -> None:
    write_atomically(s3 / ".lease" / "000000000007.json", b"{")
    begun = time.monotonic()
    mine = lease(s3)
    mine.acquire()
    assert time.monotonic() - begun > EXPIRES_S - RENEW_S
    mine.release()
    assert len(entries(s3 / ".lease")) == 1
