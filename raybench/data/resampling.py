"""RandomResizedCrop of a batch: boxes as torchvision draws them, resized as Pillow resizes.

The filter is Pillow's bicubic with antialiasing, over the columns first and the rows then, with 8 bits between. A crop
of one image is two products of matrices. Their entries are whole numbers (weights in units of 2^-15), whose sums stay
below 2^24, so that float32 is exact: the same bits in any batch, order of summation and device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from raybench.data.draws import Draws
from raybench.data.transfer import over

RATIOS = (3 / 4, 4 / 3)
ATTEMPTS = 10
UNIT = 2.0**15
SUPPORT = 2.0
"""Pixels, in those of the coarser grid, that the filter reaches to either side."""
CHUNK = 64
"""Images resized at once: the matrices of one take a third of a mebibyte at 256 -> 224."""


def crop_boxes(codes: Tensor, height: int, width: int, smallest: float) -> Tensor:
    """The box of each view, int64 (B, 4) as top, left, height, width in pixels, on the CPU.

    An area of `smallest` to 1 of the image's and a ratio of 3/4 to 4/3, uniform in its logarithm, are drawn up to ten
    times until they fit; then the place, uniform. Where none fits, the largest centred box with an allowed ratio.
    """
    draws = Draws(codes, "rrc")
    n = len(codes)
    box = torch.tensor(_fallback(height, width)).repeat(n, 1)
    open_ = torch.ones(n, dtype=torch.bool)
    for attempt in range(ATTEMPTS):
        area = draws.uniform("area", attempt, low=smallest, high=1.0) * (height * width)
        ratio = draws.uniform("ratio", attempt, low=math.log(RATIOS[0]), high=math.log(RATIOS[1])).exp()
        w, h = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
        fits = open_ & (w > 0) & (w <= width) & (h > 0) & (h <= height)
        top = draws.below((height - h).clamp(min=0) + 1, "top", attempt)
        left = draws.below((width - w).clamp(min=0) + 1, "left", attempt)
        box = torch.where(fits[:, None], torch.stack([top, left, h, w], dim=1), box)
        open_ &= ~fits
    return box


def _fallback(height: int, width: int) -> list[int]:
    w, h = width, height
    if width / height < RATIOS[0]:
        h = round(width / RATIOS[0])
    elif width / height > RATIOS[1]:
        w = round(height * RATIOS[1])
    return [(height - h) // 2, (width - w) // 2, h, w]


def resize_boxes(images: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """The boxes of the images, resized: uint8 (B, C, height, width), on the device of `images`.

    images: uint8 (B, C, H, W). boxes: int64 (B, 4) as top, left, height, width, on the CPU. Pixels outside a box
    have no say, as if it were cut out first.
    """
    chunks = zip(images.split(CHUNK), boxes.split(CHUNK), strict=True)
    # A bfloat16 product would not be exact.
    with torch.autocast(images.device.type, enabled=False):
        return torch.cat([_resized(each, box, height, width) for each, box in chunks])


def _resized(images: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    n, channels, old_height, old_width = images.shape
    columns = _weights(boxes[:, 1], boxes[:, 3], old_width, width, images.device)  # (n, width, W)
    rows = _weights(boxes[:, 0], boxes[:, 2], old_height, height, images.device)  # (n, height, H)
    pixels = images.permute(0, 2, 1, 3).reshape(n, old_height * channels, old_width).float()
    wide = _levels(pixels.bmm(columns.transpose(1, 2)))  # (n, H * C, width)
    both = _levels(rows.bmm(wide.view(n, old_height, channels * width)))  # (n, height, C * width)
    return both.view(n, height, channels, width).permute(0, 2, 1, 3).to(torch.uint8).contiguous()


def _levels(sums: Tensor) -> Tensor:
    """Sums of pixels in units of 2^-15, as whole levels 0..255."""
    return sums.mul_(1 / UNIT).add_(0.5).floor_().clamp_(0, 255)


def _weights(start: Tensor, extent: Tensor, old: int, new: int, device: torch.device) -> Tensor:
    """What each of the `old` pixels of an edge gives to each of the `new`: float32 (B, new, old), whole numbers."""
    scale = (extent.double() / new)[:, None, None]  # (B, 1, 1)
    reach = SUPPORT * scale.clamp(min=1)
    centre = (torch.arange(new).double()[None, :, None] + 0.5) * scale  # (B, new, 1)
    first = (centre - reach + 0.5).trunc().clamp(min=0)
    last = torch.minimum((centre + reach + 0.5).trunc(), extent.double()[:, None, None])
    taps = math.ceil(2 * SUPPORT * max(old / new, 1)) + 2
    place = first + torch.arange(taps)  # (B, new, taps)
    weight = _cubic((place + 0.5 - centre) / scale.clamp(min=1)) * (place < last)
    weight = (weight / weight.sum(2, keepdim=True) * UNIT).round().float()
    index = (place.long() + start[:, None, None]).clamp(max=old - 1)
    dense = torch.zeros(len(start), new, old, device=device)
    return dense.scatter_add_(2, over(index, device), over(weight, device))


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic with a = -1/2, that of Pillow."""
    x = x.abs()
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, inner, torch.where(x < 2, outer, torch.zeros_like(x)))


def centre_crop(images: Tensor, size: int) -> Tensor:
    """The square of `size` pixels in the middle, as torchvision's CenterCrop; images (…, H, W) at least so large."""
    top, left = (round((edge - size) / 2) for edge in images.shape[-2:])
    return images[..., top : top + size, left : left + size]
