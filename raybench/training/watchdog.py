"""A thread that ends this process where its main thread cannot: a trial that hangs, or whose driver is gone.

Every step of a trial looks at its limits itself; this is for the step that never ends. What holds the interpreter's
lock, as a loop in C may, keeps this thread waiting too, so a timer of the C library stands behind it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType

from raybench.results.storage import explain
from raybench.training.limits import Limits

LOOK_EVERY_S = 1.0
GRACE_S = 5.0
"""How long a trial has after a limit to see it itself: between two looks of a large model."""
BACKSTOP_S = 15.0
"""When the timer ends the process: after the thread had its grace and time to write."""
PARENT = os.getppid()
"""Who started this process; another one later means that it died."""
PACKAGE = str(Path(__file__).parents[1])

logger = logging.getLogger(__name__)


class Watchdog:
    """Guards the thread that enters it, in a process that may be ended. Safe for many trials in turn."""

    def __init__(
        self, limits: Limits, stack: Path | None = None, last_words: Callable[[str], None] = lambda _: None
    ) -> None:
        """`stack` is where the stack of a hung thread goes; `last_words` is given the reason and settles the trial.

        A stack that cannot be written costs the trial nothing, as with its log.
        """
        self.limits = limits
        self.stack = stack
        self.last_words = last_words
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._guarded = threading.get_ident()
        if self.stack is not None:
            try:
                self.stack.parent.mkdir(parents=True, exist_ok=True)
                # The timer needs an open file: an empty one lies there until the end, or for ever where one is killed.
                _remove_empty(self.stack)
                self._file = self.stack.open("w")
            except OSError as error:
                logger.warning(f"{explain(error, self.stack)}; where a trial hangs is not kept")
                self.stack = None
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        if self.stack is not None:
            with contextlib.suppress(OSError):
                self._file.close()
                self.stack.unlink(missing_ok=True)

    def _watch(self) -> None:
        late_s = 0.0
        while True:
            if os.getppid() != PARENT:
                os._exit(1)
            self._set_timer(self.limits.left_s() + BACKSTOP_S)
            if self._over.wait(LOOK_EVERY_S):
                return
            # Looks are counted, not the clock: a process that was stopped for an hour gets its grace too.
            reason = self.limits.exceeded()
            late_s = late_s + LOOK_EVERY_S if reason else 0.0
            if reason and late_s > GRACE_S:
                self._end(reason)

    def _set_timer(self, seconds: float) -> None:
        if self.stack is not None and seconds < threading.TIMEOUT_MAX:
            faulthandler.dump_traceback_later(seconds, exit=True, file=self._file)
        else:
            faulthandler.cancel_dump_traceback_later()

    def _end(self, reason: str) -> None:
        # Where even the last words hang, on a disk that is gone, the timer ends the process.
        self._set_timer(BACKSTOP_S)
        frame = sys._current_frames().get(self._guarded)
        try:
            if self.stack is not None:
                with contextlib.suppress(OSError):
                    self._file.write(f"{reason}\n\n{''.join(traceback.format_stack(frame))}")
                    self._file.flush()
            self.last_words(f"{reason}; {'at' if reason.startswith('memory') else 'hung at'} {_place(frame)}")
        finally:
            os._exit(1)


def _remove_empty(stack: Path) -> None:
    """Remove the empty files that killed attempts of the same trial left."""
    trial = stack.name.rpartition("-a")[0]
    for path in stack.parent.glob(f"{trial}-a*-stack.txt"):
        with contextlib.suppress(OSError):
            if path.stat().st_size == 0:
                path.unlink()


def _place(frame: FrameType | None) -> str:
    """The innermost line of this package in a stack: `loop.py:88 in _train`."""
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(PACKAGE):
            return f"{Path(code.co_filename).name}:{frame.f_lineno} in {code.co_name}"
        frame = frame.f_back
    return "an unknown place"
