"""Real faults: full and read-only disks, files in the way, writers and compactions killed at every step."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from raybench.errors import ResultsError
from raybench.results.schema import EpochRow, Status, TrialRow
from raybench.results.store import Store


def row(trial_id: str = "a", status: Status = Status.COMPLETE, attempt: int = 1, **further: Any) -> TrialRow:
    config = further.pop("config", {"dataset.train_size": 500})
    return TrialRow(
        trial_id=trial_id,
        sweep="s",
        preset="quick",
        cell="c",
        status=status,
        attempt=attempt,
        seed=0,
        config=config,
        **further,
    )


def epochs(trial_id: str = "a", attempt: int = 1, count: int = 2, **further: Any) -> list[EpochRow]:
    return [EpochRow(trial_id=trial_id, attempt=attempt, epoch=1 + done, **further) for done in range(count)]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")


# --- faults of the file system ---


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("mine")
    store = Store(tmp_path / "results")
    for act in (store.check_writable, store.trials, lambda: store.write_trial(row())):
        with pytest.raises(ResultsError, match="a file stands where a folder is needed"):
            act()
    assert (tmp_path / "results").read_text() == "mine"


def mount(*arguments: str) -> None:
    if not shutil.which("mount"):
        pytest.skip("no mount command on this system")
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting needs root: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder))
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system that is mounted read-only: root may not write there either."""
    folder = tmp_path / "locked"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(folder))
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(store: Store) -> None:
    for number in range(100):
        store.write_trial(row(f"t{number}"))


def test_full_disk(small_disk: Path) -> None:
    store = Store(small_disk / "s")
    written = 0
    with pytest.raises(ResultsError, match="disk full"):
        fill(store)
    written = len(files(small_disk))
    assert written > 3
    with pytest.raises(ResultsError, match="disk full"):
        store.write_trial(row("t0", eval_top1=1.0))
    trials = store.trials()
    assert trials.height == written
    assert trials["eval_top1"].null_count() == written, "the earlier row stands"
    assert not list(small_disk.rglob("*.tmp"))
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"), filler.open("wb") as file:
        file.write(bytes(1 << 20))
    with pytest.raises(ResultsError, match="disk full"):
        store.compact()
    with pytest.raises(ResultsError, match="disk full"):
        store.check_writable()
    assert_frame_equal(store.trials(), trials)
    filler.unlink()
    (small_disk / "s" / "trials" / "t0-a1-trial.parquet").unlink()
    (small_disk / "s" / "trials" / "t1-a1-trial.parquet").unlink()
    store.compact()
    assert_frame_equal(store.trials(), trials.filter(~pl.col("trial_id").is_in(["t0", "t1"])))


def test_unwritable_folder(read_only: Path) -> None:
    store = Store(read_only)
    with pytest.raises(ResultsError, match="Read-only file system"):
        store.check_writable()
    with pytest.raises(ResultsError, match="Read-only file system"):
        store.write_trial(row())
    assert store.trials().height == 0


def test_check_writable_leaves_no_file(tmp_path: Path) -> None:
    Store(tmp_path / "new").check_writable()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# --- kills ---

ZYGOTE = '''
"""Forks children that act on copies of a template and are killed: before the Nth change of a file, or after a time."""
import json, os, random, shutil, signal, sys, time
from pathlib import Path
from raybench.results.schema import EpochRow, Status, TrialRow
from raybench.results.store import Store

CHANGES = {"os.rename", "os.remove", "os.mkdir"}

def act(kind, folder):
    store = Store(Path(folder))
    if kind == "compact":
        return store.compact()
    for count in range(1, 2 if kind == "write" else 10_000):
        rows = [EpochRow(trial_id="w", attempt=1, epoch=1 + i, lr=float(count)) for i in range(1 + count % 50)]
        store.write_epochs("w", 1, rows)
        store.write_trial(
            TrialRow(trial_id="w", sweep="s", preset="quick", cell="c", status=Status.RUNNING, attempt=1, seed=0)
        )

def die_before(number, folder):
    seen = 0
    def watch(event, arguments):
        nonlocal seen
        path = str(arguments[0]) if arguments else ""
        opens = event == "open" and isinstance(arguments[2], int) and (arguments[2] & os.O_CREAT or os.path.isdir(path))
        if (event in CHANGES or opens) and path.startswith(folder):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(watch)

kind, template, out, limit = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
random.seed(0)
fates = []
for number in range(1, limit + 1):
    folder = f"{out}/{number}"
    shutil.copytree(template, folder)
    child = os.fork()
    if child == 0:
        if kind != "timed":
            die_before(number, folder)
        act(kind, folder)
        os._exit(0)
    if kind == "timed":
        time.sleep(random.uniform(0.0, 0.15))
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    fates.append(code)
    if kind != "timed" and code != -signal.SIGKILL:
        break
print(json.dumps(fates))
'''


