"""A trace of a few steps of training, as TensorBoard's profiler and Perfetto (ui.perfetto.dev) show it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from raybench.results.storage import Folder, write_atomically
from raybench.training.phases import Phases

SKIPPED = 3
"""Steps before the trace: first ones allocate, compile and tune."""
TRACED = 5


class Tracer:
    """Traces the steps after the first `SKIPPED` of a run, once, and writes what it saw to `path`."""

    def __init__(self, path: Folder, phases: Phases) -> None:
        """`path` ends in `.pt.trace.json.gz`, by which TensorBoard knows it. `phases` become spans of the trace."""
        self.path = path
        self._phases = phases
        self._steps = 0
        self._profile: profile | None = None

    def step(self) -> None:
        """A step has ended."""
        self._steps += 1
        if self._steps == SKIPPED:
            cuda = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self._profile = profile(activities=[ProfilerActivity.CPU, *cuda], record_shapes=True)
            self._profile.start()
            self._phases.trace(on=True)
        elif self._steps == SKIPPED + TRACED:
            self.close()

    def close(self) -> None:
        """Write what was traced, though it be less: a run may have fewer steps."""
        if self._profile is None:
            return
        self._phases.trace(on=False)
        self._profile.stop()
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder) / "trace.json.gz"
            self._profile.export_chrome_trace(str(written))
            write_atomically(self.path, written.read_bytes())
        self._profile = None
