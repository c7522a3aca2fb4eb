"""Speed and memory: real steps of a small model, and turns that are fair whatever fails."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from raybench.config.trial import ModelConfig
from raybench.training import footprint as memory
from raybench.training import speed
from raybench.training.device import Device
from raybench.training.footprint import footprint
from raybench.training.speed import Load, Workload, compare_speeds, in_words

torch.set_num_threads(1)


def load(name: str = "vit_micro_patch2_8", **changes: Any) -> Load:
    settings = {"num_classes": 10, "image_size": 8, "batch_size": 4, "precision": "fp32", "threads": 1}
    return Load(model=ModelConfig(name=name), **{**settings, **changes})


def weights(workload: Workload) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in workload.module.parameters()]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_trains_and_classifying_changes_nothing(precision: str) -> None:
    workload = Workload(load(precision=precision))
    first = weights(workload)
    workload.infer()
    assert all(torch.equal(one, two) for one, two in zip(first, weights(workload), strict=True))
    for _ in range(3):  # the first steps of fp16 may only find the scale of its gradients
        workload.train()
    changed = [not torch.equal(one, two) for one, two in zip(first, weights(workload), strict=True)]
    assert all(changed)
    assert all(parameter.grad is None for parameter in workload.module.parameters())
    assert all(parameter.isfinite().all() for parameter in workload.module.parameters())


def test_a_codec_is_trained_as_in_a_trial() -> None:
    codec = load("bmshj2018_factorized", image_size=32)
    codec = replace(codec, model=codec.model.model_copy(update={"options": {"N": 8, "M": 12}}))
    workload = Workload(codec)
    first = weights(workload)
    workload.train()
    # Quantiles too, which the loss of the images does not see.
    assert not any(torch.equal(one, two) for one, two in zip(first, weights(workload), strict=True))
    workload.infer()


class Pretended:
    """A workload of which each step takes a time of its own on the clock of the test."""

    def __init__(self, given: Load) -> None:
        self.name, self.batch_size = given.model.name, given.batch_size
        self.device = Device(torch.device("cpu"), "fp32")
        if self.name == "large":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …")

    def train(self) -> None:
        Clock.run(self.name, "train", 0.5)
        if self.name == "moody" and Clock.steps.count(("moody", "train")) > 5:
            raise RuntimeError("no more\nof this")

    def infer(self) -> None:
        Clock.run(self.name, "infer", 0.125)


class Clock:
    now = 0.0
    steps: list[tuple[str, str]] = []  # noqa: RUF012

    @classmethod
    def run(cls, name: str, kind: str, seconds: float) -> None:
        cls.now += seconds
        cls.steps.append((name, kind))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Clock]]:
    Clock.now, Clock.steps = 0.0, []
    monkeypatch.setattr(speed, "Workload", Pretended)
    monkeypatch.setattr("raybench.training.speed.time.perf_counter", lambda: Clock.now)
    yield Clock
    Clock.steps = []


def test_models_take_turns_after_a_warm_up_in_a_new_order_each_round(clock: type[Clock]) -> None:
    names = ("one", "two", "three")
    speeds = compare_speeds({name: load(name) for name in names}, repeats=3)
    for name in names:
        rates = speeds[name]
        assert not isinstance(rates, str)
        assert (rates.train.median, rates.train.low, rates.train.high) == (8.0, 8.0, 8.0)  # 4 images in 0.5 s
        assert rates.infer.median == 32.0
    warm_up = len(names) * 2 * speed.WARM_UP_STEPS
    turns = [name for name, kind in clock.steps[warm_up:] if kind == "train"]
    assert turns == ["one", "two", "three", "two", "three", "one", "three", "one", "two"]
    # 0.2 s of steps of 0.125 s are two, behind one that is not timed.
    assert [kind for _, kind in clock.steps[warm_up:]] == ["train", *["infer"] * 3] * 9


def test_warm_up_ends_early_where_a_step_is_long(clock: type[Clock], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "WARM_UP_S", 0.4)
    compare_speeds({"one": load("one")}, repeats=1)
    assert clock.steps[:5] == [("one", "train"), *[("one", "infer")] * 3, ("one", "train")]


def test_a_model_that_fails_before_or_in_between_leaves_the_others_to_go_on(clock: type[Clock]) -> None:
    speeds = compare_speeds({name: load(name) for name in ("large", "moody", "one")}, repeats=5)
    assert speeds["large"] == "out of memory: 2.00 GiB more were asked for"
    assert speeds["moody"] == "RuntimeError: no more"
    assert not isinstance(speeds["one"], str)
    assert clock.steps.count(("one", "train")) == speed.WARM_UP_STEPS + 5
    assert list(speeds) == ["large", "moody", "one"]


def test_errors_without_words_are_named() -> None:
    assert in_words(NotImplementedError()) == "NotImplementedError"


def test_the_footprint_holds_what_a_step_must_hold() -> None:
    taken = footprint(load(batch_size=1024))
    assert not isinstance(taken, str), taken
    # Kept for the backward pass, 1024 images of 17 tokens: 3 x 64 numbers of q, k and v in 4 blocks, and before and
    # behind the GELU 256 in the 3 blocks that make all tokens; 4 bytes each.
    kept = 1024 * 17 * (4 * 3 * 64 + 3 * 2 * 256) * 4 / 2**20
    assert kept < taken.peak_mib - taken.before_mib < 10 * kept
    assert taken.before_mib > 50  # Python and torch


def test_a_footprint_that_cannot_be_taken_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def runs(script: str) -> str:
        (tmp_path / "python").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "python").chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        taken = footprint(load())
        assert isinstance(taken, str)
        return taken

    assert runs("kill -9 $$").startswith("out of memory: its process was killed")
    assert runs("echo oops >&2; exit 3") == "its process ended with exit code 3: oops"
    assert runs("exit 4") == "its process ended with exit code 4"
    assert runs("""echo '{"error": "out of memory"}'""") == "out of memory"


def test_the_peak_is_remembered_when_the_memory_is_given_back() -> None:
    before = memory.peak_resident_mib()
    block = bytearray(b"x" * (64 * 2**20))
    during = memory.peak_resident_mib()
    del block
    assert memory.peak_resident_mib() >= during >= before > 0
