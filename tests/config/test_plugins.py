"""Plugins: what each brings, what is wrong with one in a line, and what its code means to a trial's identity."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raybench.config import plugins
from raybench.config.changes import changes, makes_other_trials
from raybench.config.load import load_sweep
from raybench.config.plan import make_plan, outside
from raybench.config.plugins import Plugin
from raybench.config.sweep import SweepConfig
from raybench.errors import ConfigError

MINE = """\
def net(*, num_classes, in_channels, image_size):
    return (num_classes, in_channels, image_size)

def images(request, data_root, download):
    raise KeyError("nothing")

def squared(student, teacher, tau, reduction):
    return {}

MODELS = {"my_net": net}
DATASETS = {"my_images": images}
LOSSES = {"squared": squared}
"""


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Every test begins and ends without plugins."""
    plugins.forget()
    yield
    plugins.forget()


def written(folder: Path, text: str, name: str = "mine.py") -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def refused(*names: str) -> list[str]:
    """What is wrong with plugins, which then leave nothing behind."""
    with pytest.raises(ConfigError) as raised:
        plugins.load(names)
    return list(raised.value.problems)


def test_a_file_brings_what_its_mappings_name(tmp_path: Path) -> None:
    (plugin,) = plugins.load([written(tmp_path, MINE)])
    assert plugins.loaded() == (plugin,)
    assert (plugin.name, plugin.source) == ("mine.py", MINE)
    assert {kind: set(plugins.extras(kind)) for kind in plugins.KINDS} == {
        "MODELS": {"my_net"},
        "TEXT_MODELS": set(),
        "DATASETS": {"my_images"},
        "TEXT_DATASETS": set(),
        "LOSSES": {"squared"},
    }
    found = plugins.find("MODELS", "my_net")
    assert found is not None
    assert str(found) == "model my_net of mine.py"
    assert found.load()(num_classes=2, in_channels=1, image_size=8) == (2, 1, 8)
    assert plugins.losses() == ("none", "hard", "soft", "both", "squared")
    assert plugins.codes() == {"model my_net": plugin.code, "loss squared": plugin.code}


def test_the_same_file_again_is_the_same_plugin(tmp_path: Path) -> None:
    path = written(tmp_path, MINE)
    assert plugins.load([path]) == plugins.load([path, path])


def test_a_file_that_was_edited_is_loaded_anew(tmp_path: Path) -> None:
    path = written(tmp_path, MINE)
    plugins.load([path])
    written(tmp_path, "MODELS = {'other_net': print}\n")
    (plugin,) = plugins.load([path])
    assert plugins.loaded() == (plugin,)
    assert plugins.codes() == {"model other_net": plugin.code}
    written(tmp_path, "MODELS = 1\n")
    refused(path)
    assert plugins.loaded() == ()


def test_a_module_is_known_by_all_the_files_of_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    written(tmp_path, "", "zoo_a/__init__.py")
    written(tmp_path, MINE, "zoo_a/nets.py")
    layers = Path(written(tmp_path, "WIDTH = 1", "zoo_a/layers.py"))
    (plugin,) = plugins.load(["zoo_a.nets"])
    assert (plugin.name, plugin.source) == ("zoo_a.nets", None)
    plugins.forget()
    layers.write_text("WIDTH = 2")
    (changed,) = plugins.load(["zoo_a.nets"])
    assert changed.code != plugin.code


