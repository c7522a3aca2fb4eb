"""Every end of a command has its exit code and a line for people."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from raybench.commands.endings import ended
from raybench.errors import ConfigError, DataError


def raising(error: BaseException) -> Callable[[], int]:
    def run() -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError(["one", "two"]), 2, "2 errors, nothing started:\n  one\n  two\n"),
        (ConfigError(["one"]), 2, "1 error, nothing started:\n  one\n"),
        (DataError("no images\nlook elsewhere"), 2, "error: no images\n       look elsewhere\n"),
        (KeyboardInterrupt(), 130, "stopped before anything\n"),
        (PermissionError(13, "Permission denied", "/some/file"), 1, "error: Permission denied: /some/file\n"),
        (OSError("odd"), 1, "error: odd: no file named\n"),
    ],
)
def test_ends(error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(raising(error), "stopped before anything") == code
    assert capsys.readouterr().err == said


def test_a_fault_of_our_own_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        ended(raising(ZeroDivisionError()))


def test_a_reader_that_has_had_enough_hears_no_complaint(tmp_path: Path) -> None:
    script = tmp_path / "says_much.py"
    script.write_text(
        "import sys\nfrom raybench.commands.endings import ended\n"
        "def run():\n    for n in range(100_000): print(n)\n    return 0\n"
        "sys.exit(ended(run))\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1
