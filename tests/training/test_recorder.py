"""What a trial occupies. Its rows are tested with whole trials."""

from __future__ import annotations

import os

import pytest

from raybench.training.recorder import Setup, device_share


@pytest.mark.parametrize(("cpu", "threads"), [(0.5, 1), (1, 1), (2, 2), (2.9, 2), (8, 8)])
def test_threads_are_whole_and_at_least_one(cpu: float, threads: int) -> None:
    assert Setup(cpu=cpu).threads == threads


def test_share_of_a_gpu_is_what_was_asked_for() -> None:
    assert device_share(Setup(cpu=4, gpu=0.5)) == 0.5
    assert device_share(Setup(cpu=4, gpu=2)) == 2


def test_share_of_a_cpu_node_is_that_of_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert device_share(Setup(cpu=2)) == 0.25
    assert device_share(Setup(cpu=80)) == 1
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert device_share(Setup(cpu=0.5)) == 0.5
