"""What is known of each trial."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from raybench.config.plan import Setting
from raybench.results.schema import SETTLED, Status


@dataclass(frozen=True)
class Known:
    """How one trial stands."""

    status: Status
    scores: dict[int, float] = field(default_factory=dict)
    """Validation metric after each epoch; larger is better (already signed)."""

    @property
    def settled(self) -> bool:
        """Whether it is not due again."""
        return self.status in SETTLED

    def score_at(self, epoch: int) -> float:
        """The metric at a rung; worst for a trial that never came so far or was not a number there."""
        value = self.scores.get(epoch, -math.inf)
        return value if math.isfinite(value) else -math.inf

    @property
    def best(self) -> float:
        """The metric of its best epoch; worst where there is none, or where the trial failed or diverged."""
        if self.status in (Status.FAILED, Status.DIVERGED):
            return -math.inf
        finite = [value for value in self.scores.values() if math.isfinite(value)]
        return max(finite, default=-math.inf)


class Outcomes(dict[str, Known]):
    """Trial id -> what is known of it; nothing for a trial that never ran."""

    def settled(self, trial_id: str) -> bool:
        """Whether a trial is not due again."""
        known = self.get(trial_id)
        return known is not None and known.settled

    def reached(self, trial_id: str, epoch: int) -> bool:
        """Whether a trial is settled or has been scored at `epoch`."""
        known = self.get(trial_id)
        return known is not None and (known.settled or epoch in known.scores)

    def epochs(self, trial_id: str) -> int:
        """Epochs that a trial has behind it, as far as it was scored."""
        known = self.get(trial_id)
        return max(known.scores, default=0) if known else 0

    def mean_at(self, setting: Setting, epoch: int) -> float:
        """A setting's mean over its seeds at a rung."""
        return mean(self[t.trial_id].score_at(epoch) if t.trial_id in self else -math.inf for t in setting.trials)

    def mean_best(self, setting: Setting) -> float:
        """A setting's mean over its seeds of each one's best epoch, over the seeds that ran."""
        return mean(self[t.trial_id].best for t in setting.trials if t.trial_id in self)


def mean(values: Iterable[float]) -> float:
    """Arithmetic mean; worst for nothing."""
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else -math.inf
