"""Jobs and outcomes as text, which Ray carries unseen (Tune would run an `{eval: …}` that it found in a mapping)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from raybench.config.plugins import Plugin
from raybench.config.trial import TrialConfig
from raybench.results.schema import SETTLED, Status
from raybench.results.storage import folder_at
from raybench.results.store import Store
from raybench.search.cells import Job
from raybench.search.outcomes import Known
from raybench.training.recorder import Setup
from raybench.training.trial import Outcome

WORST = -1e9
"""Score of what diverged, failed or was never a number: finite, since a scheduler compares quantiles."""


def pack_job(job: Job) -> str:
    """A job as JSON."""
    trials = [trial.model_dump(mode="json") for trial in job.trials]
    return json.dumps({"cell": job.cell, "trials": trials, "rungs": job.rungs})


def unpack_job(text: str) -> Job:
    """The job again."""
    content = json.loads(text)
    trials = tuple(TrialConfig.model_validate_json(json.dumps(trial)) for trial in content["trials"])
    return Job(content["cell"], trials, tuple(content["rungs"]))


def pack_setup(setup: Setup) -> str:
    """Where trials run, as JSON."""
    return json.dumps(asdict(setup), default=str)


def unpack_setup(text: str) -> Setup:
    """The setup again."""
    content: dict[str, Any] = json.loads(text)
    content["results"] = folder_at(content["results"]) if content["results"] else None
    content["plugins"] = tuple(Plugin(**each) for each in content["plugins"])
    for name in ("data_root", "weights_root"):
        content[name] = Path(content[name]) if content[name] else None
    return Setup(**content)


def pack_outcomes(outcomes: list[Outcome]) -> str:
    """What became of a job's trials, as JSON."""
    return json.dumps([asdict(outcome) for outcome in outcomes])


def unpack_outcome(text: str) -> Outcome:
    """The outcome of one trial again."""
    (content,) = json.loads(text)
    scores = {int(epoch): value for epoch, value in content["scores"].items()}
    return Outcome(**(content | {"status": Status(content["status"]), "scores": scores}))


def unpack_outcomes(text: str, sign: float) -> dict[str, Known]:
    """Trial id -> what is known of it, scores signed so that larger is better."""
    return {one["trial_id"]: known(one["status"], one["scores"], sign) for one in json.loads(text)}


def known(status: str, scores: Mapping[Any, float | None], sign: float) -> Known:
    """A trial's status and scores (epoch -> metric) as the search sees them, signed so that larger is better."""
    signed = {int(epoch): sign * value if value is not None else float("-inf") for epoch, value in scores.items()}
    return Known(Status(status), signed)


def settled_before(job: Job, where: Setup) -> dict[str, Outcome]:
    """The trials of a job that the rows say are settled: by an earlier worker, or by this one just before it died."""
    assert where.results is not None
    store = Store(where.results)
    wanted = [trial.trial_id for trial in job.trials]
    found: dict[str, Outcome] = {}
    for row in store.trials().filter(pl.col("trial_id").is_in(wanted)).to_dicts():
        reopened = row["attempt"] <= where.reopened.get(row["trial_id"], 0)
        if row["status"] in SETTLED and not reopened:
            rows = store.last_epochs(row["trial_id"])
            scores = {one.epoch: one.value(where.metric) for one in rows}
            found[row["trial_id"]] = Outcome(row["trial_id"], Status(row["status"]), len(rows), scores, row["reason"])
    return found
