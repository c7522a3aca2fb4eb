"""The example notebook: its code cells, in order, in one process, as a notebook runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raybench.config.load import load_sweep
from raybench.config.plan import make_plan
from raybench.data import load
from raybench.results.schema import EpochRow, Status, TrialRow
from raybench.results.store import Store

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "first_sweep.ipynb"

RUN = """\
import ast, json, pathlib, sys

space, shown = {}, []
for cell in json.loads(pathlib.Path(sys.argv[1]).read_text())["cells"]:
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


def test_its_code_runs_where_its_trials_are_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of it but the training, which is that of any sweep."""
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    changes = ["schedule.epochs=3", "distillation.teacher.epochs=1", "tune.space.optimizer.lr=[0.1]", "seeds=[0,1]"]
    config = load_sweep("smoke", "quick", changes)
    plan = make_plan(config.model_copy(update={"fingerprints": {"digits": load("digits").fingerprint}}))
    store = Store(tmp_path / "results" / "smoke")
    for trial in plan.trials():
        about: dict[str, Any] = {"trial_id": trial.trial_id, "attempt": 1}
        store.write_epochs(trial.trial_id, 1, [EpochRow(**about, epoch=1, train_loss=1.0, eval_top1=50.0 + trial.seed)])
        row = TrialRow(
            **about,
            sweep="smoke",
            preset="quick",
            cell="",
            status=Status.COMPLETE,
            setting_id=trial.setting_id,
            seed=trial.seed,
            epochs=1,
            best_epoch=1,
            eval_top1=50.0 + trial.seed,
            test_top1=40.0 + trial.seed,
            config=trial.flat(),
        )
        store.write_trial(row)
    monkeypatch.setattr(sys, "argv", ["notebook", str(NOTEBOOK)])
    exec(compile(RUN, "notebook", "exec"), {})
    printed, _, last = capsys.readouterr().out.partition("\0")
    shown = json.loads(last)
    assert "2 cells (alpha) x 1 setting of lr x 2 seeds = 4 trials, 4 settled" in printed
    assert shown[1] == "0"  # the exit code
    assert shown[4].startswith("**smoke, quick, test ")
    assert shown[-1].startswith("(4, ")


@pytest.mark.slow
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
