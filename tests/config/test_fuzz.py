"""Whatever stands in a sweep file or on the command line, only RaybenchError comes out, and it says where."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raybench.config.document import list_sweeps
from raybench.config.load import PRESETS, load_sweep
from raybench.config.plan import Cell, make_plan
from raybench.config.sweep import TOP_KEYS
from raybench.config.trial import trial_keys
from raybench.errors import ConfigError, RaybenchError

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))
KEYS = (*trial_keys(), *TOP_KEYS, "presets", "model.options.depth", "tune.space", "tune.num_samples", "tune.algorithm")
SMALL = """\
base:
  dataset: {name: digits}
  model: {name: resnet8}
  distillation: {type: hard, teacher: {name: resnet20, prepare: head}}
factors:
  distillation.alpha: [0.0, 0.5]
  dataset.augment: [[], [crop1]]
tune: {space: {optimizer.lr: [0.1]}}
presets:
  quick: {tune: {algorithm: random, num_samples: 2, space: {optimizer.lr: {loguniform: [0.1, 1]}}}}
  small: {factors: {distillation.teacher: [null, {name: a}]}, scheduler: {name: halving}}
"""
SHIPPED = {path.stem: path.read_text(encoding="utf-8") for path in list_sweeps().values()}

odd_numbers = st.sampled_from([0, -1, 1, 2, 10**30, 10**400, 1e308, float("nan"), float("inf"), -0.0, 0.5, 1e-320])
scalars = (
    st.none()
    | st.booleans()
    | odd_numbers
    | st.integers()
    | st.floats()
    | st.sampled_from(
        ["all", "none", "hard", "soft", "adam", "random", "tpe", "halving", "asha", "on", "", "eval", "x"]
    )
    | st.text(max_size=8)
)
names = st.sampled_from(
    [
        *{part for key in KEYS for part in key.split(".")},
        *("loguniform", "uniform", "randint", "choice", "eval", "quick", "small", "int", "list[any]", ""),
    ]
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=6
)
dotted = st.sampled_from(KEYS)
axes = st.dictionaries(dotted | names, values | st.lists(scalars, max_size=4), max_size=3)
tune = st.fixed_dictionaries(
    {},
    optional={
        "algorithm": st.sampled_from(["grid", "random", "tpe", 5]),
        "num_samples": st.integers(-1, 3) | scalars,
        "seeds": st.sampled_from(["every", "first"]),
        "space": axes | values,
    },
)
files = st.fixed_dictionaries(
    {},
    optional={
        "base": st.fixed_dictionaries(
            {"dataset": st.just({"name": "digits"}) | values, "model": st.just({"name": "resnet8"}) | values},
            optional=dict.fromkeys(("distillation", "optimizer", "schedule", "batch_size", "seed"), values),
        )
        | values,
        "factors": axes | values,
        "tune": tune | values,
        "seeds": st.lists(st.integers(0, 3), max_size=3) | values,
        "scheduler": st.fixed_dictionaries({"name": st.sampled_from(["halving", "asha", "none"])}) | values,
        "presets": st.dictionaries(st.sampled_from(PRESETS), st.dictionaries(names, values, max_size=2)) | values,
        "surprise": values,
    },
)
overrides = st.lists(
    st.builds(
        lambda above, key, value: f"{above}{key}={value}",
        st.sampled_from(["", "", "", "factors.", "tune.space.", "base.", "presets.", "."]),
        dotted | names | st.text(max_size=6),
        st.builds(lambda value: yaml.safe_dump(value, default_flow_style=True), values) | st.text(max_size=12),
    )
    | st.text(max_size=12),
    max_size=4,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "fuzzed.yaml"


def survives(file: Path, text: str | bytes, preset: str, changes: list[str], options: dict[str, Any]) -> None:
    """Load and plan; a refusal must be one of ours, each of its lines a single one that begins with a place."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    problems: tuple[str, ...] = ()
    cells: tuple[Cell, ...] = ()
    try:
        cells = make_plan(load_sweep(str(file), preset, changes, options)).cells
    except ConfigError as error:
        problems = error.problems
    assert bool(cells) != bool(problems)
    for problem in problems:
        assert problem.isprintable()
        assert problem.startswith(("fuzzed", "command line: ", "… and ", str(file)))
    assert len({cell.label for cell in cells}) == len(cells)
    assert all(len(t.trial_id) == 12 for cell in cells for setting in cell.settings for t in setting.trials)


