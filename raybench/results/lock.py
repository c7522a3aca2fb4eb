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
from raybench.results.lease import Lease
from raybench.results.storage import Folder, explain, read, remove, write_atomically


class SweepLock:
    """Held while a driver runs the sweep of this folder.

    - On a local disk the kernel frees it when its holder dies, however it dies.
    - On NFS (version 4, or 3 with its lock daemon) the server keeps it between hosts: a holder's death frees it at
      once, its host's death when the server has waited for it (90 s by default). Mounted with `nolock` or
      `local_lock`, and on file systems that keep locks to each host (sshfs), two hosts are not kept apart.
    - On an object store it is a lease (`raybench.results.lease`), which a holder cut off from the storage loses.

    Entering raises ResultsError, naming host and process, while another driver holds it, and when the folder is not
    writable.
    """

    def __init__(self, folder: Folder) -> None:
        """`folder` is results/<sweep>; it is made when absent."""
        self._lock = FolderLock(folder) if isinstance(folder, Path) else Lease(folder)

    def check(self) -> None:
        """Raises ResultsError when the lock was lost; a driver asks now and then, and ends."""
        self._lock.check()

    def __enter__(self) -> SweepLock:
        self._lock.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


class FolderLock:
    """A lock that the kernel, or the file server, holds for this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._holder = folder / ".lock.json"
        self._lock = FileLock(folder / ".lock", timeout=0)

    def acquire(self) -> None:
        """Raises ResultsError while another process holds it."""
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

    def check(self) -> None:
        """Nothing takes it away."""

    def release(self) -> None:
        """For the next one."""
        remove([self._holder])
        self._lock.release()

    def _held(self) -> str:
        holder: Any = None
        try:
            holder = json.loads(read(self._holder))
        except (OSError, ValueError, RecursionError):
            holder = None
        if not isinstance(holder, dict):
            return f"another driver is about to run the sweep in {self.folder}; wait for it, or give --results ROOT"
        return (
            f"the sweep in {self.folder} is being run by process {holder.get('pid')} on host {holder.get('host')} "
            f"since {holder.get('started')}; wait for it, stop it, or give --results ROOT for a run of its own"
        )
