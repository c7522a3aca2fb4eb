"""One driver a sweep."""

from __future__ import annotations

import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from raybench.errors import ResultsError
from raybench.results.parts import explain, remove, write_atomically


class SweepLock:
    """Held while a driver runs the sweep of this folder; the kernel frees it when its holder dies, however it dies.

    Entering raises ResultsError, naming host and process, while another driver holds it, and when the folder is not
    writable.
    """

    def __init__(self, folder: Path) -> None:
        """`folder` is results/<sweep>; it is made when absent."""
        self.folder = folder
        self._holder = folder / ".lock.json"
        self._lock = FileLock(folder / ".lock", timeout=0)

    def __enter__(self) -> SweepLock:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise ResultsError(self._held()) from None
        except OSError as error:
            raise explain(error, self.folder) from error
        try:
            # Descriptive only: what counts is the kernel's lock.
            about = {"host": socket.gethostname(), "pid": os.getpid(), "started": datetime.now(UTC).isoformat()}
            write_atomically(self._holder, json.dumps(about).encode())
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        remove([self._holder])
        self._lock.release()

    def _held(self) -> str:
        holder: Any = None
        try:
            holder = json.loads(self._holder.read_text())
        except (OSError, ValueError):
            holder = None
        if not isinstance(holder, dict):
            return f"another driver is about to run the sweep in {self.folder}; wait for it, or give --results ROOT"
        return (
            f"the sweep in {self.folder} is being run by process {holder.get('pid')} on host {holder.get('host')} "
            f"since {holder.get('started')}; wait for it, stop it, or give --results ROOT for a run of its own"
        )
