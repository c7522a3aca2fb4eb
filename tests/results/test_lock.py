"""One driver a sweep, shown with a real second process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from raybench.errors import ResultsError
from raybench.results.lock import SweepLock

if TYPE_CHECKING:
    from conftest import Start  # type: ignore[import-not-found]

HOLD = """
import sys
from pathlib import Path
from raybench.results.lock import SweepLock
with SweepLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.scenario(16)
def test_second_process_is_named_and_a_dead_one_frees(tmp_path: Path, start: Start) -> None:
    folder = tmp_path / "sweep"
    process = start(HOLD, folder)
    assert process.stdout.readline() == "held\n"
    with (
        pytest.raises(ResultsError, match=rf"process {process.pid} on host {os.uname().nodename} since 20"),
        SweepLock(folder),
    ):
        pass
    process.kill()
    process.wait()
    assert (folder / ".lock.json").exists(), "the dead one left its note"
    with SweepLock(folder) as lock:
        lock.check()
        assert str(os.getpid()) in (folder / ".lock.json").read_text()
    assert not (folder / ".lock.json").exists()


@pytest.mark.scenario(16)
def test_lock_is_free_after_use_and_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), SweepLock(tmp_path):
            _ = 1 / 0
    with SweepLock(tmp_path), pytest.raises(ResultsError, match=f"process {os.getpid()} "), SweepLock(tmp_path):
        pass


@pytest.mark.parametrize("note", ["{", "[" * 100_000], ids=["torn", "too deep"])
def test_broken_note_still_gives_a_message(tmp_path: Path, note: str) -> None:
    with SweepLock(tmp_path):
        (tmp_path / ".lock.json").write_text(note)
        with pytest.raises(ResultsError, match="another driver"), SweepLock(tmp_path):
            pass


@pytest.mark.scenario(18)
def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ResultsError, match="a file stands"), SweepLock(tmp_path / "file"):
        pass
