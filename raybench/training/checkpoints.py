"""Checkpoints: where a trial goes on after its process ended, and the weights that stay.

A checkpoint is a flat dict that carries its configuration; it is there whole or not at all. Its last bytes are a
checksum of all others, and reading one never runs code from it (`weights_only=True`).
"""

from __future__ import annotations

import io
import logging
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raybench.errors import ResultsError
from raybench.results.storage import Folder, entries, read, remove, write_atomically

State = dict[str, Any]
Misfit = Callable[[State], str | None]
"""Why a state cannot be gone on from; none where it can."""
KEEP = 2
SHARE = 0.02
"""Of a trial's time that saving may take, where the interval is one of time."""
NAME = re.compile(r"a(?P<attempt>\d+)-epoch-(?P<epoch>\d+)\.pt")
DRAFT = re.compile(rf"\.{NAME.pattern}\..+\.tmp")

logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one trial; the last KEEP are kept."""

    def __init__(self, folder: Folder, every_s: float = 5.0, attempt: int = 1, every_epochs: int | None = None) -> None:
        """One is due after `every_s`, or each `every_epochs` where that is given.

        Where saving one takes more than SHARE of `every_s`, as with large models or slow storage, the next waits so
        much longer; an `every_s` of 0 is each epoch, whatever it takes.
        `attempt` is part of the names: what an attempt cut off by a partition writes late is older than the rest.
        """
        self.folder = folder
        self.every_s = every_s
        self.every_epochs = every_epochs
        self.attempt = attempt
        self.skipped: list[str] = []
        """What could not be read, one line a file."""
        self.seconds = 0.0
        """Time spent saving."""
        self.mib = 0.0
        """Size of the newest one saved (MiB)."""
        self._last = time.monotonic()
        self._took = 0.0

    def due(self, epoch: int) -> bool:
        """Whether one is worth its time after so many epochs."""
        if self.every_epochs is not None:
            return epoch % self.every_epochs == 0
        wait = max(self.every_s, self._took / SHARE) if self.every_s else 0.0
        return time.monotonic() - self._last >= wait

    def save(self, state: State) -> None:
        """Keep `state`, whose `epoch` names the file. Raises ResultsError when it cannot be written, as on a full disk.

        Takes as much memory again as the state.
        """
        begun = time.perf_counter()
        content = io.BytesIO()
        torch.save(state, content)
        with content.getbuffer() as whole:
            closing = seal(whole)
        content.write(closing)
        write_atomically(self.folder / f"a{self.attempt}-epoch-{state['epoch']:06d}.pt", content.getbuffer())
        remove(self.folder / name for name in _names(self.folder)[:-KEEP])
        self.mib = content.tell() / 2**20
        self._took = time.perf_counter() - begun
        self.seconds += self._took
        self._last = time.monotonic()

    def newest(self, misfit: Misfit = lambda _: None) -> State | None:
        """The newest checkpoint that can be used; the one before where the newest cannot, with a warning."""
        return next(self.states(misfit), None)

    def states(self, misfit: Misfit = lambda _: None) -> Iterator[State]:
        """The checkpoints that can be read and fit, the newest first; a warning for each that cannot be used."""
        for name in reversed(_names(self.folder)):
            try:
                state = _parse(read(self.folder / name))
            except ResultsError:
                raise  # the storage, not the file
            except Exception as error:  # a damaged file makes its readers raise almost anything
                self._skip(name, f"{type(error).__name__}: not readable")
            else:
                if (why := misfit(state)) is None:
                    yield state
                else:
                    self._skip(name, why)

    def _skip(self, name: str, why: str) -> None:
        self.skipped.append(f"{self.folder / name}: {why}; the one before is used, or the start")
        logger.warning(self.skipped[-1])

    def clear(self) -> None:
        """Remove them, drafts too: the trial is settled. Those of later attempts stay."""

        def ours(name: str) -> bool:
            found = NAME.fullmatch(name) or DRAFT.fullmatch(name)
            return found is not None and int(found["attempt"]) <= self.attempt

        remove(self.folder / name for name in entries(self.folder, ours))
        if isinstance(self.folder, Path):
            try:
                self.folder.rmdir()
            except OSError:  # not there, or not empty
                return

    def save_weights(self, weights: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
        """Keep the trial's weights beside the folder of all checkpoints, as weights/<trial_id>.safetensors.

        `about` goes into the file's header. Raises ResultsError.
        """
        from safetensors.torch import save

        path = self.folder.parent.parent / "weights" / f"{self.folder.name}.safetensors"
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        write_atomically(path, save(tensors, dict(about)))


def seal(content: bytes | memoryview) -> bytes:
    """What a checkpoint ends with: its checksum. torch.load looks for the archive's end before it and does not mind."""
    return b"raybench.crc32 %08x" % zlib.crc32(content)


def _parse(content: bytes) -> State:
    """The state in a file. Raises for a file that is damaged or something else."""
    # The archive's own sums are of its records: torch follows flipped bytes of its directory to other memory.
    end = max(0, len(content) - len(seal(b"")))
    if content[end:] != seal(memoryview(content)[:end]):
        raise ValueError("its checksum does not fit: damaged, or not a checkpoint")
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not isinstance(state.get("epoch"), int):
        raise ValueError("not a checkpoint")
    return state


def latest_epoch(folder: Folder, attempt: int | None = None) -> int:
    """The epoch of the newest checkpoint in a trial's folder, by its name; 0 where there is none.

    With `attempt` the newest of that one and those before it.
    """
    found = [_attempt_and_epoch(name) for name in _names(folder)]
    return next((epoch for number, epoch in reversed(found) if attempt is None or number <= attempt), 0)


def _names(folder: Folder) -> list[str]:
    """The checkpoints in a folder, the newest last."""
    return sorted(entries(folder, lambda name: NAME.fullmatch(name) is not None), key=_attempt_and_epoch)


def _attempt_and_epoch(name: str) -> tuple[int, int]:
    found = NAME.fullmatch(name)
    assert found is not None
    return int(found["attempt"]), int(found["epoch"])
