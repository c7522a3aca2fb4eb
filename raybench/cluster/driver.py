"""The driver: teachers first, then one Tuner over the plan's jobs, then an orderly end, whatever ends it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import tune
from ray.tune.execution import class_cache

from raybench.cluster.groups import actor_resources
from raybench.cluster.jobs import pack_setup, unpack_setup
from raybench.cluster.schedulers import make_scheduler
from raybench.cluster.searcher import Observer, PlanSearcher
from raybench.cluster.session import alive_nodes
from raybench.cluster.stopping import Stop
from raybench.cluster.trainables import TRAINABLES
from raybench.config.placement import Share, at_a_time, lack
from raybench.config.plan import Plan
from raybench.config.plugins import receive
from raybench.config.trial import TrialConfig
from raybench.distillation.teacher import TeacherRecord
from raybench.errors import ConfigError, RaybenchError
from raybench.results.storage import Folder
from raybench.results.store import Store
from raybench.search.search import Search
from raybench.training.preparation import TeacherWanted, find_teacher, prepare_teacher, prepared
from raybench.training.recorder import Setup

NODES_EVERY_S = 5.0
"""Between two looks at which nodes a cluster has."""
MANY = 100_000
"""More trials than ever run at a time."""


class Watch(tune.Stopper):
    """Tune asks it several times a second: whether to stop, and whether nodes have come or gone.

    Not a callback: where one is given, Tune counts which of its own it is, and imports wandb and MLflow for that.
    """

    def __init__(self, stop: Stop, searcher: PlanSearcher, room: Callable[[], int] | None = None) -> None:
        """`room`: trials that fit at a time on the nodes there are now; none where these are always the same."""
        self.stop = stop
        self.searcher = searcher
        self.room = room
        self._looked = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Tune may pickle it; nothing of it is worth keeping."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
        """Trials end by themselves."""
        return False

    def stop_all(self) -> bool:
        """In the main thread, in each step of Tune's loop. Raises what ends the sweep before its end."""
        if not self.searcher.running and self.searcher.search.finished:
            return False
        self.stop.check()
        if self.searcher.fault is not None:
            raise RaybenchError(self.searcher.fault)
        if self.room is not None and time.monotonic() - self._looked > NODES_EVERY_S:
            self._looked = time.monotonic()
            self.searcher.width = self.room()
        return False


class TeacherObserver(Protocol):
    """Who is told of teachers."""

    def teacher_started(self, config: TrialConfig) -> None:
        """A teacher is being prepared."""
        ...

    def teacher_ready(self, config: TrialConfig, record: TeacherRecord, prepared_before: bool) -> None:
        """A teacher is ready, by this run or by an earlier one."""
        ...


def prepare(wanted: list[TeacherWanted], setup: Setup, stop: Stop, observer: TeacherObserver, *, local: bool) -> None:
    """Prepare each teacher in a worker with a whole node's CPUs, in turn. Raises RaybenchError when one fails.

    `local`: trials run on this machine alone.
    """
    fitting = [node for node in alive_nodes() if setup.gpu == 0 or node.has_gpu(setup.kind)]
    cpus = max((node.cpu for node in fitting), default=1.0)
    gpus = 1.0 if setup.gpu > 0 and fitting else 0.0
    everything = replace(setup, cpu=cpus, gpu=gpus, workers=1)
    wanted_kind: dict[str, Any] = {"accelerator_type": setup.kind} if gpus and setup.kind else {}
    # One call a worker: those that ran a task are never given a trial, and would lie idle with all that they loaded.
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=2, max_calls=1, **wanted_kind)(_prepare_remotely)
    for teacher in wanted:
        # Where nothing is missing, no worker need be started to find that out, which takes seconds. Only for trials
        # on this machine's CPU; others are asked.
        if local and gpus == 0 and (record := prepared(teacher.example, setup, teacher.images)) is not None:
            observer.teacher_ready(teacher.example, record, prepared_before=True)
            continue
        if (record := find_teacher(teacher.example)) is not None:
            observer.teacher_ready(teacher.example, record, prepared_before=True)
        else:
            observer.teacher_started(teacher.example)
        future = remote.remote(teacher.example.model_dump_json(), pack_setup(everything), teacher.images)
        while not ray.wait([future], timeout=0.2)[0]:
            stop.check()
        try:
            fault, content = ray.get(future)
        except ray.exceptions.RayError as error:
            raise RaybenchError(f"teacher could not be prepared: {str(error).splitlines()[0]}") from None
        if fault:
            raise RaybenchError(f"teacher could not be prepared: {fault}")
        if record is None:
            observer.teacher_ready(teacher.example, TeacherRecord(**content), prepared_before=False)


