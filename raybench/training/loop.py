"""The one training loop: epochs of steps, each followed by validation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from raybench.config.trial import TrialConfig
from raybench.training.batches import Examples, Training
from raybench.training.checkpoints import State
from raybench.training.device import Device
from raybench.training.energy import drawn
from raybench.training.group import Alone, Group
from raybench.training.metrics import Totals
from raybench.training.optimizers import FIXED_RATE, learning_rate, make_optimizer, set_rate
from raybench.training.phases import Phases
from raybench.training.tasks import Task
from raybench.training.tracing import Tracer
from raybench.training.whole_batch import sees_batches

EVAL_BATCH = 500
ALONE = Alone()
NEEDED = frozenset({"model", "optimizer", "scaler", "best_epoch", "best_value", "best_weights", "rng", "rng_cuda"})
"""What a state must hold to be gone on from, besides its epoch."""
Seen = Callable[[Any, Tensor], None]
"""(output, targets) of a batch of evaluation."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave; `metrics` by column name (train_loss, eval_top1, …), `parts` the terms of the loss."""

    epoch: int
    """Epochs finished, from 1."""
    lr: float
    metrics: dict[str, float]
    parts: dict[str, float]
    train_time: float
    eval_time: float
    train_samples_per_sec: float
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds of training by phase (`PHASES`); what is left of `train_time` is the loop's own."""
    energy: float | None = None
    """Wh that the whole device drew meanwhile; none where it cannot tell."""

    @property
    def finite(self) -> bool:
        """Whether the losses are numbers; that of validation shows what the last step made of the weights."""
        return self.fault is None

    @property
    def fault(self) -> str | None:
        """Which loss is not finite, in words; none where both are."""
        for name in ("train_loss", "eval_loss"):
            if not math.isfinite(self.metrics[name]):
                return f"{name} is {self.metrics[name]} in epoch {self.epoch}"
        return None


class Clock:
    """How fast an epoch goes, since its begin and since it was last asked."""

    def __init__(self) -> None:
        self._begun = self._asked = time.perf_counter()
        self._counted = 0

    def add(self, count: int) -> None:
        """Count what a batch holds."""
        self._counted += count

    def per_sec(self) -> float:
        """What was counted a second since the last time this was asked."""
        now = time.perf_counter()
        speed = self._counted / (now - self._asked)
        self._asked, self._counted = now, 0
        return speed

    def spent_s(self) -> float:
        """Seconds since the begin."""
        return time.perf_counter() - self._begun


