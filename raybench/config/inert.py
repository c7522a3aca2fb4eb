"""Settings that cannot change a trial's numbers, by the kind of task, optimizer and schedule it has."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raybench.config.trial import OptimizerConfig, ScheduleConfig, Task


def of_task(task: Task) -> set[str]:
    """Dotted names that a kind of task does not look at."""
    images = {"dataset.image_size", "dataset.augment", "dataset.views", "mix.mixup", "mix.cutmix"}
    if task == "translation":
        return {*images, "dataset.val_size", "codec.lmbda", "codec.aux_lr", "compile", "latents"}
    if task == "compression":
        return {"mix.mixup", "mix.cutmix", "label_smoothing", "compile", "latents"}
    return {"codec.lmbda", "codec.aux_lr"}


def of_optimizer(optimizer: OptimizerConfig) -> set[str]:
    """Dotted names, below an optimizer's section, that it does not read."""
    unused = ("betas", "eps") if optimizer.name == "sgd" else ("momentum", "nesterov")
    return {f"optimizer.{name}" for name in unused}


def of_schedule(schedule: ScheduleConfig) -> set[str]:
    """Dotted names that a schedule of this name does not read."""
    if schedule.name == "noam":
        return {"schedule.horizon_epochs", "schedule.min_lr", "schedule.warmup_epochs"}
    unused = {"schedule.warmup_steps", "schedule.d_model"}
    if schedule.name == "constant":
        unused |= {"schedule.horizon_epochs", "schedule.min_lr"}
    elif schedule.horizon_epochs == schedule.epochs:
        unused.add("schedule.horizon_epochs")
    return unused