def _prepare_remotely(config: str, setup: str, images: int) -> tuple[str | None, dict[str, Any]]:
    try:
        # The worker is ours alone: it ends itself when its driver is gone.
        where = replace(unpack_setup(setup), guarded=True)
        receive(where.plugins)
        record = prepare_teacher(TrialConfig.model_validate_json(config), where, images)
    except RaybenchError as error:
        return str(error), {}
    except Exception as error:
        text = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
        return f"{type(error).__name__}: {text}", {}
    return None, asdict(record)


def slots(name: str, share: Share, max_concurrent: int | None) -> int:
    """Trials at a time of the sweep of this name. Raises ConfigError when the cluster can never run one."""
    nodes = alive_nodes()
    if fault := lack(nodes, share):
        raise ConfigError([f"{name}: {fault}"])
    return room_now(share, max_concurrent)


def room_now(share: Share, max_concurrent: int | None) -> int:
    """Trials at a time on the nodes there are or may be started, at least one: what has gone may come again."""
    fits = max(1, at_a_time(alive_nodes(), share))
    return min(fits, max_concurrent) if max_concurrent else fits


def run(
    plan: Plan,
    search: Search,
    setup: Setup,
    *,
    width: int,
    stop: Stop,
    observer: Observer,
    room: Callable[[], int] | None = None,
    verbose: bool = False,
) -> None:
    """Run everything that is due. Raises Stopped when told to stop; rows are written by the trials themselves.

    `width`: trials at a time; with `room`, which is asked now and then, until the cluster has other nodes.
    """
    assert setup.results is not None
    store = Store(setup.results)
    searcher = PlanSearcher(
        search, setup, store, observer, width, stopping=lambda: stop.number is not None, local=stop.local
    )
    # All workers are asked for at once, not each when the one before it runs.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(width if room is None else MANY)  # the searcher keeps to its width
    with _scratch(setup.results) as scratch:
        tuner = tune.Tuner(
            tune.with_resources(TRAINABLES[plan.task], actor_resources(setup)),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=make_scheduler(searcher.deaths, plan.sweep.scheduler, _epochs(plan), search),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name=f"{plan.sweep.name}",
                storage_path=str(scratch.absolute()),
                failure_config=tune.FailureConfig(max_failures=0),  # the searcher hands out again what died
                stop=Watch(stop, searcher, room),
                verbose=1 if verbose else 0,
            ),
        )
        stop.check()
        with workers_of_the_session() if stop.local else contextlib.nullcontext():
            tuner.fit()


@contextlib.contextmanager
def workers_of_the_session() -> Iterator[None]:
    """Have trials run in the workers that Ray has started already.

    Tune gives a trial's worker some variables of this process (RAY_CHDIR_TO_TRIAL_DIR, AWS keys, PL_DISABLE_FORK), for
    which Ray starts another process. A Ray of our own has them from us since it began.
    """
    named: dict[str, Any] = {"DEFAULT_ENV_VARS": {}, "ENV_VARS_TO_PROPAGATE": frozenset()}
    before = {name: getattr(class_cache, name) for name in named if hasattr(class_cache, name)}
    try:
        for name in before:
            setattr(class_cache, name, named[name])
        yield
    finally:
        for name, value in before.items():
            setattr(class_cache, name, value)


@contextlib.contextmanager
def _scratch(results: Folder) -> Iterator[Path]:
    """A folder for what Tune writes and nobody reads."""
    # In the results folder, where the next run finds and removes what a killed one left; never in an object store.
    folder = results / ".tune" if isinstance(results, Path) else Path(tempfile.mkdtemp(prefix="raybench-tune-"))
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _name(trial: Any) -> str:
    return f"{trial.trial_id}"


def _epochs(plan: Plan) -> int:
    return max((trial.schedule.epochs for trial in plan.trials()), default=1)
