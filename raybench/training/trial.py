"""A whole trial by one plain call: data, model, teacher, training, selection on validation, one look at the test."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raybench.config.folders import cache_root
from raybench.config.trial import TrialConfig
from raybench.errors import RaybenchError, ResultsError
from raybench.models import count_parameters
from raybench.results.schema import Status
from raybench.results.storage import explain
from raybench.training.device import choose_device, driver_version, out_of_memory, release_memory
from raybench.training.group import Group, current, of_the_group
from raybench.training.kinds import Made, kind_of, metric_names
from raybench.training.limits import Limits
from raybench.training.loop import Epoch, Run, signed, train
from raybench.training.metrics import CLASSIFICATION
from raybench.training.recorder import Recorder, Setup
from raybench.training.tracing import Tracer
from raybench.training.trial_log import TrialLog
from raybench.training.watchdog import Watchdog

STORAGE_FAULTS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ESHUTDOWN}
)
"""What only a disk or its server says, wherever the path lies."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a trial stands after `run_trial`."""

    trial_id: str
    status: Status
    epochs: int
    """Epochs finished."""
    scores: dict[int, float | None]
    """Validation metric after each epoch."""
    reason: str | None = None


@dataclass
class Answers:
    """Labels and predicted classes of test images, on the device until all are there."""

    batches: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """One batch: (B, classes) and (B,)."""
        self.batches.append((labels, logits.argmax(dim=1)))

    def lists(self) -> tuple[list[int], list[int]]:
        """Labels and predictions of all, in their order."""
        labels, predictions = (torch.cat(each).tolist() for each in zip(*self.batches, strict=True))
        return labels, predictions


class _TooLargeError(Exception):
    """Memory ran out; with at most `images` in a forward pass it may do."""

    def __init__(self, images: int) -> None:
        self.images = images
        super().__init__(images)


def run_trial(config: TrialConfig, setup: Setup, cell: str = "", until: int | None = None) -> Outcome:
    """Run a trial to epoch `until` (none: to its end), going on from its last checkpoint where there is one.

    A trial that runs out of memory goes on once more, as another attempt, with half the images in a forward pass. Every
    fault of the trial itself ends as a row with its reason. Raises ResultsError when the results folder or the cache
    cannot be written: the trial stays due and its checkpoints stay.

    In a process group this is the part of the first process, which writes everything; the others `follow`. What breaks
    because another process is gone is raised and not the trial's fault.
    """
    until = until or config.schedule.epochs
    try:
        return _attempt(config, setup, cell, until, None)
    except _TooLargeError as error:
        images = error.images
    # Not before the handler has ended: the error held everything that was allocated.
    release_memory()
    outcome = _attempt(config, setup, cell, until, images)
    release_memory()  # half may have been too much, too, and the next trial be in this process
    return outcome


def _attempt(config: TrialConfig, setup: Setup, cell: str, until: int, micro_batch: int | None) -> Outcome:
    assert setup.results is not None, "a trial needs a results folder; train() runs without one"
    recorder = Recorder(config, cell, setup, setup.results)
    limits = Limits(setup.trial_time_s, setup.stall_s)
    with TrialLog(recorder.log), _watched(setup, recorder, limits):
        _log_start(config, cell, recorder)
        try:
            return _run(config, setup, until, recorder, limits, micro_batch)
        except ResultsError:
            raise
        except _TooLargeError:
            recorder.close()
            raise
        except RaybenchError as error:
            _spare_for_the_storage(error.__cause__, config, setup)
            reason = str(error)
        except Exception as error:
            if setup.workers > 1 and of_the_group(error):
                recorder.close()
                raise
            _spare_for_the_storage(error, config, setup)
            if (lack := out_of_memory(error)) is not None:
                images = recorder.row.micro_batch
                reason = lack if images is None else f"{lack}, with {images} images in a forward pass"
            else:
                reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
                logger.error(traceback.format_exc().rstrip())
        recorder.settle(Status.FAILED, reason)
        logger.info(f"failed: {reason}")
    return _outcome(setup, recorder)


