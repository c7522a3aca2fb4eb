"""From the host's memory to a device, without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def over(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device.

    A GPU copies from pinned memory when it comes to it; for pageable memory the caller would wait until it has done
    all that it was asked before.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
