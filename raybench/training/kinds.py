"""Kinds of task: what it takes to check, cost and run a trial, whatever its data and objective are.

A kind is a module of this package that is a `Kind`; it is imported when a trial of its kind is met.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from raybench.config.trial import DatasetConfig, ModelConfig, TrialConfig
from raybench.training.batches import Examples, Training
from raybench.training.device import Device
from raybench.training.metrics import Measures, names
from raybench.training.recorder import Setup
from raybench.training.tasks import Task


@dataclass(frozen=True)
class Sizes:
    """How many examples a trial trains on, validates on after each epoch, and is tested on once."""

    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class Finish:
    """What the best epoch's weights are asked once, at the end."""

    metrics: dict[str, float] = field(default_factory=dict)
    """By column name, such as test_bleu."""
    files: dict[str, bytes] = field(default_factory=dict)
    """File name -> content, kept as `examples/<trial_id>-<name>`."""


@dataclass(frozen=True)
class Made:
    """A trial ready to run: freshly initialised, the same for the same seed."""

    task: Task
    training: Training
    validation: Examples
    test: Examples
    sizes: Sizes
    macs: Callable[[], int]
    """Multiply-adds of one forward pass of one example."""
    about: dict[str, Any]
    """What the trial's row says of its data and teacher."""
    header: dict[str, str]
    """What one must know to use its weights."""
    finish: Callable[[list[str]], Finish] = lambda log: Finish()  # noqa: ARG005
    """What the best epoch's weights show of themselves, with the lines of the run's log."""


class Data(Protocol):
    """Data of any kind."""

    @property
    def name(self) -> str: ...
    @property
    def variant(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...


class Kind(Protocol):
    """A module that knows one kind of task."""

    MEASURES: Measures

    def datasets(self) -> tuple[str, ...]:
        """Names of the data sets it takes."""
        ...

    def unknown_model(self, name: str) -> str | None:
        """What is wrong with a model's name, with the nearest known; none where it is one of this kind."""
        ...

    def load(self, dataset: DatasetConfig, data_root: Path | None, download: bool = True) -> Any:
        """The data (a `Data`). Raises DataError."""
        ...

    def sizes(self, dataset: DatasetConfig, data: Any) -> Sizes:
        """How many examples; raises DataError where the data set has not so many, or cannot be varied so."""
        ...

    def bare_model(self, model: ModelConfig, dataset: DatasetConfig, data: Any, setup: Setup) -> nn.Module:
        """The model without its weights, to count it. Raises RaybenchError."""
        ...

    def make(self, config: TrialConfig, setup: Setup, device: Device) -> Made:
        """A trial, ready to run. Raises RaybenchError."""
        ...

    def probe(self, config: TrialConfig, setup: Setup, device: Device) -> tuple[Callable[[int], Tensor], Any]:
        """For timing: a function that gives the loss of a batch of so many examples, and the module behind it."""
        ...


MODULES = {"image_classification": "classifying", "translation": "translating", "compression": "compressing"}
"""Task -> module of this package."""


def kind_of(task: str) -> Kind:
    """The kind of a task. A check of `TrialConfig` has seen to it that there is one."""
    kind: Kind = importlib.import_module(f"raybench.training.{MODULES[task]}")
    return kind


def metric_names(split: str, task: str) -> tuple[str, ...]:
    """Column names of a split's metrics in this kind of task."""
    return names(split, kind_of(task).MEASURES)
