"""What a large sweep costs its driver and its storage, piece by piece: the coefficients of docs/scaling.md.

    python benchmarks/driver_cost.py [--trials 100000] [--told 1000]

Processor time of this process, so that what else the machine does counts little. Nothing of Ray is in it: what a trial
costs the driver in all, Ray Tune included, benchmarks/tune_overhead.py and benchmarks/scaling.py measure. The requests
of a trial to its results folder are counted by Python's audit hooks in one real trial of a small model: folders that
are listed, files that are opened to be read, files that are renamed to their final names.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.peers.pairs import hardware
from raybench.config.plan import Plan, make_plan
from raybench.config.sweep import SweepConfig
from raybench.results.schema import Status
from raybench.results.store import Store
from raybench.search.outcomes import Known, Outcomes
from raybench.search.search import Search

SEEDS = 100
EPOCHS = 4
REQUESTS = {"os.listdir": "listings", "os.scandir": "listings", "os.rename": "writes"}


def plan_of(trials: int) -> Plan:
    """Of so many trials: settings of a hundred seeds each, in ten cells."""
    dataset = {"name": "digits", "train_size": 60, "val_size": 100}
    base = {"dataset": dataset, "model": {"name": "resnet8"}, "schedule": {"epochs": EPOCHS}}
    rates = [round(1e-4 * (index + 1), 8) for index in range(max(1, trials // (10 * SEEDS)))]
    content = {"name": "large", "preset": "quick", "base": base, "seeds": list(range(SEEDS))}
    axes = {
        "factors": {"batch_size": [10 * (index + 1) for index in range(10)]},
        "tune": {"space": {"optimizer.lr": rates}},
    }
    return make_plan(SweepConfig.model_validate(content | axes))


def costs(trials: int, told: int) -> Iterator[str]:
    """A line each."""
    begun = time.process_time()
    plan = plan_of(trials)
    planned = time.process_time()
    ids = [trial.trial_id for trial in plan.trials()]
    named = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    yield f"a plan of {len(ids)} trials: {planned - begun:.2f} s, ids {named - planned:.2f} s; {peak:.2f} GiB at most"
    with tempfile.TemporaryDirectory(prefix="raybench-driver-") as name:
        folder = Path(name)
        search = Search(plan, Outcomes({}), folder, 8)
        search.next_job()  # finds all that is due of its cell
        begun = time.process_time()
        for _ in range(told):
            job = search.next_job()
            assert job is not None
            search.tell(job, {trial.trial_id: Known(Status.COMPLETE, {EPOCHS: 1.0}) for trial in job.trials})
            assert not search.alone_done
        yield f"which job is next, and what became of it: {1e6 * (time.process_time() - begun) / told:.1f} us a trial"
        yield from attempts(folder / "many", ids[: min(30_000, len(ids))])
        yield from requests(folder / "one", plan)


def attempts(folder: Path, ids: list[str]) -> Iterator[str]:
    """Which attempt is next, with so many trials' parts in the folder."""
    for kind in ("trials", "epochs"):
        (folder / kind).mkdir(parents=True)
        for trial_id in ids:
            (folder / kind / (f"{trial_id}-a1-trial.parquet" if kind == "trials" else f"{trial_id}-a1.parquet")).touch()
    store, rounds = Store(folder), 5
    begun = time.process_time()
    for _ in range(rounds):
        assert store.next_attempt(ids[0]) == 2
    one = (time.process_time() - begun) / rounds
    yield f"which attempt a trial is to have: {1e6 * one / len(ids):.1f} us a trial of {len(ids)} whose parts lie there"


def requests(folder: Path, plan: Plan) -> Iterator[str]:
    """What one trial asks of its results folder."""
    from raybench.training.recorder import Setup
    from raybench.training.trial import run_trial

    counts: Counter[str] = Counter()
    watching = True

    def hear(event: str, about: tuple[Any, ...]) -> None:
        if not watching or event not in (*REQUESTS, "open"):
            return
        path = about[1] if event == "os.rename" else about[0]
        if not isinstance(path, str | Path) or not str(path).startswith(str(folder)):
            return
        if event != "open":
            counts[REQUESTS[event]] += 1
        elif isinstance(about[1], str) and about[1].startswith("r"):
            counts["reads"] += 1

    trial = next(plan.trials())
    setup = Setup(sweep="large", preset="quick", results=folder)
    run_trial(trial.model_copy(update={"seed": 99}), replace(setup, results=folder.with_name("warm")))
    counts.clear()
    sys.addaudithook(hear)
    outcome = run_trial(trial, setup)
    watching = False
    assert outcome.status == Status.COMPLETE, outcome.reason
    said = ", ".join(f"{counts[kind]} {kind}" for kind in ("listings", "writes", "reads"))
    yield f"requests of a trial of {trial.schedule.epochs} epochs to the results folder: {said}"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100_000, help="of the plan (default: 100000)")
    parser.add_argument("--told", type=int, default=1000, help="of them handed out and told (default: 1000)")
    args = parser.parse_args()
    for line in costs(args.trials, args.told):
        print(line, flush=True)
    print(hardware(1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