def test_code_is_the_text_unless_the_plugin_states_a_version(tmp_path: Path) -> None:
    def code(text: str) -> str:
        plugins.forget()
        return plugins.load([written(tmp_path, text)])[0].code

    assert code(MINE) == code(MINE)
    assert code(MINE) != code(MINE + "# a comment\n")
    assert code(MINE + "RECIPE_VERSION = 3\n") == code(MINE + "RECIPE_VERSION = 3  # a comment\n") == "mine 3"
    assert code(MINE + "RECIPE_VERSION = 4\n") == "mine 4"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import torch\nx = torch.nothing\n", "mine.py, line 2: AttributeError: module 'torch' has no attribute"),
        ("def broken(:\n", "mine.py, line 1: SyntaxError: invalid syntax"),
        ("raise SystemExit('enough')", "mine.py, line 1: SystemExit: enough; mend it, or leave --plugin out"),
        ("import no_such_module_x", "No module named 'no_such_module_x'; what a plugin imports must be installed"),
        ("x = 1", "defines none of MODELS, TEXT_MODELS, DATASETS, TEXT_DATASETS, LOSSES"),
        ("MODELS = [1]", "MODELS must be a mapping from names to functions, not list"),
        ("MODELS = {'a': 1}", "MODELS: a is a int; it must be a function or a class"),
        ("LOSSES = {'soft': print}", "kind of distillation soft is raybench's own; give yours another name"),
    ],
)
def test_what_is_wrong_with_a_plugin_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    (problem,) = refused(written(tmp_path, text))
    assert problem.startswith(f"command line: --plugin {tmp_path}/mine.py: ")
    assert said in problem
    assert plugins.loaded() == ()
    assert not any(plugins.extras(kind) for kind in plugins.KINDS)


def test_absent_plugins_are_told_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, MINE)
    assert refused("gone.py", "mine", "no_such_module_x", "a/b") == [
        "command line: --plugin gone.py: no such file",
        "command line: --plugin mine: no such module; did you mean mine.py?",
        "command line: --plugin no_such_module_x: no such module; install it, or name a file that ends in .py",
        "command line: --plugin a/b: must be the path of a .py file, or the name of a module",
    ]


def test_a_name_that_two_plugins_give(tmp_path: Path) -> None:
    plugins.load([written(tmp_path, MINE)])
    (problem,) = refused(written(tmp_path, "MODELS = {'my_net': print}", "other.py"))
    assert problem.endswith("other.py: model my_net of mine.py is there already; give one of them another name")
    (problem,) = refused(written(tmp_path, "MODELS = {'x': print}", "below/mine.py"))
    assert "another file of this name is loaded already" in problem


def test_a_worker_loads_the_text_it_was_sent(tmp_path: Path) -> None:
    (sent,) = plugins.load([written(tmp_path, MINE + "RECIPE_VERSION = 1\n")])
    plugins.forget()
    (tmp_path / "mine.py").unlink()
    plugins.receive([sent])
    plugins.receive([sent])
    assert plugins.loaded() == (sent,)
    assert set(plugins.extras("MODELS")) == {"my_net"}


def test_a_worker_without_the_module_says_so() -> None:
    with pytest.raises(ConfigError, match="no such module"):
        plugins.receive([Plugin("no_such_module_x", "abc")])


def test_other_code_than_was_planned_is_refused(tmp_path: Path) -> None:
    (plugin,) = plugins.load([written(tmp_path, MINE)])
    plugins.check_code(("MODELS",), "my_net", plugin.code)
    plugins.check_code(("MODELS",), "resnet8", "")
    with pytest.raises(ConfigError, match=f"made with code abc, and that of mine.py is {plugin.code}; give what"):
        plugins.check_code(("MODELS",), "my_net", "abc")
    with pytest.raises(ConfigError, match="no plugin here has it; give what it was made with"):
        plugins.check_code(("MODELS",), "gone_net", "abc")


SWEEP = """\
base:
  dataset: {name: digits}
  model: {name: resnet8}
  distillation: {type: squared, teacher: {name: my_net}}
factors:
  distillation.alpha: [0.0, 0.5]
  model.name: [resnet8, my_net]
"""


def sweep_with(tmp_path: Path, codes: dict[str, str]) -> SweepConfig:
    return load_sweep(written(tmp_path, SWEEP, "some.yaml"), "paper").model_copy(update={"codes": codes})


