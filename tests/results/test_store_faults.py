"""Real faults: full and read-only disks, files in the way, writers and compactions killed at every step."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from raybench.errors import ResultsError
from raybench.results import parts
from raybench.results.schema import EpochRow, Status, epoch_schema
from raybench.results.store import Store

if TYPE_CHECKING:
    from conftest import Rows, Start  # type: ignore[import-not-found]

# --- faults of the file system ---


@pytest.mark.scenario(18)
def test_folder_that_is_a_file(rows: Rows, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("mine")
    store = Store(tmp_path / "results")
    for act in (store.check_writable, store.trials, lambda: store.write_trial(rows.trial())):
        with pytest.raises(ResultsError, match="a file stands where a folder is needed"):
            act()
    assert (tmp_path / "results").read_text() == "mine"


def fill(rows: Rows, store: Store) -> None:
    for number in range(100):
        store.write_trial(rows.trial(f"t{number}"))


@pytest.mark.scenario(12)
def test_full_disk(rows: Rows, small_disk: Path) -> None:
    store = Store(small_disk / "s")
    with pytest.raises(ResultsError, match="disk full"):
        fill(rows, store)
    written = len(rows.files(small_disk))
    assert written > 3
    with pytest.raises(ResultsError, match="disk full"):
        store.write_trial(rows.trial("t0", eval_top1=1.0))
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


@pytest.mark.scenario(18)
def test_unwritable_folder(rows: Rows, read_only: Path) -> None:
    store = Store(read_only)
    with pytest.raises(ResultsError, match="Read-only file system"):
        store.check_writable()
    with pytest.raises(ResultsError, match="Read-only file system"):
        store.write_trial(rows.trial())
    assert store.trials().height == 0


def test_check_writable_leaves_no_file(tmp_path: Path) -> None:
    Store(tmp_path / "new").check_writable()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# --- kills ---

ZYGOTE = '''
"""Forks children that act on copies of a template and are killed: before the Nth change of a file, or somewhere."""
import json, os, random, shutil, signal, sys, time
from pathlib import Path
from raybench.results import compaction, parts
from raybench.results.schema import EpochRow, Status, TrialRow
from raybench.results.store import Store

CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir"}

def act(kind, folder, written):
    store = Store(Path(folder))
    if kind == "compact":
        return store.compact()
    for count in range(1, 2 if kind == "write" else 10_000):
        rows = [EpochRow(trial_id="w", attempt=1, epoch=1 + i, lr=float(count)) for i in range(1 + count % 50)]
        store.write_epochs("w", 1, rows)
        store.write_trial(
            TrialRow(trial_id="w", sweep="s", preset="quick", cell="c", status=Status.RUNNING, attempt=1, seed=0)
        )
        os.write(written, b".")

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
parts.LARGE_VALUES, compaction.TRIALS_AT_A_TIME = int(sys.argv[5]), 2
random.seed(0)
fates = []
for number in range(1, limit + 1):
    folder = f"{out}/{number}"
    shutil.copytree(template, folder)
    seen, written = os.pipe()
    child = os.fork()
    if child == 0:
        if kind != "timed":
            die_before(number, folder)
        act(kind, folder, written)
        os._exit(0)
    if kind == "timed":
        for _ in range(random.randrange(8)):
            os.read(seen, 1)
        time.sleep(random.uniform(0.0, 0.01))
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    fates.append(code)
    if kind != "timed" and code != -signal.SIGKILL:
        break
print(json.dumps(fates))
'''


def kill(kind: str, template: Path, out: Path, limit: int, large: int = parts.LARGE_VALUES) -> list[int]:
    """Exit codes of the children, each on a copy of its own in `out`/1, `out`/2 …; -9 is killed, 0 is done.

    `large`: values of a compact file that is left alone.
    """
    out.mkdir()
    # A process that has imported but not yet used polars may fork; this one, whose threads run, may not.
    command = [sys.executable, "-c", ZYGOTE, kind, str(template), str(out), str(limit), str(large)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True, cwd=Path(__file__).parents[2]
    )
    fates: list[int] = json.loads(done.stdout)
    return fates


@pytest.mark.scenario(15)
def test_compaction_killed_at_every_step(rows: Rows, tmp_path: Path) -> None:
    template = tmp_path / "template"
    store = Store(template)
    store.write_trial(rows.trial("old"))
    store.write_epochs("old", 1, rows.epochs("old"))
    store.compact()
    store.write_trial(rows.trial("a", Status.RUNNING, eval_top1=5.0))
    store.write_trial(rows.trial("a", Status.PRUNED, reason="rung", config={}), by="driver")
    store.write_epochs("a", 1, rows.epochs("a", count=3))
    store.write_trial(rows.trial("b", attempt=1))
    store.write_trial(rows.trial("b", attempt=2))
    store.write_epochs("b", 1, rows.epochs("b", count=4))
    store.write_epochs("b", 2, rows.epochs("b", attempt=2, count=2))
    store.write_trial(rows.trial("c", Status.RUNNING))
    store.write_epochs("c", 1, rows.epochs("c"))
    trials, table = store.trials(), store.epochs()
    fates = kill("compact", template, tmp_path / "out", 60)
    assert set(fates[:-1]) == {-9}
    assert fates[-1] == 0
    # Two tables, each: a temporary file, a rename, the folder's flush, at least four files removed.
    assert len(fates) > 2 * 7
    half_done = 0
    for number in range(1, len(fates) + 1):
        folder = tmp_path / "out" / str(number)
        again = Store(folder)
        half_done += len(rows.files(folder)) not in (len(rows.files(template)), 4)
        for _ in range(2):
            assert_frame_equal(again.trials(), trials)
            assert_frame_equal(again.epochs(), table)
            assert again.skipped == []
            again.compact()
        assert len(rows.files(folder)) == 4, rows.files(folder)
    assert half_done > 3, "no kill hit the middle of a compaction"


@pytest.mark.scenario(15)
def test_compaction_into_several_files_killed_at_every_step(
    rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One large file there, a small one that is merged, and parts for two more; a trial of the large one run again."""
    large = 8 * len(epoch_schema())
    monkeypatch.setattr(parts, "LARGE_VALUES", large)
    template = tmp_path / "template"
    store = Store(template)
    for trial_ids in (["old"], ["older"]):
        for trial_id in trial_ids:
            store.write_trial(rows.trial(trial_id))
            store.write_epochs(trial_id, 1, rows.epochs(trial_id, count=8 if trial_id == "old" else 3))
        store.compact()
    assert [name for name in rows.files(template) if name.startswith("epochs")] == [
        "epochs/compact-1.parquet",
        "epochs/compact-2.parquet",
    ]
    for trial_id, attempt in (("a", 1), ("b", 1), ("c", 1), ("d", 1), ("old", 2)):
        store.write_trial(rows.trial(trial_id, attempt=attempt))
        store.write_epochs(trial_id, attempt, rows.epochs(trial_id, attempt, count=4, lr=float(attempt)))
    trials, table = store.trials(), store.epochs()
    fates = kill("compact", template, tmp_path / "out", 80, large)
    assert set(fates[:-1]) == {-9}
    assert fates[-1] == 0
    assert [name for name in rows.files(tmp_path / "out" / str(len(fates))) if name.startswith("epochs")] == [
        f"epochs/compact-{number}.parquet" for number in (1, 3, 4, 5)
    ]
    half_done = 0
    for number in range(1, len(fates) + 1):
        folder = tmp_path / "out" / str(number)
        again = Store(folder)
        half_done += len(rows.files(folder)) not in (
            len(rows.files(template)),
            len(rows.files(folder.parent / str(len(fates)))),
        )
        for _ in range(2):
            assert_frame_equal(again.trials(), trials)
            assert_frame_equal(again.epochs(), table)
            ends = table.filter(pl.col("epoch") == pl.col("epoch").max().over("trial_id"))
            assert_frame_equal(Store(folder).final_epochs(table.columns), ends)
            assert again.skipped == []
            again.compact()
        assert all(name.partition("/")[2].startswith("compact") for name in rows.files(folder)), rows.files(folder)
    assert half_done > 3, "no kill hit the middle of a compaction"


