"""RandomResizedCrop: boxes as torchvision draws them, pixels as Pillow makes them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from raybench.data import hashing
from raybench.data.resampling import centre_crop, crop_boxes, resize_boxes

torch.set_num_threads(1)


def codes(n: int) -> torch.Tensor:
    return hashing.shift_right(hashing.bits(torch.arange(n), 3), 1)


def pictures(n: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=generator)


def by_pillow(image: torch.Tensor, box: list[int], size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    top, left, height, width = box
    picture = Image.fromarray(image.permute(1, 2, 0).numpy()).crop((left, top, left + width, top + height))
    return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1)


@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 32), (32, 32, 80), (64, 64, 40), (50, 37, 24)])
def test_a_resized_box_is_pillows(height: int, width: int, size: int) -> None:
    # No full contrast: what overshoots is cut off between the passes, and newer Pillows do the rows first at times.
    images = pictures(40, height, width) // 2 + 64
    boxes = crop_boxes(codes(40), height, width, 0.08)
    found = resize_boxes(images, boxes, size, size)
    differences = [
        np.abs(view.numpy().astype(int) - by_pillow(image, box, size).astype(int))
        for view, image, box in zip(found, images, boxes.tolist(), strict=True)
    ]
    # Weights are rounded to 15 bits, Pillow's to 22, and rows and columns may change places: what is near half a level
    # may round the other way after either pass.
    assert max(int(each.max()) for each in differences) <= 2
    assert np.mean([(each > 0).mean() for each in differences]) < 0.1
    assert np.mean([(each > 1).mean() for each in differences]) < 1e-4


def test_the_whole_image_at_its_own_size_keeps_its_bits() -> None:
    images = pictures(3, 19, 23)
    assert torch.equal(resize_boxes(images, torch.tensor([[0, 0, 19, 23]] * 3), 19, 23), images)


def test_pixels_outside_the_box_have_no_say() -> None:
    images = pictures(1, 20, 20)
    changed = images.clone()
    changed[:, :, :5] = 0
    changed[:, :, :, 12:] = 255
    box = torch.tensor([[5, 2, 9, 10]])
    assert torch.equal(resize_boxes(images, box, 16, 16), resize_boxes(changed, box, 16, 16))


@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_one_colour_stays_that_colour(level: int) -> None:
    plain = torch.full((20, 1, 33, 33), level, dtype=torch.uint8)
    assert resize_boxes(plain, crop_boxes(codes(20), 33, 33, 0.08), 21, 21).unique().tolist() == [level]


def test_alone_as_in_any_batch() -> None:
    images = pictures(130, 24, 24)  # more than are resized at once
    boxes = crop_boxes(codes(130), 24, 24, 0.08)
    together = resize_boxes(images, boxes, 20, 20)
    for row in (0, 63, 64, 129):
        one = slice(row, row + 1)
        assert torch.equal(resize_boxes(images[one], boxes[one], 20, 20), together[one])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(resize_boxes(images, boxes, 20, 20), together)


def test_boxes_have_the_distribution_of_torchvision() -> None:
    from torchvision.transforms.v2 import RandomResizedCrop

    torch.manual_seed(0)
    theirs = RandomResizedCrop(8)
    image = torch.empty(3, 64, 64)
    drawn = [theirs.make_params([image]) for _ in range(4000)]
    expected = torch.tensor([[each[name] for name in ("top", "left", "height", "width")] for each in drawn])
    found = crop_boxes(codes(4000), 64, 64, 0.08)
    measures: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "area": lambda box: box[:, 2] * box[:, 3],
        "ratio": lambda box: box[:, 3] / box[:, 2],
        "top": lambda box: box[:, 0],
        "left": lambda box: box[:, 1],
        "bottom": lambda box: 64 - box[:, 0] - box[:, 2],
    }
    for name, measure in measures.items():
        # Both draws are fixed; p = 1e-3 would be one chance in a thousand of a wrong alarm once.
        assert stats.ks_2samp(measure(found).numpy(), measure(expected).numpy()).pvalue > 1e-3, name


@pytest.mark.parametrize("smallest", [0.08, 0.25, 1.0])
def test_boxes_lie_inside_and_are_as_large_as_said(smallest: float) -> None:
    boxes = crop_boxes(codes(2000), 48, 60, smallest)
    top, left, height, width = boxes.unbind(1)
    assert int(top.min()) >= 0
    assert int(left.min()) >= 0
    assert int((top + height).max()) <= 48
    assert int((left + width).max()) <= 60
    # Each edge is rounded by half a pixel at most; the fallback, 48 x 60, has the ratio 1.25.
    area = (height * width).double()
    assert float((area - smallest * 48 * 60 + (height + width) / 2 + 0.25).min()) >= 0
    assert float((width / height).max()) < 4 / 3 * 1.1


def test_where_nothing_fits_the_largest_centred_box() -> None:
    # Of a strip no box of at least its whole area has a ratio of at most 4/3.
    assert crop_boxes(codes(5), 10, 100, 1.0).tolist() == [[0, 43, 10, 13]] * 5
    assert crop_boxes(codes(5), 100, 10, 1.0).tolist() == [[43, 0, 13, 10]] * 5


@pytest.mark.parametrize(("edge", "size"), [(292, 256), (256, 224), (9, 4), (8, 8)])
def test_the_centre_crop_is_torchvisions(edge: int, size: int) -> None:
    from torchvision.transforms.v2 import functional

    images = pictures(2, edge, edge)
    assert torch.equal(centre_crop(images, size), functional.center_crop(images, [size, size]))


def test_sums_stay_exact() -> None:
    # The module's promise: weights in units of 2^-15, of which 255 times the sum of sizes stays below 2^24.
    from raybench.data.resampling import UNIT, _weights

    for old, new in ((256, 224), (32, 224), (512, 64)):
        boxes = crop_boxes(codes(200), old, old, 0.08)
        weights = _weights(boxes[:, 0], boxes[:, 2], old, new, torch.device("cpu"))
        assert torch.equal(weights, weights.round())
        assert float(weights.abs().sum(2).max()) * 255 < 2**24
        assert float((weights.sum(2) - UNIT).abs().max()) * 255 / UNIT < 0.5 / math.e


@pytest.mark.gpu
def test_the_same_bits_on_a_gpu() -> None:
    images, boxes = pictures(70, 64, 64), crop_boxes(codes(70), 64, 64, 0.08)
    assert torch.equal(resize_boxes(images.cuda(), boxes, 56, 56).cpu(), resize_boxes(images, boxes, 56, 56))
