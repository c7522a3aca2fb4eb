"""A sweep file to change, and what is wrong with one."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raybench.config.load import load_sweep
from raybench.config.plan import make_plan
from raybench.errors import ConfigError

Written = Callable[[str], str]
Faults = Callable[..., tuple[str, ...]]

SWEEP = """\
# Does it help?
base:
  dataset: {name: digits, val_size: 200}
  model: {name: resnet8}
  distillation:
    type: hard
    teacher: {name: vit_micro_patch2_8, epochs: 5}
  optimizer: {lr: 0.1}
  schedule: {epochs: 4}
factors:
  distillation.alpha: [0.0, 0.5]
  dataset.train_size: [100, all]
tune:
  space:
    optimizer.lr: [0.03, 0.1]
seeds: [0, 1]
presets:
  small:
    base:
      optimizer: {weight_decay: 0.01}
      distillation: {teacher: {options: {depth: 2}}}
      schedule: {epochs: 3}
    seeds: [5]
  quick:
    base: {distillation: {teacher: null, type: none}}
    factors:
      dataset.train_size: [50]
    tune: {algorithm: random, num_samples: 3, space: {optimizer.lr: {loguniform: [0.001, 0.1]}}}
"""


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Writes a sweep file; returns its path."""

    def write(text: str) -> str:
        path = tmp_path / "some.yaml"
        path.write_text(textwrap.dedent(text))
        return str(path)

    return write


@pytest.fixture
def sweep(written: Written) -> str:
    """A sweep file with every kind of axis and two presets."""
    return written(SWEEP)


@pytest.fixture(scope="session")
def faults() -> Faults:
    """All that is wrong with a sweep, its preset and its overrides."""

    def of(name: str, *overrides: str, preset: str = "paper", options: dict[str, Any] | None = None) -> tuple[str, ...]:
        with pytest.raises(ConfigError) as caught:
            make_plan(load_sweep(name, preset, overrides, options))
        return caught.value.problems

    return of
