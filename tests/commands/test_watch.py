"""`raybench watch`: what it takes from a sweep's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from raybench.commands.watch import Look, _watch
from raybench.errors import ResultsError
from raybench.results.manifest import read_runs, write_manifest
from raybench.results.store import Store


@pytest.mark.parametrize(
    ("written", "metric"),
    [
        ("metric: {name: eval_bleu}", "eval_bleu"),
        ("metric: [", "eval_top1"),
        ('metric: "\\UFFFFFFFF"', "eval_top1"),
        ("!!bool maybe", "eval_top1"),
    ],
)
def test_the_metric_is_that_of_the_sweep_where_its_file_can_be_read(tmp_path: Path, written: str, metric: str) -> None:
    (tmp_path / "sweep.yaml").write_text(written)
    assert Look.at(Store(tmp_path)).metric == metric


def test_a_manifest_that_cannot_be_read_for_a_moment_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(tmp_path, started="then", ended=None)
    store = Store(tmp_path)
    first = Look.at(store)
    assert first.run is not None
    content = (manifest := tmp_path / "manifest.json").read_bytes()
    manifest.unlink()
    manifest.mkdir()  # EISDIR, for whoever may do everything has no EACCES
    with pytest.raises(ResultsError, match="cannot be read"):
        Look.at(store)
    assert Look.at(store, first).run == first.run

    def mended(_: float) -> None:
        manifest.rmdir()
        manifest.write_bytes(content)
        write_manifest(tmp_path, started="later", ended="now", exit_code=0)

    begun = iter([[first.run]] * 2)  # what is asked before the live view
    monkeypatch.setattr("raybench.commands.watch.read_runs", lambda folder: next(begun, None) or read_runs(folder))
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setattr("time.sleep", mended)
    assert _watch(tmp_path, once=False) == 0
    assert not manifest.is_dir(), "it was looked at once more"
