"""Settled trials that are asked to run again, and what a run that was cut off was asked for before."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set

from raybench.errors import ConfigError
from raybench.results.storage import Folder, read_if_there, remove, write_atomically
from raybench.results.store import Store
from raybench.search.outcomes import Outcomes

REOPENED = "reopened.json"
"""In the sweep's folder: what a run was asked to run again, until it has ended by itself."""


def reopened(rerun: Sequence[str], planned: Set[str], outcomes: Outcomes, store: Store) -> dict[str, int]:
    """Trial id -> last attempt before it was asked to run again, now or by a run that was cut off.

    Raises ConfigError with every name that is neither `failed`, `diverged` nor a trial of this sweep, and ResultsError
    where what was asked before cannot be read.
    """
    pending = _asked_before(store.folder)
    faults = []
    for name in rerun:
        if name in ("failed", "diverged"):
            again = [trial_id for trial_id, known in outcomes.items() if known.status == name]
        else:
            again = [name] if name in planned or name in outcomes else []
            if not again:
                allowed = "failed, diverged, or a trial's 12 digits"
                faults.append(f"command line: --rerun {name}: no such trial in this sweep ({allowed})")
        for trial_id in again:
            if trial_id in outcomes:
                # One that the run which was cut off has done already is not done twice.
                pending.setdefault(trial_id, store.next_attempt(trial_id) - 1)
    if faults:
        raise ConfigError(faults)
    return pending


def forget(outcomes: Outcomes, reopened: Mapping[str, int], store: Store) -> None:
    """Take out of the outcomes what is to run again and has not done so since."""
    # All columns, so that damage in any of them is told with the plan.
    attempts = dict(store.trials().select("trial_id", "attempt").iter_rows())
    for trial_id, attempt in reopened.items():
        if attempts.get(trial_id, 0) <= attempt:
            outcomes.pop(trial_id, None)


def keep(folder: Folder, reopened: Mapping[str, int]) -> None:
    """Remember what is to run again, in case this run is cut off."""
    if reopened:
        write_atomically(folder / REOPENED, json.dumps(dict(reopened)).encode())


def done(folder: Folder) -> None:
    """All of it was run again."""
    remove([folder / REOPENED])


def _asked_before(folder: Folder) -> dict[str, int]:
    try:
        content = json.loads(read_if_there(folder / REOPENED) or b"{}")
    except (ValueError, RecursionError):
        return {}
    asked = content if isinstance(content, dict) else {}
    return {key: value for key, value in asked.items() if isinstance(value, int)}