def kill(kind: str, template: Path, out: Path, limit: int) -> list[int]:
    """Exit codes of the children, each on a copy of its own in `out`/1, `out`/2 …; -9 is killed, 0 is done."""
    out.mkdir()
    # A process that has imported but not yet used polars may fork; this one, whose threads run, may not.
    command = [sys.executable, "-c", ZYGOTE, kind, str(template), str(out), str(limit)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True, cwd=Path(__file__).parents[2]
    )
    fates: list[int] = json.loads(done.stdout)
    return fates


def test_compaction_killed_at_every_step(tmp_path: Path) -> None:
    template = tmp_path / "template"
    store = Store(template)
    store.write_trial(row("old"))
    store.write_epochs("old", 1, epochs("old"))
    store.compact()
    store.write_trial(row("a", Status.RUNNING, eval_top1=5.0))
    store.write_trial(row("a", Status.PRUNED, reason="rung", config={}), by="driver")
    store.write_epochs("a", 1, epochs("a", count=3))
    store.write_trial(row("b", attempt=1))
    store.write_trial(row("b", attempt=2))
    store.write_epochs("b", 1, epochs("b", count=4))
    store.write_epochs("b", 2, epochs("b", attempt=2, count=2))
    store.write_trial(row("c", Status.RUNNING))
    store.write_epochs("c", 1, epochs("c"))
    trials, table = store.trials(), store.epochs()
    fates = kill("compact", template, tmp_path / "out", 60)
    assert set(fates[:-1]) == {-9}
    assert fates[-1] == 0
    # Two tables, each: a temporary file, a rename, the folder's flush, at least four files removed.
    assert len(fates) > 2 * 7
    half_done = 0
    for number in range(1, len(fates) + 1):
        again = Store(tmp_path / "out" / str(number))
        half_done += len(files(again.folder)) not in (len(files(template)), 4)
        for _ in range(2):
            assert_frame_equal(again.trials(), trials)
            assert_frame_equal(again.epochs(), table)
            assert again.skipped == []
            again.compact()
        assert len(files(again.folder)) == 4, files(again.folder)
    assert half_done > 3, "no kill hit the middle of a compaction"


def test_writer_killed_at_every_step(tmp_path: Path) -> None:
    template = tmp_path / "template"
    store = Store(template)
    before = epochs("w", count=1)
    store.write_epochs("w", 1, before)
    fates = kill("write", template, tmp_path / "out", 30)
    assert set(fates[:-1]) == {-9}
    assert fates[-1] == 0
    after = [EpochRow(trial_id="w", attempt=1, epoch=done, lr=1.0) for done in (1, 2)]
    seen = []
    for number in range(1, len(fates) + 1):
        again = Store(tmp_path / "out" / str(number))
        seen.append(again.last_epochs("w"))
        assert seen[-1] in (before, after)
        assert again.skipped == []
        assert again.trials().height <= 1
    assert seen == sorted(seen, key=len), "once it is there it stays"
    assert seen[0] == before


def test_writer_killed_at_random_times(tmp_path: Path) -> None:
    template = tmp_path / "template"
    Store(template).write_epochs("w", 1, epochs("w", count=1, lr=0.0))
    fates = kill("timed", template, tmp_path / "out", 15)
    assert fates == [-9] * 15
    reached = set()
    for number in range(1, 16):
        again = Store(tmp_path / "out" / str(number))
        rows = again.last_epochs("w")
        assert again.trials().height <= 1
        assert again.skipped == []
        count = rows[0].lr
        assert count is not None
        assert len(rows) == 1 + count % 50, "all rows of one writing"
        reached.add(count)
    assert len(reached) > 3, "the kills came at different times"


def test_reading_while_others_compact(tmp_path: Path) -> None:
    """No reading may miss a row, whichever files a compaction replaces beneath it."""
    code = (
        "import sys; from pathlib import Path; from dataclasses import replace\n"
        "from raybench.results.store import Store; from raybench.results.schema import TrialRow, Status\n"
        "store = Store(Path(sys.argv[1]))\n"
        "row = TrialRow(trial_id='n0', sweep='s', preset='p', cell='c', status=Status.COMPLETE, attempt=1, seed=0)\n"
        "for number in range(12):\n"
        "    store.write_trial(replace(row, trial_id=f'n{number}'))\n"
        "    print(number, flush=True)\n"
        "    store.compact()\n"
    )
    store = Store(tmp_path)
    store.write_trial(row("fixed"))
    command = [sys.executable, "-c", code, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert process.stdout is not None
    for line in process.stdout:
        trials = set(store.trials()["trial_id"])
        assert {"fixed", *(f"n{number}" for number in range(int(line) + 1))} <= trials
        assert store.skipped == []
    assert process.wait() == 0
    process.stdout.close()
    assert files(tmp_path) == ["trials/compact-12.parquet"]
