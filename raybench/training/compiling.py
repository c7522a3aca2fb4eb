"""torch.compile as a switch that cannot break a trial: where it fails, the step goes on as it was."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from raybench.training.device import out_of_memory

logger = logging.getLogger(__name__)


class Compiled:
    """A function of a batch, compiled for batches of one size; others go through it as it is.

    One size, since an epoch's last batch would else be compiled too, for less than it brings. `fault` says why nothing
    is compiled any more; what the function itself raises it raises again when it is called as it is. `calls` counts the
    batches that went through compiled code.
    """

    def __init__(self, function: Callable[[Tensor], Any], images: int, *, graphs: bool = True) -> None:
        """`graphs`: on a GPU replay steps as CUDA graphs; not where gradients of several batches are summed, since a
        replay overwrites what the last one left."""
        self.images = images
        self.graphs = graphs
        self.calls = 0
        self.fault: str | None = None
        self._function = function
        self._compiled: Callable[[Tensor], Any] | None = None

    def __call__(self, batch: Tensor) -> Any:
        if self.fault is None and len(batch) == self.images:
            try:
                found = self._faster(batch)
                self.calls += 1
                return found
            except Exception as error:  # whatever a compiler may say
                if out_of_memory(error) is not None:
                    raise
                text = str(error).strip().partition("\n")[0] or "no message"
                self.fault = f"{type(error).__name__}: {text}"
                logger.warning(f"torch.compile failed, the model runs as it is: {self.fault}")
        return self._function(batch)

    def _faster(self, batch: Tensor) -> Any:
        if self._compiled is None:
            # What earlier trials of this process compiled would count against the limit of compilations.
            torch.compiler.reset()
            from torch._functorch import config

            # The backward pass is compiled here too, where a fault is caught, and not when it first runs.
            config.force_non_lazy_backward_lowering = True
            # On a GPU whole steps are replayed as CUDA graphs, which saves the launches.
            mode = "reduce-overhead" if batch.is_cuda and self.graphs else "default"
            self._compiled = torch.compile(self._function, dynamic=False, mode=mode)
        if batch.is_cuda and self.graphs:
            torch.compiler.cudagraph_mark_step_begin()
        return self._compiled(batch)
