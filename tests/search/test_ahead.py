"""What is to come of a search: as much as then runs, and looking decides nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from raybench.results.schema import Status
from raybench.search.cells import Job
from raybench.search.outcomes import Known, Outcomes
from raybench.search.search import Search
from tests.search.world import EPOCHS, HALVED, NOWHERE, PLANS, World, plan


def epochs_ahead(search: Search) -> int:
    """Epochs of everything that is to come."""
    stretches = [each for _, stages in search.ahead() for stage in stages for each in stage]
    return sum(len(each.job.trials) * (each.job.rungs[-1] - each.begin) for each in stretches)


@pytest.mark.parametrize("name", ["grid", "first", "halving"])
@pytest.mark.parametrize("ended", [0, 1, 5, 11, 17])
def test_what_is_to_come_is_what_then_runs(name: str, ended: int) -> None:
    """However far a sweep is: as many epochs are foreseen as it then takes, pruned settings left out."""
    world = World()
    world.work(Search(PLANS[name], world.outcomes(), NOWHERE, 2), stop_after=ended)
    search = Search(PLANS[name], world.outcomes(), NOWHERE, 2)
    foreseen = epochs_ahead(search)
    assert foreseen > 0
    before = {trial_id: max(known.scores) for trial_id, known in world.rows.items()}
    world.work(search)
    after = {trial_id: max(known.scores) for trial_id, known in world.rows.items()}
    assert foreseen == sum(epochs - before.get(trial_id, 0) for trial_id, epochs in after.items())
    assert epochs_ahead(search) == 0


def test_looking_ahead_decides_nothing() -> None:
    plain, watched = World(), World()
    plain.work(Search(HALVED, plain.outcomes(), NOWHERE, 2))
    search = Search(HALVED, watched.outcomes(), NOWHERE, 2)
    finish = watched.finish

    def looking(search: Search, job: Job) -> None:
        search.ahead()
        finish(search, job)

    watched.finish = looking  # type: ignore[method-assign]
    watched.work(search)
    assert [job.key for job in watched.jobs] == [job.key for job in plain.jobs]
    assert watched.statuses() == plain.statuses()


def test_of_settings_that_nobody_has_suggested_yet_an_example_is_foreseen(tmp_path: Path) -> None:
    tpe = plan(space={"optimizer.lr": {"loguniform": [0.01, 1.0]}}, algorithm="tpe", num_samples=5, seeds=[0, 1])
    search = Search(tpe, Outcomes(), tmp_path, 2)
    assert epochs_ahead(search) == 5 * 2 * EPOCHS
    assert not list(tmp_path.iterdir())  # none was suggested for that
    job = search.next_job()
    assert job is not None
    assert epochs_ahead(search) == 5 * 2 * EPOCHS
    search.tell(job, {job.trials[0].trial_id: Known(Status.COMPLETE, {EPOCHS: 1.0})})
    assert epochs_ahead(search) == (5 * 2 - 1) * EPOCHS
