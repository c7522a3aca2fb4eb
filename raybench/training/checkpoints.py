"""Checkpoints: where a trial goes on after its process ended.

A checkpoint is a flat dict that carries its configuration; it is written to a temporary name, flushed, and renamed, so it is there whole or not at all.
Reading one never runs code from it (`weights_only=True`).
"""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import torch

from raybench.errors import ResultsError

State = dict[str, Any]
KEEP = 2


class Checkpoints:
    """The checkpoints of one trial, newest last, the last KEEP kept."""

    def __init__(self, folder: Path, every_s: float = 5.0) -> None:
        self.folder = folder
        self.every_s = every_s
        self._last = time.monotonic()
        self.skipped: list[str] = []

    def due(self) -> bool:
        """Whether so many seconds passed since the last one that another is worth its time."""
        return time.monotonic() - self._last >= self.every_s

    def save(self, state: State) -> None:
        """Keep `state`, whose `epoch` names the file. Raises ResultsError when the disk is full."""
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"epoch-{state['epoch']:06d}.pt"
        draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with draft.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(target)
        except (OSError, RuntimeError) as error:
            draft.unlink(missing_ok=True)
            if getattr(error, "errno", None) == errno.ENOSPC or shutil.disk_usage(self.folder).free < 2**20:
                raise ResultsError(
                    f"disk full: {self.folder} (checkpoint of epoch {state['epoch']}); free some space and run the same command again"
                ) from None
            raise
        for old in self._files()[:-KEEP]:
            old.unlink(missing_ok=True)
        self._last = time.monotonic()

    def newest(self) -> State | None:
        """The newest checkpoint that can be read; the one before where the newest is damaged (named in `skipped`)."""
        for path in reversed(self._files()):
            try:
                state: State = torch.load(path, map_location="cpu", weights_only=True)
            except (
                OSError,
                RuntimeError,
                EOFError,
                ValueError,
                KeyError,
                pickle.UnpicklingError,
                zipfile.BadZipFile,
            ) as error:
                self.skipped.append(f"{path}: {type(error).__name__}: not readable, the one before is used")
                continue
            return state
        return None

    def clear(self) -> None:
        """Remove them: the trial is settled."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("epoch-*.pt")) if self.folder.is_dir() else []
