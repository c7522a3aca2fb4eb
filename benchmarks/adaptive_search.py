"""What halving saves of a full grid, and what it costs: the share of epochs, and whether the same setting wins.

    python benchmarks/adaptive_search.py [--json] [--sweep deit_reverse] [--preset quick] [--rates 6] [--epochs 12]

Every trial of the grid is trained once, by plain calls, with more learning rates than the sweep has. Then halving is
played on those rows: it sees of a trial only the epochs it has asked for, as in a sweep (a trial's first epochs are the
same however long it goes on). In each cell the setting with the best mean on validation is compared with the full
grid's. Regret is how many points of test top-1 the halved choice is below the grid's, a mean over cells. At equal
budget stands random search over as many settings as the epochs of halving would pay for (all its choices counted).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.pairs import hardware
from raybench.config.load import load_sweep
from raybench.config.plan import Cell, Plan, Setting, make_plan
from raybench.results.schema import Status
from raybench.results.store import Store
from raybench.search.outcomes import Known, Outcomes
from raybench.search.search import Search
from raybench.training.recorder import Setup
from raybench.training.trial import run_trial

NOWHERE = Path("/nonexistent")
"""Only tpe keeps anything in the sweep's folder."""


def trained(plan: Plan, folder: Path, data_root: Path | None) -> dict[str, dict[int, float]]:
    """Trial id -> epoch -> validation metric, of every trial."""
    metric = plan.sweep.metric
    setup = Setup(
        sweep=plan.sweep.name, results=folder, data_root=data_root, metric=metric.name, mode=metric.mode, keep="none"
    )
    sign = 1.0 if metric.mode == "max" else -1.0
    found: dict[str, dict[int, float]] = {}
    for trial in plan.trials():
        if trial.trial_id not in found:
            outcome = run_trial(trial, setup)
            if outcome.status != Status.COMPLETE:
                raise SystemExit(f"{trial.trial_id} is {outcome.status} ({outcome.reason}): choose rates that train")
            scores = outcome.scores
            found[trial.trial_id] = {epoch: sign * value for epoch, value in scores.items() if value is not None}
            print(f"{len(found)} trials done", end="\r", file=sys.stderr)
    return found


def halved(plan: Plan, scores: dict[str, dict[int, float]]) -> tuple[int, Search]:
    """Epochs that halving trains, and the search at its end."""
    search = Search(plan, Outcomes(), NOWHERE, 1)
    while (job := search.next_job()) is not None:
        told = {}
        for trial in job.trials:
            seen = {epoch: value for epoch, value in scores[trial.trial_id].items() if epoch <= job.rungs[-1]}
            status = Status.COMPLETE if job.rungs[-1] == trial.schedule.epochs else Status.RUNNING
            told[trial.trial_id] = Known(status, seen)
        search.tell(job, told)
        for _, trial, _ in list(search.pruned()):
            search.outcomes[trial.trial_id] = Known(Status.PRUNED, search.outcomes[trial.trial_id].scores)
    return sum(max(known.scores, default=0) for known in search.outcomes.values()), search


def best(cell: Cell, outcomes: Outcomes) -> Setting:
    """The setting that a table shows: the best mean on validation of those whose seeds are all complete."""
    complete = [
        setting
        for setting in cell.settings
        if all(outcomes[trial.trial_id].status == Status.COMPLETE for trial in setting.trials)
    ]
    return max(complete, key=outcomes.mean_best)


def by_chance(plan: Plan, whole: Outcomes, tested: dict[str, float], share: float) -> float:
    """The mean regret of random search with this share of the grid's epochs: every choice of so many settings."""
    regrets = []
    for cell in plan.cells:
        count = max(1, round(share * len(cell.settings)))
        least = mean_test(best(cell, whole), tested)
        chosen = [max(some, key=whole.mean_best) for some in itertools.combinations(cell.settings, count)]
        regrets.append(statistics.fmean(least - mean_test(each, tested) for each in chosen))
    return statistics.fmean(regrets)


def mean_test(setting: Setting, tested: dict[str, float]) -> float:
    """A setting's test metric, a mean over its seeds."""
    return statistics.fmean(tested[trial.trial_id] for trial in setting.trials)


def result(args: argparse.Namespace) -> dict[str, Any]:
    """Train, play, compare."""
    rates = [float(f"{10 ** (-3 + 3 * index / (args.rates - 1)):.3g}") for index in range(args.rates)]
    common = [f"schedule.epochs={args.epochs}", f"tune.space.optimizer.lr={json.dumps(rates)}"]
    grid = make_plan(load_sweep(args.sweep, args.preset, common))
    adaptive = make_plan(load_sweep(args.sweep, args.preset, [*common, "scheduler.name=halving"]))
    root = os.environ.get("RAYBENCH_DATA")
    with tempfile.TemporaryDirectory() as folder:
        scores = trained(grid, Path(folder), Path(root) if root else None)
        rows = Store(Path(folder)).trials().select("trial_id", "test_top1").iter_rows()
        tested = {trial_id: -math.inf if value is None else value for trial_id, value in rows}
    whole = Outcomes({trial_id: Known(Status.COMPLETE, each) for trial_id, each in scores.items()})
    epochs, search = halved(adaptive, scores)
    full = len(scores) * args.epochs
    pairs = [
        (best(cell, whole), best(halved_cell, search.outcomes))
        for cell, halved_cell in zip(grid.cells, search.cells(), strict=True)
    ]
    same = sum(a.tuned == b.tuned for a, b in pairs)
    share = epochs / full
    return {
        "claim": f"halving against the full grid, {args.sweep} {args.preset}, {args.rates} rates: share of the epochs",
        "ours": epochs,
        "peer": full,
        "unit": "epochs",
        "ratio": round(share, 3),
        "bar": None,
        "holds": None,
        "n": len(pairs),
        "same_setting": f"{same} of {len(pairs)} cells",
        "regret": round(statistics.fmean(mean_test(a, tested) - mean_test(b, tested) for a, b in pairs), 3),
        "regret_of_random_search": round(by_chance(grid, whole, tested, share), 3),
        "hardware": hardware(1),
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one object")
    parser.add_argument("--sweep", default="deit_reverse")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--rates", type=int, default=6, help="learning rates, 0.001 to 1")
    parser.add_argument("--epochs", type=int, default=12)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = result(args)
    if args.json:
        print(json.dumps(found))
    else:
        print(
            f"{found['claim']} = {found['ratio']:.2f} ({found['ours']} of {found['peer']})\n"
            f"  the grid's setting in {found['same_setting']}; regret {found['regret']:.2f} points of test top-1, of "
            f"random search with as many epochs {found['regret_of_random_search']:.2f}; {found['hardware']}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
