"""Whatever lies in a results folder: no traceback, nothing healthy is lost, and what cannot be read is named."""

from __future__ import annotations

import datetime
import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from raybench.commands.comparing import Asked as Compare
from raybench.commands.comparing import compare_sweeps
from raybench.commands.estimating import Estimate
from raybench.commands.loading import Asked, load
from raybench.commands.plan_text import plan_lines
from raybench.commands.results_text import trouble
from raybench.commands.sweeping import Sweep, read_outcomes
from raybench.config.costs import TrialCost
from raybench.config.plan import Plan
from raybench.config.price import Price
from raybench.config.trial import trial_keys
from raybench.errors import ResultsError
from raybench.report.tables import comparison_lines, comparison_markdown, sheet_lines
from raybench.results.lock import SweepLock
from raybench.results.manifest import write_manifest
from raybench.results.parts import COMPACT, PART
from raybench.results.schema import Status, epoch_schema, trial_schema
from raybench.results.store import Store
from raybench.search.outcomes import Known, Outcomes
from raybench.search.search import Search
from raybench.search.tpe import suggestions_name
from raybench.training.checkpoints import Checkpoints

if TYPE_CHECKING:
    from .conftest import Settled

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))

FOREIGN: list[list[Any]] = [
    [1, None],
    [-1, 0],
    [2**62, 1],
    [0.5, float("nan")],
    [float("inf"), 1e308],
    [True, None],
    ["", "x"],
    ["complete", "running"],
    ["é\n\x00", None],
    [b"\xff", b""],
    [[1], None],
    [{"a": 1}, {"a": None}],
    [datetime.datetime(1, 1, 1), None],
    [datetime.date(9999, 12, 31), None],
    [datetime.timedelta(days=1), None],
    [None, None],
]
"""Columns of two rows, of every kind of type."""
COLUMNS = {"trials": trial_schema().names, "epochs": epoch_schema().names}
FURTHER = ["_path", "_age", "_order", "rows", "written_by", "eval_top3", "config/x", "part/y", "", "x"]


@dataclass(frozen=True)
class Damage:
    """What is done to one file of a table."""

    table: str
    target: int
    """Which of the files there are; beyond them a new one."""
    how: str
    content: bytes = b""
    place: float = 0.0
    columns: dict[str, int] = field(default_factory=dict)
    claims: int = 0
    """Whose trial the rows of a foreign table say they are."""


tables = st.sampled_from(["trials", "epochs"])
damages = st.builds(
    Damage,
    table=tables,
    target=st.integers(0, 9),
    how=st.sampled_from(["bytes", "cut", "flip", "folder", "dangling", "copy"]),
    content=st.binary(max_size=40),
    place=st.floats(0, 1, exclude_max=True),
) | tables.flatmap(
    lambda table: st.builds(
        Damage,
        table=st.just(table),
        target=st.integers(0, 9),
        how=st.sampled_from(["foreign", "changed", "changed", "twice"]),
        columns=st.dictionaries(
            st.sampled_from(COLUMNS[table]) | st.sampled_from(FURTHER), st.integers(0, len(FOREIGN) - 1), max_size=5
        ),
        claims=st.integers(0, 8),
    )
)
texts = st.binary(max_size=60) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
).map(lambda value: json.dumps(value).encode())
others = st.dictionaries(
    st.sampled_from(["manifest.json", "sweep.yaml", ".lock.json", "trials/notes.txt", "epochs/.x.tmp"]),
    texts | st.just(b'{"runs": [1]}') | st.just(b'{"runs": {"a": 1}}'),
    max_size=2,
)


