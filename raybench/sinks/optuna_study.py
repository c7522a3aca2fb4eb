"""A sweep as Optuna studies, rebuilt from its rows: for its dashboard, and for whatever else reads a study.

A trial of a study is a setting: its factors and what is tuned are parameters, the mean over its seeds of the best epoch
on validation is its value, which is what the search itself is told. The test set is in none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from raybench.config.plan import Cell, Plan, Setting
from raybench.config.sweep import SweepConfig
from raybench.errors import RaybenchError
from raybench.results.schema import SETTLED, Status
from raybench.results.store import Store
from raybench.search.outcomes import Outcomes
from raybench.search.search import Search
from raybench.search.tpe import as_asked, distribution
from raybench.sinks.runs import need

if TYPE_CHECKING:
    import optuna

Direction = Literal["maximize", "minimize"]
MARK = "raybench"
"""Attribute of a study that this module made: what it was made from."""


@dataclass(frozen=True)
class Told:
    """One setting as a study has it."""

    cell: str
    params: Mapping[str, Any]
    """Key -> value as the distribution has it."""
    state: str
    """COMPLETE, PRUNED or FAIL."""
    value: float | None
    curve: Mapping[int, float]
    """Epoch -> mean over the seeds that came so far."""
    about: Mapping[str, Any]
    started: datetime | None
    ended: datetime | None


@dataclass(frozen=True)
class Study:
    """A study before any storage has it."""

    name: str
    direction: Direction
    space: Mapping[str, Any]
    """Key -> axis as a sweep file writes it."""
    told: tuple[Told, ...]

    @property
    def digest(self) -> str:
        """Of everything in it, times aside: the same rows give the same."""
        content = [
            [each.cell, dict(each.params), each.state, each.value, sorted(each.curve.items()), dict(each.about)]
            for each in self.told
        ]
        text = json.dumps([self.direction, dict(self.space), content], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def studies(plan: Plan, outcomes: Outcomes, store: Store) -> list[Study]:
    """The sweep as one study over factors and what is tuned and, with tpe, each cell as the search sees it besides.

    Of settings all of whose trials that began are settled. Empty where there are none.
    """
    sweep = plan.sweep
    times = _times(store)
    cells = Search(plan, outcomes, store.folder, 1).cells()
    pairs = [(cell, setting) for cell in cells for setting in cell.settings if _over(setting, outcomes)]
    if not pairs:
        return []
    factors = {
        key: list(_distinct(cell.factors[key] for cell in cells if key in cell.factors)) for key in sweep.factors
    }
    factors = {key: values for key, values in factors.items() if values}
    direction: Direction = "maximize" if sweep.metric.mode == "max" else "minimize"

    def told(keys: Callable[[Cell], Mapping[str, Any]], some: Sequence[tuple[Cell, Setting]]) -> tuple[Told, ...]:
        return tuple(_told(sweep, cell, setting, keys(cell), outcomes, times) for cell, setting in some)

    found = [Study(sweep.name, direction, factors | sweep.tune.space, told(lambda cell: cell.factors, pairs))]
    if sweep.tune.algorithm == "tpe" and len(cells) > 1:
        for cell in cells:
            if own := [pair for pair in pairs if pair[0] is cell]:
                found.append(Study(f"{sweep.name}: {cell.label}", direction, sweep.tune.space, told(lambda _: {}, own)))
    return found


def _over(setting: Setting, outcomes: Outcomes) -> bool:
    known = [outcomes[trial.trial_id] for trial in setting.trials if trial.trial_id in outcomes]
    return bool(known) and all(each.status in SETTLED for each in known)


def _times(store: Store) -> dict[str, tuple[datetime | None, datetime | None]]:
    rows = store.trials(["trial_id", "started", "ended"])
    return {trial_id: (started, ended) for trial_id, started, ended in rows.iter_rows()}


def _distinct(values: Any) -> list[Any]:
    return list({json.dumps(value, sort_keys=True): value for value in values}.values())


def _told(
    sweep: SweepConfig,
    cell: Cell,
    setting: Setting,
    factors: Mapping[str, Any],
    outcomes: Outcomes,
    times: Mapping[str, tuple[datetime | None, datetime | None]],
) -> Told:
    sign = 1.0 if sweep.metric.mode == "max" else -1.0
    ran = [trial for trial in setting.trials if trial.trial_id in outcomes]
    known = [outcomes[trial.trial_id] for trial in ran]
    mean = outcomes.mean_best(setting)
    state = "COMPLETE" if mean != float("-inf") else "FAIL"
    if any(each.status == Status.PRUNED for each in known):
        state = "PRUNED"
    last = min(max(each.scores, default=0) for each in known)
    curve = {epoch: sign * _mean([each.score_at(epoch) for each in known]) for epoch in range(1, last + 1)}
    started = [time for trial in ran if (time := times[trial.trial_id][0]) is not None]
    ended = [time for trial in ran if (time := times[trial.trial_id][1]) is not None]
    asked = {key: as_asked(sweep.tune.space[key], value) for key, value in setting.tuned.items()}
    return Told(
        cell=cell.label,
        params={**{key: json.dumps(value) for key, value in factors.items()}, **asked},
        state=state,
        value=sign * mean if state == "COMPLETE" else None,
        curve={epoch: value for epoch, value in curve.items() if abs(value) != float("inf")},
        about={
            "cell": cell.label,
            "trial_ids": [trial.trial_id for trial in ran],
            "seeds": [trial.seed for trial in ran],
            "status": [str(each.status) for each in known],
        },
        started=min(started, default=None),
        ended=max(ended, default=None),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def in_memory(found: Sequence[Study]) -> optuna.storages.BaseStorage:
    """A storage with these studies, for as long as this process lives."""
    import optuna

    storage = optuna.storages.InMemoryStorage()
    for study in found:
        _make(study, storage)
    return storage


def write(found: Sequence[Study], where: str) -> dict[str, bool]:
    """Have these studies in a storage (sqlite:///FILE …): name -> whether it had to be made, anew where rows changed.

    Raises RaybenchError where the storage is none, or has a study of such a name that is not of raybench's making.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    _silence()
    try:
        storage = optuna.storages.get_storage(where)
        there = {each.study_name: each._study_id for each in storage.get_all_studies()}
        marks = {name: storage.get_study_user_attrs(there[name]).get(MARK) for name in there}
        if strange := [study.name for study in found if study.name in there and marks[study.name] is None]:
            raise RaybenchError(
                f"{where}: has a study {strange[0]} that raybench did not make, and leaves it alone; --to another place"
            )
        made = {}
        for study in found:
            made[study.name] = marks.get(study.name) != study.digest
            if made[study.name]:
                if study.name in there:
                    storage.delete_study(there[study.name])
                _make(study, storage)
        return made
    except (SQLAlchemyError, OSError, ValueError, ImportError) as error:
        raise RaybenchError(f"{where}: no storage of Optuna's ({str(error).partition(chr(10))[0]})") from error


def _make(study: Study, storage: Any) -> None:
    import optuna

    _silence()
    made = optuna.create_study(storage=storage, study_name=study.name, direction=study.direction)
    made.set_user_attr(MARK, "unfinished")
    space = {key: distribution(values) for key, values in study.space.items()}
    for each in study.told:
        trial = optuna.trial.create_trial(
            state=optuna.trial.TrialState[each.state],
            value=each.value,
            params=dict(each.params),
            distributions={key: space[key] for key in each.params},
            user_attrs=dict(each.about),
            intermediate_values=dict(each.curve),
        )
        trial.datetime_start = _local(each.started) or trial.datetime_start
        trial.datetime_complete = _local(each.ended) or trial.datetime_complete
        made.add_trial(trial)
    made.set_user_attr(MARK, study.digest)  # last, so that one that was cut short is made anew


def _local(time: datetime | None) -> datetime | None:
    """As Optuna keeps times: local, without a zone."""
    return None if time is None else time.astimezone().replace(tzinfo=None)


def _silence() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)


def serve(found: Sequence[Study], port: int) -> None:
    """Show them in Optuna Dashboard on 127.0.0.1 until interrupted. Raises RaybenchError where it is not installed."""
    need("optuna_dashboard", "optuna-dashboard", "dashboard")
    from optuna_dashboard import run_server

    try:
        run_server(in_memory(found), host="127.0.0.1", port=port)
    except OSError as error:
        raise RaybenchError(f"port {port}: {error.strerror or error}; give another with --port") from error
