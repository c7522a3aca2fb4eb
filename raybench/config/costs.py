"""What a trial costs by itself, and which trials cost the same."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

from raybench.config.trial import TrialConfig


@dataclass(frozen=True)
class TrialCost:
    """Seconds of a trial that runs alone on its share."""

    kind: str
    """Trials of one kind cost the same."""
    epoch_s: float
    """Training and validation of an epoch."""
    fixed_s: float
    """All else: what comes before its first epoch, and the test set after its last."""
    spread: float = 0.5
    """By how much the seconds of an epoch may be off between kinds, relative: small where they were measured."""

    def of(self, epochs: float) -> float:
        """Of so many epochs in one go, s."""
        return self.fixed_s + epochs * self.epoch_s


def step_key(trial: TrialConfig, without: Collection[str] = ()) -> str:
    """What decides the time and the memory that a trial's step takes, as JSON: trials of one key take the same.

    `without`: keys of the data set that are not to count, such as train_size.
    """
    content = trial.canonical().model_dump(mode="json", exclude={"seed", "schedule", "label_smoothing"})
    content["optimizer"] = content["optimizer"]["name"]
    for name in ("alpha", "tau", "reduction"):
        del content["distillation"][name]
    for name in ("weights", "mean", "std"):
        del content["model"][name]
    for name in without:
        del content["dataset"][name]
    return json.dumps(content, sort_keys=True)