def _log_start(config: TrialConfig, cell: str, recorder: Recorder) -> None:
    row = recorder.row
    logger.info(
        f"trial {row.trial_id}, attempt {row.attempt} in process {os.getpid()} on {row.node}: {config.model.name} on "
        f"{config.dataset.name}, seed {config.seed}{f', {cell}' if cell else ''}"
    )


def _spare_for_the_storage(error: BaseException | None, config: TrialConfig, setup: Setup) -> None:
    """Raises ResultsError for what is no fault of the trial, which stays due: a disk that is full or gone."""
    if isinstance(error, OSError) and _of_the_storage(error, config, setup):
        assert setup.results is not None
        raise explain(error, Path(error.filename) if error.filename else setup.results) from error


def _of_the_storage(error: OSError, config: TrialConfig, setup: Setup) -> bool:
    """Whether other trials would meet it too: by its number, or by its path (results, cache, data, weights)."""
    if error.errno in STORAGE_FAULTS:
        return True
    if not isinstance(error.filename, str | os.PathLike):
        # safetensors tells neither number nor path.
        return error.errno is None and isinstance(error, FileNotFoundError | PermissionError)
    named = (Path(value) for value in config.flat().values() if isinstance(value, str) and value.startswith("/"))
    roots = (setup.results, cache_root(), setup.data_root or Path("data"), setup.weights_root, *named)
    path = Path(error.filename).absolute()
    return any(path.is_relative_to(root.absolute()) for root in roots if isinstance(root, Path))


def _watched(setup: Setup, recorder: Recorder, limits: Limits) -> contextlib.AbstractContextManager[object]:
    """A watchdog over a worker of ours; nothing over a plain call."""
    if not setup.guarded:
        return contextlib.nullcontext()
    # The file must be one of this machine, wherever the results lie.
    folder = recorder.log.parent if isinstance(recorder.log, Path) else _own_folder()
    return Watchdog(limits, folder / f"{recorder.log.stem}-stack.txt", recorder.give_up)


@functools.cache
def _own_folder() -> Path:
    """A folder that only this process's user can write into."""
    return Path(tempfile.mkdtemp(prefix="raybench-stacks-"))


def _ready(
    config: TrialConfig, setup: Setup, limits: Limits, group: Group, micro_batch: int | None = None
) -> tuple[Made, Run]:
    """The trial as every process that trains it makes it."""
    torch.set_num_threads(setup.threads)
    device = choose_device(config.precision, setup.gpu)
    device.set_products()
    device.reset_peak_memory()
    device.limit_memory(setup.memory_mib)
    if device.device.type == "cpu":
        limits.memory_mib = setup.memory_mib
    made = kind_of(config.task).make(config, setup, device)
    run = Run(config, made.task, made.training, made.validation, device, micro_batch, limits.check, group)
    # The draws of training (dropout) start from the seed, whatever a teacher or a cache drew before.
    torch.manual_seed(config.seed)
    return made, run


def _run(
    config: TrialConfig, setup: Setup, until: int, recorder: Recorder, limits: Limits, micro_batch: int | None
) -> Outcome:
    group = current()
    made, run = _ready(config, setup, limits, group, micro_batch)
    if setup.profile:
        run.tracer = Tracer(recorder.trace, run.phases)
    if (state := group.told(recorder.resume(run.misfit))) is not None:
        run.restore(state)
        logger.info(f"goes on from its checkpoint after epoch {run.epoch}")
    recorder.row.env.update(
        precision=run.device.precision, threads=torch.get_num_threads(), gpu=run.device.name, driver=driver_version()
    )
    if group.share.of > 1:
        recorder.row.env["workers"] = group.share.of
    recorder.start(
        param_count=count_parameters(made.task.module) / 1e6,
        gmacs=made.macs() / 1e9,
        micro_batch=run.micro_batch,
        deviation=run.deviation,
        **made.about,
    )
    if micro_batch is not None:
        # Whoever goes on after the next fault halves at the same epoch.
        recorder.save(run.state())
    limits.begin(recorder.spent_s)
    try:
        return _train(run, setup, until, recorder, limits, made)
    except Exception as error:
        if out_of_memory(error) is None or run.halved is None:
            raise
        logger.warning(f"trial {config.trial_id}: {out_of_memory(error)}; again with {run.halved} images at a time")
        raise _TooLargeError(run.halved) from None


