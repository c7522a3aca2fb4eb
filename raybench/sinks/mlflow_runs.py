"""Settled trials as runs of an MLflow server, one a trial, in an experiment."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

from raybench.errors import RaybenchError
from raybench.results.schema import Status
from raybench.sinks.runs import Attempt, Run, need

Item = TypeVar("Item")
TRIAL, ATTEMPT = "raybench.trial_id", "raybench.attempt"
"""Tags by which a run is known again."""
STATUS = {Status.COMPLETE: "FINISHED", Status.PRUNED: "KILLED", Status.DIVERGED: "FAILED", Status.FAILED: "FAILED"}
MOST_METRICS, MOST_PARAMS, LONGEST = 1000, 100, 5000
"""Of one call of `log_batch`, and characters of a value that every server takes."""
QUIET = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Unless the environment says otherwise: a person waits for the answer, and nobody else is told."""


class MlflowRuns:
    """The runs of one experiment on a server (http://…), or in whatever store MLflow's `tracking_uri` may name."""

    def __init__(self, uri: str, experiment: str) -> None:
        """The experiment is made where it is not there. Raises RaybenchError where the server does not answer."""
        need("mlflow", "mlflow-skinny", "mlflow")
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        self.uri = uri
        with self._told(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own dependencies, as it is imported
            from mlflow.tracking import MlflowClient

            self._client: Any = MlflowClient(tracking_uri=uri)
            found = self._client.get_experiment_by_name(experiment)
            if found is not None and found.lifecycle_stage != "active":
                raise RaybenchError(
                    f"{uri}: the experiment {experiment} was deleted there; restore it, or --name another"
                )
            self._experiment: str = self._client.create_experiment(experiment) if found is None else found.experiment_id
        self._runs: dict[str, list[Any]] = {}
        """Trial id -> what the server has of it."""

    def known(self) -> set[Attempt]:
        """The attempts that it has whole: a run ends after all of it was written."""
        with self._told():
            self._runs = {}
            for run in self._all():
                if (trial_id := run.data.tags.get(TRIAL)) is not None:
                    self._runs.setdefault(trial_id, []).append(run)
        return {_attempt(run) for runs in self._runs.values() for run in runs if run.info.status in STATUS.values()}

    def write(self, run: Run) -> None:
        """Write it whole, then remove what there was of the trial before."""
        start, end = _ms(run.started), _ms(run.ended)
        tags = {**run.tags, TRIAL: run.attempt.trial_id, ATTEMPT: str(run.attempt.number)}
        with self._told():
            from mlflow.entities import Metric, Param

            made = self._client.create_run(self._experiment, start_time=start, tags=_short(tags), run_name=run.name)
            name = made.info.run_id
            params = [Param(key, value) for key, value in _short(run.params).items()]
            points = [(epoch, values) for epoch, values in run.curve] + [(run.best_epoch, run.scores)]
            metrics = [Metric(key, value, end or 0, epoch) for epoch, values in points for key, value in values.items()]
            for some_params in _parts(params, MOST_PARAMS):
                self._client.log_batch(name, params=some_params)
            for some_metrics in _parts(metrics, MOST_METRICS):
                self._client.log_batch(name, metrics=some_metrics)
            self._client.set_terminated(name, STATUS[run.status], end)
            for earlier in self._runs.pop(run.attempt.trial_id, []):
                self._client.delete_run(earlier.info.run_id)

    def _all(self) -> Iterator[Any]:
        token = None
        while True:
            page = self._client.search_runs([self._experiment], max_results=1000, page_token=token)
            yield from page
            if not (token := page.token):
                return

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Whatever MLflow and the network raise becomes a RaybenchError in a line."""
        try:
            yield
        except (RaybenchError, ImportError):
            raise
        except Exception as error:
            first = str(error).strip().partition("\n")[0][:300]
            raise RaybenchError(
                f"{self.uri}: MLflow does not take it ({first}); check that its server runs and the address is right, "
                "then run the same command again"
            ) from error


def _attempt(run: Any) -> Attempt:
    number = run.data.tags.get(ATTEMPT, "")
    return Attempt(run.data.tags[TRIAL], int(number) if number.isdecimal() else 0)


def _ms(time: datetime | None) -> int | None:
    return None if time is None else int(1000 * time.timestamp())


def _short(values: Any) -> dict[str, str]:
    return {key: str(value)[:LONGEST] for key, value in values.items()}


def _parts(items: Sequence[Item], most: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), most):
        yield items[start : start + most]
