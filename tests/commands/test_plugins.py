"""Plugins as a command meets them: what they bring is planned, and whatever they break is a line."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from raybench import sweep as command
from raybench.__main__ import main as raybench
from raybench.commands.loading import Asked, load
from raybench.commands.sweeping import Sweep
from raybench.config import plugins
from raybench.results.schema import Status
from raybench.training.trial import run_trial

NET = """\
from torch import nn

def net(*, num_classes, in_channels, image_size, width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, width), nn.Linear(width, num_classes))

"""
HALVES = """\
from raybench.data import digits
from raybench.data.source import Decoded, Request, Source

OPTIONS = ("path",)

def load_source(request, data_root, download):
    whole = digits.load_source(Request("digits"), data_root, download)
    layout, read = "below 5", lambda folder: decode(whole, folder)
    return Source("whatever", whole.classes[:5], whole.mean, whole.std, whole.files, layout, read)

def decode(whole, folder):
    data = whole.decode(folder)
    train, test = data.train_labels < 5, data.test_labels < 5
    parts = data.train_images[train], data.train_labels[train], data.test_images[test], data.test_labels[test]
    return Decoded(*parts, "embedded")

DATASETS = {"halves": load_source}
"""
LOSS = """\
def squared(student, teacher, tau, reduction):
    return {"kd_squared": (student - teacher).square().mean()}

LOSSES = {"squared": squared}
"""
SWEEP = """\
# Does mine work?
base:
  dataset: {name: DATA, train_size: 60, val_size: 100, image_size: 8}
  model: {name: MODEL}
  schedule: {epochs: 1}
  batch_size: 30
presets:
  quick: {}
"""


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Every test begins and ends without plugins."""
    plugins.forget()
    yield
    plugins.forget()


def given(folder: Path, plugin: str, model: str = "resnet8", data: str = "digits") -> list[str]:
    """A sweep with a plugin: the arguments of its command."""
    (folder / "mine.py").write_text(plugin)
    os.utime(folder / "mine.py", (1, 1))  # as if each edit fell into the same second
    (folder / "some.yaml").write_text(SWEEP.replace("MODEL", model).replace("DATA", data))
    options = ["--preset", "quick", "--results", str(folder / "results"), "--plugin", str(folder / "mine.py")]
    return [str(folder / "some.yaml"), *options]


def refused(arguments: list[str]) -> str:
    """The one line of a command that must refuse, after its first."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = command.main(arguments)
    said = err.getvalue().splitlines()
    assert (code, out.getvalue(), len(said)) == (2, "", 2), said
    assert said[0] == "1 error, nothing started:"
    return said[1]


def loaded(folder: Path, *overrides: str) -> Sweep:
    with redirect_stdout(io.StringIO()):
        results, mine = str(folder / "results"), str(folder / "mine.py")
        return load(Asked(str(folder / "some.yaml"), "quick", overrides, results=results, plugins=[mine]))


def test_model_data_and_loss_of_a_plugin_make_a_trial(tmp_path: Path) -> None:
    given(tmp_path, NET + HALVES + LOSS + "MODELS = {'my_net': net}\n", "my_net", "halves")
    teacher = "distillation={type: squared, alpha: 0.5, teacher: {name: resnet8, epochs: 1}}"
    sweep = loaded(tmp_path, teacher, "model.options={width: 8}")
    (trial,) = sweep.plan.trials()
    (plugin,) = plugins.loaded()
    assert (trial.model.code, trial.distillation.code) == (plugin.code, plugin.code)
    assert trial.distillation.teacher is not None
    assert trial.distillation.teacher.code == ""
    assert sweep.config.codes == {"model my_net": plugin.code, "loss squared": plugin.code}
    assert sweep.checked.variants == {"halves": "embedded"}
    outcome = run_trial(trial, sweep.setup, "a cell")
    assert (outcome.status, outcome.reason) == (Status.COMPLETE, None)
    row = sweep.store.trials().to_dicts()[0]
    assert row["config/model.code"] == plugin.code
    assert row["env/plugins"] == f"mine.py {plugin.code}"
    assert sweep.store.epochs()["part/kd_squared"].to_list()[0] > 0


def test_a_data_set_is_decoded_anew_when_its_code_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)  # as at home: stale bytecode would run the code of before
    given(tmp_path, HALVES, data="halves")
    first = loaded(tmp_path).config.fingerprints
    plugins.forget()
    given(tmp_path, HALVES.replace("< 5", "< 4").replace("[:5]", "[:4]"), data="halves")
    assert loaded(tmp_path).config.fingerprints["halves"] != first["halves"]


@pytest.mark.parametrize(
    ("plugin", "said"),
    [
        (
            "MODELS = {'resnet8': net}",
            "model resnet8 of mine.py: raybench has a model of that name; give yours another",
        ),
        ("MODELS = {'resnet18': net}", "model resnet18 of mine.py: timm has a model of that name; give yours another"),
        ("DATASETS = {'digits': net}", "data set digits of mine.py: raybench has a data set of that name; give yours"),
        ("MODELS = {'my_net': nett}", "mine.py, line 6: NameError: name 'nett' is not defined; mend it, or leave"),
    ],
)
def test_a_plugin_that_redefines_or_raises(tmp_path: Path, plugin: str, said: str) -> None:
    assert said in refused(given(tmp_path, NET + plugin))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("    raise KeyError('width')", "model my_net of mine.py: mine.py, line 4: KeyError: 'width'; mend it there"),
        ("    return None", "model my_net of mine.py: must return a torch.nn.Module, not NoneType"),
        ("    return nn.Linear(3, num_classes)", "model my_net on digits: cannot be trained: RuntimeError: "),
    ],
)
def test_a_model_that_cannot_be_built_or_fed(tmp_path: Path, body: str, said: str) -> None:
    head = "from torch import nn\n\ndef net(*, num_classes, in_channels, image_size):\n"
    line = refused([*given(tmp_path, f"{head}{body}\n\nMODELS = {{'my_net': net}}", "my_net"), "--yes"])
    assert said in line


def test_a_data_set_whose_function_raises(tmp_path: Path) -> None:
    broken = (
        "def load_source(request, data_root, download):\n    return {}['nothing']\n\nDATASETS = {'mine': load_source}\n"
    )
    arguments = given(tmp_path, broken, data="mine")
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as err:
        assert command.main(arguments) == 2
    assert err.getvalue() == "error: data set mine of mine.py: mine.py, line 2: KeyError: 'nothing'; mend it there\n"


def test_lists_say_where_a_name_comes_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given(tmp_path, NET + HALVES + "MODELS = {'my_net': net}\n")
    assert raybench(["list", "models", "my_net", "--plugin", str(tmp_path / "mine.py")]) == 0
    assert "my_net  (mine.py)" in capsys.readouterr().out.splitlines()
    assert raybench(["list", "datasets", "--plugin", str(tmp_path / "mine.py")]) == 0
    assert "halves  (mine.py)" in capsys.readouterr().out.splitlines()