presets = st.sampled_from(PRESETS)
options = st.sampled_from([{}, {}, {"seeds": [0, 1]}, {"tune.num_samples": 2}])


def check_mapping(file: Path, content: Any, preset: str, changes: list[str], extra: dict[str, Any]) -> None:
    survives(file, yaml.safe_dump(content, allow_unicode=True), preset, changes, extra)


def check_bytes(file: Path, text: str | bytes, preset: str) -> None:
    survives(file, text, preset, [], {})


def check_mutation(file: Path, name: str, edits: list[tuple[float, int, str]], preset: str, changes: list[str]) -> None:
    """Cut and insert at places given as fractions of a shipped sweep's text."""
    text = SHIPPED[name]
    for place, cut, inserted in edits:
        start = int(place * len(text))
        text = text[:start] + inserted + text[start + cut :]
    survives(file, text, preset, changes, {})


def check_overrides(file: Path, preset: str, changes: list[str], extra: dict[str, Any]) -> None:
    survives(file, SMALL, preset, changes, extra)


yaml_pieces = st.sampled_from(
    [*list("{}[]:,-?&*!|>'\"%@`#\n\t ~<="), "\n  ", ": ", "- ", "!!", "null", "1e-3", "&a ", "*a", "---\n", "\x00", "é"]
)
edit = st.tuples(st.floats(0, 1), st.integers(0, 12), yaml_pieces | st.text(max_size=4))
texts = st.text(max_size=60) | st.lists(yaml_pieces | names, max_size=25).map("".join) | st.binary(max_size=40)
shipped = st.sampled_from(sorted(SHIPPED))
edits = st.lists(edit, max_size=4)


@QUICK
@given(files, presets, overrides, options)
def test_any_mapping(file: Path, content: Any, preset: str, changes: list[str], extra: dict[str, Any]) -> None:
    check_mapping(file, content, preset, changes, extra)


@QUICK
@given(texts, presets)
def test_any_text(file: Path, text: str | bytes, preset: str) -> None:
    check_bytes(file, text, preset)


@QUICK
@given(shipped, edits, presets, overrides)
def test_mutated_sweeps(
    file: Path, name: str, edits: list[tuple[float, int, str]], preset: str, changes: list[str]
) -> None:
    check_mutation(file, name, edits, preset, changes)


@QUICK
@given(presets, overrides, options)
def test_any_overrides(file: Path, preset: str, changes: list[str], extra: dict[str, Any]) -> None:
    check_overrides(file, preset, changes, extra)


@QUICK
@given(st.text(max_size=20) | st.sampled_from(["..", "../x", os.sep, "a/b.yaml"]))
def test_any_name(name: str) -> None:
    with pytest.raises(RaybenchError, match="command line: "):
        load_sweep(name, "paper")


@pytest.mark.slow
@LONG
@given(files, presets, overrides, options)
def test_any_mapping_at_length(
    file: Path, content: Any, preset: str, changes: list[str], extra: dict[str, Any]
) -> None:
    check_mapping(file, content, preset, changes, extra)


@pytest.mark.slow
@LONG
@given(texts, presets)
def test_any_text_at_length(file: Path, text: str | bytes, preset: str) -> None:
    check_bytes(file, text, preset)


@pytest.mark.slow
@LONG
@given(shipped, edits, presets, overrides)
def test_mutated_sweeps_at_length(
    file: Path, name: str, edits: list[tuple[float, int, str]], preset: str, changes: list[str]
) -> None:
    check_mutation(file, name, edits, preset, changes)


@pytest.mark.slow
@LONG
@given(presets, overrides, options)
def test_any_overrides_at_length(file: Path, preset: str, changes: list[str], extra: dict[str, Any]) -> None:
    check_overrides(file, preset, changes, extra)
