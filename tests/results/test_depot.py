"""What one machine brings to the depot, each other one copies once, whole and unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
from upath import UPath

from raybench.errors import ResultsError
from raybench.results.depot import Depot, depot
from raybench.results.storage import Folder

FILES = ("large.bin", "about.json")


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Depot:
    root: Folder = tmp_path / "depot" if request.param == "folder" else request.getfixturevalue("s3")
    return Depot(root)


def made(folder: Path, content: bytes) -> Path:
    folder.mkdir()
    (folder / "large.bin").write_bytes(content)
    (folder / "about.json").write_text("{}")
    return folder


def test_what_was_brought_is_copied(store: Depot, tmp_path: Path) -> None:
    here, there = made(tmp_path / "here", bytes(range(256)) * 8192), tmp_path / "there"
    assert not store.fetch("teachers/a", there)
    assert not store.agrees("teachers/a", here)
    assert store.publish("teachers/a", here, FILES)
    assert store.agrees("teachers/a", here)
    assert store.fetch("teachers/a", there)
    assert store.agrees("teachers/a", there)
    assert {path.name for path in there.iterdir()} == {*FILES, ".depot"}
    assert (there / "large.bin").read_bytes() == (here / "large.bin").read_bytes()


def test_of_two_that_bring_the_same_the_first_counts(store: Depot, tmp_path: Path) -> None:
    first, second = made(tmp_path / "first", b"1"), made(tmp_path / "second", b"2")
    assert store.publish("a", first, FILES)
    assert not store.publish("a", second, FILES)
    assert not store.agrees("a", second)
    assert store.fetch("a", second)
    assert (second / "large.bin").read_bytes() == b"1"
    assert store.agrees("a", second)


def test_of_two_at_the_same_moment_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Depot(tmp_path / "depot")
    first, second = made(tmp_path / "first", b"1"), made(tmp_path / "second", b"2")
    with monkeypatch.context() as patch:
        # The second looks before the first has written its list, and writes its own after that.
        patch.setattr(Depot, "_contents", lambda *_: None)
        assert store.publish("a", first, FILES)
        assert not store.publish("a", second, FILES)
    assert store.agrees("a", first)
    assert not store.agrees("a", second)
    (left,) = (tmp_path / "depot" / "a").glob("*/large.bin")
    assert left.read_bytes() == b"1"


def test_damage_is_told_and_nothing_of_it_stays(tmp_path: Path) -> None:
    store, there = Depot(tmp_path / "depot"), tmp_path / "there"
    store.publish("a", made(tmp_path / "here", b"1"), FILES)
    (brought,) = (tmp_path / "depot" / "a").glob("*/large.bin")
    brought.write_bytes(b"2")
    with pytest.raises(ResultsError, match=r"is not what was brought there \(SHA-256\); remove "):
        store.fetch("a", there)
    assert list(there.iterdir()) == []


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert depot() is None
    monkeypatch.setenv("RAYBENCH_DEPOT", str(tmp_path))
    assert depot() == Depot(tmp_path)
    monkeypatch.setenv("RAYBENCH_DEPOT", "s3://bucket/depot")
    found = depot()
    assert found is not None
    assert isinstance(found.root, UPath)
