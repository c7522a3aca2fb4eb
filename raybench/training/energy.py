"""What a device has drawn, by its own counter."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

Counter = Callable[[], float | None]
"""Wh of the whole device since some time before, whoever used it; none where it cannot tell (now)."""


def unknown() -> None:
    """The counter of a device that has none."""


def counter_of(device: torch.device) -> Counter:
    """The counter of a GPU, through NVML; `unknown` on a CPU and without the package nvidia-ml-py."""
    if device.type != "cuda":
        return unknown
    try:
        import pynvml
    except ImportError:
        return unknown
    # NVML counts the GPUs of the machine, torch those that this process may see: only the UUID is the same in both.
    return _counter(pynvml, f"GPU-{torch.cuda.get_device_properties(device).uuid}")


@functools.cache
def _counter(nvml: Any, uuid: str) -> Counter:
    """NVML is begun once a process and never ended: it keeps no more than a handle."""
    return nvml_counter(nvml, uuid)


def nvml_counter(nvml: Any, uuid: str) -> Counter:
    """The counter of the GPU of this UUID; `nvml` is the module pynvml, or what behaves like it.

    `unknown` where it has none: GPUs before Volta, slices of one (MIG), a driver without NVML. It is renewed every
    20 to 100 ms, so a span of less tells little.
    """
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError:
        return unknown

    def read() -> float | None:
        try:
            return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 3.6e6  # mJ
        except nvml.NVMLError:
            return None

    return read


def drawn(before: float | None, after: float | None) -> float | None:
    """Wh between two readings; none where one is missing, or the counter began anew with its driver."""
    return None if before is None or after is None or after < before else after - before
