"""A trial's own log: what raybench's loggers say while it runs, from INFO on, in logs/<trial>-a<attempt>.txt."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from types import TracebackType
from typing import TextIO

from raybench.errors import ResultsError
from raybench.results.storage import Folder, opened, write_atomically

LOGGER = logging.getLogger("raybench")
FORMAT = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")


class TrialLog(logging.Handler):
    """While it is entered, takes what is logged. A log that cannot be written costs the trial nothing."""

    def __init__(self, path: Folder) -> None:
        """Nothing is made before there is something to say. In an object store the log appears when the trial ends."""
        super().__init__(logging.INFO)
        self.path = path
        self.setFormatter(FORMAT)
        self._file: TextIO | None = None
        self._lines: list[str] = []
        self._level = LOGGER.level

    def __enter__(self) -> TrialLog:
        self._level = LOGGER.level
        LOGGER.addHandler(self)
        if LOGGER.getEffectiveLevel() > logging.INFO or LOGGER.level == logging.NOTSET:
            LOGGER.setLevel(logging.INFO)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        LOGGER.removeHandler(self)
        LOGGER.setLevel(self._level)
        self.close()

    def emit(self, record: logging.LogRecord) -> None:
        """A line; a warning is still said where it would be said without this log."""
        if record.levelno >= logging.WARNING and not logging.getLogger().handlers and logging.lastResort:
            logging.lastResort.handle(record)
        line = f"{self.format(record)}\n"
        if not isinstance(self.path, Path):
            self._lines.append(line)
            return
        with contextlib.suppress(OSError):
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = open(self.path, "a", encoding="utf-8", buffering=1, opener=opened)  # noqa: SIM115
            self._file.write(line)

    def close(self) -> None:
        """No more is taken."""
        with contextlib.suppress(OSError, ResultsError):
            if self._file is not None:
                self._file.close()
            elif self._lines:
                write_atomically(self.path, "".join(self._lines).encode())
        self._file, self._lines = None, []
        super().close()
