"""Checkpoints: where a trial goes on after its process ended.

A checkpoint is a flat dict that carries its configuration; it is written to a temporary name, flushed, and renamed, so
it is there whole or not at all. Reading one never runs code from it (`weights_only=True`).
"""

from __future__ import annotations

import errno
import logging
import os
import pickle
import re
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import torch

from raybench.errors import ResultsError

State = dict[str, Any]
KEEP = 2
NAME = re.compile(r"a(?P<attempt>\d+)-epoch-(?P<epoch>\d+)\.pt")
UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile)

logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one trial; the last KEEP are kept."""

    def __init__(self, folder: Path, every_s: float = 5.0, attempt: int = 1) -> None:
        """`attempt` is part of the names: what an attempt cut off by a partition writes late is older than the rest."""
        self.folder = folder
        self.every_s = every_s
        self.attempt = attempt
        self.skipped: list[str] = []
        """What could not be read, one line a file."""
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether so many seconds passed since the last one that another is worth its time."""
        return time.monotonic() - self._last >= self.every_s

    def save(self, state: State) -> None:
        """Keep `state`, whose `epoch` names the file. Raises ResultsError when the disk is full."""
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"a{self.attempt}-epoch-{state['epoch']:06d}.pt"
        draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with draft.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(target)
        except BaseException as error:
            draft.unlink(missing_ok=True)
            if not _disk_full(error):
                raise
            raise ResultsError(
                f"disk full: {self.folder} (checkpoint of epoch {state['epoch']}); free some space and run the same "
                "command again"
            ) from None
        for old in _files(self.folder)[:-KEEP]:
            old.unlink(missing_ok=True)
        self._last = time.monotonic()

    def newest(self) -> State | None:
        """The newest checkpoint that can be read; the one before where the newest is damaged, with a warning."""
        for path in reversed(_files(self.folder)):
            try:
                state = _read(path)
            except UNREADABLE as error:
                self.skipped.append(f"{path}: {type(error).__name__}: not readable, the one before is used")
                logger.warning(self.skipped[-1])
                continue
            return state
        return None

    def clear(self) -> None:
        """Remove them: the trial is settled."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _read(path: Path) -> State:
    """The state in a file. Raises one of UNREADABLE for a file that is damaged or something else."""
    with zipfile.ZipFile(path) as archive:
        # torch reads past flipped bytes; the archive's own sums tell.
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"{damaged} is damaged")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or "epoch" not in state:
        raise ValueError("not a checkpoint")
    return state


def latest_epoch(folder: Path) -> int:
    """The epoch of the newest checkpoint in a trial's folder, by its name; 0 where there is none."""
    files = _files(folder)
    return _attempt_and_epoch(files[-1])[1] if files else 0


def _files(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("*.pt") if NAME.fullmatch(path.name)), key=_attempt_and_epoch)


def _attempt_and_epoch(path: Path) -> tuple[int, int]:
    name = NAME.fullmatch(path.name)
    assert name is not None
    return int(name["attempt"]), int(name["epoch"])


def _disk_full(error: BaseException | None) -> bool:
    """Whether no space was left; torch's writer hides that behind an error of its own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False