@pytest.mark.scenario(15)
def test_writer_killed_at_every_step(rows: Rows, tmp_path: Path) -> None:
    template = tmp_path / "template"
    store = Store(template)
    before = rows.epochs("w", count=1)
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


@pytest.mark.scenario(15)
def test_writer_killed_at_random_times(rows: Rows, tmp_path: Path) -> None:
    template = tmp_path / "template"
    Store(template).write_epochs("w", 1, rows.epochs("w", count=1, lr=0.0))
    fates = kill("timed", template, tmp_path / "out", 40)
    assert fates == [-9] * 40
    reached = set()
    for number in range(1, 41):
        again = Store(tmp_path / "out" / str(number))
        found = again.last_epochs("w")
        assert again.trials().height <= 1
        assert again.skipped == []
        count = found[0].lr
        assert count is not None
        assert len(found) == 1 + count % 50, "all rows of one writing"
        reached.add(count)
    assert len(reached) > 3, "the kills came at different times"


@pytest.mark.scenario(17)
def test_reading_while_others_compact(rows: Rows, tmp_path: Path) -> None:
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
    store.write_trial(rows.trial("fixed"))
    command = [sys.executable, "-c", code, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert process.stdout is not None
    for line in process.stdout:
        trials = set(store.trials()["trial_id"])
        assert {"fixed", *(f"n{number}" for number in range(int(line) + 1))} <= trials
        assert store.skipped == []
    assert process.wait() == 0
    process.stdout.close()
    assert rows.files(tmp_path) == ["trials/compact-12.parquet"]


@pytest.mark.scenario(17)
def test_asking_for_part_of_it_while_others_compact_into_several_files(
    rows: Rows, tmp_path: Path, start: Start
) -> None:
    code = """
    import sys; from pathlib import Path; from dataclasses import replace
    from raybench.results import compaction, parts
    from raybench.results.store import Store; from raybench.results.schema import EpochRow, TrialRow, Status
    parts.LARGE_VALUES, compaction.TRIALS_AT_A_TIME = 19 * 6, 2
    store = Store(Path(sys.argv[1]))
    row = TrialRow(trial_id='n0', sweep='s', preset='p', cell='c', status=Status.COMPLETE, attempt=1, seed=0)
    for number in range(24):
        name = f'n{number}'
        store.write_epochs(name, 1, [EpochRow(trial_id=name, attempt=1, epoch=1 + i, lr=i) for i in range(3)])
        store.write_trial(replace(row, trial_id=name))
        if number % 4 == 3:
            print(number, flush=True)
            store.compact()
    """
    store = Store(tmp_path)
    store.write_epochs("fixed", 1, rows.epochs("fixed", count=3))
    process = start(code, tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        wanted = {"fixed", *(f"n{number}" for number in range(int(line) + 1))}
        for known in (store, Store(tmp_path)):
            ends = known.final_epochs(["trial_id", "epoch"])
            assert wanted <= set(ends["trial_id"])
            assert set(ends["epoch"]) == {3}
            some = known.epochs(["fixed", f"n{line.strip()}"], ["trial_id", "epoch"])
            assert some.rows() == [(name, epoch) for name in ("fixed", f"n{line.strip()}") for epoch in (1, 2, 3)]
            assert known.skipped == []
    assert process.wait() == 0
    assert len([name for name in rows.files(tmp_path / "epochs") if name.startswith("compact")]) > 5


# --- several at once ---

MANY = """
import sys
from pathlib import Path
from raybench.results.schema import EpochRow, Status, TrialRow
from raybench.results.store import Store

store, sweep, writer = Store(Path(sys.argv[1])), sys.argv[2], sys.argv[3]
print("ready", flush=True)
sys.stdin.readline()
for number in range(8):
    trial = f"{writer}-{number}"
    for count in (1, 2, 3):
        store.write_epochs(trial, 1, [EpochRow(trial_id=trial, attempt=1, epoch=1 + done) for done in range(count)])
    store.write_trial(TrialRow(
        trial_id=trial, sweep=sweep, preset="p", cell="c", status=Status.COMPLETE, attempt=1, seed=0
    ))
    if writer == "w0":
        store.compact()
print("done", flush=True)
"""


@pytest.mark.scenario(17)
def test_several_processes_write_several_sweeps_of_one_folder(tmp_path: Path, start: Start) -> None:
    """Two writers a sweep, one of which also compacts, with a reader all the while: every row is there at the end."""
    roots = {sweep: tmp_path / "results" / sweep for sweep in ("one", "two")}
    writers = [start(MANY, root, sweep, writer) for sweep, root in roots.items() for writer in ("w0", "w1")]
    assert [process.stdout.readline() for process in writers] == ["ready\n"] * 4
    for process in writers:
        process.stdin.write("go\n")
        process.stdin.flush()
    stores = {sweep: Store(root) for sweep, root in roots.items()}
    seen = dict.fromkeys(roots, 0)
    while any(process.poll() is None for process in writers):
        for sweep, store in stores.items():
            trials = store.trials()
            assert seen[sweep] <= trials.height, "what was there stays"
            assert set(trials["sweep"]) <= {sweep}
            assert store.skipped == []
            seen[sweep] = trials.height
    assert [process.stdout.read() for process in writers] == ["done\n"] * 4
    for root in roots.values():
        for store in (Store(root), stores[root.name]):
            assert store.trials()["trial_id"].to_list() == sorted(f"w{w}-{n}" for w in (0, 1) for n in range(8))
            assert store.epochs().height == 2 * 8 * 3
            store.compact()
