"""The environment and the manifest."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest

import raybench
from raybench.errors import ResultsError
from raybench.results import manifest
from raybench.results.manifest import environment, read_runs, write_manifest
from raybench.results.schema import ENVIRONMENT


def runs(folder: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads((folder / "manifest.json").read_text())["runs"]
    return found


def test_environment_fits_its_columns_and_is_true() -> None:
    found = environment()
    assert set(found) <= set(ENVIRONMENT)
    assert found["python"] == platform.python_version()
    assert found["numpy"] == numpy.__version__
    assert found["cpu"]
    found["cpu"] = None
    assert environment()["cpu"], "a caller's change stays its own"


def test_environment_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from raybench.results.manifest import environment\n"
        "environment(); print({'torch', 'ray'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == "set()"


def test_runs_are_added_and_a_run_given_again_replaces_itself(tmp_path: Path) -> None:
    write_manifest(tmp_path, command="sweep a", started="2026-01-01T00:00:00+00:00", ended=None)
    write_manifest(tmp_path, command="sweep a", started="2026-01-01T00:00:00+00:00", ended="later", exit_code=0)
    write_manifest(tmp_path, command="sweep a", started="2026-01-02T00:00:00+00:00", ended=None, trials={"complete": 3})
    assert [run["ended"] for run in runs(tmp_path)] == ["later", None]
    assert runs(tmp_path)[1]["trials"] == {"complete": 3}
    assert runs(tmp_path)[0]["environment"] == environment()
    assert read_runs(tmp_path) == runs(tmp_path)


def test_code_that_was_changed_is_in_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "clone" / "raybench"
    package.mkdir(parents=True)
    file = package / "__init__.py"
    file.write_text("a = 1\n")
    git = ["git", "-C", str(tmp_path / "clone"), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *arguments], check=True)
    monkeypatch.setattr(raybench, "__file__", str(file))
    manifest._environment.cache_clear()
    try:
        assert manifest.changed_code() is None
        file.write_text("a = 2\n")
        manifest._environment.cache_clear()
        write_manifest(tmp_path, started="now")
        diff = str(runs(tmp_path)[0]["git_diff"])
        assert "-a = 1\n+a = 2" in diff
        file.write_text("b = 3\n" * manifest.LARGEST_DIFF)
        assert (manifest.changed_code() or "").startswith("sha256 ")
    finally:
        monkeypatch.undo()
        manifest._environment.cache_clear()


def test_broken_manifest_is_kept_aside(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"runs": [')
    write_manifest(tmp_path, command="sweep a")
    assert len(runs(tmp_path)) == 1
    assert (tmp_path / "manifest.json.unreadable").read_text() == '{"runs": ['


@pytest.mark.parametrize(
    "content", ['{"runs": [', "[]", '{"runs": [1]}', "null", "\xff", "", "[" * 100_000], ids=range(7)
)
def test_a_reader_leaves_a_broken_manifest_where_it_is(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content, encoding="latin-1")
    assert read_runs(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    assert (tmp_path / "manifest.json").read_text(encoding="latin-1") == content


def test_there_are_no_runs_before_the_first(tmp_path: Path) -> None:
    assert read_runs(tmp_path / "absent") == []


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ResultsError, match="a file stands"):
        write_manifest(tmp_path / "file", command="sweep a")


@pytest.mark.parametrize("act", [read_runs, lambda folder: write_manifest(folder, command="sweep a")])
def test_a_manifest_that_is_there_but_cannot_be_read_is_not_written_over(
    tmp_path: Path, act: Callable[[Path], object]
) -> None:
    (tmp_path / "manifest.json").symlink_to("manifest.json")
    with pytest.raises(ResultsError, match=r"manifest.json cannot be read: Too many levels of symbolic links; mend it"):
        act(tmp_path)
    assert (tmp_path / "manifest.json").is_symlink()
