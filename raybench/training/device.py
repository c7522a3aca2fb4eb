"""The device, the precision really used, and the memory a trial took."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch


@dataclass(frozen=True)
class Device:
    """Where a trial computes and in which precision."""

    device: torch.device
    precision: str
    """fp32, bf16 or fp16: what is really used."""

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """Type of autocast regions; none for fp32."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context in which forward passes run."""
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.autocast_dtype)

    def synchronise(self) -> None:
        """Wait for the device, so that a clock read next is true."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def reset_peak_memory(self) -> None:
        """Forget what earlier trials of this process took."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def memory_mib(self) -> float:
        """On a GPU the peak allocated since the last reset, on a CPU the process's resident memory now; MiB."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        return float(psutil.Process(os.getpid()).memory_info().rss) / 2**20

    @property
    def name(self) -> str | None:
        """The GPU's name; none on a CPU."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None


def driver_version() -> str | None:
    """Version of the NVIDIA driver, as the kernel tells it; none without one."""
    try:
        line = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except (OSError, IndexError):
        return None
    return next((word for word in line.split() if re.fullmatch(r"\d+\.\d+(\.\d+)?", word)), line)


def choose_device(precision: str, gpu: float) -> Device:
    """The GPU this process was given, if the trial has a share `gpu` of one, else the CPU.

    `auto` is bf16 or fp16 on a GPU and fp32 on a CPU.
    """
    # Ray leaves every GPU visible to a worker that asked for none.
    cuda = gpu > 0 and torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    if precision != "auto":
        return Device(device, precision)
    if not cuda:
        return Device(device, "fp32")
    return Device(device, "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16")