@dataclass(frozen=True, repr=False)
class Folder:
    """A results folder as it should be, of which each case has a copy."""

    sweep: Sweep
    scratch: Path
    ids: list[str]

    @property
    def whole(self) -> Path:
        """The folder itself."""
        return Path(str(self.sweep.folder))

    def copy(self) -> Path:
        """A copy; its files are links, so that they are replaced and never written to."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        shutil.copytree(self.whole, self.scratch, copy_function=os.link)
        return self.scratch


@pytest.fixture(scope="module")
def folder(shared: Settled, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Eight trials: two compacted, one diverged, one failed, one running, the others complete."""
    plan = shared.plan()
    trials = list(plan.trials())
    shared.settle(trials[:2])
    Store(shared.folder).compact()
    shared.settle(trials[2:3], status=Status.DIVERGED, reason="eval_loss is nan in epoch 4", test_top1=None)
    shared.settle(trials[3:4], status=Status.FAILED, reason="RuntimeError: it broke")
    shared.settle(trials[4:5], status=Status.RUNNING, ended=None)
    shared.settle(trials[5:])
    write_manifest(shared.folder, command="a command", started="then", ended=None)
    shared.ran(plan)
    sweep = load(Asked(str(shared.file), "quick", results=str(shared.results), dry_run=True))
    assert sweep.settled_trials == 7
    return Folder(sweep, tmp_path_factory.mktemp("fuzz") / "copy", [trial.trial_id for trial in trials])


def apply(damage: Damage, root: Path, ids: list[str]) -> set[str]:
    """Do it; returns the trials whose rows are not to be trusted any more."""
    table = root / damage.table
    files = sorted(table.glob("*.parquet"))
    path = (
        files[damage.target]
        if damage.target < len(files)
        else table / f"{ids[damage.target % 8]}-a{damage.target}.parquet"
    )
    is_new = not path.exists()
    content = b"" if is_new or path.is_dir() else path.read_bytes()
    concerned = set(ids[:2]) if path.name.startswith("compact") else {path.name[:12]}
    if damage.how in ("foreign", "changed", "twice"):
        frame = _foreign(damage, content, ids)
        if frame is None:
            return concerned
        claimed = {str(each) for each in frame["trial_id"]} if "trial_id" in frame.columns else set()
        _replace(path, lambda draft: pq.write_table(frame.to_arrow(), draft))
        return concerned | claimed
    if damage.how == "copy" and content:
        other = table / (
            "compact-7.parquet" if damage.place < 0.3 else f"{ids[int(damage.place * 8)]}-a9-driver.parquet"
        )
        _replace(other, lambda draft: draft.write_bytes(content))
        return set()
    if damage.how in ("folder", "dangling"):
        path.unlink(missing_ok=True) if not path.is_dir() else shutil.rmtree(path)
        path.mkdir() if damage.how == "folder" else path.symlink_to("nowhere")
        return concerned
    cut = int(damage.place * len(content))
    flipped = bytes([*content[:cut], content[cut] ^ 0x10, *content[cut + 1 :]]) if content else damage.content
    changed = {"bytes": damage.content, "cut": content[:cut], "flip": flipped, "copy": b""}[damage.how]
    _replace(path, lambda draft: draft.write_bytes(changed))
    return concerned


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    draft = path.with_name(".draft")
    write(draft)
    draft.replace(path)


def _foreign(damage: Damage, content: bytes, ids: list[str]) -> pl.DataFrame | None:
    columns = {key: pl.Series(key, FOREIGN[number], strict=False) for key, number in damage.columns.items()}
    if damage.how == "foreign":
        if damage.claims < 8:
            columns["trial_id"] = pl.Series("trial_id", [ids[damage.claims]] * 2)
        return pl.DataFrame(list(columns.values()))
    try:
        frame = pl.DataFrame(pq.ParquetFile(pa.BufferReader(content)).read())
    except (OSError, pa.ArrowException):  # damaged before
        return None
    if damage.how == "twice":
        return pl.concat([frame, frame])
    return frame.with_columns(values.gather([0] * frame.height).alias(key) for key, values in columns.items())


