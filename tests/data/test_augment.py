"""Endless views: functions of (image, code), with codes of (seed, epoch, image) or (image, slot)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from raybench.config.augmentation import RandAugment, parse
from raybench.data import rand_augment, views
from raybench.data.erasing import AREAS, RATIOS, erase, erased_boxes
from raybench.data.operations import NUMBER, OPERATIONS, apply
from raybench.data.rand_augment import TIMM, TORCHVISION, plan
from raybench.data.resampling import centre_crop, crop_boxes, resize_boxes
from raybench.errors import DataError

torch.set_num_threads(1)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
ALL = ("erasing0.5", "hflip", "rand-m9-mstd0.5-inc1", "rrc")
ENDLESS = [
    ("rrc",),
    ("hflip", "rrc0.25"),
    ("hflip", "randaugment-n2-m9"),
    ("crop3", "rand-m9-mstd0.5-inc1"),
    ("erasing0.5",),
    ALL,
    ("crop2", "erasing1", "hflip", "randaugment-n3-m15"),
]
N = 20_000


def pictures(n: int, size: int = 24, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n + size)
    return torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=generator)


def codes(n: int, epoch: int = 0) -> torch.Tensor:
    return views.fresh_codes(torch.arange(n), epoch, 0)


def shown(images: torch.Tensor, at: torch.Tensor, augment: tuple[str, ...], **options: Any) -> torch.Tensor:
    return views.render(images, torch.arange(len(images)), at, augment, mean=MEAN, std=STD, **options)


@pytest.mark.parametrize("augment", ENDLESS, ids="+".join)
def test_a_view_is_the_same_alone_in_any_batch_and_in_any_order(augment: tuple[str, ...]) -> None:
    images, at = pictures(70), codes(70)
    together = shown(images, at, augment, size=20 if "rrc" in augment else None)
    order = torch.randperm(70, generator=torch.Generator().manual_seed(1))
    shuffled = views.render(
        images, order, at[order], augment, size=20 if "rrc" in augment else None, mean=MEAN, std=STD
    )
    assert torch.equal(shuffled, together[order])
    for row in (0, 13, 69):
        one = slice(row, row + 1)
        alone = shown(images[one], at[one], augment, size=20 if "rrc" in augment else None)
        assert torch.equal(alone[0], together[row])
    assert together.dtype == torch.uint8
    assert together.is_contiguous()


@pytest.mark.parametrize("augment", ENDLESS, ids="+".join)
def test_no_generator_is_asked_and_other_codes_are_other_views(augment: tuple[str, ...]) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    images = pictures(20)
    first, second = (shown(images, codes(20, epoch), augment) for epoch in (0, 1))
    assert torch.equal(torch.rand(1), expected)
    assert float((first != second).flatten(1).any(1).float().mean()) > 0.4


def test_codes_are_of_63_bits_and_functions_of_what_they_say() -> None:
    indices = torch.arange(1000)
    fresh = views.fresh_codes(indices, 3, 7)
    assert int(fresh.min()) >= 0
    assert len(set(fresh.tolist())) == 1000
    assert torch.equal(views.fresh_codes(indices[[5, 999, 0]], 3, 7), fresh[[5, 999, 0]])
    for other in (views.fresh_codes(indices, 4, 7), views.fresh_codes(indices, 3, 8)):
        assert not (set(other.tolist()) & set(fresh.tolist()))


def test_fixed_codes_are_prefixes_and_differ_by_augmentation() -> None:
    table = views.view_table(50, ALL, 6)
    assert table.shape == (50, 6)
    assert table.dtype == torch.int64
    assert len(set(table.flatten().tolist())) == 300
    assert torch.equal(views.view_table(50, ALL, 2), table[:, :2])
    assert torch.equal(views.view_table(70, ALL, 6)[:50], table)
    assert torch.equal(views.fixed_codes(torch.tensor([7, 9]), torch.tensor([5, 0]), ALL), table[[7, 9], [5, 0]])
    assert not torch.equal(views.view_table(50, ("rrc",), 6), table)


def test_what_has_no_end_cannot_be_numbered() -> None:
    assert views.endless(ALL)
    assert not views.endless(("crop4", "hflip"))
    with pytest.raises(DataError, match=r"no end of views; set dataset\.views"):
        views.view_count(ALL)


def test_rrc_is_its_box_resized_and_hflip_mirrors_half_of_the_views() -> None:
    images, at = pictures(200), codes(200)
    plain = resize_boxes(images, crop_boxes(at, 24, 24, 0.3), 16, 16)
    assert torch.equal(shown(images, at, ("rrc0.3",), size=16), plain)
    mirrored = shown(images, at, ("hflip", "rrc0.3"), size=16)
    same = (mirrored == plain).flatten(1).all(1)
    turned = (mirrored == plain.flip(3)).flatten(1).all(1)
    assert bool((same | turned).all())
    assert 65 < int(turned.sum()) < 135  # five standard deviations, 7, of 200 halves


def test_a_crop_among_endless_words_is_one_of_the_numbered_crops() -> None:
    images = pictures(40, 12)
    drawn = shown(images, codes(40), ("crop2", "erasing0.0001", "hflip"))
    numbered = views.render(
        images.repeat_interleave(50, 0), torch.arange(2000), torch.arange(50).repeat(40), ("crop2", "hflip")
    ).view(40, 50, 3, 12, 12)
    hits = (numbered == drawn[:, None]).flatten(2).all(2).sum(1)
    assert int(hits.min()) >= 1


def test_views_of_photos_start_from_the_middle() -> None:
    photos = pictures(5, 32)
    assert torch.equal(shown(photos, torch.zeros(5), (), size=24), centre_crop(photos, 24))
    flipped = shown(photos, torch.ones(5), ("hflip",), size=24)
    assert torch.equal(flipped, centre_crop(photos, 24).flip(3))
    cropped = shown(photos, torch.full((5,), views.plain_view(("crop2",))), ("crop2",), size=24)
    assert torch.equal(cropped, centre_crop(photos, 24))


def expected_share(found: torch.Tensor, share: float) -> bool:
    """Within five standard deviations of a share of as many draws."""
    return abs(float(found.double().mean()) - share) < 5 * math.sqrt(share * (1 - share) / len(found)) + 1e-12


@pytest.mark.parametrize(
    ("words", "names", "probability"),
    [("rand-m9-mstd0.5-inc1", TIMM, 0.5), ("rand-m9-p0.8", TIMM, 0.8), ("randaugment-n2-m9", TORCHVISION, 1.0)],
)
def test_every_operation_is_as_likely_in_every_layer(words: str, names: tuple[str, ...], probability: float) -> None:
    config = parse((words,)).rand
    assert config is not None
    layers = [plan(codes(N), layer, config, 32, 32)[0] for layer in range(2)]
    for operations in layers:
        for name in names:
            share = probability / len(names) + (1 - probability if name == "identity" else 0)
            assert expected_share(operations == NUMBER[name], share), name
        assert expected_share(
            operations == NUMBER["identity"], 1 - probability + probability * ("identity" in names) / 14
        )
    # Layers are drawn independently.
    both = (layers[0] == NUMBER["invert"]) & (layers[1] == NUMBER["equalize"])
    if "invert" in names:
        assert expected_share(both, (probability / len(names)) ** 2)


def strengths_of(words: str, name: str, edge: int = 32) -> torch.Tensor:
    config = parse((words,)).rand
    assert config is not None
    operations, strengths = plan(codes(N), 0, config, edge, edge)
    return strengths[operations == NUMBER[name]]


TIMM_NAMES = {
    "rotate": "Rotate",
    "posterize": "PosterizeIncreasing",
    "solarize": "SolarizeIncreasing",
    "solarize_add": "SolarizeAdd",
    "color": "ColorIncreasing",
    "contrast": "ContrastIncreasing",
    "brightness": "BrightnessIncreasing",
    "sharpness": "SharpnessIncreasing",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateXRel",
    "translate_y": "TranslateYRel",
}


@pytest.mark.parametrize("increasing", [0, 1])
@pytest.mark.parametrize("magnitude", [0, 3, 5, 9, 10])
@pytest.mark.parametrize("name", TIMM_NAMES)
def test_strengths_are_those_of_timms_tables(
    name: str, magnitude: int, increasing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from timm.data import auto_augment

    tables: dict[str, Any] = auto_augment.LEVEL_TO_ARG
    theirs = TIMM_NAMES[name] if increasing else TIMM_NAMES[name].removesuffix("Increasing")
    scale = 40 if name.startswith("translate") else 1  # timm's is a share of the edge
    expected = set()
    for drawn in (0.0, 1.0):  # timm turns the sign where a draw is above one half
        monkeypatch.setattr("timm.data.auto_augment.random.random", lambda drawn=drawn: drawn)
        expected.add(round(tables[theirs](magnitude, {})[0] * scale, 9) + 0.0)
    found = strengths_of(f"rand-m{magnitude}-inc{increasing}", name, edge=40)
    assert {round(value, 9) + 0.0 for value in found.unique().tolist()} == expected
    if len(expected) == 2:
        assert expected_share(found == found.max(), 0.5)


def test_the_operations_are_those_of_timm_and_torchvision() -> None:
    from timm.data import auto_augment
    from torchvision.transforms.v2 import RandAugment as Theirs

    ours = {name.replace("_", "") for name in TIMM}
    for tables in (auto_augment._RAND_TRANSFORMS, auto_augment._RAND_INCREASING_TRANSFORMS):
        assert {each.removesuffix("Increasing").removesuffix("Rel").lower() for each in tables} == ours
    assert {name.replace("_", "") for name in TORCHVISION} == {each.lower() for each in Theirs._AUGMENTATION_SPACE}
    assert set(TIMM) | set(TORCHVISION) == set(OPERATIONS)


@pytest.mark.parametrize("magnitude", [0, 9, 15, 30])
def test_strengths_are_those_of_torchvisions_tables(magnitude: int) -> None:
    from torchvision.transforms.v2 import RandAugment as Theirs

    for theirs, (magnitudes, signed) in Theirs._AUGMENTATION_SPACE.items():
        name = {n.replace("_", ""): n for n in TORCHVISION}[theirs.lower()]
        table = magnitudes(31, 40, 40)
        if table is None:
            continue
        value = float(table[magnitude])
        value = {"Solarize": 255 * value}.get(theirs, float(int(value)) if theirs.startswith("Tr") else value)
        base = 1.0 if theirs in ("Brightness", "Color", "Contrast", "Sharpness") else 0.0
        expected = sorted({base + value, base - value if signed else base + value})
        found = strengths_of(f"randaugment-n1-m{magnitude}", name, edge=40).unique().tolist()
        # torchvision's tables are of float32.
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-6), theirs


def test_the_magnitude_spreads_as_timm_says() -> None:
    # m 9, mstd 0.5: rotations of 3 degrees a unit of magnitude, none above magnitude 10.
    turns = strengths_of("rand-m9-mstd0.5", "rotate").abs() / 3
    assert float(turns.max()) == 10.0
    below = turns[turns < 10]
    cut = stats.truncnorm(-np.inf, 2, loc=9, scale=0.5)
    assert stats.kstest(below.numpy(), cut.cdf).pvalue > 1e-3
    assert expected_share(turns == 10, float(1 - stats.norm.cdf(2)))
    even = strengths_of("rand-m8-mstd101", "rotate").abs() / 3
    assert stats.kstest(even.numpy(), stats.uniform(0, 8).cdf).pvalue > 1e-3


def test_rand_augment_of_one_layer_is_its_operation() -> None:
    config = RandAugment("timm", layers=1, magnitude=9, increasing=True, probability=1.0)
    images, at = pictures(30), codes(30)
    operations, strengths = plan(at, 0, config, 24, 24)
    fill = tuple(float(round(255 * x)) for x in MEAN)
    expected = apply(images, operations, strengths, fill, "bilinear")
    assert torch.equal(rand_augment.rand_augment(images, at, config, MEAN), expected)
    assert len(set(operations.tolist())) > 8


def test_erased_boxes_have_the_distribution_of_timm() -> None:
    import random

    from timm.data import random_erasing

    random.seed(0)
    made: Any = random_erasing.RandomErasing
    theirs = made(probability=0.25, mode="const", device="cpu")
    areas, heights = [], []
    for _ in range(8000):
        image = theirs(torch.ones(1, 40, 40))
        gone = (image[0] == 0).nonzero()
        if len(gone):
            areas.append(len(gone))
            heights.append(int(gone[:, 0].max() - gone[:, 0].min()) + 1)
    found = erased_boxes(codes(8000), 40, 40, 0.25)
    done = found[found[:, 2] > 0]
    assert expected_share(found[:, 2] > 0, 0.25)
    assert stats.ks_2samp((done[:, 2] * done[:, 3]).numpy(), areas).pvalue > 1e-3
    assert stats.ks_2samp(done[:, 2].numpy(), heights).pvalue > 1e-3
    assert int((done[:, 0] + done[:, 2]).max()) <= 40
    assert int((done[:, 1] + done[:, 3]).max()) <= 40
    assert (theirs.min_area, theirs.max_area) == AREAS
    assert tuple(map(math.exp, theirs.log_aspect_ratio)) == pytest.approx(RATIOS)


def test_erased_pixels_are_noise_of_the_data_and_the_others_stay() -> None:
    images = torch.full((300, 3, 24, 24), 7, dtype=torch.uint8)
    at = codes(300)
    result = erase(images, at, 0.5, MEAN, (0.1, 0.12, 0.05))
    boxes = erased_boxes(at, 24, 24, 0.5)
    for image, (top, left, height, width) in zip(result, boxes.tolist(), strict=True):
        inside = torch.zeros(24, 24, dtype=torch.bool)
        inside[top : top + height, left : left + width] = True
        assert bool((image[:, ~inside] == 7).all())
        if height:
            assert len(image[:, inside].unique()) > 10
    for channel, (mean, std) in enumerate(zip(MEAN, (0.1, 0.12, 0.05), strict=True)):
        noise = torch.cat(
            [
                image[channel, top : top + height, left : left + width].flatten()
                for image, (top, left, height, width) in zip(result, boxes.tolist(), strict=True)
            ]
        ).double()
        count = len(noise)
        assert float(noise.mean()) == pytest.approx(255 * mean, abs=5 * 255 * std / math.sqrt(count))
        # Rounding to levels adds a twelfth; the spread of a spread is std / sqrt(2 n).
        spread = math.sqrt((255 * std) ** 2 + 1 / 12)
        assert float(noise.std()) == pytest.approx(spread, abs=5 * spread / math.sqrt(2 * count))
    assert torch.equal(erase(images, at, 1e-9, MEAN, STD), images)


def test_channels_of_the_noise_are_independent() -> None:
    noise = erase(torch.zeros(60, 3, 24, 24, dtype=torch.uint8), codes(60), 1.0, (0.5,) * 3, (0.1,) * 3)
    pixels = noise.permute(1, 0, 2, 3).flatten(1)
    pixels = pixels[:, (pixels > 0).all(0)].double()
    together = torch.corrcoef(pixels) - torch.eye(3)
    assert float(together.abs().max()) < 5 / math.sqrt(pixels.shape[1])


@pytest.mark.parametrize(
    "augment", [("rand-m9-mstd0.5-inc1",), ("erasing1",), ("randaugment-n2-m9", "rrc")], ids="+".join
)
def test_grey_images_have_views_too(augment: tuple[str, ...]) -> None:
    images = pictures(30, 8, 1)
    view = views.render(images, torch.arange(30), codes(30), augment, size=8, mean=(0.3,), std=(0.3,))
    assert view.shape == (30, 1, 8, 8)


@pytest.mark.gpu
def test_a_gpu_agrees_to_a_level() -> None:
    images, at = pictures(64), codes(64)
    here = shown(images, at, ALL, size=20)
    there = views.render(images.cuda(), torch.arange(64).cuda(), at, ALL, size=20, mean=MEAN, std=STD).cpu()
    # Interpolated moves round differently at half a level; a second operation may widen that (equalize does).
    assert float(((here.int() - there.int()).abs() > 1).float().mean()) < 0.01
