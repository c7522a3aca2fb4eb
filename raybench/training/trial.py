"""A whole trial by one plain call: data, model, teacher, training, selection on validation, one look at the test."""

from __future__ import annotations

import statistics
import time
import traceback
from dataclasses import dataclass
from typing import Any

import torch

from raybench.config.trial import TrialConfig
from raybench.errors import RaybenchError, ResultsError
from raybench.models import count_parameters
from raybench.models.macs import count_macs
from raybench.results.schema import Status
from raybench.training.batches import PlainImages
from raybench.training.device import Device, choose_device, driver_version
from raybench.training.ingredients import Ingredients, gather
from raybench.training.loop import Epoch, Run, evaluate, signed, train
from raybench.training.metrics import names as metric_names
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
    scores: dict[int, float | None]
    """Validation metric after each epoch."""
    reason: str | None = None


def run_trial(config: TrialConfig, setup: Setup, cell: str = "", until: int | None = None) -> Outcome:
    """Run a trial to epoch `until` (none: to its end), going on from its last checkpoint where there is one.

    Every fault of the trial itself ends as a row with its reason. Raises ResultsError when the results folder or the
    cache cannot be written: the trial stays due and its checkpoints stay.
    """
    assert setup.results is not None, "a trial needs a results folder; train() runs without one"
    recorder = Recorder(config, cell, setup, setup.results)
    try:
        return _run(config, setup, until or config.schedule.epochs, recorder)
    except ResultsError:
        raise
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
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{recorder.config.trial_id}-a{recorder.row.attempt}.txt").write_text(traceback.format_exc())


def _run(config: TrialConfig, setup: Setup, until: int, recorder: Recorder) -> Outcome:
    begun = time.monotonic()
    torch.set_num_threads(setup.threads)
    device = choose_device(config.precision, setup.gpu)
    device.reset_peak_memory()
    ingredients = gather(config, setup, device)
    task, about_teacher = make_task(config, setup, ingredients, device)
    run = Run(config, task, ingredients.training, ingredients.validation, device)
    # The draws of training (dropout) start from the seed, whatever a teacher or a cache drew before.
    torch.manual_seed(config.seed)
    if (state := recorder.resume()) is not None:
        run.restore(state)
    recorder.row.env.update(
        precision=device.precision, threads=torch.get_num_threads(), gpu=device.name, driver=driver_version()
    )
    recorder.start(
        param_count=count_parameters(task.module) / 1e6,
        gmacs=_macs(ingredients) / 1e9,
        dataset_variant=ingredients.data.variant,
        dataset_fingerprint=ingredients.data.fingerprint,
        **about_teacher,
    )
    peak = device.memory_mib()
    fault: str | None = None

    def after_epoch(run: Run, epoch: Epoch) -> bool:
        nonlocal peak, fault
        fault = epoch.fault
        peak = max(peak, device.memory_mib())
        recorder.epoch(epoch)
        if epoch.finite and run.epoch < until and recorder.checkpoints.due():
            recorder.save(run.state())
        through = run.epoch >= config.schedule.epochs
        return through or setup.trial_time_s is None or time.monotonic() - begun < setup.trial_time_s

    went = train(run, until, lambda epoch: signed(epoch.metrics[setup.metric], setup.mode), after_epoch)
    if went:
        return _conclude(run, setup, recorder, ingredients, device, peak)
    status = Status.DIVERGED if fault else Status.FAILED
    return _settle(run, setup, recorder, peak, status, fault or f"timeout: longer than {setup.trial_time_s:g} s")


def _macs(ingredients: Ingredients) -> int:
    return count_macs(ingredients.built.module, ingredients.data.train_images.shape[1], ingredients.built.image_size)


def _conclude(
    run: Run, setup: Setup, recorder: Recorder, ingredients: Ingredients, device: Device, peak: float
) -> Outcome:
    """The end of what went well: a pause, or the best epoch's one look at the test set."""
    if run.epoch < run.config.schedule.epochs:
        recorder.save(run.state(), paused=True)
        recorder.pause()
        return _outcome(run, setup, recorder, Status.RUNNING)
    if not run.best_weights:
        return _settle(run, setup, recorder, peak, Status.DIVERGED, f"{setup.metric} was never a number")
    run.use_best()
    images = PlainImages(ingredients.data.test_images, ingredients.data.test_labels, None, device.device)
    device.synchronise()
    start = time.perf_counter()
    test = evaluate(run.task, images, device)
    speed = len(images.labels) / (time.perf_counter() - start)
    best = recorder.rows[run.best_epoch - 1]
    known: dict[str, Any] = {f"test_{name}": value for name, value in test.items()}
    known |= {"best_epoch": run.best_epoch, **{name: best.value(name) for name in metric_names("eval")}}
    return _settle(run, setup, recorder, peak, Status.COMPLETE, None, infer_samples_per_sec=speed, **known)


def _settle(
    run: Run, setup: Setup, recorder: Recorder, peak: float, status: Status, reason: str | None, **known: Any
) -> Outcome:
    rows = recorder.rows
    train_time = sum(row.train_time or 0 for row in rows)
    eval_time = sum(row.eval_time or 0 for row in rows)
    recorder.settle(
        status,
        reason,
        train_time=train_time,
        device_hours=(train_time + eval_time) / 3600 * device_share(setup),
        peak_memory=peak,
        # The first epoch warms up.
        train_samples_per_sec=statistics.median(row.train_samples_per_sec or 0 for row in rows[1:] or rows),
        **known,
    )
    return _outcome(run, setup, recorder, status, reason)


def _outcome(run: Run, setup: Setup, recorder: Recorder, status: Status, reason: str | None = None) -> Outcome:
    scores = {row.epoch: row.value(setup.metric) for row in recorder.rows}
    return Outcome(run.config.trial_id, status, run.epoch, scores, reason)


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
