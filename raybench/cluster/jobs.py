"""Jobs and outcomes as text, which Ray carries unseen (Tune would run an `{eval: …}` that it found in a mapping)."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raybench.config.trial import TrialConfig
from raybench.results.schema import Status
from raybench.search.cells import Job
from raybench.search.outcomes import Known
from raybench.training.recorder import Setup
from raybench.training.trial import Outcome


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
    for name in ("results", "data_root"):
        content[name] = Path(content[name]) if content[name] else None
    return Setup(**content)


def pack_outcomes(outcomes: list[Outcome]) -> str:
    """What became of a job's trials, as JSON."""
    return json.dumps([asdict(outcome) for outcome in outcomes])


def unpack_outcomes(text: str, sign: float) -> dict[str, Known]:
    """Trial id -> what is known of it, scores signed so that larger is better."""
    return {
        one["trial_id"]: Known(
            Status(one["status"]),
            {
                int(epoch): sign * value if value is not None else float("-inf")
                for epoch, value in one["scores"].items()
            },
        )
        for one in json.loads(text)
    }
