"""Whether there is room: disk and memory, in words, and what to do where there is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raybench.commands.room import Disk, Memory, disk_text, lacks, memory_text

DISK = Disk(rows=1.0, weights=30.0, predictions=0.5, running=8.0, teachers=0.5, free=1000.0)


def test_the_parts_of_the_disk_that_count_are_named() -> None:
    assert disk_text(DISK) == "disk 40 MiB of 1,000 MiB free (weights 30 MiB, running 8.0 MiB)"
    assert disk_text(Disk(rows=2048.0)) == "disk 2.0 GiB"


def test_what_does_not_fit_on_the_disk_is_said() -> None:
    assert lacks(DISK, None) == []
    (line,) = lacks(replace(DISK, free=39.0), None)
    assert line.startswith("warning: disk: about 40 MiB are needed, 39 MiB are free; checkpoints.keep=none")


def test_memory_is_that_of_all_trials_at_a_time() -> None:
    memory = Memory(1000.0, 4, 8192.0)
    assert memory_text(memory) == "memory 4 x 1,000 MiB of 8.0 GiB"
    assert lacks(Disk(), memory) == []
    (line,) = lacks(Disk(), replace(memory, trials=8))
    assert line == (
        "warning: memory: 8 trials at a time take about 7.8 GiB, a node has 8.0 GiB; --max-concurrent 7 fits"
    )
    assert replace(memory, trials=7).fits


@pytest.mark.parametrize(
    ("memory", "cure"),
    [
        (Memory(9000.0, 1, 8192.0), "a trial take about 8.8 GiB, a node has 8.0 GiB; a smaller batch_size"),
        (Memory(9000.0, 2, 16000.0, of_gpu=True), "a GPU has 15.6 GiB; a larger share (resources.gpu)"),
    ],
    ids=["one trial", "a GPU"],
)
def test_where_less_at_a_time_does_not_help_something_else_is_said(memory: Memory, cure: str) -> None:
    (line,) = lacks(Disk(), memory)
    assert cure in line


def test_what_nobody_has_measured_or_said_is_no_lack() -> None:
    assert memory_text(None) == "memory not known (--probe measures it)"
    assert memory_text(Memory(1000.0, 2, None)) == "memory 2 x 1,000 MiB"
    assert lacks(Disk(weights=1e9), Memory(1e9, 2, None)) == []
