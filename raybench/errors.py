"""The exception tree.

RaybenchError            whatever a person can mend; the command line prints it and exits with 2
├── ConfigError          one or many faults of a sweep file, a preset or the command line
├── DataError            a data set that is absent, too small or unreadable
├── WeightsError         weights that are absent, refused or do not fit
└── ResultsError         a results folder that cannot be used
"""

from __future__ import annotations

from collections.abc import Sequence


class RaybenchError(Exception):
    """Base of every error raised on purpose; its text is written for the user."""


class ConfigError(RaybenchError):
    """All faults of a configuration at once.

    `problems` holds one line a fault, each naming where it stands, the rule and the value.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class DataError(RaybenchError):
    """A data set is absent, too small for the request, or cannot be read."""


class WeightsError(RaybenchError):
    """Weights are absent, refused as unsafe, or do not fit the model."""


class ResultsError(RaybenchError):
    """A results folder cannot be written, read or locked."""
