"""Each operation of RandAugment against torchvision's function, and against Pillow for the one torchvision lacks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from raybench.data.operations import NUMBER, OPERATIONS, apply

torch.set_num_threads(1)
BLACK = (0.0, 0.0, 0.0)


def pictures(n: int = 4, channels: int = 3, size: int = 32) -> torch.Tensor:
    """Smooth pictures with some noise, so that resampling and histograms have something to do."""
    generator = torch.Generator().manual_seed(size + channels)
    coarse = torch.rand(n, channels, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")
    noise = torch.rand(n, channels, size, size, generator=generator) * 0.1
    return ((smooth + noise).clamp(0.05, 0.9) * 255).to(torch.uint8)


def done(
    images: torch.Tensor, name: str, strength: float, fill: Any = BLACK, sampling: Any = "bilinear"
) -> torch.Tensor:
    n = len(images)
    numbers, strengths = torch.full((n,), NUMBER[name]), torch.full((n,), strength, dtype=torch.float64)
    return apply(images, numbers, strengths, fill[: images.shape[1]], sampling)


def functional() -> Any:
    from torchvision.transforms.v2 import functional

    return functional


def off_by(one: torch.Tensor, other: torch.Tensor) -> tuple[int, float]:
    """The largest difference in levels, and the share of pixels that differ."""
    difference = (one.int() - other.int()).abs()
    return int(difference.max()), float((difference > 0).float().mean())


EXACT: list[tuple[str, float, Callable[[torch.Tensor], torch.Tensor]]] = [
    ("identity", 0.0, lambda x: x),
    ("auto_contrast", 0.0, lambda x: functional().autocontrast(x)),
    ("equalize", 0.0, lambda x: functional().equalize(x)),
    ("invert", 0.0, lambda x: functional().invert(x)),
    *(("posterize", float(bits), lambda x, bits=bits: functional().posterize(x, bits)) for bits in range(9)),
    *(("solarize", t, lambda x, t=t: functional().solarize(x, t)) for t in (0.0, 26.0, 127.5, 178.5, 255.0)),
    *(("brightness", f, lambda x, f=f: functional().adjust_brightness(x, f)) for f in (0.1, 0.73, 1.0, 1.27, 1.9)),
]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "strength", "published"), EXACT, ids=lambda value: str(value)[:12])
def test_operations_on_levels_have_the_bits_of_torchvision(
    name: str, strength: float, published: Callable[[torch.Tensor], torch.Tensor], channels: int
) -> None:
    images = pictures(channels=channels)
    assert torch.equal(done(images, name, strength), published(images))


@pytest.mark.parametrize("name", ["auto_contrast", "equalize"])
@pytest.mark.parametrize("level", [0, 7, 255])
def test_an_image_of_one_colour_or_of_few_levels(name: str, level: int) -> None:
    plain = torch.full((1, 3, 6, 6), level, dtype=torch.uint8)
    plain[:, 1, 0, 0] = 9
    published = functional().equalize if name == "equalize" else functional().autocontrast
    assert torch.equal(done(plain, name, 0.0), published(plain))


@pytest.mark.parametrize("factor", [0.1, 0.55, 1.0, 1.27, 1.9])
@pytest.mark.parametrize(
    ("name", "function"),
    [("contrast", "adjust_contrast"), ("color", "adjust_saturation"), ("sharpness", "adjust_sharpness")],
)
def test_blends_are_those_of_torchvision_to_a_level(name: str, function: str, factor: float) -> None:
    images = pictures()
    most, share = off_by(done(images, name, factor), getattr(functional(), function)(images, factor))
    # torchvision adds products without rounding them in between on some processors, and cuts fractions off afterwards:
    # where the result is a whole level (of tenths, one in ten) or the luminance is one, it may fall to the one below.
    assert most <= 1
    assert share < 0.05


def test_a_grey_image_has_no_colour_to_change() -> None:
    grey = pictures(channels=1)
    assert torch.equal(done(grey, "color", 0.3), grey)
    most, _ = off_by(done(grey, "contrast", 1.5), functional().adjust_contrast(grey, 1.5))
    assert most <= 1  # as for colours


def test_solarize_add_is_that_of_timm() -> None:
    from timm.data import auto_augment

    solarize_add: Any = auto_augment.solarize_add

    images = pictures()
    for image, found in zip(images, done(images, "solarize_add", 99.0), strict=True):
        expected = np.asarray(solarize_add(Image.fromarray(image.permute(1, 2, 0).numpy()), 99))
        assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)


def moved_by_torchvision(images: torch.Tensor, name: str, strength: float, fill: Any, mode: str) -> torch.Tensor:
    tv = functional()
    more: dict[str, Any] = {"interpolation": tv_mode(mode), "fill": list(fill)}
    if name == "rotate":
        return torch.as_tensor(tv.rotate(images, strength, **more))
    tilt = math.degrees(math.atan(strength))
    moves: dict[str, dict[str, Any]] = {
        "shear_x": {"shear": [tilt, 0.0], "center": [0, 0]},
        "shear_y": {"shear": [0.0, tilt], "center": [0, 0]},
        "translate_x": {"translate": [strength, 0], "shear": [0.0, 0.0]},
        "translate_y": {"translate": [0, strength], "shear": [0.0, 0.0]},
    }
    plain = {"angle": 0.0, "translate": [0, 0], "scale": 1.0}
    return torch.as_tensor(tv.affine(images, **(plain | moves[name]), **more))


def tv_mode(mode: str) -> Any:
    from torchvision.transforms import InterpolationMode

    return InterpolationMode(mode)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize(
    ("name", "strength"),
    [
        ("rotate", 9.0),
        ("rotate", -27.3),
        ("shear_x", 0.27),
        ("shear_x", -0.09),
        ("shear_y", 0.3),
        ("shear_y", -0.11),
        ("translate_x", 5.0),
        ("translate_x", -4.0),
        ("translate_y", 3.0),
        ("translate_y", -13.0),
    ],
)
def test_moves_are_those_of_torchvision(name: str, strength: float, mode: str) -> None:
    images, fill = pictures(), (10.0, 100.0, 200.0)
    found = done(images, name, strength, fill, mode)
    expected = moved_by_torchvision(images, name, strength, fill, mode)
    # At the border between image and fill torchvision weighs the image twice when it interpolates; the ring of such
    # pixels is left out: those in which white before black is anything else.
    white = torch.full_like(images, 255)
    wholes = moved_by_torchvision(white, name, strength, BLACK, mode), done(white, name, strength, BLACK, mode)
    inner = ((wholes[0] == 255) & (wholes[1] == 255)) | ((wholes[0] == 0) & (wholes[1] == 0))
    most = (found.int() - expected.int()).abs() * inner
    # Places are computed in another order of float32: a level of rounding when interpolated; when the nearest pixel
    # is taken, another one where two are equally near.
    if mode == "bilinear":
        assert int(most.max()) <= 1
    else:
        assert float((most > 0).float().mean()) < 0.002
    assert float(inner.float().mean()) > 0.8
    assert not torch.equal(found, images)


def test_at_the_border_image_and_fill_are_mixed_by_their_parts() -> None:
    white = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    half = done(white, "translate_x", 0.5, (55.0,) * 3)
    assert half[0, :, :, 0].unique().tolist() == [155]  # half of 255 and half of 55
    assert half[0, :, :, 1:].unique().tolist() == [255]


def test_a_whole_batch_at_once_is_each_image_alone() -> None:
    images = pictures(48, size=17)
    numbers = torch.arange(48) % len(OPERATIONS)
    strengths = torch.linspace(0.2, 1.7, 48, dtype=torch.float64)
    for mode in ("nearest", "bilinear"):
        together = apply(images, numbers, strengths, (1.0, 2.0, 3.0), mode)
        for row in range(48):
            one = slice(row, row + 1)
            alone = apply(images[one], numbers[one], strengths[one], (1.0, 2.0, 3.0), mode)
            assert torch.equal(alone[0], together[row]), OPERATIONS[int(numbers[row])]


def test_images_are_not_changed_in_place() -> None:
    images = pictures(16)
    before = images.clone()
    apply(images, torch.arange(16), torch.full((16,), 0.5, dtype=torch.float64), BLACK, "bilinear")
    assert torch.equal(images, before)


@pytest.mark.gpu
def test_a_gpu_agrees_to_a_level() -> None:
    images = pictures(48)
    numbers, strengths = torch.arange(48) % len(OPERATIONS), torch.linspace(0.2, 1.7, 48, dtype=torch.float64)
    here = apply(images, numbers, strengths, BLACK, "bilinear")
    there = apply(images.cuda(), numbers, strengths, BLACK, "bilinear").cpu()
    most, _ = off_by(here, there)
    assert most <= 1  # sums of products in another order, then rounded or cut off