def follow(config: TrialConfig, setup: Setup, until: int | None = None) -> None:
    """The part of every other process of the group in which the first one runs `run_trial` with the same arguments.

    It trains and writes nothing. Whatever breaks here is raised: the first process cannot go on without it either.
    """
    limits = Limits()
    with Watchdog(limits) if setup.guarded else contextlib.nullcontext():
        group = current()
        _, run = _ready(config, setup, limits, group)
        if (state := group.told(None)) is not None:
            run.restore(state)
        until = until or config.schedule.epochs
        train(run, until, lambda epoch: _score(epoch, setup), lambda *_: True)


def _score(epoch: Epoch, setup: Setup) -> float:
    """How good an epoch is, larger being better."""
    return signed(epoch.metrics[setup.metric], setup.mode)


def _train(run: Run, setup: Setup, until: int, recorder: Recorder, limits: Limits, made: Made) -> Outcome:
    fault: str | None = None

    def after_epoch(run: Run, epoch: Epoch) -> bool:
        nonlocal fault
        limits.rest()
        fault = epoch.fault
        recorder.row.env["compiled"] = run.task.compiled
        recorder.epoch(epoch, run.device.memory_mib())
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in epoch.metrics.items())
        logger.info(
            f"epoch {epoch.epoch}/{run.config.schedule.epochs}: {metrics}; {epoch.train_time:.2f} s of training"
        )
        if epoch.finite and run.epoch < until and not run.over and recorder.checkpoints.due(run.epoch):
            recorder.save(run.state())
        return True

    went = train(run, until, lambda epoch: _score(epoch, setup), after_epoch)
    if run.tracer is not None:
        run.tracer.close()
    if not went:
        logger.info(f"diverged: {fault}")
        recorder.settle(Status.DIVERGED, fault)
    elif not run.over:
        logger.info(f"paused after epoch {run.epoch}")
        recorder.save(run.state(), paused=True)
        recorder.pause()
    elif not run.best_weights:
        recorder.settle(Status.DIVERGED, f"{setup.metric} was never a number")
    else:
        _conclude(run, setup, recorder, limits, made)
    return _outcome(setup, recorder)


def _conclude(run: Run, setup: Setup, recorder: Recorder, limits: Limits, made: Made) -> None:
    """The end of what went well: the best epoch's one look at the test set."""
    if setup.keep == "last":
        recorder.save(run.state())
    run.use_best()
    run.device.synchronise()
    start = time.perf_counter()
    answers = Answers()
    test = run.evaluate(made.test, answers.add if run.task.measures is CLASSIFICATION else lambda *_: None)
    speed = made.sizes.test / (time.perf_counter() - start)
    limits.rest()
    finish = made.finish(run.log)
    recorder.keep_examples(finish.files)
    if answers.batches:
        recorder.keep_predictions(*answers.lists())
    if setup.keep == "best":
        about = {
            "trial_id": run.config.trial_id,
            "config": run.config.model_dump_json(),
            "epoch": str(run.best_epoch),
        }
        recorder.save_weights(run.best_weights, about | made.header)
    best = recorder.rows[run.best_epoch - 1]
    known: dict[str, Any] = {f"test_{name}": value for name, value in test.items()} | finish.metrics
    tested = ", ".join(f"{name} {value:.4g}" for name, value in known.items())
    known |= {"best_epoch": run.best_epoch}
    logger.info(f"complete: the weights of epoch {run.best_epoch} on the test set: {tested}")
    known |= {name: best.value(name) for name in metric_names("eval", run.config.task)}
    recorder.settle(Status.COMPLETE, infer_samples_per_sec=speed, **known)


def _outcome(setup: Setup, recorder: Recorder) -> Outcome:
    scores = {row.epoch: row.value(setup.metric) for row in recorder.rows}
    row = recorder.row
    return Outcome(row.trial_id, row.status, len(recorder.rows), scores, row.reason)
