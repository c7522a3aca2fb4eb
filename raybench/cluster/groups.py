"""A trial over several workers: Ray Train starts them with a process group, and each runs its part of the trial.

The workers' places are reserved all at once or not at all, and the trial's own actor holds nothing that a worker needs,
so two trials never wait for each other's halves.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray import tune

from raybench.cluster.jobs import pack_outcomes, pack_setup, settled_before, unpack_outcome, unpack_setup
from raybench.config.trial import TrialConfig
from raybench.errors import RaybenchError, ResultsError
from raybench.results.schema import Status
from raybench.search.cells import Job
from raybench.training.group import GONE
from raybench.training.recorder import Setup
from raybench.training.trial import Outcome, follow, run_trial

QUIET = {
    # Workers read and write where they are told; a folder of Ray's own as their working folder is none of it.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
}
CAUSE = 300
"""Letters of a worker's error that are kept."""


class BrokenError(RaybenchError):
    """A trial's workers have ended before the trial did; it goes on from its checkpoint with others."""


class EndedError(Exception):
    """The first worker has settled the trial as failed: Ray must end the others, who wait for it."""


def actor_resources(setup: Setup) -> tune.PlacementGroupFactory:
    """What Tune reserves for a trial: its one worker's share, or for several next to nothing, since Train reserves."""
    if setup.workers == 1:
        return tune.PlacementGroupFactory([worker_resources(setup)])
    # Not nothing, which Tune takes for one CPU; a byte of memory no node is short of.
    return tune.PlacementGroupFactory([{"memory": 1}])


def worker_resources(setup: Setup) -> dict[str, float]:
    """What Ray reserves for one worker."""
    found = {"CPU": setup.cpu}
    if setup.gpu > 0:
        found["GPU"] = setup.gpu
        if setup.kind is not None:
            found[f"accelerator_type:{setup.kind}"] = 0.001
    return found


def run_together(trial: TrialConfig, setup: Setup, cell: str, until: int) -> Outcome:
    """`run_trial` over `setup.workers` workers, from inside the trial's actor.

    Raises ResultsError as `run_trial` does, and BrokenError when workers died or one of them alone has failed.
    """
    content = {"trial": trial.model_dump_json(), "setup": pack_setup(setup), "cell": cell, "until": until}
    backend = "cpu:gloo,cuda:nccl" if setup.gpu > 0 else "gloo"
    try:
        return unpack_outcome(start_workers(_work, content, setup, name=trial.trial_id, backend=backend))
    except ray.train.TrainingFailedError as error:
        return _after(error, trial, setup, cell, until)


def start_workers(
    work: Callable[[dict[str, Any]], str | None], content: dict[str, Any], setup: Setup, *, name: str, backend: str
) -> str:
    """What the first of a trial's workers returns of its work. Raises ray.train.TrainingFailedError when one fails."""
    from ray.train.torch import TorchConfig, TorchTrainer  # what most sweeps never need takes a second

    train: Any = ray.train  # its types are those of the version before
    trainer: Any = TorchTrainer

    os.environ |= QUIET
    result = trainer(
        work,
        train_loop_config=content,
        torch_config=TorchConfig(backend=backend),
        scaling_config=train.ScalingConfig(
            num_workers=setup.workers,
            use_gpu=setup.gpu > 0,
            resources_per_worker=worker_resources(setup),
            placement_strategy="PACK",
        ),
        run_config=train.RunConfig(
            name=name,
            storage_path=str(_scratch(setup)),
            # The searcher hands out again what broke, from its last checkpoint, and counts how often.
            failure_config=train.FailureConfig(max_failures=0, max_preemption_failures=0),
            logging_config=train.LoggingConfig(log_level="ERROR"),
        ),
    ).fit()
    return str(result.return_value)


def _work(content: dict[str, Any]) -> str | None:
    """One worker's part; the first one returns the outcome."""
    trial = TrialConfig.model_validate_json(content["trial"])
    # A worker of Ray Train is ours alone: it may be ended when it hangs, or when its driver is gone.
    setup = replace(unpack_setup(content["setup"]), guarded=True)
    _take_gpu(setup)
    if ray.train.get_context().get_world_rank() > 0:
        follow(trial, setup, content["until"])
        return None
    outcome = run_trial(trial, setup, content["cell"], content["until"])
    if outcome.status == Status.FAILED:
        raise EndedError(outcome.reason)
    return pack_outcomes([outcome])


def _take_gpu(setup: Setup) -> None:
    """Make this worker's GPU the current one: Ray Train lets all workers of a trial on a node see the GPUs of all."""
    if setup.gpu > 0 and torch.cuda.is_available():
        from ray.train.torch import get_device

        torch.cuda.set_device(get_device())


def _after(error: ray.train.TrainingFailedError, trial: TrialConfig, setup: Setup, cell: str, until: int) -> Outcome:
    """What the rows say of a trial whose workers were ended, where its first worker has settled it."""
    settled = settled_before(Job(cell, (trial,), (until,)), setup)
    if trial.trial_id in settled:
        return settled[trial.trial_id]
    causes = _causes(error)
    for cause in causes:
        name, _, text = cause.partition(": ")
        if name.rpartition(".")[2] == ResultsError.__name__:
            raise ResultsError(text) from None
    # One that only met the end of another says less than that other.
    told = [cause for cause in causes if not any(sign in cause for sign in GONE)]
    raise BrokenError((told or causes or ["its workers were ended"])[0][:CAUSE]) from None


def _causes(error: ray.train.TrainingFailedError) -> list[str]:
    """The last line of each worker's error, such as `torch.OutOfMemoryError: CUDA out of memory…`."""
    failures = getattr(error, "worker_failures", {0: error})
    texts = [str(failures[rank]).strip() for rank in sorted(failures)]
    return [text.splitlines()[-1].strip() for text in texts if text]


def _scratch(setup: Setup) -> Path:
    """A folder for what Ray Train writes and nobody reads."""
    # Beside Tune's own, where every node of a cluster has it and the driver removes it.
    if isinstance(setup.results, Path):
        return (setup.results / ".tune" / "train").absolute()
    return Path(tempfile.gettempdir()) / "raybench-train"
