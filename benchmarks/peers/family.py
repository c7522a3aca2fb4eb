"""A driver and every process it started: watched while it lives, killed one by one, and none of them left behind."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType

import psutil

LOOK_EVERY_S = 0.2
ORPHAN_AFTER_S = 30.0
"""A process that outlives its driver by more than this is an orphan."""


class Family:
    """One run of a command, in a process of its own, with all its descendants."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path, log: Path) -> None:
        self.started = time.monotonic()
        # A session of its own: a Ctrl-C at the terminal reaches this script, which then ends the run by process id.
        with log.open("ab") as out:
            self.driver = subprocess.Popen(
                command, env=environment, cwd=folder, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        self.members: dict[int, psutil.Process] = {self.driver.pid: psutil.Process(self.driver.pid)}
        self.ended: float | None = None
        """When the driver was seen to be gone, on the monotonic clock."""
        self.gone: float | None = None
        """Seconds from then until the last of its processes was gone, too."""
        self.orphans = 0
        """Processes that were still there ORPHAN_AFTER_S after the driver; they are ended then."""

    def look(self) -> None:
        """Remember who was started since; notice the end of the driver, of the others, and of patience."""
        if self.gone is not None:
            return
        self._remember()
        if self.ended is None and self.driver.poll() is not None:
            self.ended = time.monotonic()
        if self.ended is None:
            return
        left, waited = self.alive(), time.monotonic() - self.ended
        if not left:
            self.gone = waited
        elif waited > ORPHAN_AFTER_S:
            self.orphans = len(left)
            end(left)
            self.gone = waited

    def _remember(self) -> None:
        # By parent, over and over: those of a dead driver have another parent by now, but their own children are ours.
        parents = {pid for pid, process in self.members.items() if process.is_running()}
        parent_of = {process.pid: process for process in psutil.process_iter(["ppid"])}
        found = True
        while found:
            found = False
            for pid, process in parent_of.items():
                if pid not in parents and process.info["ppid"] in parents:
                    self.members[pid] = process
                    parents.add(pid)
                    found = True

    def alive(self) -> list[psutil.Process]:
        """Members that still run; a dead process nobody has waited for does not."""
        return [process for process in self.members.values() if _runs(process)]

    @property
    def running(self) -> bool:
        """Whether the driver runs."""
        return self.driver.poll() is None

    @property
    def seconds(self) -> float:
        """From the start of the driver to its end, or until now."""
        return (self.ended or time.monotonic()) - self.started

    def victims(self, kind: str, worker: Iterable[str]) -> list[psutil.Process]:
        """The driver, the raylet, or the processes whose command line has a word containing one of `worker`."""
        if kind == "driver":
            return [self.members[self.driver.pid]] if self.running else []
        found = []
        for process in self.alive():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                raylet = bool(words) and words[0].endswith("/raylet/raylet")
                trains = any(mark in word for word in words for mark in worker)
                if process.pid != self.driver.pid and (raylet if kind == "raylet" else trains and not raylet):
                    found.append(process)
        return found

    def kill_one(self, kind: str, worker: Iterable[str], chance: random.Random) -> bool:
        """kill -9 of one of them; whether there was one."""
        self._remember()
        found = sorted(self.victims(kind, worker), key=lambda process: process.pid)
        if not found:
            return False
        with contextlib.suppress(psutil.Error):
            chance.choice(found).kill()
        return True

    def close(self) -> None:
        """End whatever still runs, twice, since the first to go may have been starting others."""
        self._remember()
        # By its own object: psutil would take the exit code away from it.
        self.driver.kill()
        self.driver.wait()
        for _ in range(2):
            self._remember()
            end(self.alive())
        if self.ended is None:
            self.ended = time.monotonic()
        if self.gone is None:
            self.gone = time.monotonic() - self.ended


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def end(processes: list[psutil.Process]) -> None:
    """Kill processes by id, and see them gone."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


class Asked:
    """Remembers a signal until somebody waits, so that nothing is left half begun or half ended."""

    number: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Signal handler."""
        self.number = number

    def check(self) -> None:
        """Raises SystemExit when there was one."""
        if self.number is not None:
            raise SystemExit(128 + self.number)


asked = Asked()


def wait(families: Iterable[Family], until: Callable[[], bool]) -> None:
    """Look at the families until something holds. Raises SystemExit when this script was asked to end."""
    while True:
        for family in families:
            family.look()
        asked.check()
        if until():
            return
        time.sleep(LOOK_EVERY_S)


def environment(scratch: Path, **variables: str) -> dict[str, str]:
    """This process's environment with nothing of Ray's, Tune's or raybench's in it, and Ray's files in `scratch`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "RAYBENCH_", "TUNE_"))}
    ray = {"RAY_TMPDIR": str(scratch / "ray"), "RAY_USAGE_STATS_ENABLED": "0", "NO_COLOR": "1"}
    return kept | ray | variables
