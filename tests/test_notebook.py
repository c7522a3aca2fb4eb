"""The example notebook: its code cells, in order, in one process, as a notebook runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "first_sweep.ipynb"

RUN = """\
import ast, json, sys

space, shown = {}, []
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] != "code":
        continue
    body = ast.parse("".join(cell["source"]))
    last = body.body.pop() if body.body and isinstance(body.body[-1], ast.Expr) else None
    exec(compile(body, "cell", "exec"), space)
    if last is not None:  # a notebook shows what the last line is
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), space)
        shown.append(value._repr_markdown_() if hasattr(value, "_repr_markdown_") else repr(value))
print("\\0" + json.dumps(shown))
"""


def cells() -> list[dict[str, object]]:
    content = json.loads(NOTEBOOK.read_text())
    assert (content["nbformat"], content["metadata"]["kernelspec"]["name"]) == (4, "python3")
    found: list[dict[str, object]] = content["cells"]
    return found


def test_it_is_kept_without_outputs() -> None:
    code = [cell for cell in cells() if cell["cell_type"] == "code"]
    assert code
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"] is not None] == []
    assert len({cell["id"] for cell in cells()}) == len(cells())


def test_its_code_runs(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    pytest.importorskip("pandas")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAYBENCH_CACHE": str(tmp_path / "cache"), "NO_COLOR": "1"}
    command = [sys.executable, "-c", RUN, str(NOTEBOOK)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    printed, _, last = done.stdout.partition("\0")
    shown = json.loads(last)
    assert "2 cells (alpha) x 1 setting of lr x 2 seeds = 4 trials, 0 settled" in printed
    assert "nothing to do: 4 of 4 trials settled (4 complete)" in printed
    assert shown[1] == "0"  # the exit code
    assert "complete" in shown[2]
    assert shown[4].startswith("**smoke, quick, test ")
    assert shown[-1].startswith("(4, ")
