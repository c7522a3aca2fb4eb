"""Which trials of a cell are due: seeds first, halving and asha, over simulated outcomes."""

from __future__ import annotations

import math
from collections import Counter

from raybench.config.plan import Plan
from raybench.config.trial import TrialConfig
from raybench.results.schema import Status
from raybench.search.outcomes import Known, Outcomes
from raybench.search.search import Search
from tests.search.world import (
    ASHA,
    FIRST,
    HALVED,
    HALVING,
    NOWHERE,
    SHARED,
    SIZE,
    World,
    completes,
    plan,
    rates,
    run_whole,
    score,
    trials_of,
)

# -- seeds: first -----------------------------------------------------------------------------------------------------


def test_first_tunes_on_the_first_seed_and_repeats_the_selected_setting() -> None:
    world = run_whole(FIRST, completes)
    handed = trials_of(world.jobs)
    assert len(handed) == len(set(handed)) == 4 * (4 + 2)
    for cell in FIRST.cells:
        best = max(cell.settings, key=lambda setting: world.rows[setting.trials[0].trial_id].best)
        for setting in cell.settings:
            ran = [trial.seed for trial in setting.trials if trial.trial_id in world.rows]
            assert ran == ([0, 1, 2] if setting is best else [0])
    # What a table is made of is what ran: the other seeds of settings that were not selected are not due.
    shown = [
        t.trial_id
        for cell in Search(FIRST, world.outcomes(), NOWHERE, 2).cells()
        for s in cell.settings
        for t in s.trials
    ]
    assert sorted(shown) == sorted(handed)


def test_first_with_one_setting_runs_every_seed_at_once() -> None:
    search = Search(plan(space=rates(1), seeds=[0, 1, 2], first="first"), Outcomes(), NOWHERE, 3)
    assert [search.next_job() is not None for _ in range(4)] == [True, True, True, False]


def test_first_never_selects_what_failed_while_something_did_not() -> None:
    world = World(lambda trial: Status.COMPLETE if trial.optimizer.lr == 0.003 else Status.DIVERGED)
    world.work(Search(FIRST, Outcomes(), NOWHERE, 2))
    for cell in FIRST.cells:
        ran = [setting for setting in cell.settings if setting.trials[1].trial_id in world.rows]
        assert [setting.tuned["optimizer.lr"] for setting in ran] == [0.003]


def test_a_table_of_seeds_first_compares_the_selected_setting_whatever_became_of_its_other_seeds() -> None:
    def fate(trial: TrialConfig) -> Status:
        return Status.DIVERGED if trial.seed else Status.COMPLETE

    world = run_whole(FIRST, fate)
    search = Search(FIRST, world.outcomes(), NOWHERE, 2)
    for cell, whole in zip(search.compared_cells(), FIRST.cells, strict=True):
        best = max(whole.settings, key=lambda setting: world.rows[setting.trials[0].trial_id].best)
        assert cell.settings == (best,)


# -- halving ----------------------------------------------------------------------------------------------------------


def expected_halving(wanted: Plan, rungs: tuple[int, ...] = (1, 3, 9), factor: int = 3) -> dict[str, int]:
    """Trial id -> epochs, by the definition, for trials that all complete."""
    reached: dict[str, int] = {}
    for cell in wanted.cells:
        alive = list(cell.settings)
        for rung in rungs:
            for setting in alive:
                reached |= {trial.trial_id: max(rung, reached.get(trial.trial_id, 0)) for trial in setting.trials}
            means = {id(s): sum(score(t, rung) for t in s.trials) / len(s.trials) for s in alive}
            alive = sorted(alive, key=lambda s: -means[id(s)])[: math.ceil(len(alive) / factor)]
    return reached


def test_halving_is_its_definition() -> None:
    world = run_whole(HALVED, completes)
    reached = {trial_id: max(known.scores) for trial_id, known in world.rows.items()}
    assert reached == expected_halving(HALVED)
    by_status = Counter(world.statuses().values())
    # 4 cells of 7 settings with 2 seeds: 7 -> 3 -> 1 settings.
    assert by_status == {Status.COMPLETE: 4 * 1 * 2, Status.PRUNED: 4 * 6 * 2}
    assert Counter(job.rungs for job in world.jobs) == {(1,): 4 * 14, (3,): 4 * 6, (9,): 4 * 2}
    assert Counter(max(world.rows[i].scores) for i in world.reasons) == {1: 4 * 8, 3: 4 * 4}


def test_halving_says_why() -> None:
    world = run_whole(HALVED, completes)
    told = next(text for trial_id, text in world.reasons.items() if max(world.rows[trial_id].scores) == 1)
    assert told.startswith("halving: mean ")
    assert told.endswith(" at epoch 1 over 2 seeds, not among the best 3 of 7")


