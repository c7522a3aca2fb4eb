"""The command line: what it imports, what it refuses, what it plans."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raybench import sweep
from raybench.__main__ import main as raybench

REPOSITORY = Path(__file__).parents[1]


def imported_by(*arguments: str) -> tuple[set[str], str, str]:
    """Top-level packages that a command imported, what it printed, and what it said on stderr."""
    script = (
        "import sys, raybench.sweep as s\n"
        "try:\n    s.main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print('\\0' + ' '.join({name.partition('.')[0] for name in sys.modules}))"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environment,
        cwd=REPOSITORY,
        text=True,
        capture_output=True,
        check=True,
    )
    printed, _, names = done.stdout.partition("\0")
    return set(names.split()), printed, done.stderr


@pytest.mark.parametrize("argument", ["--help", "--list"])
def test_help_and_list_import_nothing_heavy(argument: str) -> None:
    names, printed, _ = imported_by(argument)
    assert "deit_reverse" in printed or "usage:" in printed
    assert not names & {"torch", "ray", "timm", "torchvision", "scipy", "matplotlib", "sklearn", "polars", "pyarrow"}


def test_a_dry_run_does_without_ray(tmp_path: Path) -> None:
    names, printed, _ = imported_by("deit_reverse", "--preset", "quick", "--dry-run", "--results", str(tmp_path))
    assert "10 cells (alpha x type x train_size) x 2 settings of lr x 3 seeds = 60 trials, 0 settled" in printed
    assert "student resnet8 75 k, teacher vit_micro_patch2_8 202 k parameters" in printed
    assert "3 seeds show a difference of about 3.3 standard deviations" in printed
    assert not names & {"ray", "timm", "torchvision"}
    assert list(tmp_path.iterdir()) == []


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and stderr of a command that must refuse."""
    code = sweep.main(list(arguments))
    return code, capsys.readouterr().err


