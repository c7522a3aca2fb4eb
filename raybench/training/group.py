"""The processes that train one trial together, each on its share of every batch. One process alone is a group too.

What is here knows torch.distributed, and not who started the processes: Ray Train on a cluster, a test, torchrun.

Every process makes the same model, data and order. Of each batch it takes its share; its loss is weighted so that the
mean of the processes' gradients, which is what DistributedDataParallel takes, is the gradient of the whole batch. So
the batch and the learning rate stay as they are written, whatever the number of processes, and a trial's numbers are
those of one process but for the order of sums. Where a model draws random numbers (dropout, noise) each process draws
its own, so that they are equal in distribution only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raybench.training.batches import EVERYTHING, Share
from raybench.training.tasks import Parts, Task
from raybench.training.whole_batch import WholeBatch, sees_batches

GONE = ("gloo", "nccl", "Connection closed by peer", "Connection reset by peer", "Broken pipe", "process group")
"""Words of torch's errors that mean that another process of the group is gone."""

Step = Callable[[Any], Parts]
"""Of a batch: the loss with its graph, and what is known of it."""


class Group(Protocol):
    """Who trains a trial."""

    share: Share

    @property
    def first(self) -> bool:
        """Whether this process writes what the trial leaves behind."""
        ...

    def step_of(self, task: Task) -> Step:
        """The task's step, after whose backward pass the gradients are those of the whole batch."""
        ...

    def begin(self, epoch: int, seed: int) -> None:
        """An epoch of training begins."""
        ...

    def held(self, hold: bool) -> contextlib.AbstractContextManager[object]:
        """A step inside keeps its gradients to itself if `hold`; the next one outside sends them too."""
        ...

    def scale(self, weight: int, shared: int, whole: int) -> float:
        """What a part's loss counts: of `weight`, of a batch of `whole`, the share of one of `shared` (0: no share)."""
        ...

    def counts(self, shared: int) -> bool:
        """Whether this process counts a batch in its metrics; one that all processes have is counted once."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """The sum of all processes' values."""
        ...

    def told(self, value: Any) -> Any:
        """The first process's value, for all."""
        ...


class Alone:
    """One process, which has everything."""

    share = EVERYTHING
    first = True

    def step_of(self, task: Task) -> Step:
        """The task's own."""
        return task.step

    def begin(self, epoch: int, seed: int) -> None:
        """Nothing to do."""

    def held(self, hold: bool) -> contextlib.AbstractContextManager[object]:  # noqa: ARG002
        """Nobody is told of gradients."""
        return contextlib.nullcontext()

    def scale(self, weight: int, shared: int, whole: int) -> float:  # noqa: ARG002
        """Every loss is a mean, so the batch's is the mean of its parts'."""
        return weight / whole

    def counts(self, shared: int) -> bool:  # noqa: ARG002
        """Everything."""
        return True

    def sum(self, values: Tensor) -> Tensor:
        """Its own."""
        return values

    def told(self, value: Any) -> Any:
        """Its own."""
        return value


class Together:
    """One of several processes, in torch's process group, which must take tensors of the CPU too (gloo)."""

    def __init__(self) -> None:
        self.share = Share(dist.get_rank(), dist.get_world_size())
        self._wrapped: DistributedDataParallel | None = None

    @property
    def first(self) -> bool:
        """The one of rank 0."""
        return self.share.rank == 0

    def step_of(self, task: Task) -> Step:
        """The task's step in DistributedDataParallel."""
        # Which parameters a step leaves out (a head that is not trained) differs between tasks, so it is looked for.
        # Buffers need no copies: each process makes the same of them (batch statistics are those of the whole batch).
        wrapped = DistributedDataParallel(_Step(task), broadcast_buffers=False, find_unused_parameters=True)
        self._wrapped = wrapped
        return wrapped

    def begin(self, epoch: int, seed: int) -> None:
        """Draw other numbers than the first process; from the seed and the epoch, so that a resumed trial draws them
        again. The first one draws as a process alone does, and its state is in the checkpoint."""
        if not self.first:
            torch.manual_seed(hash((seed, epoch, self.share.rank)) % 2**63)

    def held(self, hold: bool) -> contextlib.AbstractContextManager[object]:
        """Without DistributedDataParallel's sums."""
        assert self._wrapped is not None
        return self._wrapped.no_sync() if hold else contextlib.nullcontext()

    def scale(self, weight: int, shared: int, whole: int) -> float:
        """So that the mean over the processes is the sum of the shares."""
        return self.share.of * weight / shared if shared else weight / whole

    def counts(self, shared: int) -> bool:
        """Its share; of a batch that all have, the first process's."""
        return bool(shared) or self.first

    def sum(self, values: Tensor) -> Tensor:
        """On the CPU, in the same order for all, so that every process decides the same."""
        found = values.detach().cpu().clone()
        dist.all_reduce(found)
        return found

    def told(self, value: Any) -> Any:
        """The first process's."""
        values = [value]
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]


class _Step(nn.Module):
    """A task's step as a module, which DistributedDataParallel wants; the model's own names stay as they are."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model = task.module
        self.task = task
        self.sees_batches = sees_batches(task.module)

    def forward(self, batch: Any) -> Parts:
        """The parts of the loss. Only the loss keeps its graph: what hangs on nothing else would be waited for."""
        with WholeBatch() if self.sees_batches and batch.shared else contextlib.nullcontext():
            parts = self.task.step(batch)
        return {
            name: value.detach() if name != "loss" and isinstance(value, Tensor) else value
            for name, value in parts.items()
        }


def current() -> Group:
    """The group that this process is in."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return Together()
    return Alone()


def of_the_group(error: BaseException) -> bool:
    """Whether an error says that another process is gone: no fault of the trial, which goes on from its checkpoint."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in GONE)
