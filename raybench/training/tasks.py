"""What a trial optimises: a task maps a batch to `{loss, output, …parts}`, so one loop serves every objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybench.config import plugins
from raybench.config.trial import DistillationConfig
from raybench.data.views import normalise
from raybench.distillation.cache import Rows
from raybench.distillation.losses import distillation_loss, kind_of
from raybench.distillation.teacher import Teacher
from raybench.models import BuiltModel, head_parameters
from raybench.models.two_heads import has_two_heads, two_heads
from raybench.training.batches import Batch
from raybench.training.compiling import Compiled
from raybench.training.metrics import CLASSIFICATION, Measures
from raybench.training.phases import Phases

Parts = dict[str, Any]
ParameterGroup = dict[str, Any]


class Task(Protocol):
    """An objective over one model."""

    module: nn.Module
    measures: Measures
    log_every: int
    """Batches between the lines of a log within epochs; 0 keeps none."""
    phases: Phases
    """Where the time of training is accounted; the loop puts it here."""

    @property
    def compiled(self) -> str | None:
        """`yes`, or `no` and why, where the configuration asks for a compiled step."""
        ...

    def line(self, step: int, group: int, loss: float, tokens_per_sec: float, lr: float) -> str:
        """A line of the log: batch of the epoch, group of accumulated batches, and what was seen there."""
        ...

    def begin(self, epoch: int, seed: int, check: Callable[[], None]) -> None:
        """Get ready for an epoch of training (from 0) that draws by this seed; calls `check` where that takes long."""
        ...

    def train(self) -> None:
        """Put the model into the mode in which it is trained."""
        ...

    def step(self, batch: Any) -> Parts:
        """`loss` (a scalar to minimise), `output` (what the metrics look at), and named parts of the loss."""
        ...

    def predict(self, inputs: Any) -> Any:
        """The output for the inputs of an evaluation batch."""
        ...

    def groups(self) -> list[ParameterGroup]:
        """What the optimizer trains; a group may state a rate of its own, which no schedule changes."""
        ...


class Quiet:
    """A task that keeps no log within its epochs."""

    log_every = 0
    phases: Phases

    @property
    def compiled(self) -> str | None:
        """Nothing is compiled."""
        return None

    def begin(self, epoch: int, seed: int, check: Callable[[], None]) -> None:
        """Nothing to get ready."""

    def line(self, step: int, group: int, loss: float, tokens_per_sec: float, lr: float) -> str:
        """Never asked for."""
        raise NotImplementedError


class Classification(Quiet):
    """Cross-entropy with the labels; with `head_only` a linear probe: the rest is frozen, its statistics too.

    Of a model with a distillation token the class head is trained and asked: nobody teaches the other.
    """

    measures = CLASSIFICATION

    def __init__(
        self,
        built: BuiltModel,
        device: torch.device,
        label_smoothing: float = 0.0,
        head_only: bool = False,
        compile_for: int | None = None,
        accumulate: int = 1,
    ) -> None:
        """`compile_for`: training batches of so many images go through compiled code; none compiles nothing.
        `accumulate`: batches whose gradients are summed."""
        # Convolutions are 5 to 20 % faster in this layout on a CPU, more on a GPU; other layers do not mind.
        self.module = built.module.to(device).to(memory_format=torch.channels_last)
        self.head_only = head_only
        if head_only:
            self.module.requires_grad_(False)
            for parameter in head_parameters(self.module):
                parameter.requires_grad_(True)
        self.mean, self.std, self.image_size = built.mean, built.std, built.image_size
        self.label_smoothing = label_smoothing
        self._faster = None if compile_for is None else Compiled(self.answers, compile_for, graphs=accumulate == 1)
        self.asked: tuple[float, float] = (1.0, 0.0)
        """Of a model with two heads, the shares of the class and the distillation head in its answer."""

    def train(self) -> None:
        """Training mode; a linear probe keeps dropout off and batch statistics as they are."""
        self.module.train(not self.head_only)

    def groups(self) -> list[ParameterGroup]:
        """Every parameter that is not frozen."""
        return trainable(self.module)

    def heads(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 views (B, C, H, W) -> logits (B, classes) to compare with labels, and with a teacher."""
        return self._from_images(normalise(views, self.mean, self.std, self.image_size))

    def inputs(self, batch: Batch) -> Tensor:
        """What the trained part of the model sees of a training batch: images (B, C, H, W)."""
        return normalise(batch.views, self.mean, self.std, self.image_size)

    def answers(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, classes) for `inputs`, to compare with labels, and with a teacher."""
        return self._from_images(inputs)

    def _from_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if has_two_heads(self.module):
            return two_heads(self.module, images)
        output: Tensor = self.module(images)
        return output, output

    def predict(self, inputs: Tensor) -> Tensor:
        """uint8 views (B, C, H, W) -> (B, classes), in the model's own size and normalisation."""
        by_class, by_distillation = self.heads(inputs)
        if by_class is by_distillation:
            return by_class
        share, other = self.asked
        return share * by_class + other * by_distillation

    @property
    def compiled(self) -> str | None:
        """`yes`, or `no` and why; none where it was not asked for."""
        if self._faster is None:
            return None
        if self._faster.fault is not None:
            return f"no: {self._faster.fault}"
        return "yes" if self._faster.calls else f"no: there was no batch of {self._faster.images} images at once"

    def taught(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The answers for a training batch, by compiled code where that is asked for."""
        by_class, by_distillation = (self._faster or self.answers)(self.inputs(batch))
        return by_class, by_distillation

    def step(self, batch: Batch) -> Parts:
        """`loss` is the cross-entropy, `ce` the same as a part."""
        return self.compared(self.taught(batch)[0], batch)

    def compared(self, output: Tensor, batch: Batch) -> Parts:
        """The parts of these logits (B, classes) with the batch's labels, or targets where it is mixed."""
        if batch.targets is not None:
            loss = F.cross_entropy(output.float(), batch.targets)
        else:
            loss = F.cross_entropy(output.float(), batch.labels, label_smoothing=self.label_smoothing)
        return {"loss": loss, "ce": loss, "output": output}


def trainable(module: nn.Module) -> list[ParameterGroup]:
    """One group of every parameter of a module that is not frozen."""
    return [{"params": [parameter for parameter in module.parameters() if parameter.requires_grad]}]


class TeacherLogits(Protocol):
    """Where a batch's teacher logits come from."""

    def begin(self, epoch: int, seed: int, check: Callable[[], None]) -> None:
        """Get ready for the batches of an epoch."""
        ...

    def __call__(self, batch: Batch) -> Tensor:
        """(B, classes) float32 on the student's device, of the very views the student sees."""
        ...


class LiveTeacher:
    """A teacher run in every step."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher

    def begin(self, epoch: int, seed: int, check: Callable[[], None]) -> None:
        """Nothing to get ready."""

    def __call__(self, batch: Batch) -> Tensor:
        return self.teacher.logits(batch.views).float()


class CachedTeacher:
    """Logits computed before, of the one view that each image shows in an epoch, looked up by position.

    `rows`: (epoch, seed, check) -> what maps positions (B,) to float32 logits (B, classes) in that epoch.
    """

    def __init__(self, rows: Callable[[int, int, Callable[[], None]], Rows]) -> None:
        self._rows_of = rows
        self._rows: Rows | None = None

    def begin(self, epoch: int, seed: int, check: Callable[[], None]) -> None:
        """Have the epoch's rows."""
        self._rows = self._rows_of(epoch, seed, check)

    def __call__(self, batch: Batch) -> Tensor:
        assert self._rows is not None, "begin() comes first"
        return self._rows(batch.positions)


class Distillation(Quiet):
    """(1 - alpha) * CE(label) + alpha * distillation.

    A student with one head answers for both terms; one with a distillation token compares its class head with the
    labels and its distillation head with the teacher, and answers with the mean of those that are trained.
    """

    measures = CLASSIFICATION

    def __init__(self, student: Classification, config: DistillationConfig, teacher: TeacherLogits) -> None:
        """Raises ConfigError where the kind of distillation is not here, or has other code than was planned."""
        plugins.check_code(("LOSSES",), config.type, config.code)
        kind_of(config.type)
        self.student = student
        self.module = student.module
        self.config = config
        self.teacher = teacher
        self.phases = Phases(torch.device("cpu"))  # until a loop brings its own
        # A head whose term has no weight is never trained: its noise would spoil the mean.
        student.asked = {0.0: (1.0, 0.0), 1.0: (0.0, 1.0)}.get(config.alpha, (0.5, 0.5))

    @property
    def compiled(self) -> str | None:
        """The student's."""
        return self.student.compiled

    def begin(self, epoch: int, seed: int, check: Callable[[], None]) -> None:
        """Teacher and student get ready."""
        self.student.phases = self.phases
        self.student.begin(epoch, seed, check)
        with self.phases.within("teacher"):
            self.teacher.begin(epoch, seed, check)

    def train(self) -> None:
        """Training mode of the student; the teacher stays as it is."""
        self.student.train()

    def groups(self) -> list[ParameterGroup]:
        """The student's."""
        return self.student.groups()

    def predict(self, inputs: Tensor) -> Tensor:
        """The student's logits."""
        return self.student.predict(inputs)

    def step(self, batch: Batch) -> Parts:
        """`loss` with the parts `ce`, `kd_hard`, `kd_soft` that are on."""
        by_class, by_distillation = self.student.taught(batch)
        parts = self.student.compared(by_class, batch)
        with self.phases.within("teacher"):
            taught = self.teacher(batch)
        losses = distillation_loss(
            parts["loss"],
            by_distillation.float(),
            taught,
            kind=self.config.type,
            alpha=self.config.alpha,
            tau=self.config.tau,
            reduction=self.config.reduction,
        )
        return {**losses, "output": parts["output"]}
