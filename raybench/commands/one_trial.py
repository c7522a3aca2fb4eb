"""One trial by its id, wherever below the results it lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from raybench.commands.comparing import looked_through
from raybench.config.recorded import recorded_trial
from raybench.config.trial import TrialConfig
from raybench.errors import ResultsError
from raybench.results.storage import Folder
from raybench.results.store import Store

LEAST_DIGITS = 4
"""Of an id's beginning that is given for the whole."""


@dataclass(frozen=True)
class OneTrial:
    """A trial with its row and the sweep that it lies in."""

    sweep: str
    store: Store
    row: dict[str, Any]

    @property
    def trial_id(self) -> str:
        """12 hex digits."""
        return str(self.row["trial_id"])

    @property
    def config(self) -> TrialConfig:
        """Its configuration. Raises ResultsError where this version cannot read it."""
        return recorded_trial(self.row)

    @property
    def same_recipe(self) -> bool:
        """Whether this version would give the same configuration the same identity."""
        return bool(self.config.model_copy().trial_id == self.trial_id)


def find_trial(root: Folder, name: str) -> OneTrial:
    """The trial with this id, or the one whose id begins so; the first sweep that has it.

    Raises ResultsError where there is none, or more than one.
    """
    found: dict[str, OneTrial] = {}
    sweeps, passed_over = looked_through(root)
    for sweep in sweeps:
        store = Store(root / sweep)
        meant = pl.col("trial_id").str.starts_with(name)
        if not store.trials(["trial_id"]).filter(meant).height:
            continue  # of a large sweep its rows whole take a while
        for row in store.trials().filter(meant).iter_rows(named=True):
            found.setdefault(row["trial_id"], OneTrial(sweep, store, row))
    if name in found:
        return found[name]
    if len(found) == 1 and len(name) >= LEAST_DIGITS:
        return next(iter(found.values()))
    if found:
        raise ResultsError(f"{name}: may be {', '.join(sorted(found)[:5])}{' …' if len(found) > 5 else ''}")
    none = f"{name}: no such trial below {root} that has begun (raybench compare names those of each cell in its json)"
    raise ResultsError("\n".join([none, *passed_over]))