def check(folder: Folder, harms: list[Damage], further: dict[str, bytes]) -> None:
    """Plan, print, resume, lock, write and compact over a damaged copy."""
    root = folder.copy()
    doubtful = {trial_id for harm in harms for trial_id in apply(harm, root, folder.ids)}
    for name, content in further.items():
        _replace(root / name, lambda draft, content=content: draft.write_bytes(content))  # type: ignore[misc]
    healthy = set(folder.ids) - doubtful
    store = Store(root)
    _same(folder, store, healthy)
    unreadable = [path for path in _files(root) if not _readable(path)]
    assert {line.partition(": ")[0] for line in store.skipped} >= {str(path) for path in unreadable}

    outcomes = read_outcomes(store, folder.sweep.config)
    sweep = replace(folder.sweep, store=store, folder=root, outcomes=outcomes, console=Console(file=io.StringIO()))
    lines = plan_lines(sweep, Estimate(lambda _: TrialCost("a kind", 0.0, 0.0)))
    assert all(str(path) in "\n".join(lines) for path in unreadable[:5])
    assert isinstance(sweep.due, bool)
    results = sweep.results()
    assert comparison_lines(results, "a title", width=120)
    assert comparison_markdown(results, "a title")
    trouble(sweep)
    for trial_id in folder.ids:
        assert store.next_attempt(trial_id) > int(trial_id in healthy)
        assert [row.trial_id for row in store.last_epochs(trial_id)].count(trial_id) >= 4 * (trial_id in healthy)
    with SweepLock(root):
        write_manifest(root, command="another command", started="now")
    assert json.loads((root / "manifest.json").read_text())["runs"][-1]["command"] == "another command"
    store.compact()
    _same(folder, Store(root), healthy)


def _files(root: Path) -> list[Path]:
    """The files of both tables that a reading looks at; a link to nothing is none."""
    found = [path for table in COLUMNS for path in (root / table).glob("*.parquet")]
    return [path for path in found if path.exists() and (PART.fullmatch(path.name) or COMPACT.fullmatch(path.name))]


def _readable(path: Path) -> bool:
    try:
        pq.ParquetFile(pa.BufferReader(path.read_bytes())).read()
    except (OSError, pa.ArrowException):
        return False
    return True


def _same(folder: Folder, store: Store, healthy: set[str]) -> None:
    """The rows of healthy trials are what they were; no trial has two."""
    for now, before in ((store.trials(), folder.sweep.store.trials()), (store.epochs(), folder.sweep.store.epochs())):
        wanted = before.filter(pl.col("trial_id").is_in(sorted(healthy)))
        found = now.filter(pl.col("trial_id").is_in(sorted(healthy)))
        assert found.select(before.columns).equals(wanted)
    trials = store.trials()["trial_id"]
    assert trials.n_unique() == len(trials)


@QUICK
@given(st.lists(damages, min_size=1, max_size=3), others)
def test_any_results(folder: Folder, harms: list[Damage], further: dict[str, bytes]) -> None:
    check(folder, harms, further)


@pytest.mark.slow
@LONG
@given(st.lists(damages, min_size=1, max_size=3), others)
def test_any_results_at_length(folder: Folder, harms: list[Damage], further: dict[str, bytes]) -> None:
    check(folder, harms, further)


VALUES: list[list[Any]] = [
    *([value, None] for value in ("", "x", "garbage", "[", "{", "[]", "[[]]", '"x"', '{"x": 1}', "NaN", "null", "all")),
    *([value, value] for value in ("9" * 5000, "[" * 100_000, '{"x": "\\ud800"}', "é\n\x00/../", "-1", "1e999")),
    *([value, -value] for value in (0, 1, 2**31, 2**62, 0.5, 1e-320, 1e59, 1e77, 1e154, 1e200, 1e308)),
    [float("nan"), 1.0],
    [float("inf"), -float("inf")],
    [True, False],
    [None, None],
    [None, 1],
    [[1], None],
    [datetime.datetime(1, 1, 1), None],
]
"""What the rows of a column may be, every other one the second."""
COMPARED = {
    "trials": [*COLUMNS["trials"], *(f"config/{key}" for key in trial_keys()), "test_bpp", "eval_top3"],
    "epochs": COLUMNS["epochs"],
}


