"""A thread that ends the driver where its main thread no longer can.

Ray's calls wait inside C++: with a dead raylet they wait for ever, with a lost head until Ray aborts the process a
minute later, and neither leaves room for last words. So a thread looks whether Ray still answers and whether a signal
was heeded in time, and where not, says so, ends our own processes by id, and exits. Nothing is lost by that: rows and
checkpoints are on the disk.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol

from raybench.cluster.reaper import end_run

LastWords = Callable[[str], int]
"""Told why the driver ends, says so to the user, and returns the exit code."""

LOOK_EVERY_S = 1.0
HEED_WITHIN_S = 8.0
"""A signal must be heeded within 10 s; measured at 2 s on a quiet machine."""
END_WITHIN_S = 40.0
"""Ray gives its processes time of their own; with a dead head it would wait for ever."""
LOCAL_SILENCE_S = 3.0
"""On one machine a process that listens answers at once, and one that is gone never does again."""
REMOTE_SILENCE_S = 45.0
"""A network may pause; Ray itself gives a lost head up after 60 s, and then aborts without a word."""


class Signalled(Protocol):
    """Who remembers a signal."""

    number: int | None
    at: float | None
    """When it came, on the monotonic clock."""


class Guard:
    """Watches Ray and the signals while the main thread is inside Ray."""

    def __init__(self, stop: Signalled, last_words: LastWords, local: bool) -> None:
        self.stop = stop
        self.last_words = last_words
        self.local = local
        self.addresses: Sequence[tuple[str, int]] = ()
        """Where Ray's head and this machine's raylet listen; nothing before they do, and at the end."""
        self._ending: float | None = None
        """Since when Ray is being ended."""
        self._answered: dict[tuple[str, int], float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="guard", daemon=True)

    def __enter__(self) -> Guard:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()

    def watch(self, addresses: Sequence[tuple[str, int]]) -> None:
        """Ray listens at these addresses (host, port) from now on; none while it is being ended, or has not begun."""
        self._answered = {}
        self._ending = None if addresses else time.monotonic()
        self.addresses = addresses

    def _watch(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            reason = self._unheeded() or self._silent()
            if reason and not self._over.is_set():
                self._end(reason)

    def _unheeded(self) -> str | None:
        now, at, ending = time.monotonic(), self.stop.at, self._ending
        if (at is not None and now - at > HEED_WITHIN_S) or (ending is not None and now - ending > END_WITHIN_S):
            return "Ray did not come to an end"
        return None

    def _silent(self) -> str | None:
        patience = LOCAL_SILENCE_S if self.local else REMOTE_SILENCE_S
        for address in self.addresses:
            now = time.monotonic()
            if answers(address, timeout_s=2.0):
                self._answered[address] = now
            elif now - self._answered.setdefault(address, now) > patience and address in self.addresses:
                host, port = address
                where = "on this machine" if self.local else f"at {host}:{port}"
                return f"Ray's process {where} is gone" if self.local else f"Ray {where} no longer answers"
        return None

    def _end(self, reason: str) -> None:
        code = 1
        try:
            code = self.last_words(reason)
        finally:
            end_run()
            os._exit(code)


def answers(address: tuple[str, int], timeout_s: float) -> bool:
    """Whether something listens at (host, port)."""
    try:
        with socket.create_connection(address, timeout=timeout_s):
            return True
    except OSError:
        return False
