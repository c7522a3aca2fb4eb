"""A whole trial by one plain call: data, model, teacher, training, selection on validation, one look at the test set."""

from __future__ import annotations

import math
import time
import traceback
from dataclasses import dataclass
from typing import Any

import torch

from raybench.config.trial import TrialConfig
from raybench.errors import RaybenchError
from raybench.models import count_parameters
from raybench.results.schema import Status
from raybench.training.batches import PlainImages
from raybench.training.device import Device, choose_device
from raybench.training.ingredients import Ingredients, gather
from raybench.training.loop import Epoch, Run, evaluate, signed, train
from raybench.training.preparation import teacher_logits
from raybench.training.recorder import Recorder, Setup, device_share
from raybench.training.tasks import Classification, Distillation, Task


@dataclass(frozen=True)
class Outcome:
    """How a trial stands after `run_trial`."""

    trial_id: str
    status: Status
    epochs: int
    """Epochs finished."""
    scores: dict[int, float]
    """Validation metric after each epoch."""
    reason: str | None = None


def run_trial(config: TrialConfig, setup: Setup, cell: str = "", until: int | None = None) -> Outcome:
    """Run a trial to epoch `until` (none: to its end), going on from its last checkpoint where there is one.

    Every fault of the trial itself ends as a row with its reason; only faults of the results folder are raised.
    """
    assert setup.results is not None, "a trial needs a results folder; train() runs without one"
    recorder = Recorder(config, cell, setup, setup.results)
    try:
        return _run(config, setup, until or config.schedule.epochs, recorder)
    except RaybenchError as error:
        reason = str(error)
    except torch.OutOfMemoryError as error:
        reason = f"out of GPU memory: {str(error).splitlines()[0]}"
    except MemoryError:
        reason = "out of memory"
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        _keep_traceback(recorder)
    recorder.settle(Status.FAILED, reason)
    return Outcome(config.trial_id, Status.FAILED, len(recorder.rows), {}, reason)


def _keep_traceback(recorder: Recorder) -> None:
    folder = recorder.store.folder / "logs"
    folder.mkdir(exist_ok=True)
    (folder / f"{recorder.config.trial_id}-a{recorder.row.attempt}.txt").write_text(traceback.format_exc())


def _run(config: TrialConfig, setup: Setup, until: int, recorder: Recorder) -> Outcome:
    begun = time.monotonic()
    torch.set_num_threads(setup.threads)
    device = choose_device(config.precision)
    device.reset_peak_memory()
    ingredients = gather(config, setup, device)
    task, about_teacher = make_task(config, setup, ingredients, device)
    run = Run(config, task, ingredients.training, ingredients.validation, device)
    # The draws of training (dropout) start from the seed, whatever a teacher or a cache drew before.
    torch.manual_seed(config.seed)
    state = recorder.checkpoints.newest()
    if state is not None:
        run.restore(state)
    recorder.row.env.update(precision=device.precision, threads=torch.get_num_threads(), gpu=device.name)
    recorder.start(
        state,
        param_count=count_parameters(task.module) / 1e6,
        dataset_variant=ingredients.data.variant,
        dataset_fingerprint=ingredients.data.fingerprint,
        **about_teacher,
    )
    peak = device.memory_mib()

    def after_epoch(run: Run, epoch: Epoch) -> bool:
        nonlocal peak
        peak = max(peak, device.memory_mib())
        recorder.epoch(epoch)
        last = run.epoch >= config.schedule.epochs
        if epoch.finite and not last and (run.epoch == until or recorder.checkpoints.due()):
            recorder.save(run.state())
        return setup.trial_time_s is None or time.monotonic() - begun < setup.trial_time_s or last

    went = train(run, until, lambda epoch: signed(epoch.metrics[setup.metric], setup.mode), after_epoch)
    return _conclude(run, setup, recorder, ingredients, device, went, peak)


def _conclude(
    run: Run, setup: Setup, recorder: Recorder, ingredients: Ingredients, device: Device, went: bool, peak: float
) -> Outcome:
    rows = recorder.rows
    scores = {row.epoch: getattr(row, setup.metric) for row in rows}

    def outcome(status: Status, reason: str | None = None) -> Outcome:
        return Outcome(run.config.trial_id, status, run.epoch, scores, reason)

    seconds = sum((row.train_time or 0) + (row.eval_time or 0) for row in rows)
    known: dict[str, Any] = {
        "train_time": sum(row.train_time or 0 for row in rows),
        "device_hours": seconds / 3600 * device_share(setup),
        "peak_memory": peak,
        "train_samples_per_sec": _median([row.train_samples_per_sec or 0 for row in rows[1:] or rows]),
    }
    if not went:
        finite = math.isfinite(rows[-1].train_loss or 0)
        status = Status.FAILED if finite else Status.DIVERGED
        reason = (
            f"timeout: longer than {setup.trial_time_s:g} s"
            if finite
            else f"loss is {rows[-1].train_loss} in epoch {run.epoch}"
        )
        recorder.settle(status, reason, **known)
        return outcome(status, reason)
    if run.epoch < run.config.schedule.epochs:
        recorder.pause()
        return outcome(Status.RUNNING)
    if not run.best_weights:
        reason = f"{setup.metric} was never a number"
        recorder.settle(Status.DIVERGED, reason, **known)
        return outcome(Status.DIVERGED, reason)
    run.use_best()
    start = time.perf_counter()
    test = evaluate(
        run.task, PlainImages(ingredients.data.test_images, ingredients.data.test_labels, None, device.device), device
    )
    device.synchronise()
    known["infer_samples_per_sec"] = len(ingredients.data.test_labels) / (time.perf_counter() - start)
    known |= {f"test_{name}": value for name, value in test.items()}
    best = rows[run.best_epoch - 1]
    recorder.settle(
        Status.COMPLETE,
        best_epoch=run.best_epoch,
        eval_loss=best.eval_loss,
        eval_top1=best.eval_top1,
        **known,
    )
    return outcome(Status.COMPLETE)


def make_task(
    config: TrialConfig, setup: Setup, ingredients: Ingredients, device: Device
) -> tuple[Task, dict[str, Any]]:
    """The trial's objective, and what its row says of its teacher."""
    student = Classification(ingredients.built, device.device, config.label_smoothing)
    wanted = config.canonical().distillation
    if wanted.teacher is None:
        return student, {}
    logits, record = teacher_logits(config, setup, ingredients.training, device)
    return Distillation(student, wanted, logits), {
        "teacher_top1": record.eval_top1,
        "teacher_test_top1": record.test_top1,
    }


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]
