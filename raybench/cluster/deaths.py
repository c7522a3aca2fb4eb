"""Workers that died: why, how often a trial lost one, and whether it gets another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OUT_OF_MEMORY = ("low on memory", "OutOfMemoryError")
"""What Ray says when its memory monitor, rather than a fault, ended a worker."""
VMSTAT = Path("/proc/vmstat")


class Deaths:
    """The books of one run. What died goes on from its last checkpoint, `max_failures` times; out of memory once."""

    def __init__(self, max_failures: int, local: bool = True) -> None:
        """`local`: all workers are on this machine, so that its kernel can be asked about them."""
        self.max_failures = max_failures
        self.local = local
        self._times: Counter[str] = Counter()
        self._starved: Counter[str] = Counter()
        self._reasons: dict[str, str] = {}
        self._killed: dict[str, int] = {}

    def handed_out(self, run_id: str) -> None:
        """A worker begins; what the kernel had ended before was not this one."""
        self._killed[run_id] = kills_of_the_kernel()

    def heard(self, run_id: str, trial: Any) -> None:
        """Tune tells of an error of its trial `run_id`; it keeps the error itself only until the searcher is told."""
        error = trial.get_pickled_error()
        # What was raised in the worker says more than that and where it was.
        self._reasons[run_id] = first_line(getattr(error, "cause", None) or error)

    def again(self, run_id: str, trial_ids: Sequence[str]) -> bool:
        """Count a death of the worker of these trials; whether they may have another."""
        # Tune does not tell of a reused worker that dies between two trials, so the kernel is asked here.
        starved = self.local and kills_of_the_kernel() > self._killed.get(run_id, kills_of_the_kernel())
        reason = self._reasons.get(run_id, "")
        self._times.update(trial_ids)
        if any(sign in reason for sign in OUT_OF_MEMORY):
            self._reasons[run_id] = f"out of memory: {reason}"
        elif starved:
            self._reasons[run_id] = "out of memory: the kernel killed its worker"
        if self._reasons.get(run_id, "").startswith("out of memory"):
            self._starved.update(trial_ids)
        times, hungry = (max(count[each] for each in trial_ids) for count in (self._times, self._starved))
        return times <= self.max_failures and hungry <= 1

    def reason(self, run_id: str, trial_id: str) -> str:
        """Why a trial is given up."""
        times, last = self._times[trial_id], self._reasons.get(run_id, "")
        counted = f"its worker died {times} time{'s' if times != 1 else ''}"
        if last.startswith("out of memory"):
            return f"{last} ({counted})"
        return f"{counted}; last: {last}" if last else counted


def first_line(error: object) -> str:
    """The first line of an error's text, at most 300 characters; empty where there is none."""
    lines = [line.strip() for line in str(error or "").splitlines() if line.strip()]
    return lines[0][:300] if lines else ""


def kills_of_the_kernel() -> int:
    """Processes that this machine's kernel has ended for want of memory since it started; 0 where it does not say."""
    try:
        lines = VMSTAT.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