@dataclass(frozen=True)
class Change:
    """A column of some trials' files, written anew by something else."""

    table: str
    column: str
    value: int
    trials: frozenset[int]


changes = st.sampled_from(["trials", "trials", "epochs"]).flatmap(
    lambda table: st.builds(
        Change,
        table=st.just(table),
        column=st.sampled_from(COMPARED[table]),
        value=st.integers(0, len(VALUES) - 1),
        trials=st.frozensets(st.integers(0, 7), min_size=1) | st.just(frozenset(range(8))),
    )
)
by_keys = st.sampled_from([(), (), ("distillation.alpha",), ("optimizer.lr", "seed")])


def check_comparison(folder: Folder, made: list[Change], by: tuple[str, ...], forms: tuple[str, ...]) -> None:
    """Every form of the comparison is made, or it is said why none is; trials that are as they were stay in it."""
    root = folder.copy()
    store = folder.sweep.store
    frames: dict[tuple[str, str], pl.DataFrame] = {}
    for change in made:
        for trial_id in (folder.ids[place] for place in change.trials):
            rows = store.trials() if change.table == "trials" else store.epochs()
            frame = frames.get((change.table, trial_id), rows.filter(pl.col("trial_id") == trial_id))
            values = (VALUES[change.value] * frame.height)[: frame.height]
            frames[change.table, trial_id] = frame.with_columns(pl.Series(change.column, values, strict=False))
    for (kind, trial_id), frame in frames.items():
        name = f"{trial_id}-a1-trial.parquet" if kind == "trials" else f"{trial_id}-a1.parquet"
        _replace(root / kind / name, lambda draft, frame=frame: pq.write_table(frame.to_arrow(), draft))  # type: ignore[misc]
    changed = {trial_id for _, trial_id in frames}
    # Of fewer than four no change takes away what the others are compared by.
    try:
        found = compare_sweeps(root.parent, [root.name], Compare(by=by, price=Price(2.0, "somebody")))
    except ResultsError:
        if len(changed) < 4:
            raise
        return
    for table in found:
        assert all(table.text(form) for form in forms)
        assert all(sheet_lines(sheet, width=160) for sheet in table.sheets())
    notes = "\n".join(note for table in found for note in table.notes)
    if "left out for later ones of the same configuration" not in notes:
        there = {trial_id for table in found for trial_id in table.trials["trial_id"]}
        complete = {*folder.ids[:2], *folder.ids[5:]}  # a preset without one has no table
        assert there >= complete - changed


@settings(QUICK, max_examples=10)
@given(st.lists(changes, min_size=1, max_size=3), by_keys)
def test_any_comparison(folder: Folder, made: list[Change], by: tuple[str, ...]) -> None:
    check_comparison(folder, made, by, ("md", "csv"))


@pytest.mark.slow
@settings(LONG, max_examples=500)
@given(st.lists(changes, min_size=1, max_size=3), by_keys)
def test_any_comparison_at_length(folder: Folder, made: list[Change], by: tuple[str, ...]) -> None:
    check_comparison(folder, made, by, ("md", "csv", "json", "latex", "html"))


