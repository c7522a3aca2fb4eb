"""Compaction while a sweep runs, so that no folder that every trial lists grows with the sweep."""

from __future__ import annotations

import threading

from raybench.errors import ResultsError
from raybench.results.storage import Folder
from raybench.results.store import Store

AFTER = 1000
"""Trials settled since the last compaction. A trial lists its sweep's folders some thirty times, at a microsecond an
entry on a disk and a request a thousand entries on an object store."""


class Tidier:
    """Compacts in a thread of its own, one at a time; whoever is killed meanwhile loses nothing (`Store.compact`)."""

    def __init__(self, folder: Folder, after: int = AFTER) -> None:
        self.folder = folder
        self.after = after
        self._settled = 0
        self._thread: threading.Thread | None = None

    def settled(self, trials: int) -> None:
        """So many more are settled."""
        self._settled += trials
        if self._settled >= self.after and not self.busy:
            self._settled = 0
            self._thread = threading.Thread(target=self._compact, name="tidier", daemon=True)
            self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether a compaction is at work."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> None:
        """Until none is."""
        if self._thread is not None:
            self._thread.join()

    def _compact(self) -> None:
        try:
            # A store of its own: the driver's is not for two threads.
            Store(self.folder).compact()
        except ResultsError:
            return  # a full disk ends the sweep where a trial meets it; to put files away can wait
