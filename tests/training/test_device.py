"""The device and the precision really used."""

from __future__ import annotations

import contextlib
import mmap

import pytest
import torch

from raybench.training.device import Device, choose_device

HAS_GPU = torch.cuda.is_available()


@pytest.mark.skipif(HAS_GPU, reason="a GPU is here")
@pytest.mark.parametrize(("wanted", "used"), [("auto", "fp32"), ("fp32", "fp32"), ("bf16", "bf16"), ("fp16", "fp16")])
def test_on_a_cpu(wanted: str, used: str) -> None:
    device = choose_device(wanted, 0)
    assert device == Device(torch.device("cpu"), used)
    assert device.name is None


@pytest.mark.gpu
def test_on_a_gpu_auto_is_a_16_bit_precision() -> None:
    device = choose_device("auto", 0)
    assert device.device.type == "cuda"
    assert device.precision in ("bf16", "fp16")
    assert device.name


def test_autocast_is_off_for_32_bits_and_on_below() -> None:
    a = torch.ones(2, 2)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        device = Device(torch.device("cpu"), precision)
        with device.autocast():
            assert (a @ a).dtype == dtype
    assert isinstance(Device(torch.device("cpu"), "fp32").autocast(), contextlib.nullcontext)


def test_memory_of_the_process_is_positive_and_follows_what_it_takes() -> None:
    device = Device(torch.device("cpu"), "fp32")
    device.reset_peak_memory()
    device.synchronise()
    before = device.memory_mib()
    assert before > 50
    with mmap.mmap(-1, 2**26) as block:  # 64 MiB of fresh pages: an allocator may hand out what is resident already
        block.write(b"1" * 2**26)
        # Another part of the process may give some memory back meanwhile.
        assert device.memory_mib() > before + 32