def test_halving_judges_all_seeds_together() -> None:
    wanted = plan(space=rates(3), seeds=[0, 1, 2], scheduler=HALVING)
    search = Search(wanted, Outcomes(), NOWHERE, 9)
    jobs = [search.next_job() for _ in range(9)]
    assert search.next_job() is None
    (settings_,) = (cell.settings for cell in wanted.cells)
    # The second is best on average, the first has the single best seed.
    values = {0: [90, 10, 10], 1: [50, 50, 50], 2: [40, 40, 40]}
    scores = {t.trial_id: values[i][s] for i, setting in enumerate(settings_) for s, t in enumerate(setting.trials)}
    for index, job in enumerate(jobs):
        assert job is not None
        assert not list(search.pruned())
        trial_id = job.trials[0].trial_id
        search.tell(job, {trial_id: Known(Status.RUNNING, {1: scores[trial_id]})})
        assert (search.next_job() is None) == (index < 8)
    assert {t.trial_id for _, t, _ in search.pruned()} == {t.trial_id for i in (0, 2) for t in settings_[i].trials}


def test_halving_never_compares_across_cells() -> None:
    """Every score of the small cell is below every one of the large; still its own best goes to the end."""
    wanted = plan({SIZE: [10, 1000]}, space=rates(9), seeds=[0, 1], scheduler=HALVING)
    world = run_whole(wanted, completes)
    for cell in wanted.cells:
        ends = [world.rows[s.trials[0].trial_id].status for s in cell.settings]
        assert Counter(ends) == {Status.COMPLETE: 1, Status.PRUNED: 8}


def test_a_cell_does_not_wait_for_another() -> None:
    wanted = plan({SIZE: [10, 20]}, space=rates(3), scheduler=HALVING)
    search = Search(wanted, Outcomes(), NOWHERE, 6)
    jobs = [job for job in (search.next_job() for _ in range(6)) if job]
    for job in jobs[:3]:
        search.tell(job, {job.trials[0].trial_id: Known(Status.RUNNING, {1: 1.0})})
    following = search.next_job()
    assert following is not None
    assert following.rungs == (3,)
    assert following.cell == jobs[0].cell


def test_halving_ties_keep_the_order_of_the_plan() -> None:
    wanted = plan(space=rates(4), scheduler={"name": "halving", "reduction_factor": 4})
    search = Search(wanted, Outcomes(), NOWHERE, 1)
    while (job := search.next_job()) is not None and job.rungs == (1,):
        search.tell(job, {job.trials[0].trial_id: Known(Status.RUNNING, {1: 1.0})})
    assert job is not None
    assert job.trials[0].optimizer.lr == 0.001


def test_halving_ranks_what_failed_or_is_no_number_last() -> None:
    wanted = plan(space=rates(3), scheduler=HALVING)
    search = Search(wanted, Outcomes(), NOWHERE, 1)
    told = [Known(Status.DIVERGED, {1: math.nan}), Known(Status.RUNNING, {1: -5.0}), Known(Status.FAILED)]
    for known in told:
        job = search.next_job()
        assert job is not None
        search.tell(job, {job.trials[0].trial_id: known})
    assert list(search.pruned()) == []  # what diverged or failed is settled as that
    following = search.next_job()
    assert following is not None
    assert following.trials[0].optimizer.lr == 0.002


def test_a_later_failure_does_not_change_an_earlier_decision() -> None:
    wanted = plan(space=rates(3), scheduler=HALVING)
    search = Search(wanted, Outcomes(), NOWHERE, 1)
    for value in (1.0, 3.0, 2.0):
        job = search.next_job()
        assert job is not None
        search.tell(job, {job.trials[0].trial_id: Known(Status.RUNNING, {1: value})})
    job = search.next_job()
    assert job is not None
    search.tell(job, {job.trials[0].trial_id: Known(Status.FAILED)})
    assert search.next_job() is None
    assert search.finished
    assert {trial.optimizer.lr for _, trial, _ in search.pruned()} == {0.001, 0.003}
    # A new driver reads the same rows, with the epochs of the one that failed.
    again = Search(wanted, Outcomes(search.outcomes), NOWHERE, 1)
    assert again.finished


def test_a_trial_of_two_cells_is_given_up_only_by_both() -> None:
    world = run_whole(SHARED, completes)
    assert {trial_id: max(known.scores) for trial_id, known in world.rows.items()} == expected_halving(SHARED)
    handed = [job.key for job in world.jobs]
    assert len(handed) == len(set(handed))
    assert all(known.settled for known in world.rows.values())


# -- asha -------------------------------------------------------------------------------------------------------------


def test_asha_hands_out_a_setting_with_all_its_seeds_and_rungs() -> None:
    world = run_whole(ASHA, completes)
    assert len(world.jobs) == 8
    for job in world.jobs:
        assert job.rungs == (1, 3, 9)
        assert [trial.seed for trial in job.trials] == [0, 1, 2]
        assert len({trial.setting_id for trial in job.trials}) == 1


def test_asha_leaves_settled_seeds_alone() -> None:
    setting = ASHA.cells[0].settings[0]
    rows = Outcomes({setting.trials[1].trial_id: Known(Status.COMPLETE)})
    job = Search(ASHA, rows, NOWHERE, 1).next_job()
    assert job is not None
    assert [trial.seed for trial in job.trials] == [0, 2]
