from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from raybench.data import views
from raybench.errors import DataError

torch.set_num_threads(1)
BOTH = ("crop4", "hflip")
AUGMENTS: list[tuple[str, ...]] = [(), ("hflip",), ("crop1",), ("crop2", "hflip"), ("hflip", "crop2"), BOTH]


def random_images(n: int, channels: int = 3, height: int = 32, width: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n + channels + height + width)
    return torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8, generator=generator)


def published(image: torch.Tensor, code: int, functional: Any, as_pillow: bool) -> torch.Tensor:
    """The view by torchvision: pad, crop, flip, one image at a time."""
    dy, dx, flip = code // 2 // 9, code // 2 % 9, code % 2
    picture = functional.to_pil_image(image) if as_pillow else image
    picture = functional.crop(functional.pad(picture, 4, fill=0), dy, dx, 32, 32)
    picture = functional.hflip(picture) if flip else picture
    return functional.pil_to_tensor(picture) if as_pillow else picture  # type: ignore[no-any-return]


@pytest.mark.parametrize("as_pillow", [True, False])
def test_every_view_has_the_bits_of_torchvision(as_pillow: bool) -> None:
    from torchvision.transforms.v2 import functional

    images = random_images(5)
    codes = torch.arange(views.view_count(BOTH))
    indices = codes % 5
    assert len(codes) == 162
    expected = [published(images[code % 5], code, functional, as_pillow) for code in codes.tolist()]
    assert torch.equal(views.render(images, indices, codes, BOTH), torch.stack(expected))


@given(st.sampled_from(AUGMENTS), st.sampled_from([1, 3]), st.integers(3, 9), st.integers(3, 9), st.integers(1, 7))
@settings(deadline=None)
def test_any_shape(augment: tuple[str, ...], channels: int, height: int, width: int, batch: int) -> None:
    images = random_images(4, channels, height, width)
    total = views.view_count(augment)
    indices, codes = torch.arange(batch) % 4, (torch.arange(batch) * 7 % total).to(torch.int16)
    rendered = views.render(images, indices, codes, augment)
    p = next((int(name[4:]) for name in augment if name.startswith("crop")), 0)
    padded = F.pad(images, (p, p, p, p))
    for row in range(batch):
        code = int(codes[row])
        code, flip = divmod(code, 2) if "hflip" in augment else (code, 0)
        dy, dx = divmod(code, 2 * p + 1)
        view = padded[row % 4, :, dy : dy + height, dx : dx + width]
        assert torch.equal(rendered[row], view.flip(2) if flip else view)


@pytest.mark.parametrize("augment", AUGMENTS)
def test_the_plain_view_is_the_image(augment: tuple[str, ...]) -> None:
    images = random_images(6, height=8, width=8)
    codes = torch.full((6,), views.plain_view(augment))
    assert torch.equal(views.render(images, torch.arange(6), codes, augment), images)


@pytest.mark.parametrize(
    ("augment", "count"), [((), 1), (("hflip",), 2), (("crop4",), 81), (BOTH, 162), (("crop63", "hflip"), 32258)]
)
def test_view_count(augment: tuple[str, ...], count: int) -> None:
    assert views.view_count(augment) == count