class Run:
    """A task in training: everything a checkpoint holds, and how to go on from one."""

    def __init__(
        self,
        config: TrialConfig,
        task: Task,
        training: Training,
        validation: Examples,
        device: Device,
        micro_batch: int | None = None,
        check: Callable[[], None] = lambda: None,
        group: Group = ALONE,
    ) -> None:
        """`micro_batch`: most images of a forward pass; a batch of more is passed in parts and its gradient summed.

        `check` is called in every step of training and evaluation; what it raises ends the run. `group`: those who
        train it, of which this process is one.
        """
        self.config = config
        self.task = task
        self.training = training
        self.validation = validation
        self.device = device
        self.micro_batch = micro_batch
        self.check = check
        self.group = group
        self._step_of_batch = group.step_of(task)
        self.optimizer = make_optimizer(config.optimizer, task.groups())
        self.scaler = torch.amp.GradScaler(device.device.type, enabled=device.precision == "fp16")
        self.phases = task.phases = Phases(device.device)
        self.epoch = 0
        self.best_epoch = 0
        self.best_value = -math.inf
        self.best_weights: dict[str, Tensor] = {}
        self.tracer: Tracer | None = None
        """Told of each step of training."""
        self.log: list[str] = []
        """Lines of a task that keeps a log within its epochs."""

    def train_epoch(self) -> Epoch:
        """One epoch of training and its validation."""
        self.check()
        self.device.synchronise()
        before = self.device.energy()
        start = time.perf_counter()
        measured, losses = self._train()
        self.device.synchronise()
        trained = time.perf_counter()
        phases = self.phases.taken()
        evaluated = evaluate(
            self.task, self.validation, self.device, eval_batch(self.micro_batch), self.check, group=self.group
        )
        self.device.synchronise()
        ended = time.perf_counter()
        self.epoch += 1
        loss = losses.pop("loss")
        return Epoch(
            epoch=self.epoch,
            lr=self.optimizer.param_groups[0]["lr"],
            metrics={
                "train_loss": loss,
                **{f"train_{name}": value for name, value in measured.items()},
                **{f"eval_{name}": value for name, value in evaluated.items()},
            },
            parts=losses,
            train_time=trained - start,
            eval_time=ended - trained,
            train_samples_per_sec=len(self.training) / (trained - start),
            phases=phases,
            energy=drawn(before, self.device.energy()),
        )

    def evaluate(self, examples: Examples, seen: Seen = lambda *_: None) -> dict[str, float]:
        """The task's metrics over all examples, by this process; `seen` gets each batch's output and targets."""
        return evaluate(self.task, examples, self.device, eval_batch(self.micro_batch), self.check, seen)

    @property
    def over(self) -> bool:
        """Whether training has come to its end: all its epochs, or no better one for as long as it is to wait."""
        patience = self.config.schedule.patience
        waited = patience is not None and self.best_epoch > 0 and self.epoch - self.best_epoch >= patience
        return waited or self.epoch >= self.config.schedule.epochs

    @property
    def halved(self) -> int | None:
        """Half the images of a forward pass; none where they are halved already or there is but one."""
        images = min(self.config.batch_size, len(self.training))
        together = self.group.share.of > 1  # one process cannot begin again without the others
        return None if self.micro_batch is not None or images < 2 or together else -(-images // 2)

    @property
    def deviation(self) -> str | None:
        """How the maths departs from the configuration: statistics of part of a batch are not those of the batch."""
        if self.micro_batch is None or not sees_batches(self.task.module):
            return None
        images = min(self.config.batch_size, len(self.training))
        return f"batch normalisation over {self.micro_batch} instead of {images} images"

    def keep_best(self, value: float) -> None:
        """Remember these weights if `value` (larger is better) is the best so far; a tie keeps the earlier epoch."""
        if value > self.best_value:
            self.best_value, self.best_epoch = value, self.epoch
            self.best_weights = {
                name: tensor.detach().clone() for name, tensor in self.task.module.state_dict().items()
            }

    def use_best(self) -> None:
        """Put the best epoch's weights back into the model."""
        self.task.module.load_state_dict(self.best_weights)

    def _train(self) -> tuple[dict[str, float], dict[str, float]]:
        """One pass over the training examples: metrics, and the mean of the loss and of each of its parts."""
        group, config = self.group, self.config
        group.begin(self.epoch, config.seed)
        self.task.begin(self.epoch, config.seed, self.check)
        self.task.train()
        totals = Totals(self.device.device, self.training.measured(self.task.measures), self.task.measures)
        losses: dict[str, list[Tensor]] = {}
        weights: list[int] = []
        clock = Clock()
        steps = self.training.steps(config.batch_size)
        batches = self.training.epoch(self.epoch, config.seed, config.batch_size, group.share)
        self.phases.to("data")
        for step, batch in enumerate(batches):
            self.phases.to("forward_backward")
            # A step's rate is that of its middle: neither a warm-up's first nor a cosine's last is wasted at 0.
            middle = self.epoch + (step + 0.5) / steps
            done = self.epoch * steps + step
            set_rate(self.optimizer, learning_rate(config.schedule, config.optimizer.lr, middle, done))
            if step % config.accumulate == 0:
                self.optimizer.zero_grad(set_to_none=True)
            steps_now = (step + 1) % config.accumulate == 0 or step + 1 == steps
            parts = batch.parts(self.micro_batch)
            for part in parts:
                with group.held(not (steps_now and part is parts[-1])):
                    with self.device.autocast():
                        result = self._step_of_batch(part)
                    # Here all that a step needs is in memory at once.
                    self.check()
                    scale = group.scale(part.weight, batch.shared, batch.weight)
                    self.scaler.scale(result["loss"] if scale == 1 else result["loss"] * scale).backward()
                counts = group.counts(batch.shared)
                output, last = _detached(result.pop("output")), result["loss"]
                if counts:
                    totals.add(output, part.labels)
                # Losses stay on the device until the epoch's end, so that no step waits for them.
                weights.append(part.weight if counts else 0)
                for name, value in result.items():
                    losses.setdefault(name, []).append(value.detach())
            if steps_now:
                self.phases.to("optimizer")
                self._step()
            self.phases.to("data")
            if self.tracer is not None:
                self.tracer.step()
            clock.add(batch.shared or batch.weight)
            if self.task.log_every and step % self.task.log_every == 1:
                rate = learning_rate(config.schedule, config.optimizer.lr, middle, done + 1)
                number = step // config.accumulate + 1
                self.log.append(self.task.line(step, number, last.item(), clock.per_sec(), rate))
        self.phases.to(None)
        seen = group.sum(torch.tensor(float(sum(weights)), dtype=torch.float64)).item()
        shares = torch.tensor(weights, dtype=torch.float64) / seen
        own = torch.stack([torch.stack(values).double().cpu() @ shares for values in losses.values()])
        means = dict(zip(losses, group.sum(own).tolist(), strict=True))
        measured = totals.result(group.sum)
        if self.task.measures.mean_of == "tokens":
            measured["tokens_per_sec"] = seen / clock.spent_s()
        return measured, means

    def _step(self) -> None:
        """One step of the optimizer."""
        if (most := self.config.optimizer.clip_norm) is not None:
            self.scaler.unscale_(self.optimizer)
            scheduled = (group for group in self.optimizer.param_groups if not group.get(FIXED_RATE))
            torch.nn.utils.clip_grad_norm_([each for group in scheduled for each in group["params"]], most)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def state(self) -> State:
        """Everything needed to go on: a flat dict of tensors and plain values."""
        return {
            "config": self.config.model_dump_json(),
            "epoch": self.epoch,
            "micro_batch": self.micro_batch,
            "model": self.task.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best_epoch": self.best_epoch,
            "best_value": self.best_value,
            "best_weights": self.best_weights,
            "log": self.log,
            "rng": torch.get_rng_state(),
            "rng_cuda": [torch.cuda.get_rng_state(self.device.device)] if self.device.device.type == "cuda" else [],
        }

    def misfit(self, state: State) -> str | None:
        """Why this run cannot go on from a checkpoint, as of a former version of its model; none where it can."""
        if lacking := sorted(NEEDED - state.keys()):
            return f"it has no {lacking[0]}"
        ours, theirs = (_shapes(each) for each in (self.task.module.state_dict(), state["model"]))
        for name in sorted(ours.keys() | theirs.keys()):
            if (wanted := ours.get(name, "none")) != (there := theirs.get(name, "none")):
                return f"of another version of this model: {name} is {there} in it, not {wanted}"
        sizes = [
            [len(group["params"]) for group in each["param_groups"]]
            for each in (self.optimizer.state_dict(), state["optimizer"])
        ]
        return None if sizes[0] == sizes[1] else "of another version of this model: its optimizer has other parameters"

    def restore(self, state: State) -> None:
        """Go on from a checkpoint that fits, random-number states included."""
        self.task.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        # A run that is to be halved goes on from the state of one that was not. Several processes have shares instead.
        if self.group.share.of == 1:
            self.micro_batch = self.micro_batch or state.get("micro_batch")
        self.epoch, self.best_epoch, self.best_value = state["epoch"], state["best_epoch"], state["best_value"]
        self.best_weights = {name: tensor.to(self.device.device) for name, tensor in state["best_weights"].items()}
        self.log = list(state.get("log", []))
        torch.set_rng_state(state["rng"])
        if state["rng_cuda"] and self.device.device.type == "cuda":
            torch.cuda.set_rng_state(state["rng_cuda"][0], self.device.device)


def _shapes(weights: Mapping[str, Any]) -> dict[str, str]:
    """By name `(64, 3, 3, 3)`; what is no tensor by its type."""
    return {
        name: str(tuple(each.shape)) if isinstance(each, Tensor) else type(each).__name__
        for name, each in weights.items()
    }


def eval_batch(micro_batch: int | None) -> int:
    """Examples of a forward pass of evaluation, for a run that passes at most `micro_batch` images in training."""
    return EVAL_BATCH if micro_batch is None else -(-EVAL_BATCH // 2)


@torch.no_grad()
def evaluate(
    task: Task,
    examples: Examples,
    device: Device,
    batch: int = EVAL_BATCH,
    check: Callable[[], None] = lambda: None,
    seen: Seen = lambda *_: None,
    group: Group = ALONE,
) -> dict[str, float]:
    """The task's metrics over all examples, in eval mode, `batch` at a time; `seen` gets outputs and their targets.

    The processes of a `group` take turns, whole batches each.
    """
    task.module.eval()
    totals = Totals(device.device, measures=task.measures)
    check()
    for turn, (inputs, targets) in enumerate(examples.batches(batch)):
        if turn % group.share.of != group.share.rank:
            continue
        with device.autocast():
            output = task.predict(inputs)
        check()
        totals.add(output, targets)
        seen(output, targets)
    return totals.result(group.sum)


def _detached(output: Any) -> Any:
    return output.detach() if isinstance(output, Tensor) else output


def train(run: Run, until: int, score: Callable[[Epoch], float], after_epoch: Callable[[Run, Epoch], bool]) -> bool:
    """Train to epoch `until`. `score` says how good an epoch is (larger is better); `after_epoch` may return False.

    Returns False when that stopped it, or a loss that is not finite.
    """
    while run.epoch < until and not run.over:
        epoch = run.train_epoch()
        if epoch.finite:
            run.keep_best(score(epoch))
        if not after_epoch(run, epoch) or not epoch.finite:
            return False
    return True


def signed(value: float, mode: str) -> float:
    """The metric with larger being better; what is not a number is worst."""
    if not math.isfinite(value):
        return -math.inf
    return value if mode == "max" else -value
