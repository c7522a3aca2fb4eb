"""The books of workers that died: how often, of what, and who gets another."""

from __future__ import annotations

from pathlib import Path

import pytest

from raybench.cluster import deaths
from raybench.cluster.deaths import Deaths, first_line, kills_of_the_kernel

STARVED = "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory."


class Errored:
    """What Tune hands over of its trial."""

    def __init__(self, error: object) -> None:
        self.error = error

    def get_pickled_error(self) -> object:
        """As Tune's trials do."""
        return self.error


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kernel's count of the processes that it ended for want of memory, in the kernel's own format."""
    file = tmp_path / "vmstat"
    file.write_text("pgfault 7\noom_kill 3\nnuma_hit 9\n")
    monkeypatch.setattr(deaths, "VMSTAT", file)
    return file


def test_another_worker_until_the_failures_are_spent(kernel: Path) -> None:  # noqa: ARG001
    books = Deaths(max_failures=2)
    assert [books.again("run", ["a"]) for _ in range(3)] == [True, True, False]
    assert books.reason("run", "a") == "its worker died 3 times"


def test_no_failure_allowed_is_no_second_worker(kernel: Path) -> None:  # noqa: ARG001
    books = Deaths(max_failures=0)
    assert not books.again("run", ["a"])
    assert books.reason("run", "a") == "its worker died 1 time"


def test_a_job_of_several_seeds_goes_as_far_as_the_unluckiest_of_them(kernel: Path) -> None:  # noqa: ARG001
    books = Deaths(max_failures=1)
    assert books.again("first", ["a"])
    assert books.again("second", ["b"])
    assert not books.again("third", ["a", "c"])
    assert books.again("fourth", ["c", "d"]) is False  # c died with a
    assert books.again("fifth", ["d"]) is False
    assert books.reason("third", "b") == "its worker died 1 time"


def test_the_error_that_tune_tells_is_the_reason(kernel: Path) -> None:  # noqa: ARG001
    books = Deaths(max_failures=5)
    books.heard("run", Errored("\n  The actor died unexpectedly.  \nits stack\n"))
    assert books.again("run", ["a"])
    assert books.reason("run", "a") == "its worker died 1 time; last: The actor died unexpectedly."


@pytest.mark.scenario(8)
def test_out_of_memory_by_rays_word_is_tried_once_more_only(kernel: Path) -> None:  # noqa: ARG001
    books = Deaths(max_failures=5)
    for expected in (True, False):
        books.heard("run", Errored(STARVED))
        assert books.again("run", ["a"]) is expected
    assert books.reason("run", "a") == f"out of memory: {STARVED} (its worker died 2 times)"


@pytest.mark.scenario(8)
def test_out_of_memory_by_the_kernels_count_is_tried_once_more_only(kernel: Path) -> None:
    books = Deaths(max_failures=5)
    for count, expected in ((4, True), (5, False)):
        books.handed_out("run")
        kernel.write_text(f"oom_kill {count}\n")
        assert books.again("run", ["a"]) is expected
    assert books.reason("run", "a") == "out of memory: the kernel killed its worker (its worker died 2 times)"


def test_what_the_kernel_ended_before_or_elsewhere_is_not_held_against_a_trial(kernel: Path) -> None:
    before = Deaths(max_failures=5)
    kernel.write_text("oom_kill 8\n")
    before.handed_out("run")
    assert before.again("run", ["a"])
    assert before.reason("run", "a") == "its worker died 1 time"
    elsewhere = Deaths(max_failures=5, local=False)
    elsewhere.handed_out("run")
    kernel.write_text("oom_kill 9\n")
    assert elsewhere.again("run", ["a"])
    assert elsewhere.reason("run", "a") == "its worker died 1 time"


def test_this_machines_kernel_counts() -> None:
    """The real file, where there is one: a whole number that does not fall."""
    first = kills_of_the_kernel()
    assert 0 <= first <= kills_of_the_kernel()


def test_without_the_kernels_word_nothing_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deaths, "VMSTAT", tmp_path / "absent")
    assert kills_of_the_kernel() == 0


@pytest.mark.parametrize(
    ("error", "line"), [(None, ""), ("", ""), ("\n \n", ""), ("\n  one \ntwo", "one"), ("x" * 400, "x" * 300)]
)
def test_the_first_line_of_an_error(error: object, line: str) -> None:
    assert first_line(error) == line


def test_what_was_raised_in_the_worker_is_told_rather_than_where(kernel: Path) -> None:  # noqa: ARG001
    class WrappedError(Exception):
        cause = RuntimeError("two of its workers were ended")

    books = Deaths(max_failures=0)
    books.heard("run", Errored(WrappedError("ray::Trainable.train() (pid=1)")))
    books.again("run", ["a"])
    assert books.reason("run", "a") == "its worker died 1 time; last: two of its workers were ended"