@pytest.mark.parametrize("augment", [(), ("hflip",), ("crop1",), BOTH])
def test_every_view_has_its_slot_and_images_in_one_slot_differ(augment: tuple[str, ...]) -> None:
    count = views.view_count(augment)
    images = torch.arange(400)
    codes = torch.stack([views.turned_codes(images, torch.full((400,), slot), augment) for slot in range(count)], dim=1)
    assert torch.equal(codes.sort(dim=1).values, torch.arange(count).expand(400, count))
    # In any slot the images show all views, each about as often: 400 / count of them, 6 sigma.
    shown = torch.bincount(codes[:, count // 2], minlength=count)
    mean = 400 / count
    assert (shown - mean).abs().max() <= 6 * mean**0.5 if count > 1 else shown.tolist() == [400]
    assert torch.equal(views.turned_codes(images[7:9], torch.tensor([0, 0]), augment), codes[7:9, 0])


def test_unknown_or_too_wide_augmentation() -> None:
    with pytest.raises(DataError, match='unknown augmentation "mixup"'):
        views.view_count(("mixup",))
    with pytest.raises(DataError, match="33282 views"):
        views.view_count(("crop64", "hflip"))


@given(st.integers(1, 40), st.sampled_from(AUGMENTS), st.data())
@settings(deadline=None)
def test_table_rows_are_distinct_prefixes(n: int, augment: tuple[str, ...], data: st.DataObject) -> None:
    total = views.view_count(augment)
    large = data.draw(st.integers(1, total))
    small = data.draw(st.integers(1, large))
    table = views.view_table(n, augment, large)
    assert table.shape == (n, large)
    assert table.dtype == torch.int16
    assert 0 <= int(table.min()) <= int(table.max()) < total
    assert all(len(set(row)) == large for row in table.tolist())
    assert torch.equal(views.view_table(n, augment, small), table[:, :small])
    assert torch.equal(views.view_table(n + 3, augment, large)[:n], table)


def test_table_in_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = views.view_table(50, BOTH, 5)
    monkeypatch.setattr(views, "TABLE_CHUNK", 7 * 162)
    assert torch.equal(views.view_table(50, BOTH, 5), whole)


def test_table_uses_all_views_evenly() -> None:
    n, total = 16_200, 162
    counts = torch.bincount(views.view_table(n, BOTH, 1).flatten().long(), minlength=total)
    chi2 = float(((counts - n / total) ** 2 / (n / total)).sum())
    # 161 degrees of freedom: mean 161, standard deviation 18; 90..250 is five of them to the upper side.
    assert 90 < chi2 < 250


@pytest.mark.parametrize("wanted", [0, 163])
def test_more_views_than_there_are(wanted: int) -> None:
    with pytest.raises(DataError, match=f"views = {wanted}.* 1 to 162"):
        views.view_table(3, BOTH, wanted)


@given(st.permutations(range(30)), st.integers(0, 500), st.integers(0, 99), st.integers(1, 162))
@settings(deadline=None)
def test_slots_do_not_depend_on_the_batch(order: list[int], epoch: int, seed: int, k: int) -> None:
    indices = torch.tensor(order)
    slots = views.draw_slots(indices, epoch, seed, k)
    assert slots.dtype == torch.int64
    assert torch.equal(slots, views.draw_slots(torch.arange(30), epoch, seed, k)[indices])
    assert torch.equal(slots[3:9], views.draw_slots(indices[3:9], epoch, seed, k))
    assert 0 <= int(slots.min()) <= int(slots.max()) < k


def test_slots_are_uniform_over_images_and_over_epochs() -> None:
    k, n = 10, 50_000
    over_images = torch.bincount(views.draw_slots(torch.arange(n), 3, 0, k), minlength=k)
    one = torch.tensor([17])
    over_epochs = torch.bincount(torch.cat([views.draw_slots(one, e, 0, k) for e in range(5000)]), minlength=k)
    for counts, total in ((over_images, n), (over_epochs, 5000)):
        chi2 = float(((counts - total / k) ** 2 / (total / k)).sum())
        assert chi2 < 33.7  # 9 degrees of freedom, p = 1e-4


def test_seeds_and_epochs_draw_independently() -> None:
    indices = torch.arange(20_000)
    first = views.draw_slots(indices, 0, 0, 10)
    for epoch, seed in ((1, 0), (0, 1)):
        same = float((first == views.draw_slots(indices, epoch, seed, 10)).double().mean())
        assert abs(same - 0.1) < 0.011  # five standard deviations of a share of 0.1 in 20,000


def test_epoch_order_is_a_permutation_of_its_own() -> None:
    orders = [views.epoch_order(1000, epoch, seed) for epoch, seed in ((0, 0), (1, 0), (0, 1))]
    for order in orders:
        assert sorted(order.tolist()) == list(range(1000))
    assert torch.equal(orders[0], views.epoch_order(1000, 0, 0))
    # Two random permutations share one place on average (Poisson); 12 would be p < 1e-9.
    assert all(int((orders[0] == other).sum()) < 12 for other in orders[1:])


def test_epoch_order_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    views.epoch_order(100, 2, 3)
    assert torch.equal(torch.rand(1), expected)


def test_normalise_is_what_torchvision_does() -> None:
    from torchvision.transforms.v2 import functional

    batch, mean, std = random_images(4), (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
    expected = functional.normalize(functional.to_dtype(batch, torch.float32, scale=True), list(mean), list(std))
    # One rounding of float32 in a value of at most 5.
    assert torch.allclose(views.normalise(batch, mean, std, 32), expected, rtol=0, atol=1e-6)
    resized = views.normalise(batch, (0.0,) * 3, (1.0,) * 3, 48)
    plain = F.interpolate(batch.float() / 255, size=(48, 48), mode="bilinear", align_corners=False)
    assert torch.equal(resized, plain)
    assert resized.dtype == torch.float32


def test_normalise_leaves_the_batch_alone_and_wants_matching_channels() -> None:
    batch = random_images(2)
    before = batch.clone()
    views.normalise(batch, (0.5,) * 3, (0.5,) * 3)
    assert torch.equal(batch, before)
    with pytest.raises(DataError, match="3 channels"):
        views.normalise(batch, (0.5,), (0.5,))


def test_render_takes_memory_mapped_images(tmp_path: Any) -> None:
    np.save(tmp_path / "images.npy", random_images(3).numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "images.npy", mmap_mode="c"))
    plain = torch.full((3,), views.plain_view(BOTH))
    assert torch.equal(views.render(mapped, torch.arange(3), plain, BOTH), random_images(3))


@pytest.mark.gpu
def test_same_bits_on_a_gpu() -> None:
    images, indices = random_images(64), torch.arange(162) % 64
    codes = torch.arange(162)
    on_gpu = views.render(images.cuda(), indices.cuda(), codes.cuda(), BOTH)
    assert torch.equal(on_gpu.cpu(), views.render(images, indices, codes, BOTH))
    slots = views.draw_slots(indices.cuda(), 3, 1, 10)
    assert torch.equal(slots.cpu(), views.draw_slots(indices, 3, 1, 10))
