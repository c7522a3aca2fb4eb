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
    is compiled any more; what the function itself raises it raises again when it is called as it is.
    """

    def __init__(self, function: Callable[[Tensor], Any], images: int) -> None:
        self.images = images
        self.fault: str | None = None
        self._function = function
        self._compiled: Callable[[Tensor], Any] | None = None

    def __call__(self, batch: Tensor) -> Any:
        if self.fault is None and len(batch) == self.images:
            try:
                return self._faster(batch)
            except Exception as error:  # whatever a compiler may say
                if out_of_memory(error) is not None:
                    raise
                text = str(error).strip().partition("\n")[0] or "no message"
                self.fault = f"{type(error).__name__}: {text}"
                logger.warning(f"torch.compile failed, the model runs as it is: {self.fault}")
        return self._function(batch)

    def _faster(self, batch: Tensor) -> Any:
        if self._compiled is None:
            # On a GPU whole steps are replayed as CUDA graphs, which saves the launches.
            mode = "reduce-overhead" if batch.is_cuda else "default"
            self._compiled = torch.compile(self._function, dynamic=False, mode=mode)
        if batch.is_cuda:
            torch.compiler.cudagraph_mark_step_begin()
        return self._compiled(batch)