@dataclass(frozen=True)
class Kept:
    """Two checkpoints of one trial."""

    folder: Path
    whole: dict[str, bytes]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Checkpoints of epochs 1 and 2."""
    folder = tmp_path_factory.mktemp("checkpoints") / "0123456789ab"
    checkpoints = Checkpoints(folder)
    for epoch in (1, 2):
        checkpoints.save({"epoch": epoch, "model": {"weight": torch.arange(10.0) + epoch}})
    return Kept(folder, {path.name: path.read_bytes() for path in sorted(folder.iterdir())})


def check_checkpoints(kept: Kept, harms: list[tuple[bool, str, float, bytes]]) -> None:
    """Whatever became of them: the newest that is whole is read, or none is."""
    shutil.rmtree(kept.folder)
    kept.folder.mkdir()
    contents = dict(kept.whole)
    names = sorted(contents)
    for newest, how, place, other in harms:
        name = names[newest]
        whole = contents[name]
        at = int(place * len(whole))
        flipped = whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :] if whole else other
        contents[name] = {"bytes": other, "cut": whole[:at], "flip": flipped, "other": contents[names[not newest]]}[how]
    for name, content in contents.items():
        (kept.folder / name).write_bytes(content)
    checkpoints = Checkpoints(kept.folder)
    state = checkpoints.newest()
    sound = [epoch for epoch, name in ((2, names[1]), (1, names[0])) if contents[name] == kept.whole[name]]
    if sound[:1] == [2]:
        assert checkpoints.skipped == []
    if sound:
        assert state is not None
    if state is not None:
        assert state["epoch"] in (1, 2)
        assert torch.equal(state["model"]["weight"], torch.arange(10.0) + state["epoch"])
    assert len(checkpoints.skipped) <= 2


checkpoint_harms = st.lists(
    st.tuples(
        st.booleans(),
        st.sampled_from(["bytes", "cut", "flip", "flip", "other"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(max_size=40),
    ),
    min_size=1,
    max_size=3,
)


@QUICK
@given(checkpoint_harms)
def test_any_checkpoints(kept: Kept, harms: list[tuple[bool, str, float, bytes]]) -> None:
    check_checkpoints(kept, harms)


@pytest.mark.slow
@LONG
@given(checkpoint_harms)
def test_any_checkpoints_at_length(kept: Kept, harms: list[tuple[bool, str, float, bytes]]) -> None:
    check_checkpoints(kept, harms)


points = st.dictionaries(
    st.sampled_from(["optimizer.lr", "batch_size", "seed", "x", ""]),
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([0.05, 0.01, 64, "all", [1], {"a": 1}]),
    max_size=2,
)
suggested = st.lists(points.map(json.dumps) | st.just('{"optimizer.lr": 0.05}'), max_size=4).map("\n".join)


def check_suggestions(folder: Folder, tpe: Plan, content: bytes) -> None:
    """A search goes on from what is suggested there, or says which file is none of its own."""
    root = folder.scratch / "suggestions"
    shutil.rmtree(folder.scratch, ignore_errors=True)
    root.mkdir(parents=True)
    for cell in tpe.cells:
        (root / f"{suggestions_name(tpe.sweep, cell)}.jsonl").write_bytes(content)
    refused = ""
    try:
        search = Search(tpe, Outcomes(), folder.scratch, 1)
        assert search.finished in (True, False)
        assert sum(len(cell.settings) for cell in search.cells()) <= 4 * len(tpe.cells)
        search.next_job()
        ids = {trial.trial_id for cell in search.cells() for setting in cell.settings for trial in setting.trials}
        settled = Outcomes(dict.fromkeys(ids, Known(Status.COMPLETE, {1: 50.0})))
        Search(tpe, settled, folder.scratch, 1).next_job()
    except ResultsError as error:
        refused = str(error)
    assert not refused or str(root) in refused


@pytest.fixture(scope="module")
def tpe(shared: Settled) -> Plan:
    """The sweep, searched by tpe."""
    axis = "tune={algorithm: tpe, num_samples: 4, space: {optimizer.lr: {loguniform: [0.001, 0.1]}}}"
    return shared.plan(axis)


@QUICK
@given(texts | suggested.map(str.encode))
def test_any_suggestions(folder: Folder, tpe: Plan, content: bytes) -> None:
    check_suggestions(folder, tpe, content)


@pytest.mark.slow
@LONG
@given(texts | suggested.map(str.encode))
def test_any_suggestions_at_length(folder: Folder, tpe: Plan, content: bytes) -> None:
    check_suggestions(folder, tpe, content)
