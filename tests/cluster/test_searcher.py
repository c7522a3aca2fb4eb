"""The searcher without Ray's processes: what it knows is what the next driver will read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raybench.cluster.jobs import unpack_job
from raybench.cluster.searcher import PlanSearcher
from raybench.commands.sweeping import read_outcomes
from raybench.config.plan import make_plan
from raybench.config.sweep import SweepConfig
from raybench.results.schema import EpochRow, Status, TrialRow
from raybench.results.store import Store
from raybench.search.cells import Job
from raybench.search.outcomes import Known, Outcomes
from raybench.search.search import Search
from raybench.training.recorder import Setup


class Nobody:
    """Watches nothing."""

    def started(self, job: Job) -> None:
        pass

    def ended(self, job: Job, outcomes: dict[str, Known]) -> None:
        pass


def test_halving_judges_a_trial_whose_worker_died_after_the_rungs_row_as_the_next_driver_will(tmp_path: Path) -> None:
    """As where memory ran out while the checkpoint was saved at the rung."""
    sweep = SweepConfig.model_validate(
        {
            "name": "some",
            "preset": "paper",
            "base": {"dataset": {"name": "digits"}, "model": {"name": "resnet8"}, "schedule": {"epochs": 9}},
            "tune": {"space": {"optimizer.lr": [0.1, 0.2, 0.3]}},
            "scheduler": {"name": "halving", "grace_epochs": 1, "reduction_factor": 3},
            "limits": {"max_failures": 0},
        }
    )
    plan, store = make_plan(sweep), Store(tmp_path)
    searcher = PlanSearcher(Search(plan, Outcomes(), tmp_path, 1), Setup(results=tmp_path), store, Nobody(), width=1)
    for number, score in enumerate((1.0, 9.0, 5.0)):
        (trial,) = unpack_job(searcher.suggest(str(number))["job"]).trials
        about: dict[str, Any] = {
            "sweep": "some",
            "preset": "paper",
            "cell": "c",
            "seed": trial.seed,
            "config": trial.flat(),
        }
        store.write_trial(TrialRow(trial_id=trial.trial_id, attempt=1, status=Status.RUNNING, **about))
        store.write_epochs(trial.trial_id, 1, [EpochRow(trial_id=trial.trial_id, attempt=1, epoch=1, eval_top1=score)])
        if score == 9.0:
            searcher.on_trial_complete(str(number), error=True)
        else:
            told = f'[{{"trial_id": "{trial.trial_id}", "status": "running", "scores": {{"1": {score}}}}}]'
            searcher.on_trial_complete(str(number), {"outcomes": told, "epoch": 1})
    then = read_outcomes(store, sweep)
    assert sorted(known.scores[1] for known in then.values()) == [1.0, 5.0, 9.0]
    assert searcher.search.outcomes == then
    later = Search(plan, Outcomes(then), tmp_path, 1)
    assert searcher.search.finished == later.finished
