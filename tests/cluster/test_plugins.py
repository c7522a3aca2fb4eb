"""A plugin reaches the workers, which never see its file."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import polars as pl
import pytest

from raybench.config import plugins
from raybench.sweep import main

if TYPE_CHECKING:
    from .conftest import Sweeps

pytest.importorskip("ray")

PLUGIN = """\
from torch import nn

def net(*, num_classes, in_channels, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))

def squared(student, teacher, tau, reduction):
    return {"kd_squared": (student - teacher).square().mean()}

MODELS = {"my_net": net}
LOSSES = {"squared": squared}
RECIPE_VERSION = 1
"""


def test_a_setup_carries_the_plugins_of_its_trials() -> None:
    from raybench.cluster.jobs import pack_setup, unpack_setup
    from raybench.config.plugins import Plugin
    from raybench.training.recorder import Setup

    setup = Setup(sweep="tiny", plugins=(Plugin("mine.py", "mine 1", PLUGIN), Plugin("zoo.nets", "abc")))
    assert unpack_setup(pack_setup(setup)) == setup


def test_model_teacher_and_loss_of_a_plugin_in_workers(
    sweeps: Sweeps, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = sweeps.folder / "mine.py"
    plugin.write_text(PLUGIN)
    axes = ["model.name=my_net", "distillation.type=squared", "distillation.teacher.name=my_net"]
    less = ["distillation.alpha=0.5", "optimizer.lr=0.1", "schedule.epochs=1", "seeds=[0]"]
    done = sweeps.run("plugin", *axes, *less, "--plugin", "mine.py")
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = pl.read_parquet(sweeps.folder / "plugin" / "tiny" / "trials" / "*.parquet").to_dicts()
    assert (row["status"], row["config/model.code"]) == ("complete", "mine 1")
    assert (row["config/distillation.code"], row["config/distillation.teacher.code"]) == ("mine 1", "mine 1")
    folder = sweeps.folder / "plugin" / "tiny"
    (run,) = json.loads((folder / "manifest.json").read_text())["runs"]
    assert run["plugins"] == {"mine.py": "mine 1"}
    kept = folder / "plugins" / f"{hashlib.sha256(PLUGIN.encode()).hexdigest()[:12]}-mine.py"
    assert kept.read_text() == PLUGIN
    # Nothing is left to do, and without the plugin its names are unknown.
    monkeypatch.chdir(sweeps.folder)
    command = sweeps.command("plugin", *axes, *less)[3:]
    plugins.forget()
    try:
        assert main([*command, "--plugin", "mine.py"]) == 0
        assert "nothing to do: 1 of 1 trials settled" in capsys.readouterr().out
        plugins.forget()
        assert main(command) == 2
        assert 'model.name = "my_net": unknown model' in capsys.readouterr().err
    finally:
        plugins.forget()
