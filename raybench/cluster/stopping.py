"""What ends a sweep before its end: a signal, the time budget, a lock that was lost."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

from raybench.cluster.reaper import end_run


class Stopped(BaseException):
    """A signal or the time budget ended the sweep; not an Exception, so that nothing on the way swallows it."""

    def __init__(self, number: int | None) -> None:
        self.number = number
        super().__init__(number)


class Stop:
    """Remembers the first signal; the second ends everything at once."""

    def __init__(
        self, time_budget_s: float | None, still_ours: Callable[[], None] = lambda: None, local: bool = True
    ) -> None:
        """`still_ours` raises RaybenchError when the sweep's lock was lost. `local`: Ray runs on this machine alone."""
        self.still_ours = still_ours
        self.local = local
        self.number: int | None = None
        self.at: float | None = None
        """When the signal came, on the monotonic clock."""
        self._ours: list[signal.Signals] = []
        self.deadline = time.monotonic() + time_budget_s if time_budget_s is not None else None

    def __call__(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Signal handler."""
        if self.number is not None:
            end_run()
            os._exit(128 + number)
        self.number, self.at = number, time.monotonic()

    def check(self) -> None:
        """Raise Stopped if it is time. Called from the driver's loop: an exception in a handler is lost inside Ray."""
        if self.number is not None:
            raise Stopped(self.number)
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise Stopped(None)
        self.still_ours()

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Handle SIGINT, SIGTERM and SIGHUP inside, but for those that whoever started us had us ignore (nohup)."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.getsignal(number) for number in numbers}
        self._ours = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
        self.take_over()
        try:
            yield
        finally:
            for number in self._ours:
                signal.signal(number, before[number])

    def take_over(self) -> None:
        """Put our handlers back where somebody has put others, as Ray does when it starts."""
        for number in self._ours:
            signal.signal(number, self)
