"""Batches: which view an image shows depends on seed, epoch and image, and on no batch or train size."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raybench.config.trial import DatasetConfig
from raybench.data import ImageData
from raybench.data.views import BLOCK, draw_slots, plain_view, render, view_table
from raybench.errors import DataError
from raybench.training import batches
from raybench.training.batches import (
    EVERYTHING,
    Batch,
    Kept,
    PlainImages,
    Share,
    TrainingImages,
    plain_size,
    view_size,
    views_of,
)

CPU = torch.device("cpu")
CONFIG = DatasetConfig(name="any", augment=("crop2", "hflip"), views=6)
N = 90


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Threads only hinder tensors this small."""
    torch.set_num_threads(1)


def data(n: int = N) -> ImageData:
    """Random images of 6 px in which no two are alike."""
    numbers = np.random.default_rng(1)
    images = numbers.integers(0, 256, (n, 3, 6, 6), dtype=np.uint8)
    labels = np.arange(n, dtype=np.int64) % 4
    return ImageData(
        name="any",
        train_images=images,
        train_labels=labels,
        test_images=images[:5],
        test_labels=labels[:5],
        classes=("a", "b", "c", "d"),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        variant="embedded",
        fingerprint="0" * 12,
    )


def images(indices: list[int] | None = None, config: DatasetConfig = CONFIG) -> TrainingImages:
    chosen = np.arange(N) if indices is None else np.array(indices)
    return TrainingImages(data(), chosen, config, CPU)


def shown(training: TrainingImages, epoch: int, seed: int, batch_size: int) -> dict[int, torch.Tensor]:
    """Image number -> the view it showed."""
    found: dict[int, torch.Tensor] = {}
    for batch in training.epoch(epoch, seed, batch_size):
        for position, view in zip(batch.positions.tolist(), batch.views, strict=True):
            found[int(training.indices[position])] = view
    return found


def everything(batches: Iterator[Batch]) -> list[torch.Tensor]:
    return [tensor for b in batches for tensor in (b.positions, b.slots, b.views, b.labels)]


def test_every_image_once_an_epoch_with_its_label() -> None:
    training = images([7, 3, 50, 51, 2])
    batches = list(training.epoch(0, 0, 2))
    positions = torch.cat([batch.positions for batch in batches])
    assert sorted(positions.tolist()) == [0, 1, 2, 3, 4]
    labels = torch.cat([batch.labels for batch in batches])
    assert torch.equal(labels, training.indices[positions] % 4)


def test_a_view_depends_on_seed_epoch_and_image_alone() -> None:
    whole = shown(images(), epoch=3, seed=5, batch_size=32)
    # Another subset, in another order, in batches of another size.
    part = shown(images([80, 4, 33, 2, 70, 11]), epoch=3, seed=5, batch_size=4)
    assert set(part) == {80, 4, 33, 2, 70, 11}
    assert all(torch.equal(view, whole[index]) for index, view in part.items())


