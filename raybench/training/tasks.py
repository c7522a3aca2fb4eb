"""What a trial optimises: a task maps a batch to `{loss, output, …parts}`, so one loop serves every objective."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybench.config.trial import DistillationConfig
from raybench.data.views import normalise
from raybench.distillation.losses import distillation_loss
from raybench.distillation.teacher import Teacher
from raybench.models import BuiltModel, head_parameters
from raybench.training.batches import Batch

Parts = dict[str, Tensor]


class Task(Protocol):
    """An objective over one model."""

    module: nn.Module

    def train(self) -> None:
        """Put the model into the mode in which it is trained."""
        ...

    def step(self, batch: Batch) -> Parts:
        """`loss` (a scalar to minimise), `output` (B, classes), and named parts of the loss."""
        ...

    def logits(self, views: Tensor) -> Tensor:
        """uint8 views (B, C, H, W) -> (B, classes)."""
        ...


class Classification:
    """Cross-entropy with the labels; with `head_only` a linear probe: the rest is frozen, its statistics too."""

    def __init__(
        self, built: BuiltModel, device: torch.device, label_smoothing: float = 0.0, head_only: bool = False
    ) -> None:
        # Convolutions are 5 to 20 % faster in this layout on a CPU, more on a GPU; other layers do not mind.
        self.module = built.module.to(device).to(memory_format=torch.channels_last)
        self.head_only = head_only
        if head_only:
            self.module.requires_grad_(False)
            for parameter in head_parameters(self.module):
                parameter.requires_grad_(True)
        self.mean, self.std, self.image_size = built.mean, built.std, built.image_size
        self.label_smoothing = label_smoothing

    def train(self) -> None:
        """Training mode; a linear probe keeps dropout off and batch statistics as they are."""
        self.module.train(not self.head_only)

    def logits(self, views: Tensor) -> Tensor:
        """uint8 views (B, C, H, W) -> (B, classes), in the model's own size and normalisation."""
        output: Tensor = self.module(normalise(views, self.mean, self.std, self.image_size))
        return output

    def step(self, batch: Batch) -> Parts:
        """`loss` is the cross-entropy, `ce` the same as a part."""
        output = self.logits(batch.views)
        loss = F.cross_entropy(output.float(), batch.labels, label_smoothing=self.label_smoothing)
        return {"loss": loss, "ce": loss, "output": output}


class TeacherLogits(Protocol):
    """Where a batch's teacher logits come from."""

    def __call__(self, batch: Batch) -> Tensor:
        """(B, classes) float32 on the student's device, of the very views the student sees."""
        ...


class LiveTeacher:
    """A teacher run in every step."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher

    def __call__(self, batch: Batch) -> Tensor:
        return self.teacher.logits(batch.views).float()


class CachedTeacher:
    """Logits (images, views, classes) computed before, looked up by position and view; on the batches' device."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __call__(self, batch: Batch) -> Tensor:
        return self.rows[batch.positions, batch.slots].float()


class Distillation:
    """A student with one head for both terms: (1 - alpha) * CE(label) + alpha * distillation."""

    def __init__(self, student: Classification, config: DistillationConfig, teacher: TeacherLogits) -> None:
        self.student = student
        self.module = student.module
        self.config = config
        self.teacher = teacher

    def train(self) -> None:
        """Training mode of the student; the teacher stays as it is."""
        self.student.train()

    def logits(self, views: Tensor) -> Tensor:
        """The student's logits."""
        return self.student.logits(views)

    def step(self, batch: Batch) -> Parts:
        """`loss` with the parts `ce`, `kd_hard`, `kd_soft` that are on."""
        parts = self.student.step(batch)
        losses = distillation_loss(
            parts["loss"],
            parts["output"].float(),
            self.teacher(batch),
            kind=self.config.type,
            alpha=self.config.alpha,
            tau=self.config.tau,
            reduction=self.config.reduction,
        )
        return {**losses, "output": parts["output"]}