def test_code_enters_the_identity_of_what_uses_it_and_of_nothing_else(tmp_path: Path) -> None:
    plugins.load([written(tmp_path, MINE)])
    codes = {"model my_net": "1", "loss squared": "1"}
    before, model, loss, none = (
        list(make_plan(sweep_with(tmp_path, each)).trials())
        for each in (codes, {**codes, "model my_net": "2"}, {**codes, "loss squared": "2"}, {})
    )
    cells = [(trial.distillation.alpha, trial.model.name) for trial in before]
    assert cells == [(0.0, "resnet8"), (0.0, "my_net"), (0.5, "resnet8"), (0.5, "my_net")]
    same = [[a.trial_id == b.trial_id for a, b in zip(before, other, strict=True)] for other in (model, loss, none)]
    assert same == [[True, False, False, False], [True, True, False, False], [True, False, False, False]]
    assert outside(before) == codes
    labels = [cell.label for cell in make_plan(sweep_with(tmp_path, codes)).cells]
    assert labels == [
        "alpha=0 model=resnet8",
        "alpha=0 model=my_net",
        "alpha=0.5 model=resnet8",
        "alpha=0.5 model=my_net",
    ]


def test_changed_code_is_a_change_of_the_sweep(tmp_path: Path) -> None:
    plugins.load([written(tmp_path, MINE)])
    before, now = sweep_with(tmp_path, {"model my_net": "1"}), sweep_with(tmp_path, {"model my_net": "2"})
    (change,) = changes(before, now)
    assert str(change) == "code of model my_net 1 -> 2"
    assert makes_other_trials(change, make_plan(before))


def test_a_kind_of_distillation_that_is_not_loaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        sweep_with(tmp_path, {})
    rule = "must be none, hard, soft or both"
    assert raised.value.problems == (f'some.yaml:4: distillation.type = "squared": {rule}',)


PACKAGE = """\
[raybench.models]
packed_net = zoo_b.nets:net
absent_net = zoo_b.nets:nothing
[raybench.losses]
squared = zoo_b.nets:squared
[raybench.sweeps]
any = zoo_b.sweeps
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an installed package, as pip leaves it."""
    about = "Metadata-Version: 2.1\nName: zoo-b\nVersion: 1.5\n"
    written(tmp_path, about, "zoo_b-1.5.dist-info/METADATA")
    written(tmp_path, PACKAGE, "zoo_b-1.5.dist-info/entry_points.txt")
    written(tmp_path, "", "zoo_b/__init__.py")
    written(tmp_path, MINE, "zoo_b/nets.py")
    written(tmp_path, "# A question?\n" + SWEEP, "zoo_b/sweeps/packed.yaml")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("zoo_b")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def test_an_installed_package_names_its_own_without_being_imported(installed: Path) -> None:
    assert set(plugins.extras("MODELS")) == {"packed_net", "absent_net"}
    assert plugins.losses()[-1] == "squared"
    assert "zoo_b.nets" not in sys.modules
    found = plugins.extras("MODELS")["packed_net"]
    assert found.origin == "package zoo-b 1.5"
    assert found.load()(num_classes=1, in_channels=1, image_size=1) == (1, 1, 1)
    with pytest.raises(ConfigError, match=r"model absent_net of package zoo-b 1\.5: AttributeError: .*; mend it"):
        plugins.extras("MODELS")["absent_net"].load()
    assert plugins.sweep_folders() == [installed / "zoo_b" / "sweeps"]
    assert load_sweep("packed", "paper").question == "A question?"


def test_a_package_and_a_plugin_that_give_one_name(installed: Path) -> None:
    (problem,) = refused(written(installed, "MODELS = {'packed_net': print}"))
    assert "model packed_net of package zoo-b 1.5 is there already" in problem


def test_two_packages_that_give_one_name(installed: Path) -> None:
    written(installed, "Metadata-Version: 2.1\nName: zoo-c\nVersion: 2\n", "zoo_c-2.dist-info/METADATA")
    written(installed, "[raybench.models]\npacked_net = zoo_b.nets:net\n", "zoo_c-2.dist-info/entry_points.txt")
    with pytest.raises(ConfigError, match="has that name too; uninstall one of them"):
        plugins.extras("MODELS")
