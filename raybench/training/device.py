"""The device, the precision really used, and the memory a trial took."""

from __future__ import annotations

import contextlib
import gc
import os
import re
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

import raybench
from raybench.config.plugins import code_digest
from raybench.training.energy import Counter, counter_of, unknown

NO_MEMORY = (
    "can't allocate memory",  # torch's own allocator on a CPU
    "could not create a primitive",  # oneDNN, which says no more
    "std::bad_alloc",
    "CUDA error: out of memory",
    "_STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN
)
"""Words of torch's RuntimeErrors that mean a lack of memory."""
ASKED = re.compile(r"(?:Tried|Unable) to allocate ([\d.]+ [KMGTPE]?i?B)")
ASKED_BYTES = re.compile(r"tried to allocate (\d+) bytes")


MODELS = Path(raybench.__file__).parent / "models"
"""The code of our own models."""


@dataclass(frozen=True)
class Device:
    """Where a trial computes and in which precision."""

    device: torch.device
    precision: str
    """fp32, tf32, bf16 or fp16: what is really used."""
    energy: Counter = field(default=unknown, compare=False, repr=False)
    """What the device has drawn so far."""

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """Type of autocast regions; none for fp32 and tf32."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context in which forward passes run."""
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.autocast_dtype)

    def set_products(self) -> None:
        """Let a GPU multiply 32-bit numbers as this precision says; cuDNN's convolutions would else be in TF32."""
        if self.device.type == "cuda":
            how = "ieee" if self.precision == "fp32" else "tf32"
            torch.backends.cuda.matmul.fp32_precision = how
            torch.backends.cudnn.fp32_precision = how

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
        return resident_mib()

    def limit_memory(self, mib: float | None) -> None:
        """On a GPU, let this process allocate so many MiB there; none lifts the limit of the trial before.

        More than that raises torch.OutOfMemoryError. On a CPU nothing holds a process back: see `resident_mib`.
        """
        if self.device.type == "cuda":
            total = torch.cuda.get_device_properties(self.device).total_memory / 2**20
            share = 1.0 if mib is None else min(1.0, mib / total)
            # What torch still holds of the trial before would be used without being counted.
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(share, self.device)

    @property
    def name(self) -> str | None:
        """The GPU's name; none on a CPU."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None


def resident_mib() -> float:
    """Resident memory of this process, MiB."""
    import psutil

    return float(psutil.Process(os.getpid()).memory_info().rss) / 2**20


def out_of_memory(error: BaseException) -> str | None:
    """The lack of memory an error tells of, in words; none for any other error."""
    text = str(error)
    if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not any(sign in text for sign in NO_MEMORY):
        return None
    if asked := ASKED_BYTES.search(text):
        return f"out of memory: {int(asked[1]) / 2**20:.0f} MiB more were asked for"
    if asked := ASKED.search(text):
        return f"out of memory: {asked[1]} more were asked for"
    return f"out of memory: {text.splitlines()[0]}" if text.strip() else "out of memory"


def release_memory() -> None:
    """Give back what is no longer used, to the system and to other processes on the GPU."""
    # A backward pass that broke leaves its steps queued on this thread, with all that they saved, until the next one.
    with torch.enable_grad():
        torch.zeros(1, requires_grad=True).sum().backward()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def driver_version() -> str | None:
    """Version of the NVIDIA driver, as the kernel tells it; none without one."""
    try:
        line = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except (OSError, IndexError):
        return None
    return next((word for word in line.split() if re.fullmatch(r"\d+\.\d+(\.\d+)?", word)), line)


def workers(device: Device) -> int:
    """Threads that compute what is kept for all trials, each by itself, so that no bit depends on their number; on a
    GPU none but the caller's."""
    return torch.get_num_threads() if device.device.type == "cpu" else 0


def where_computed(device: Device) -> str:
    """What decides what a model of given weights says: the processor, torch, timm, and the code of our own models."""
    where = device.name or torch.cpu.get_capabilities()["cpu_name"]
    return f"{where}, torch {torch.__version__}, timm {version('timm')}, models {_models_code()}"


@cache
def _models_code() -> str:
    return code_digest(MODELS)


def multiplies_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself: by matrix units (AMX) or AVX-512's dot products of it.

    With the latter a ResNet-20 trains 2.2 and a ViT-B 1.7 times as fast as in fp32, one of 128 channels 1.15 times, one
    of 64 channels 0.6 times; without both, a ResNet-20 trains ten times slower.
    """
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16"))


def choose_device(precision: str, gpu: float) -> Device:
    """The GPU this process was given, if the trial has a share `gpu` of one, else the CPU.

    `auto` is bf16 or fp16 on a GPU and fp32 on a CPU; `amp` is bf16 there, too, where the processor multiplies it in
    hardware. On a CPU `tf32` is fp32.
    """
    # Ray leaves every GPU visible to a worker that asked for none.
    cuda = gpu > 0 and torch.cuda.is_available()
    # With its number: torch sets the limit of memory of no GPU without one.
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    return Device(device, _really(precision, cuda=cuda), counter_of(device))


def _really(precision: str, *, cuda: bool) -> str:
    """The precision that is used where this one is asked for."""
    if precision not in ("auto", "amp"):
        return precision if cuda or precision != "tf32" else "fp32"
    if not cuda:
        return "bf16" if precision == "amp" and multiplies_bf16() else "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
