"""Sweeps of trials that sleep, on clusters of nodes with GPUs by name only: what placing and telling of trials costs.

    python -m benchmarks.peers.sleepers SPEC        SPEC: a `Spec` as JSON; prints a `Slept` as JSON

Driver with what it says of trials, searcher, Tuner, workers and rows are raybench's own; only what a trial does between
its first and its last row is replaced by sleep. Ray's Cluster keeps much in its process, so that each measurement is a
process of its own.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from raybench.cluster.session import configure

if __name__ == "__main__":
    configure(None)  # before anything imports ray

import ray
import ray.train
from rich.console import Console

from raybench.cluster import driver, trainables
from raybench.cluster.groups import start_workers
from raybench.cluster.session import session
from raybench.cluster.stopping import Stop
from raybench.cluster.trainables import TaskTrainable
from raybench.commands.estimating import Estimate
from raybench.commands.running import Watch, make_progress
from raybench.commands.sharing import Machines
from raybench.commands.sweeping import Sweep
from raybench.config.costs import TrialCost
from raybench.config.placement import Share
from raybench.config.plan import Plan, make_plan
from raybench.config.sweep import SweepConfig
from raybench.config.trial import TrialConfig
from raybench.results.schema import Status
from raybench.results.store import Store
from raybench.search.cells import Job
from raybench.search.outcomes import Known, Outcomes
from raybench.search.search import Search
from raybench.training.preflight import Checked
from raybench.training.recorder import Recorder, Setup
from raybench.training.trial import Outcome

STORE_BYTES = 80 * 2**20
IMPATIENT = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
"""A node that is silent is given up in seconds rather than after Ray's minute."""


@dataclass(frozen=True)
class Spec:
    """What is measured."""

    nodes: list[dict[str, float]]
    """CPUs and GPUs (`cpu`, `gpu`) of each."""
    trials: int
    sleep_s: float
    cpu: float = 1.0
    gpu: float = 0.0
    workers: int = 1
    rows: bool = True
    """Whether trials write their rows, as real ones do."""
    local: bool = False
    """On this machine instead, as without --address, with the CPUs of the only node."""
    lost_after: int = 0
    """After so many trials the last node is lost; 0: none is."""


@dataclass(frozen=True)
class Sleep:
    """One worker of one trial."""

    trial: str
    node: str
    gpus: list[int]
    begun: float
    ended: float
    """Wall clock of this machine, s."""


@dataclass(frozen=True)
class Slept:
    """What was seen."""

    width: int
    """Trials at a time, as the driver reckoned."""
    wall_s: float
    """Of the whole run: from the call to its return, the start of workers included."""
    ended_s: list[float]
    """When each trial was told of, since the first one began."""
    statuses: dict[str, int]
    attempts: int
    sleeps: list[Sleep] = field(default_factory=list)
    driver_cpu_s: float = 0.0
    """Processor time of the driver's process in the run."""


class Sleeping(TaskTrainable):
    """Trials that leave the rows of a trial, and sleep between the first and the last."""

    def _train(self, until: int) -> None:  # noqa: ARG002
        for trial in self.job.trials:
            self.outcomes[trial.trial_id] = sleep_through(trial, self.where, self.job.cell)


def sleep_through(trial: TrialConfig, where: Setup, cell: str) -> Outcome:
    """A trial; `where.env` says how long it sleeps, where it writes that down, and whether it leaves rows."""
    recorder = None
    if where.env["rows"]:
        assert where.results is not None
        recorder = Recorder(trial, cell, where, where.results)
        recorder.start()
    content = {"trial": trial.trial_id, **where.env}
    if where.workers > 1:
        start_workers(_together, content, where, name=trial.trial_id, backend="gloo")
    elif where.env["sleep_s"]:
        _sleep(content, 0)
    if recorder is not None:
        recorder.settle(Status.COMPLETE)
    return Outcome(trial.trial_id, Status.COMPLETE, trial.schedule.epochs, {trial.schedule.epochs: 1.0})


def _together(content: dict[str, Any]) -> str:
    _sleep(content, ray.train.get_context().get_world_rank())
    return "slept"


def _sleep(content: dict[str, Any], rank: int) -> None:
    begun = time.time()
    time.sleep(content["sleep_s"])
    here = ray.get_runtime_context()
    gpus = [int(each) for each in here.get_accelerator_ids().get("GPU", [])]
    sleep = Sleep(content["trial"], here.get_node_id(), gpus, begun, time.time())
    path = Path(content["notes"]) / f"{content['trial']}-{rank}-{os.getpid()}.json"
    path.write_text(json.dumps(asdict(sleep)))


