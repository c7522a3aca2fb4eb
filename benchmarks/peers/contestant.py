"""What benchmarks/chaos.py asks of whoever runs the sweep that it interrupts."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

Key = tuple[str, int]
"""A trial and the number of epochs finished; 0 epochs stand for the trial's own row."""


@dataclass(frozen=True)
class Rows:
    """The rows that can be read at one moment."""

    rows: dict[Key, str] = field(default_factory=dict)
    """Every number that is not a time, exactly, as text."""
    written: dict[Key, Hashable] = field(default_factory=dict)
    """Of an epoch, what is another whenever it is trained again."""
    unfinished: int = 0
    """Trials that were begun and are not settled."""
    unreadable: int = 0
    """Files that could not be read."""

    @property
    def epochs(self) -> int:
        """Epochs finished."""
        return sum(epochs > 0 for _, epochs in self.rows)


@dataclass(frozen=True)
class Verdict:
    """What an interrupted sweep came to, against the uninterrupted one."""

    lost: int
    """Rows that could be read before a kill, or belong to the whole sweep, and are gone or others at the end."""
    duplicates: int
    """Rows that are there twice, as the results are read."""
    duplicates_on_disk: int
    """Rows that are there twice in the files of the highest attempt, read with any Parquet reader."""
    wrong_ids: int
    """Trials that should not be there."""
    again: int
    """Epochs trained once more."""
    restarted: int
    """Trials that were begun more than once."""
    unreadable: int
    """Files that could not be read before a kill or at the end."""
    identical: bool
    """Whether the tables are those of the uninterrupted run, exactly."""
    differences: str = ""
    """The first difference, in words."""


class Contestant(Protocol):
    """A way to run the sweep, its results readable from a folder."""

    name: str
    workers: tuple[str, ...]
    """Words in the command line of a process that trains."""

    def command(self, folder: Path) -> list[str]:
        """Begins the sweep in a folder, or goes on with it."""
        ...

    def variables(self, scratch: Path) -> dict[str, str]:
        """Environment variables of its own; files may go to `scratch`."""
        ...

    def marks(self, folder: Path) -> set[Hashable]:
        """What is new once a run has finished its first epoch."""
        ...

    def written(self, folder: Path) -> float:
        """When the last epoch was written, seconds since 1970; 0 before the first. Cheap."""
        ...

    def epochs(self, folder: Path) -> int:
        """Epochs finished, at a glance. Cheap."""
        ...

    def read(self, folder: Path) -> Rows:
        """What can be read now."""
        ...

    def broken(self, code: int) -> bool:
        """Whether this exit code says that the sweep could not be taken up again."""
        ...

    def judge(self, folder: Path, before: Sequence[Rows], reference: Path) -> Verdict:
        """The end against what could be read before each kill, and against the folder of the uninterrupted run."""
        ...


def first_difference(ours: dict[Key, str], theirs: dict[Key, str]) -> str:
    """The first row that differs, in words; empty when none does."""
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            return f"trial {key[0]} epoch {key[1]}: {ours.get(key, 'absent')} instead of {theirs.get(key, 'absent')}"
    return ""