@pytest.mark.scenario(22)
def test_all_errors_come_together(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    overrides = [
        "distillation.alpa=0.5",
        "optimizer.lr=-1",
        "model.name=resnet5O",
        "dataset.name=digts",
        "metric.name=x",
    ]
    code, said = run(capsys, "deit_reverse", "--preset", "quick", "--results", str(tmp_path), *overrides)
    assert code == 2
    lines = said.splitlines()
    assert lines[0] == "5 errors, nothing started:"
    assert lines[1] == "  command line: distillation.alpa: no such key; did you mean distillation.alpha?"
    assert lines[2] == "  command line: optimizer.lr = -1: must be greater than 0"
    assert lines[3].startswith('  command line: dataset.name = "digts": unknown data set; nearest: digits')
    assert lines[4].startswith('  command line: model.name = "resnet5O": unknown model; nearest: ')
    assert "resnet50" in lines[4]
    assert lines[5].startswith('  command line: metric.name = "x": unknown metric')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.scenario(24)
def test_a_train_size_beyond_the_data_names_both_numbers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, said = run(
        capsys, "deit_reverse", "--preset", "quick", "--results", str(tmp_path), "dataset.train_size=99999"
    )
    assert code == 2
    assert said.startswith("1 error, nothing started:\n  command line: dataset.train_size = 99999: ")
    assert "the training set has 1297; train_size may be at most 1097 with this val_size" in said
    assert list(tmp_path.iterdir()) == []  # no folder either


@pytest.mark.scenario(29)
@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "x/../y", "a b", "a;ls", "$(ls)", "`ls`", "a\nb", ".", "..", "-", "x.yaml", "", "a" * 101],
)
def test_names_that_are_no_sweeps(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = run(capsys, "--preset", "quick", "--results", "results", "--", name)
    assert code == 2
    assert said.startswith("1 error, nothing started:\n  command line: ")
    assert len(said.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.scenario(22)
@pytest.mark.parametrize(
    ("name", "override", "nearest"),
    [
        ("deit_revers", "seeds=[0]", '"deit_revers": unknown sweep; nearest: deit_reverse, '),
        ("deit_reverse", "model.name=resnet21", "nearest: resnet32, resnet26, resnet20"),
        ("deit_reverse", "distillation.teacher.name=vit_micro_patch2", "nearest: vit_micro_patch2_8"),
        ("deit_reverse", "dataset.name=cifar", "nearest: cifar10, cifar100"),
        ("deit_reverse", "metric.name=eval_topl", "nearest: eval_top5, eval_top1"),
        ("deit_reverse", "factors.model.name=[resnet8, resmet20]", "nearest: resnet20"),
        ("deit_reverse", "optimizer.name=adamww", "did you mean adamw?"),
    ],
)
def test_unknown_names_have_their_nearest(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, override: str, nearest: str
) -> None:
    code, said = run(capsys, name, "--preset", "quick", "--results", str(tmp_path), override)
    assert code == 2
    assert said.startswith("1 error, nothing started:\n  command line: ")
    assert nearest in said
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A file system on which nothing can be written, whoever asks; or a skip."""
    folder = tmp_path / "read_only"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a file system here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def refused_before_ray(results: Path) -> str:
    """stderr of a command that must refuse its results folder before it imports ray."""
    names, printed, said = imported_by("deit_reverse", "--preset", "quick", "--results", str(results))
    assert "ray" not in names
    assert printed == ""
    assert said.startswith("error: ")
    assert "--results" in said
    return said


@pytest.mark.scenario(18)
@pytest.mark.parametrize("below", ["", "deep/er", "deit_reverse"])
def test_a_file_where_results_are_to_lie(tmp_path: Path, below: str) -> None:
    file = tmp_path / "results"
    if below == "deit_reverse":
        file.mkdir()
        file /= below
    file.write_text("in the way")
    said = refused_before_ray(tmp_path / "results" / (below if below == "deep/er" else ""))
    assert f"{file} is a file" in said or f"{file}/" in said
    assert file.read_text() == "in the way"


@pytest.mark.scenario(18)
def test_results_on_a_file_system_that_cannot_be_written(read_only: Path) -> None:
    assert str(read_only) in refused_before_ray(read_only)
    assert "Read-only file system" in refused_before_ray(read_only / "deep" / "er")


def test_data_that_are_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    empty = tmp_path / "data"
    empty.mkdir()
    arguments = ["deit_reverse", "--preset", "small", "--data-root", str(empty), "--results", str(tmp_path / "results")]
    code, said = run(capsys, *arguments)
    assert code == 2
    assert "cifar100" in said
    assert "cifar100_train.parquet" in said
    assert "--preset quick" in said


def test_more_than_the_machine_has(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, said = run(capsys, "deit_reverse", "--preset", "quick", "--results", str(tmp_path), "resources.cpu=9999")
    assert code == 2
    assert "command line: resources.cpu = 9999: this machine has " in said


def test_a_long_plan_is_not_started_without_yes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code = sweep.main(["deit_reverse", "--preset", "quick", "--results", str(tmp_path), "schedule.epochs=100000"])
    captured = capsys.readouterr()
    assert code == 2
    assert "more than one device-hour is not started without --yes" in captured.err
    assert list(tmp_path.iterdir()) == []


def test_without_ray_it_says_what_to_install(tmp_path: Path) -> None:
    script = (
        "import sys, importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'ray' else find(name, *rest)\n"
        "import raybench.sweep as s\n"
        "sys.exit(s.main(sys.argv[1:]))"
    )
    arguments = ["deit_reverse", "--preset", "quick", "--results", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=environment, cwd=REPOSITORY, text=True, capture_output=True
    )
    assert done.returncode == 2
    assert "pip install" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_metric_with_the_wrong_direction_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, said = run(capsys, "deit_reverse", "--preset", "quick", "--results", str(tmp_path), "metric.name=eval_loss")
    assert code == 2
    assert "mode = max would select the worst eval_loss; use mode: min" in said


@pytest.mark.parametrize(
    "arguments", [["--time-budget", "-3"], ["--seeds", "0"], ["--seeds", "x"], ["--seeds", "99999999"]]
)
def test_options_out_of_range(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        sweep.main(["deit_reverse", *arguments])
    assert stopped.value.code == 2
    assert "error: argument" in capsys.readouterr().err


def test_the_console_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert raybench(["--version"]) == 0
    assert capsys.readouterr().out.startswith("raybench ")
    assert raybench(["swep"]) == 2
    assert "did you mean sweep?" in capsys.readouterr().err
    assert raybench(["list", "datasets"]) == 0
    assert {"digits", "cifar10", "cifar100"} <= set(capsys.readouterr().out.split())
    assert raybench(["list", "sweeps"]) == 0
    assert "Does a ViT teacher help" in capsys.readouterr().out
    assert raybench(["list", "models", "resnet2"]) == 0
    assert "resnet20" in capsys.readouterr().out.split()
