"""Completion in a shell: what a word under the cursor may become, asked as a shell asks."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from raybench.__main__ import COMMANDS, USAGE
from raybench.__main__ import main as raybench
from raybench.commands.completion import whole_parser

ROOT = Path(__file__).parents[2]

needs_argcomplete = pytest.mark.skipif(find_spec("argcomplete") is None, reason="argcomplete is not installed")


def completed(line: str, folder: Path) -> set[str]:
    """What may stand at the end of a line; and nothing heavy is imported for it."""
    script = (
        "import atexit, os, sys\n"
        "heavy = {'torch', 'ray', 'timm', 'torchvision', 'scipy', 'matplotlib'}\n"
        "end = os._exit\n"
        "def tell(code):\n"
        "    print(*heavy & set(sys.modules), end='', file=sys.stderr, flush=True)\n"
        "    end(code)\n"
        "os._exit = tell\n"
        "sys.argv = ['raybench']\n"
        "from raybench.__main__ import main; main([])"
    )
    told = folder / "told"
    variables = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    variables |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(told), "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | variables, cwd=folder, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    return {word.strip() for word in told.read_text().split("\n") if word.strip()}


@needs_argcomplete
def test_what_a_word_may_become(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text("# A question?\nbase: {}\n")
    assert completed("raybench d", tmp_path) == {"data", "doctor"}
    assert completed("raybench sweep mi", tmp_path) == {"mine"}
    assert completed("raybench sweep --prese", tmp_path) == {"--preset"}
    assert completed("raybench sweep mine --preset q", tmp_path) == {"quick"}
    assert completed("raybench data check cifar1", tmp_path) == {"cifar10", "cifar100"}
    assert completed("raybench list mod", tmp_path) == {"models"}


@needs_argcomplete
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_what_a_shell_is_given(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert raybench(["completion", shell]) == 0
    said = capsys.readouterr().out
    assert "raybench" in said
    assert "_ARGCOMPLETE" in said
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=said, text=True, check=True)


def test_without_argcomplete_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    assert raybench(["completion", "bash"]) == 2
    assert capsys.readouterr().err == 'error: completion needs argcomplete: pip install "raybench[completion]"\n'


def test_every_command_has_a_parser_and_a_line_of_usage() -> None:
    assert [name for name in COMMANDS if f"\n  {name} " not in USAGE and f"\n  {name}\n" not in USAGE] == []
    whole = whole_parser(COMMANDS)
    (of_command,) = (action for action in whole._actions if action.choices)
    assert list(of_command.choices or ()) == list(COMMANDS)
