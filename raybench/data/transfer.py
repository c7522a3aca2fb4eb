"""From the host's memory to a device: neither waits for the other."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

import torch
from torch import Tensor

T = TypeVar("T")


def over(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device.

    A GPU copies from pinned memory when it comes to it; for pageable memory the caller would wait until it has done
    all that it was asked before.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return pinned(tensor, device).to(device, non_blocking=True)


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor where this device copies from without being waited for; it is `over` it that brings it there."""
    return tensor.pin_memory() if device.type == "cuda" and not tensor.is_pinned() else tensor


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next of which is made by a thread while this one is in use.

    What is wrong with one is raised where it is asked for. Whoever stops before the last waits for at most one.
    """
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield cast(T, item)
