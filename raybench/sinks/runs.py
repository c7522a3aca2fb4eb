"""A settled trial as a run: what trackers of experiments know of one, read from its rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

import polars as pl

from raybench.errors import RaybenchError
from raybench.results.schema import SETTLED, Status
from raybench.results.store import Store

NOT_METRICS = ("trial_id", "attempt", "epoch")
COSTS = (
    "train_time",
    "eval_time",
    "device_hours",
    "energy",
    "param_count",
    "gmacs",
    "peak_memory",
    "best_epoch",
    "epochs",
)
"""Of a trial's row, beside its metrics, what trackers are told as numbers."""
AT_A_TIME = 500
"""Trials whose epochs are read together."""


class Attempt(NamedTuple):
    """One start of a trial; a trial that was run again has a later one, whose rows replace the earlier one's."""

    trial_id: str
    number: int

    def __str__(self) -> str:
        return f"{self.trial_id}-a{self.number}"


@dataclass(frozen=True)
class Run:
    """What a tracker is told of a settled trial."""

    attempt: Attempt
    cell: str
    status: Status
    params: Mapping[str, Any]
    """Hyperparameters under their dotted names; those that are none are left out."""
    curve: tuple[tuple[int, Mapping[str, float]], ...]
    """(epoch, metric -> value), in order of epochs; what is not finite is left out."""
    scores: Mapping[str, float]
    """`test_…` and `best_eval_…` of the best epoch, and what the trial cost."""
    tags: Mapping[str, str]
    started: datetime | None
    ended: datetime | None

    @property
    def name(self) -> str:
        """For people: the cell and the seed."""
        return f"{self.cell} seed={self.params['seed']}"

    @property
    def best_epoch(self) -> int:
        """The epoch whose weights were scored; 0 where none were."""
        return int(self.scores.get("best_epoch", 0))


class Sink(Protocol):
    """A tracker of experiments."""

    def known(self) -> set[Attempt]:
        """What it has whole. Raises RaybenchError where it does not answer."""
        ...

    def write(self, run: Run) -> None:
        """Have a run whole, in the place of what it has of earlier attempts, or of one that was cut short."""
        ...


class Sent(NamedTuple):
    """What came of a sending."""

    written: int
    there: int
    """Those that it had already."""
    unsettled: int


def send(store: Store, sink: Sink) -> Sent:
    """Bring a sink up to date with the settled trials of a sweep; may be stopped and called again at any time."""
    rows = store.trials()
    settled = rows.filter(pl.col("status").is_in([*SETTLED]))
    known = sink.known()
    missing = settled.filter(
        pl.Series(
            [Attempt(*key) not in known for key in settled.select("trial_id", "attempt").iter_rows()], dtype=pl.Boolean
        )
    )
    for run in runs(store, missing):
        sink.write(run)
    return Sent(missing.height, settled.height - missing.height, rows.height - settled.height)


def runs(store: Store, rows: pl.DataFrame) -> Iterator[Run]:
    """Each of these rows of `store.trials()` with its epochs."""
    for part in rows.iter_slices(AT_A_TIME):
        epochs = store.epochs(part["trial_id"]).partition_by("trial_id", as_dict=True) if part.height else {}
        for row in part.iter_rows(named=True):
            yield _run(row, epochs.get((row["trial_id"],), pl.DataFrame()))


def _run(row: Mapping[str, Any], epochs: pl.DataFrame) -> Run:
    config = {name.removeprefix("config/"): value for name, value in row.items() if name.startswith("config/")}
    tags = {
        name.replace("/", "."): str(value)
        for name, value in row.items()
        if name.startswith("env/") and value is not None
    }
    for name in ("sweep", "preset", "cell", "status", "reason", "setting_id", "dataset_variant", "dataset_fingerprint"):
        if row.get(name) is not None:
            tags[name] = str(row[name])
    return Run(
        attempt=Attempt(row["trial_id"], row["attempt"]),
        cell=row["cell"] or "all",
        status=Status(row["status"]),
        params={name: value for name, value in config.items() if value is not None} | {"seed": row["seed"]},
        curve=tuple((values["epoch"], _finite(values, NOT_METRICS)) for values in epochs.iter_rows(named=True)),
        scores=_scores(row),
        tags=tags,
        started=row["started"],
        ended=row["ended"],
    )


def _scores(row: Mapping[str, Any]) -> dict[str, float]:
    metrics = {
        name if name.startswith("test_") else f"best_{name}": value
        for name, value in row.items()
        if name.startswith(("test_", "eval_")) and name != "eval_time"
    }
    return _finite(metrics | {name: row.get(name) for name in COSTS})


def _finite(values: Mapping[str, Any], but: tuple[str, ...] = ()) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in values.items()
        if name not in but and isinstance(value, int | float) and math.isfinite(value)
    }


def need(module: str, package: str, extra: str) -> None:
    """Raise RaybenchError, which says what to install, where a package is not here."""
    if find_spec(module) is None:
        raise RaybenchError(f'{package} is not installed: pip install "raybench[{extra}]"')
