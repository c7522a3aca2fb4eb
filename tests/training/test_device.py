"""The device and the precision really used."""

from __future__ import annotations

import contextlib
import mmap
import shutil
from pathlib import Path
from types import SimpleNamespace
from weakref import ref

import pytest
import timm
import torch
from torch import Tensor

from raybench.training import device as module
from raybench.training.batches import _room
from raybench.training.device import Device, choose_device, release_memory
from raybench.training.energy import unknown

HAS_GPU = torch.cuda.is_available()


@pytest.mark.skipif(HAS_GPU, reason="a GPU is here")
@pytest.mark.parametrize(
    ("wanted", "used"),
    [("auto", "fp32"), ("fp32", "fp32"), ("tf32", "fp32"), ("bf16", "bf16"), ("fp16", "fp16")],
)
def test_on_a_cpu(wanted: str, used: str) -> None:
    device = choose_device(wanted, 0)
    assert device == Device(torch.device("cpu"), used)
    assert device.name is None


@pytest.mark.gpu
def test_on_a_gpu_auto_is_a_16_bit_precision() -> None:
    for wanted in ("auto", "amp"):
        device = choose_device(wanted, 1)
        assert device.device.type == "cuda"
        assert device.precision in ("bf16", "fp16")
        assert device.name


@pytest.mark.skipif(HAS_GPU, reason="a GPU is here")
@pytest.mark.parametrize(
    ("capabilities", "used"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, "bf16"),
        ({"amx_bf16": False, "avx512_bf16": True}, "bf16"),
        ({"amx_bf16": False, "avx512_bf16": False, "avx512_f": True}, "fp32"),
        ({}, "fp32"),
    ],
)
def test_amp_is_16_bits_on_a_cpu_that_multiplies_them(
    capabilities: dict[str, bool], used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert choose_device("amp", 0).precision == used


def test_what_a_broken_backward_pass_kept_is_given_back() -> None:
    def without_memory(_: Tensor) -> None:
        raise torch.OutOfMemoryError("no memory")

    x = torch.ones(8, requires_grad=True)
    factor = torch.ones(8)
    kept = ref(factor)
    product = x * factor  # made first, so that its part of the backward pass waits for the other's
    broken = x * 2
    broken.register_hook(without_memory)
    both = broken.sum() + product.sum()
    with pytest.raises(torch.OutOfMemoryError):
        both.backward()
    del factor, product, broken, both
    assert kept() is not None, "torch gives it back by itself, and need not be asked to"
    release_memory()
    assert kept() is None


@pytest.fixture
def fractions(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """A machine of two GPUs of 16 GiB as torch sees it, the second one the current: only its driver is not there.
    Number -> the share of its memory that this process may take."""
    found = {0: 1.0, 1: 1.0}
    monkeypatch.setattr(module, "counter_of", lambda _: unknown)
    for name, answer in {
        "is_available": lambda: True,
        "current_device": lambda: 1,
        "is_bf16_supported": lambda **_: True,
        "get_device_properties": lambda _: SimpleNamespace(total_memory=2**34),
        "mem_get_info": lambda _: (2**34, 2**34),
        "memory_reserved": lambda _: 0,
    }.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
    memory = {
        "_cuda_setMemoryFraction": lambda share, number: found.update({number: share}),
        "_cuda_getMemoryFraction": lambda number: found[number],
    }
    for name, function in memory.items():
        monkeypatch.setattr(torch._C, name, function, raising=False)
    return found


def test_a_gpu_has_its_number_which_its_limit_of_memory_needs(fractions: dict[int, float]) -> None:
    device = choose_device("auto", 1)
    assert (device.device, device.precision) == (torch.device("cuda", 1), "bf16")
    device.limit_memory(2**12)
    assert fractions == {0: 1.0, 1: 0.25}
    assert _room(device.device) == 2**31  # half of the 4 GiB
    device.limit_memory(None)
    assert fractions == {0: 1.0, 1: 1.0}


@pytest.mark.gpu
def test_fp32_on_a_gpu_is_fp32_and_tf32_is_not() -> None:
    a = torch.randn(512, 512, device="cuda")
    exact = (a.double() @ a.double()).float()

    def error(precision: str) -> float:
        choose_device(precision, 1).set_products()
        return float((a @ a - exact).abs().max())

    assert error("fp32") < 1e-3 < error("tf32")


def test_autocast_is_off_for_32_bits_and_on_below() -> None:
    a = torch.ones(2, 2)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        device = Device(torch.device("cpu"), precision)
        with device.autocast():
            assert (a @ a).dtype == dtype
    assert isinstance(Device(torch.device("cpu"), "fp32").autocast(), contextlib.nullcontext)


def test_what_was_computed_by_other_code_or_libraries_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Device(torch.device("cpu"), "fp32")
    before = module.where_computed(here)
    assert f"timm {timm.__version__}" in before
    monkeypatch.setattr(module, "MODELS", shutil.copytree(module.MODELS, tmp_path / "models"))
    for edited in (False, True):
        if edited:
            with (tmp_path / "models" / "resnet_cifar.py").open("a") as file:
                file.write("# another\n")
        module._models_code.cache_clear()
        assert (module.where_computed(here) == before) != edited
    module._models_code.cache_clear()


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
