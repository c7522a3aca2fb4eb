"""Views are made without waiting for a GPU: every copy there is from pinned memory."""

from __future__ import annotations

import collections
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from raybench.data import transfer
from raybench.data.views import endless, fresh_codes, render, view_count


@pytest.mark.parametrize(
    "augment",
    [("crop4", "hflip"), ("hflip", "rrc"), ("crop4", "erasing0.9", "hflip", "randaugment-n2-m9"), ("rand-m9-mstd0.5",)],
)
def test_every_copy_to_a_device_is_one_that_nobody_waits_for(
    augment: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)
    number = torch.arange(16)
    codes = fresh_codes(number, 0, 0) if endless(augment) else number % view_count(augment)
    mean = (0.5,) * 3

    def views() -> Tensor:
        return render(images, number, codes, augment, size=32, mean=mean, std=mean)

    wanted = views()  # what is kept on the device is there now
    copies: collections.Counter[str] = collections.Counter()
    real = Tensor.to

    def to(tensor: Tensor, *given: Any, **named: Any) -> Tensor:
        if "device" in named or (given and isinstance(given[0], torch.device)):
            copies[sys._getframe(1).f_code.co_filename] += 1
        return real(tensor, *given, **named)

    monkeypatch.setattr(Tensor, "to", to)
    assert torch.equal(views(), wanted)
    assert set(copies) == {transfer.__file__}


def test_the_next_item_is_made_while_this_one_is_in_use() -> None:
    made: list[threading.Event] = [threading.Event() for _ in range(3)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    coming = transfer.ahead(items())
    assert next(coming) == 0
    assert made[1].wait(10)  # nobody has asked for it
    assert list(coming) == [1, 2]


def test_a_fault_is_raised_where_its_item_is_asked_for() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise OSError("gone")

    coming = transfer.ahead(items())
    assert next(coming) == 0
    with pytest.raises(OSError, match="gone"):
        next(coming)


def test_no_thread_is_left_where_one_stops_early() -> None:
    coming = transfer.ahead(iter(range(10)))
    next(coming)
    assert any(thread.name.startswith("ahead") for thread in threading.enumerate())
    del coming
    assert not any(thread.name.startswith("ahead") for thread in threading.enumerate())


@pytest.mark.gpu
def test_a_copy_is_the_same_there() -> None:
    given = torch.arange(10)
    there = transfer.over(given, torch.device("cuda"))
    assert there.is_cuda
    assert torch.equal(there.cpu(), given)
    assert transfer.over(there, torch.device("cuda")) is there
