"""Where an epoch's time goes: to the data, the teacher, forward and backward passes, the optimizer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch

PHASES = ("data", "teacher", "forward_backward", "optimizer")
"""Of training, in the order of a step. A row has a column `<phase>_time` for each."""


class Phases:
    """Seconds of each phase, by the clock of the device: one phase ends where the next begins.

    Nothing waits for a GPU here. Its own events, in the order of its work, tell what each phase took there, gaps in
    which it had to wait for the CPU included.
    """

    def __init__(self, device: torch.device) -> None:
        self._events = device.type == "cuda"
        self._marks: list[tuple[str | None, float | torch.cuda.Event]] = []
        """(phase, when it began); none: nothing that is counted."""
        self._traced = False
        self._span: torch.profiler.record_function | None = None

    @property
    def now(self) -> str | None:
        """The phase at hand."""
        return self._marks[-1][0] if self._marks else None

    def to(self, phase: str | None) -> None:
        """From here on it is this phase; none ends the last one."""
        if self._events:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((phase, event))
        else:
            self._marks.append((phase, time.perf_counter()))
        if self._traced:
            self._show(phase)

    def trace(self, *, on: bool) -> None:
        """Whether phases are spans of the profiler's trace from here on."""
        self._traced = on
        self._show(self.now if on else None)

    def _show(self, phase: str | None) -> None:
        if self._span is not None:
            self._span.__exit__(None, None, None)
        self._span = None if phase is None else torch.profiler.record_function(phase)
        if self._span is not None:
            self._span.__enter__()

    @contextlib.contextmanager
    def within(self, phase: str) -> Iterator[None]:
        """This phase for a while, then again the one before."""
        before = self.now
        self.to(phase)
        yield
        self.to(before)

    def taken(self) -> dict[str, float]:
        """Seconds of each phase since this was last asked; the device must have done its work."""
        found = dict.fromkeys(PHASES, 0.0)
        for (phase, begin), (_, end) in zip(self._marks, self._marks[1:], strict=False):
            if phase is not None:
                found[phase] += _seconds(begin, end)
        self._marks.clear()
        return found


def _seconds(begin: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
    if isinstance(begin, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
        return float(begin.elapsed_time(end)) / 1000
    assert isinstance(begin, float)
    assert isinstance(end, float)
    return end - begin
