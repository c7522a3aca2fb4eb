"""Many nodes by name, on one machine: rate, packing, placement and loss, as `benchmarks/scaling.py` measures them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scaling
from benchmarks.peers import sleepers
from raybench.results.schema import Status
from raybench.search.outcomes import Known

REPOSITORY = Path(__file__).parents[2]


def measured(*arguments: str) -> list[dict[str, Any]]:
    """The claims of a part of the benchmark."""
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "benchmarks" / "scaling.py"), "--json", *arguments],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.stdout, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_too_few_trials_are_said_before_any_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "run", lambda _: pytest.fail("a cluster was started"))
    with pytest.raises(SystemExit, match="--trials 47: too few for 16 at a time; at least 48"):
        next(scaling.throughput(47, 4.0))
    # As many are enough: between the warming and the end there is time to be measured.
    for size in scaling.SIZES:
        count, width = 48 * size // 8, 2 * size
        slept = sleepers.Slept(width, 0.0, [float(each // width) for each in range(count)], {}, count)
        assert 0 < scaling.rate(slept) <= width


def test_what_tells_of_a_real_sweep_tells_of_sleepers(tmp_path: Path) -> None:
    spec = sleepers.Spec([{"cpu": 2, "gpu": 0}], trials=3, sleep_s=0.0, rows=False, local=True)
    sweep = sleepers.sweep_of(spec, tmp_path)
    search = sweep.search(2)
    ends = sleepers.Ends(sweep, search)
    for status in (Status.COMPLETE, Status.FAILED, Status.COMPLETE):
        job = search.next_job()
        assert job is not None
        ends.started(job)
        outcomes = {trial.trial_id: Known(status, {1: 1.0}) for trial in job.trials}
        search.tell(job, outcomes)
        ends.ended(job, outcomes)
    assert list(ends.statuses.values()) == ["complete", "failed", "complete"]
    assert (len(ends.ends), ends.progress.settled) == (3, 3)
    assert isinstance(sweep.console.file, io.StringIO)
    assert "3/3 complete" in sweep.console.file.getvalue()


@pytest.mark.cluster
@pytest.mark.parametrize("part", ["packing", "groups", "loss"])
def test_trials_lie_where_they_fit_and_survive(part: str) -> None:
    for claim in measured("--only", part, "--sleep", "3"):
        assert claim["holds"], claim


@pytest.mark.cluster
def test_twice_the_nodes_finish_twice_the_trials() -> None:
    claims = measured("--only", "throughput", "--trials", "500", "--sleep", "4")
    assert len(claims) == 4
    for claim in claims:
        assert claim["ratio"] >= 0.9, claim
