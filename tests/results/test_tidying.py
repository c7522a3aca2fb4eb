"""Parts are put away while a sweep runs."""

from __future__ import annotations

from pathlib import Path

from polars.testing import assert_frame_equal

from raybench.results.schema import EpochRow, Status, TrialRow
from raybench.results.store import Store
from raybench.results.tidying import Tidier


def settle(folder: Path, name: str) -> None:
    store = Store(folder)
    store.write_epochs(name, 1, [EpochRow(trial_id=name, attempt=1, epoch=1, lr=0.1)])
    row = TrialRow(
        trial_id=name, sweep="some", preset="quick", cell="a", status=Status.COMPLETE, attempt=1, seed=0, config={},
        env={},
    )  # fmt: skip
    store.write_trial(row)


def parts(folder: Path) -> list[str]:
    return sorted(path.name for kind in ("trials", "epochs") for path in (folder / kind).glob("*-a1*.parquet"))


def test_after_so_many_trials_their_parts_are_put_away(tmp_path: Path) -> None:
    tidier = Tidier(tmp_path, after=3)
    for name in ("aa", "bb"):
        settle(tmp_path, name)
        tidier.settled(1)
        tidier.wait()
    assert len(parts(tmp_path)) == 4
    settle(tmp_path, "cc")
    before = Store(tmp_path).trials()
    tidier.settled(1)
    tidier.wait()
    assert parts(tmp_path) == []
    assert_frame_equal(Store(tmp_path).trials(), before)
    assert Store(tmp_path).epochs().height == 3
    # And again only after as many more.
    settle(tmp_path, "dd")
    tidier.settled(1)
    tidier.wait()
    assert len(parts(tmp_path)) == 2


def test_what_cannot_be_put_away_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "trials").write_text("a file where the folder is to be")
    tidier = Tidier(tmp_path, after=1)
    tidier.settled(1)
    tidier.wait()
    assert not tidier.busy
