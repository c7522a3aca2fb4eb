"""The cache of logits: the same bits whoever fills it, however often he is killed."""

from __future__ import annotations

import os
import random
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from raybench.data.views import BLOCK
from raybench.distillation.cache import ViewCache, cache_key
from raybench.distillation.packing import Packing
from raybench.errors import RaybenchError, ResultsError

CPU = torch.device("cpu")
IMAGES, VIEWS, CLASSES = 3 * BLOCK + 40, 3, 5


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Threads only hinder tensors this small."""
    torch.set_num_threads(1)


def compute(positions: Tensor, slot: int) -> Tensor:
    """Some logits of these images in this view."""
    numbers = positions[:, None] * 7.3 + torch.arange(CLASSES) * (slot + 1.7)
    return torch.sin(numbers).half()


def slowly(positions: Tensor, slot: int) -> Tensor:
    """The same, a millisecond later."""
    time.sleep(0.001)
    return compute(positions, slot)


def whole(images: int = IMAGES) -> Tensor:
    """(images, VIEWS, CLASSES)."""
    return torch.stack([compute(torch.arange(images), slot) for slot in range(VIEWS)], dim=1).float()


def held(cache: ViewCache, images: int = IMAGES) -> Tensor:
    """All that a cache holds of the first images, (images, VIEWS, CLASSES)."""
    slots = [torch.full((cache.blocks,), slot) for slot in range(cache.views)]
    return torch.stack([cache.rows(images, slot, CPU)(torch.arange(images)) for slot in slots], dim=1)


def parts(*blocks: int) -> list[tuple[int, int]]:
    """All parts of these blocks."""
    return [(block, slot) for block in blocks for slot in range(VIEWS)]


def opened(folder: Path) -> ViewCache:
    return ViewCache(folder, IMAGES, VIEWS, Packing(CLASSES))


def in_process(work: Callable[[], object]) -> int:
    """Run in a forked process (which has torch imported already); returns its id."""
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork beside threads; the child touches none of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except BaseException:
        os._exit(1)


def test_holds_what_was_computed(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    assert cache.missing(IMAGES) == parts(0, 1, 2, 3)
    assert cache.fill(IMAGES, compute) == IMAGES * VIEWS
    assert torch.equal(held(cache), whole())
    assert cache.missing(IMAGES) == []


def test_fills_whole_blocks_and_only_those_asked_for(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    shown: list[tuple[int, int, int]] = []

    def spy(positions: Tensor, slot: int) -> Tensor:
        shown.append((int(positions[0]), len(positions), slot))
        return compute(positions, slot)

    assert cache.fill(BLOCK + 1, spy) == 2 * BLOCK * VIEWS
    assert sorted(shown) == [(start, BLOCK, slot) for start in (0, BLOCK) for slot in range(VIEWS)]
    assert cache.missing(IMAGES) == parts(2, 3)
    with pytest.raises(RuntimeError, match="2 parts are not filled"):
        cache.rows(IMAGES, torch.zeros(4, dtype=torch.int64), CPU)


def test_a_smaller_fill_is_a_prefix_of_a_larger_one_bit_for_bit(tmp_path: Path) -> None:
    small, large = opened(tmp_path / "small"), opened(tmp_path / "large")
    small.fill(100, compute)
    large.fill(IMAGES, compute)
    assert torch.equal(held(small, 100), held(large)[:100])
    small.fill(IMAGES, compute)
    assert (tmp_path / "small/rows.i16").read_bytes() == (tmp_path / "large/rows.i16").read_bytes()


def test_an_epoch_fills_one_slot_of_each_block_and_finds_it_again(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    slots = torch.tensor([2, 0, 1, 2])
    assert cache.fill(IMAGES, compute, slots) == IMAGES
    assert cache.missing(IMAGES, slots) == []
    assert len(cache.missing(IMAGES)) == 4 * (VIEWS - 1)
    rows = cache.rows(IMAGES, slots, CPU)(torch.arange(IMAGES))
    assert torch.equal(rows, whole()[torch.arange(IMAGES), slots[torch.arange(IMAGES) // BLOCK]])
    with pytest.raises(RuntimeError, match="1 parts are not filled"):
        cache.rows(IMAGES, torch.tensor([2, 0, 0, 2]), CPU)


def test_parts_filled_in_any_order_give_the_same_file(tmp_path: Path) -> None:
    at_once, in_turns = opened(tmp_path / "at once"), opened(tmp_path / "in turns")
    at_once.fill(IMAGES, compute)
    for slot in (2, 0, 1):
        for images in (300, IMAGES):
            in_turns.fill(images, compute, torch.full((4,), slot))
    for name in ("rows.i16", "filled.u32"):
        assert (tmp_path / "at once" / name).read_bytes() == (tmp_path / "in turns" / name).read_bytes()


def refuse(positions: Tensor, slot: int) -> Tensor:
    raise AssertionError(f"computed again: {slot} of {positions}")


def test_what_was_verified_here_is_not_computed_again(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.verify(refuse, "here")  # there is nothing yet
    cache.fill(IMAGES, compute)
    cache.mark_verified("here")
    opened(tmp_path).verify(refuse, "here")


@pytest.mark.parametrize("cause", ["another machine", "written since"])
def test_a_part_of_what_others_left_is_computed_again_once(tmp_path: Path, cause: str) -> None:
    cache = opened(tmp_path)
    cache.fill(300, compute)
    cache.mark_verified("there" if cause == "another machine" else "here")
    if cause == "written since":
        cache.fill(IMAGES, compute)
    shown: list[int] = []

    def rounded(positions: Tensor, slot: int) -> Tensor:
        shown.append(len(positions))
        return (compute(positions, slot).float() * (1 + 2**-8)).half()  # as a sum in another order is

    cache.verify(rounded, "here")
    cache.verify(refuse, "here")
    assert len(shown) == 1
    assert shown[0] in (BLOCK, 40)
    assert cache.missing(300) == []


def test_logits_of_another_teacher_are_forgotten(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = opened(tmp_path)
    cache.fill(IMAGES, lambda positions, slot: compute(positions + 1, slot))
    cache.verify(compute, "here")
    assert "not the teacher's logits; the cache is filled anew" in caplog.text
    assert cache.missing(IMAGES) == parts(0, 1, 2, 3)
    cache.fill(IMAGES, compute)
    assert torch.equal(held(cache), whole())


@pytest.mark.parametrize("damage", [b"\x00", b"\xff"])
def test_a_file_overwritten_by_others_is_noticed(tmp_path: Path, damage: bytes) -> None:
    cache = opened(tmp_path)
    cache.fill(IMAGES, compute)
    cache.mark_verified("here")
    (tmp_path / "rows.i16").write_bytes(damage * (tmp_path / "rows.i16").stat().st_size)
    cache.verify(compute, "here")
    assert cache.missing(IMAGES) == parts(0, 1, 2, 3)


NAN = np.array(np.nan, np.float16).view(np.int16)


def damage(cache: ViewCache, block: int, slot: int) -> None:
    """Make one number of one part another, as a bad disk does."""
    rows = np.memmap(cache.folder / "rows.i16", np.int16, "r+", shape=(4, VIEWS, BLOCK, CLASSES))
    rows[block, slot, 7, 2] = NAN
    rows.flush()


def test_a_damaged_part_is_filled_again_alone_before_anybody_learns_from_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened(tmp_path).fill(IMAGES, compute)
    damage(opened(tmp_path), 2, 1)
    opened(tmp_path).mark_verified("here")
    cache, shown = opened(tmp_path), []

    def spy(positions: Tensor, slot: int) -> Tensor:
        shown.append((int(positions[0]) // BLOCK, slot))
        return compute(positions, slot)

    cache.verify(refuse, "here")
    for slot in range(VIEWS):
        rows, _ = cache.take(IMAGES, spy, torch.full((4,), slot), CPU)
        assert torch.equal(rows(torch.arange(IMAGES)), whole()[:, slot])
    assert shown == [(2, 1)]
    assert caplog.text.count("rows from image 512 on were damaged") == 1


def test_damage_found_on_opening_is_no_other_teacher(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.fill(IMAGES, compute)
    everywhere = parts(0, 1, 2, 3)
    for block, slot in everywhere[1:]:
        damage(cache, block, slot)
    cache.verify(compute, "here")
    assert (0, 0) not in cache.missing(IMAGES)
    cache.fill(IMAGES, compute)
    assert torch.equal(cache.part(0, 0), whole()[:BLOCK, 0])  # type: ignore[arg-type]


def test_rows_that_were_written_as_no_numbers_are_an_error_that_names_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = opened(tmp_path)
    monkeypatch.setattr(cache.packing, "pack", lambda values: torch.full(values.shape, int(NAN), dtype=torch.int16))
    cache.fill(IMAGES, compute)
    with pytest.raises(RaybenchError, match=f"{tmp_path}.*not finite"):
        cache.rows(IMAGES, torch.zeros(4, dtype=torch.int64), CPU)


def test_nothing_is_computed_twice(tmp_path: Path) -> None:
    opened(tmp_path).fill(IMAGES, compute)
    assert opened(tmp_path).fill(IMAGES, refuse) == 0


def test_two_processes_fill_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    log = tmp_path / "computed"

    def at_length(positions: Tensor, slot: int) -> Tensor:
        time.sleep(0.05)  # while the other process begins
        return compute(positions, slot)

    def work() -> None:
        rows = opened(folder).fill(IMAGES, at_length)
        with log.open("a") as file:
            file.write(f"{rows}\n")

    children = [in_process(work) for _ in range(2)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    # Each fills what the other is not at; together everything once.
    shares = [int(line) for line in log.read_text().split()]
    assert sum(shares) == IMAGES * VIEWS
    assert min(shares) > 0
    assert torch.equal(held(opened(folder)), whole())


def test_no_bit_depends_on_how_many_threads_fill(tmp_path: Path) -> None:
    seen: set[int] = set()

    def product(positions: Tensor, slot: int) -> Tensor:
        seen.add(torch.get_num_threads())
        return compute(positions, slot)

    torch.set_num_threads(3)
    caches = [opened(tmp_path / str(workers)) for workers in (1, 3)]
    counts = [cache.fill(IMAGES, product, workers=workers) for cache, workers in zip(caches, (1, 3), strict=True)]
    assert counts == [IMAGES * VIEWS] * 2
    assert seen == {1}
    assert torch.get_num_threads() == 3
    assert (tmp_path / "1" / "rows.i16").read_bytes() == (tmp_path / "3" / "rows.i16").read_bytes()


def test_the_fault_of_one_thread_ends_all(tmp_path: Path) -> None:
    def fails(positions: Tensor, slot: int) -> Tensor:
        if slot == 1:
            raise RaybenchError("no view of this number")
        time.sleep(0.01)
        return compute(positions, slot)

    with pytest.raises(RaybenchError, match="no view of this number"):
        opened(tmp_path).fill(IMAGES, fails, workers=2)


def test_who_waits_for_another_looks_at_its_limits(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    looked = 0

    def check() -> None:
        nonlocal looked
        looked += 1
        if looked == 10:
            holder.release()

    holder = cache._lock(0)
    holder.acquire()
    assert cache.fill(100, compute, check=check) == BLOCK * VIEWS
    assert looked >= 10
    holder.acquire()
    with pytest.raises(TimeoutError, match="enough"):
        opened(tmp_path / "other").fill(100, compute, check=enough)
    holder.release()


def enough() -> None:
    raise TimeoutError("enough")


def test_rows_in_use_stay_what_they_were_when_the_cache_is_emptied(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.fill(IMAGES, lambda positions, slot: compute(positions + 1, slot))
    rows = cache.rows(IMAGES, torch.zeros(4, dtype=torch.int64), CPU)
    before = rows(torch.arange(IMAGES))
    opened(tmp_path).verify(compute, "here")
    assert cache.missing(IMAGES) == parts(0, 1, 2, 3)
    assert torch.equal(rows(torch.arange(IMAGES)), before)
    taken, computed = cache.take(IMAGES, compute, torch.zeros(4, dtype=torch.int64), CPU)
    assert computed == IMAGES
    assert torch.equal(taken(torch.arange(IMAGES)), whole()[:, 0])


def test_rows_that_are_kept_in_part_are_alike_whatever_rounding_does_to_the_last_kept(tmp_path: Path) -> None:
    classes = 300

    def logits(positions: Tensor, slot: int, other: float = 0.0) -> Tensor:
        numbers = torch.Generator().manual_seed(slot)
        found = torch.randn(len(positions), classes, generator=numbers).sort(descending=True).values
        # The 64th and 65th nearly tie, and swap.
        found[:, 64] = found[:, 63] - 1e-4 + other
        return found

    def elsewhere(positions: Tensor, slot: int) -> Tensor:
        return logits(positions, slot, 2e-4)

    cache = ViewCache(tmp_path, 100, 1, Packing(classes))
    cache.fill(100, logits)
    assert not torch.equal(cache._decoded(0, 0, cache._mapped()), cache._computed(0, 0, elsewhere))
    cache.verify(elsewhere, "here")
    assert cache.missing(100) == []
    cache.verify(lambda positions, slot: logits(positions, slot).flip(1), "elsewhere")
    assert cache.missing(100) == [(0, 0)]


def test_killed_at_random_moments_and_filled_again_gives_the_same_file(tmp_path: Path) -> None:
    moments = random.Random(3)
    for _ in range(8):
        child = in_process(lambda: opened(tmp_path / "killed").fill(IMAGES, slowly))
        time.sleep(moments.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    cache = opened(tmp_path / "killed")
    cache.fill(IMAGES, compute)
    opened(tmp_path / "whole").fill(IMAGES, compute)
    for name in ("rows.i16", "filled.u32"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert torch.equal(held(cache), whole())


@pytest.mark.parametrize("name", ["rows.i16", "filled.u32"])
@pytest.mark.parametrize("content", [b"", b"foreign", None])
def test_a_truncated_foreign_or_missing_file_is_filled_again(tmp_path: Path, name: str, content: bytes | None) -> None:
    opened(tmp_path).fill(IMAGES, compute)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    cache = opened(tmp_path)
    # Marks without their logits would teach zeros.
    assert cache.missing(IMAGES) == parts(0, 1, 2, 3)
    cache.fill(IMAGES, compute)
    assert torch.equal(held(cache), whole())


def test_logits_that_are_not_finite_are_refused_and_not_marked(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    with pytest.raises(RaybenchError, match="not finite"):
        cache.fill(IMAGES, lambda positions, slot: compute(positions, slot) / 0)
    assert cache.missing(1) == parts(0)


def test_a_full_disk_is_named_and_kills_nothing(disk: Callable[[str], Path]) -> None:
    cache = ViewCache(disk("size=64k"), 64 * BLOCK, VIEWS, Packing(CLASSES))  # 480 KiB, sparse
    with pytest.raises(ResultsError, match=r"disk full.*RAYBENCH_CACHE"):
        cache.fill(64 * BLOCK, compute)
    missing = set(cache.missing(64 * BLOCK))
    filled = [part for part in parts(*range(64)) if part not in missing]
    assert missing
    assert filled
    for block, slot in filled:
        known = np.fromfile(cache.folder / "rows.i16", np.int16).reshape(64, VIEWS, BLOCK, CLASSES)[block, slot]
        again = compute(torch.arange(block * BLOCK, (block + 1) * BLOCK), slot)
        assert torch.equal(torch.from_numpy(known).view(torch.float16), again)


def test_key_depends_on_everything_it_is_given() -> None:
    keys = {cache_key(a=1), cache_key(a=2), cache_key(a="1"), cache_key(b=1), cache_key(a=1, b=1)}
    assert len(keys) == 5
    assert cache_key(a=1, b=2) == cache_key(b=2, a=1)
    assert all(len(key) == 16 and int(key, 16) >= 0 for key in keys)


def test_size_is_that_of_the_file(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.fill(IMAGES, compute)
    assert cache.size_mib == (tmp_path / "rows.i16").stat().st_size / 2**20
    assert np.fromfile(tmp_path / "rows.i16", np.int16).size == 4 * BLOCK * VIEWS * CLASSES