class Ends(Watch):
    """What tells of a real sweep, and notes when trials end and how, and lets a node be lost."""

    def __init__(self, sweep: Sweep, search: Search) -> None:
        cost = TrialCost("sleep", epoch_s=sweep.setup.env["sleep_s"], fixed_s=0.0)
        estimate = Estimate(lambda _: cost)
        progress = make_progress(sweep, estimate)
        progress.clock.follow(search.ahead, estimate.teachers)
        super().__init__(sweep, progress, search)
        self.begun = 0.0
        self.ends: list[float] = []
        self.statuses: dict[str, str] = {}
        """Of each trial that was told of, the last."""
        self.after: dict[int, threading.Event] = {}

    def started(self, job: Job) -> None:
        """A job went to a worker."""
        self.begun = self.begun or time.monotonic()
        super().started(job)

    def ended(self, job: Job, outcomes: Mapping[str, Known]) -> None:
        """A job came back."""
        super().ended(job, outcomes)
        self.ends.append(time.monotonic() - self.begun)
        self.statuses |= {trial_id: str(known.status) for trial_id, known in outcomes.items()}
        if event := self.after.get(len(self.ends)):
            event.set()


def plan_of(spec: Spec) -> Plan:
    """As many trials as seeds."""
    base = {"dataset": {"name": "digits"}, "model": {"name": "resnet8"}, "schedule": {"epochs": 1}}
    resources = {"cpu": spec.cpu, "gpu": spec.gpu, "workers": spec.workers}
    content = {"name": "sleepers", "preset": "quick", "base": base, "seeds": list(range(spec.trials))}
    return make_plan(SweepConfig.model_validate(content | {"resources": resources}))


def sweep_of(spec: Spec, folder: Path) -> Sweep:
    """What the command knows of a sweep before it starts; what it says of trials is kept in memory."""
    (folder / "notes").mkdir()
    env = {"sleep_s": spec.sleep_s, "notes": str(folder / "notes"), "rows": spec.rows}
    plan, share = plan_of(spec), Share(spec.cpu, spec.gpu, workers=spec.workers)
    results = folder / "results"
    setup = Setup(sweep="sleepers", preset="quick", results=results, env=env)
    quiet = Console(file=io.StringIO())
    store, checked, machines = Store(results), Checked(), Machines((), None if spec.local else "a cluster")
    sweep = Sweep(plan.sweep, "", plan, checked, store, results, setup, Outcomes({}), machines, share, None, quiet)
    sweep.take(share)
    return sweep


def slept(spec: Spec) -> Slept:
    """Run the sweep."""
    with tempfile.TemporaryDirectory(prefix="raybench-sleepers-") as name:
        folder = Path(name)
        os.environ["RAYBENCH_CACHE"] = str(folder / "cache")
        sweep = sweep_of(spec, folder)
        if spec.local:
            (node,) = spec.nodes
            with session(None, cpus=int(node["cpu"])):
                return _run(spec, sweep)
        os.environ |= IMPATIENT
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        nodes = [
            cluster.add_node(
                num_cpus=each["cpu"], num_gpus=each["gpu"], object_store_memory=STORE_BYTES, include_dashboard=False
            )
            for each in spec.nodes
        ]
        cluster.wait_for_nodes()
        lost = threading.Event()

        def lose() -> None:
            lost.wait()
            cluster.remove_node(nodes[-1], allow_graceful=False)

        threading.Thread(target=lose, daemon=True).start()
        try:
            with session(cluster.address):
                return _run(spec, sweep, {spec.lost_after: lost})
        finally:
            cluster.shutdown()


def _run(spec: Spec, sweep: Sweep, after: dict[int, threading.Event] | None = None) -> Slept:
    """`after`: what happens after so many trials."""
    trainables.TRAINABLES["image_classification"] = Sleeping
    width = driver.slots("sleepers", sweep.share, None)
    search = sweep.search(width)
    ends = Ends(sweep, search)
    ends.after |= after or {}
    ends.progress.width = width
    begun, busy = time.monotonic(), time.process_time()
    stop = Stop(None, local=spec.local)
    driver.run(sweep.plan, search, sweep.setup, width=width, stop=stop, observer=ends)
    wall_s, driver_cpu_s = time.monotonic() - begun, time.process_time() - busy
    ends.tidier.wait()
    statuses, attempts = dict(Counter(ends.statuses.values())), len(ends.ends)
    if spec.rows:
        table = sweep.store.trials()
        statuses, attempts = dict(table["status"].value_counts().iter_rows()), int(table["attempt"].sum())
    notes = Path(sweep.setup.env["notes"])
    sleeps = [Sleep(**json.loads(path.read_text())) for path in sorted(notes.iterdir())]
    return Slept(width, wall_s, ends.ends, statuses, attempts, sleeps, driver_cpu_s)


def read(line: str) -> Slept:
    """What another process printed."""
    content = json.loads(line)
    found = Slept(**content)
    return replace(found, sleeps=[Sleep(**each) for each in content["sleeps"]])


if __name__ == "__main__":
    print(json.dumps(asdict(slept(Spec(**json.loads(sys.argv[1]))))), flush=True)
