"""What a trial may take: time, memory, and how long a step may last."""

from __future__ import annotations

import math
import time

from raybench.errors import RaybenchError
from raybench.training.device import resident_mib

LOOK_EVERY_S = 0.1
"""Between two looks at the memory, each of which costs some 30 microseconds."""
SETUP_S = 60.0
"""What reading data and making models may take beside a trial's time; a worker's first trial also imports much."""


class Limits:
    """The limits of one attempt of a trial. Looked at in every step, and by a watchdog."""

    def __init__(
        self, time_s: float | None = None, stall_s: float | None = None, memory_mib: float | None = None
    ) -> None:
        """Wall time (s), time without a step (s) and resident memory of the process (MiB); none is no limit."""
        self.time_s = time_s
        self.stall_s = stall_s
        self.memory_mib = memory_mib
        self._deadline = math.inf
        self.begin(-SETUP_S)
        self._look_at = 0.0
        self._stepped: float | None = None

    def begin(self, spent_s: float) -> None:
        """Training begins now; `spent_s` went into the epochs that it goes on from."""
        if self.time_s is not None:
            self._deadline = time.monotonic() + self.time_s - spent_s

    def check(self) -> None:
        """A step of training or evaluation goes on. Raises RaybenchError with the limit that is exceeded."""
        now = self._stepped = time.monotonic()
        if now > self._deadline:
            raise RaybenchError(self._timeout())
        if self.memory_mib is not None and now >= self._look_at:
            self._look_at = now + LOOK_EVERY_S
            if resident_mib() > self.memory_mib:
                raise RaybenchError(self._memory())

    def rest(self) -> None:
        """No step is under way: until the next one nothing can stall."""
        self._stepped = None

    def exceeded(self) -> str | None:
        """The limit that is exceeded, in words. Unlike `check` this also tells a stall, which no step can do itself."""
        if time.monotonic() > self._deadline:
            return self._timeout()
        if self.memory_mib is not None and resident_mib() > self.memory_mib:
            return self._memory()
        if self._stall_left() < 0:
            return f"stall: no step ended within {self.stall_s:g} s"
        return None

    def left_s(self) -> float:
        """Seconds before which no limit of time can be exceeded, at least 0; infinite without one."""
        return max(0.0, min(self._deadline - time.monotonic(), self._stall_left()))

    def _stall_left(self) -> float:
        if self.stall_s is None:
            return math.inf
        stepped, now = self._stepped, time.monotonic()
        return self.stall_s + (now if stepped is None else stepped) - now

    def _timeout(self) -> str:
        return f"timeout: longer than {self.time_s:g} s"

    def _memory(self) -> str:
        return f"memory: more than {self.memory_mib:g} MiB"