def test_images_of_a_block_show_one_slot_and_a_smaller_part_the_same_views() -> None:
    many = data(3 * BLOCK)
    order = np.random.default_rng(2).permutation(3 * BLOCK)
    whole, part = (TrainingImages(many, order[:n], CONFIG, CPU) for n in (3 * BLOCK, BLOCK + 10))
    for epoch in range(4):
        slots = whole.block_slots(epoch, 1)
        views = shown(whole, epoch, 1, 100)
        for index, view in shown(part, epoch, 1, 32).items():
            assert torch.equal(view, views[index])
        for batch in whole.epoch(epoch, 1, 100):
            assert torch.equal(batch.slots, slots[batch.positions // BLOCK])
        assert torch.equal(part.block_slots(epoch, 1), slots[:2])
    assert len({tuple(whole.block_slots(epoch, 1).tolist()) for epoch in range(20)}) > 10


def test_with_all_views_each_image_of_a_block_shows_its_own_and_every_one_in_time() -> None:
    config = CONFIG.model_copy(update={"views": "all"})
    training = TrainingImages(data(), np.arange(N), config, CPU)
    assert training.views == 50
    for epoch in range(3):
        codes = torch.cat([training.codes(batch.positions, batch.slots) for batch in training.epoch(epoch, 0, 30)])
        # 90 draws of 50 leave 50 * (1 - exp(-1.8)) = 42 different ones.
        assert len(set(codes.tolist())) > 30
        for batch in training.epoch(epoch, 0, 30):
            assert torch.equal(training.render(batch.positions, batch.slots), batch.views)
    of_one = {int(training.codes(torch.tensor([3]), training.block_slots(epoch, 0)[:1])) for epoch in range(400)}
    assert len(of_one) == 50  # P(one of 50 missing in 400 draws) is 50 * 0.98^400 = 0.015; and the draws are fixed


def test_the_view_is_the_one_of_the_table() -> None:
    table = view_table(N, CONFIG.augment, 6)
    stored = torch.from_numpy(data().train_images)
    for index, view in shown(images(), epoch=2, seed=1, batch_size=16).items():
        at = torch.tensor([index])
        code = table[index, draw_slots(at // BLOCK, 2, 1, 6)]
        assert torch.equal(render(stored, at, code, CONFIG.augment)[0], view)


def test_another_epoch_or_seed_shows_other_views_in_another_order() -> None:
    training = images()
    first = everything(training.epoch(0, 0, 32))
    assert all(torch.equal(a, b) for a, b in zip(first, everything(training.epoch(0, 0, 32)), strict=True))
    for epoch, seed in ((1, 0), (0, 1)):
        other = everything(training.epoch(epoch, seed, 32))
        assert not torch.equal(first[0], other[0])
        views = shown(training, epoch, seed, 32)
        assert any(not torch.equal(view, views[i]) for i, view in shown(training, 0, 0, 32).items())


def test_rendering_positions_and_slots_again_gives_the_batchs_views() -> None:
    # This is how the cache of logits is filled: a teacher must see what the student will.
    training = images([5, 60, 9, 8, 77])
    for batch in training.epoch(4, 2, 3):
        assert torch.equal(training.render(batch.positions, batch.slots), batch.views)


def test_each_epoch_draws_from_the_fixed_views_only() -> None:
    training = images([5])
    slots = {int(batch.slots[0]) for epoch in range(60) for batch in training.epoch(epoch, 0, 8)}
    assert slots == set(range(6))  # P(one of 6 missing in 60 draws) is 1e-4; and the draws are fixed


def test_without_augmentation_the_image_itself() -> None:
    plain = DatasetConfig(name="any")
    training = images(config=plain)
    assert training.views == views_of(plain) == 1
    assert plain_view(()) == 0
    for index, view in shown(training, 0, 0, 32).items():
        assert torch.equal(view, torch.from_numpy(data().train_images[index]))


def test_all_views_are_as_many_as_the_augmentation_has() -> None:
    config = DatasetConfig(name="any", augment=("crop2", "hflip"))
    assert images(config=config).views == views_of(config) == 50


@pytest.mark.parametrize(
    ("batch_size", "sizes"),
    [(30, [30, 30, 30]), (40, [40, 40, 10]), (89, [90]), (44, [44, 44, 2]), (200, [90]), (1, [1] * 90)],
)
def test_sizes_of_batches(batch_size: int, sizes: list[int]) -> None:
    training = images()
    found = [len(batch.labels) for batch in training.epoch(0, 0, batch_size)]
    assert found == sizes
    assert training.steps(batch_size) == len(sizes)


def test_a_single_image_left_over_joins_the_batch_before() -> None:
    # Batch normalisation refuses to train on one value a channel.
    assert [len(batch.labels) for batch in images(list(range(9))).epoch(0, 0, 4)] == [4, 5]
    assert [len(batch.labels) for batch in images([3]).epoch(0, 0, 4)] == [1]


def test_plain_images_are_all_there_in_order() -> None:
    source = data()
    chosen = np.array([4, 1, 8, 30, 2])
    batches = list(PlainImages(source.train_images, source.train_labels, chosen, CPU).batches(2))
    assert [len(labels) for _, labels in batches] == [2, 2, 1]
    assert torch.equal(torch.cat([views for views, _ in batches]), torch.from_numpy(source.train_images[chosen]))
    assert torch.equal(torch.cat([labels for _, labels in batches]), torch.from_numpy(source.train_labels[chosen]))


@pytest.mark.gpu
def test_the_same_batches_on_a_gpu() -> None:
    chosen = np.arange(N)
    on_gpu = TrainingImages(data(), chosen, CONFIG, torch.device("cuda", 0)).epoch(3, 1, 32)
    for here, there in zip(everything(images().epoch(3, 1, 32)), everything(on_gpu), strict=True):
        assert there.is_cuda
        assert torch.equal(here, there.cpu())


ENDLESS = ("hflip", "rand-m9-mstd0.5-inc1", "rrc")


def endless(views: Any, **changes: Any) -> DatasetConfig:
    return DatasetConfig(name="any", **({"augment": ENDLESS, "views": views, "image_size": 5} | changes))


@pytest.mark.parametrize("views", ["all", 4])
def test_endless_views_depend_on_seed_epoch_and_image_alone(views: Any) -> None:
    config = endless(views)
    whole = shown(images(config=config), epoch=3, seed=5, batch_size=32)
    part = shown(images([80, 4, 33, 2, 70, 11], config), epoch=3, seed=5, batch_size=4)
    assert set(part) == {80, 4, 33, 2, 70, 11}
    assert all(torch.equal(view, whole[index]) for index, view in part.items())
    assert {tuple(view.shape) for view in whole.values()} == {(3, 5, 5)}


def test_of_endless_views_every_epoch_shows_a_fresh_one() -> None:
    training = images([5], endless("all"))
    seen = {batch.views.numpy().tobytes() for epoch in range(30) for batch in training.epoch(epoch, 0, 8)}
    assert len(seen) == 30
    assert {int(batch.slots[0]) for batch in training.epoch(3, 0, 8)} == {0}


def test_fixed_endless_views_are_rendered_again_for_a_cache() -> None:
    training = images([5, 60, 9, 8, 77], endless(3))
    assert training.views == views_of(endless(3)) == 3
    seen = set()
    for epoch in range(20):
        for batch in training.epoch(epoch, 2, 3):
            assert torch.equal(training.render(batch.positions, batch.slots), batch.views)
            seen |= set(zip(batch.positions.tolist(), batch.slots.tolist(), strict=True))
    assert len(seen) == 15
    more = images([5, 60, 9, 8, 77], endless(7))
    positions, slots = torch.arange(5), torch.tensor([0, 2, 1, 2, 0])
    assert torch.equal(more.render(positions, slots), training.render(positions, slots))


def test_logits_of_endless_views_cannot_be_computed_before() -> None:
    training = images(config=endless("all"))
    for ask in (
        lambda: views_of(endless("all")),
        lambda: training.views,
        lambda: training.render(torch.arange(2), torch.zeros(2, dtype=torch.int64)),
    ):
        with pytest.raises(DataError, match=r"set dataset\.views to how many .* or distillation\.cache=off"):
            ask()


def test_of_photos_the_middle_is_evaluated() -> None:
    photos = DatasetConfig(name="image_folder", path="x.zip", decode_size=6, image_size=4)
    source = data()
    plain = PlainImages(source.train_images, source.train_labels, None, CPU, plain_size(photos))
    views = torch.cat([views for views, _ in plain.batches(32)])
    assert torch.equal(views, torch.from_numpy(source.train_images[:, :, 1:5, 1:5]))
    for index, view in shown(images(config=photos), 0, 0, 32).items():
        assert torch.equal(view, views[index])
    # Images that are no photos are resized when a model takes them in.
    assert plain_size(DatasetConfig(name="any", image_size=4)) is None
    assert view_size(DatasetConfig(name="any", image_size=4, augment=("crop2",))) is None
    assert view_size(DatasetConfig(name="any", image_size=4, augment=("rrc",))) == 4


def test_images_are_not_copied_on_a_cpu() -> None:
    source = data()
    for kept in (Kept(source.train_images, np.array([80, 4, 33]), CPU), Kept(source.train_images, None, CPU)):
        assert kept.images.data_ptr() == source.train_images.ctypes.data
        images, places = kept.at(torch.tensor([2, 0]))
        assert torch.equal(images[places], kept.run(0, 3)[[2, 0]])


@pytest.mark.parametrize("share", [EVERYTHING, Share(1, 3)])
@pytest.mark.parametrize("config", [CONFIG, endless("all"), endless(3)], ids=["numbered", "fresh", "fixed"])
def test_batches_are_the_same_where_the_next_is_gathered_beforehand(
    config: DatasetConfig, share: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = images(config=config)
    expected = everything(training.epoch(1, 2, 32, share))
    asked: list[threading.Thread] = []
    ready = Kept.ready

    def spy(kept: Kept, positions: Tensor) -> Tensor:
        asked.append(threading.current_thread())
        return ready(kept, positions)

    monkeypatch.setattr(Kept, "ready", spy)
    monkeypatch.setattr(Kept, "on_device", False)  # as where a GPU has no room for the images
    found = everything(training.epoch(1, 2, 32, share))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert len(asked) == 3
    assert threading.main_thread() not in asked
    left = training.epoch(1, 2, 32, share)
    next(left)
    del left
    assert not any(thread.name.startswith("ahead") for thread in threading.enumerate())


@pytest.mark.gpu
@pytest.mark.parametrize("config", [CONFIG, endless("all"), endless(3)], ids=["numbered", "fresh", "fixed"])
@pytest.mark.parametrize("room", [0, 2**40])
def test_a_gpu_shows_the_same_views_with_and_without_room_for_the_images(
    config: DatasetConfig, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_room", lambda _: room)
    cuda, chosen, source = torch.device("cuda", 0), np.array([80, 4, 33, 2, 70, 11]), data()
    expected = everything(TrainingImages(source, chosen, config, CPU).epoch(1, 2, 4))
    found = everything(TrainingImages(source, chosen, config, cuda).epoch(1, 2, 4))
    assert all(torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True))
    plain = (PlainImages(source.train_images, source.train_labels, chosen, device).batches(4) for device in (CPU, cuda))
    for (views, labels), (others, other_labels) in zip(*plain, strict=True):
        assert torch.equal(views, others.cpu())
        assert torch.equal(labels, other_labels.cpu())
