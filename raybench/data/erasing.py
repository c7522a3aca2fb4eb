"""Random erasing: a box of each image, with some probability, becomes noise.

Source: Zhong et al. 2020, "Random Erasing Data Augmentation", with timm's numbers and its mode `pixel`: every pixel of
every channel is normal noise of the data's own mean and standard deviation. timm erases after normalisation; here views
are uint8, so that a student and its teacher see the same one, and noise beyond black and white is cut off there.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from raybench.data import hashing
from raybench.data.draws import Draws
from raybench.data.transfer import over

AREAS = (0.02, 1 / 3)
"""Least and largest share of the image."""
RATIOS = (0.3, 1 / 0.3)
ATTEMPTS = 10
NOISE_BITS = 15
"""Of 64 for each of up to four channels: 32,768 quantiles of the noise."""


def erase(images: Tensor, codes: Tensor, probability: float, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """The images with their boxes erased: uint8 (B, C, H, W), at most 4 channels, on the device of `images`.

    codes: int64 (B,), on any device. mean and std: of each channel, pixels in [0, 1].
    """
    height, width = images.shape[2:]
    boxes = erased_boxes(codes, height, width, probability)
    chosen = (boxes[:, 2] > 0).nonzero()[:, 0]
    if not len(chosen):
        return images
    here = over(chosen, images.device)
    top, left, h, w = over(boxes[chosen], images.device)[:, :, None, None].unbind(1)  # (b, 1, 1) each
    y = torch.arange(height, device=images.device)[None, :, None]
    x = torch.arange(width, device=images.device)[None, None, :]
    inside = (y >= top) & (y < top + h) & (x >= left) & (x < left + w)  # (b, H, W)
    noise = _noise(over(codes.cpu()[chosen], images.device), images.shape[1:], mean, std)
    result = images.clone()
    result[here] = torch.where(inside[:, None], noise, images[here])
    return result


def erased_boxes(codes: Tensor, height: int, width: int, probability: float) -> Tensor:
    """The box of each view, int64 (B, 4) as top, left, height, width, on the CPU; zeros where nothing is erased."""
    draws = Draws(codes, "erasing")
    box = torch.zeros(len(codes), 4, dtype=torch.int64)
    open_ = draws.uniform("done") < probability
    for attempt in range(ATTEMPTS):
        area = draws.uniform("area", attempt, low=AREAS[0], high=AREAS[1]) * (height * width)
        ratio = draws.uniform("ratio", attempt, low=math.log(RATIOS[0]), high=math.log(RATIOS[1])).exp()
        h, w = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
        fits = open_ & (w < width) & (h < height)
        top = draws.below((height - h).clamp(min=0) + 1, "top", attempt)
        left = draws.below((width - w).clamp(min=0) + 1, "left", attempt)
        box = torch.where(fits[:, None], torch.stack([top, left, h, w], dim=1), box)
        open_ &= ~fits
    return box


def _noise(codes: Tensor, shape: torch.Size, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Noise uint8 (B, C, H, W) on the device of `codes`: a table is looked up, since devices differ in logarithms."""
    channels, height, width = shape
    streams = hashing.bits(codes, hashing.key("erasing", "stream"))[:, None] + torch.arange(
        height * width, device=codes.device
    )
    random = hashing.bits(streams, hashing.key("erasing", "noise"))  # (B, H * W); NOISE_BITS of it for each channel
    planes = [
        _noise_levels(mean[channel], std[channel], codes.device)[
            hashing.shift_right(random, 4 + channel * NOISE_BITS) & ((1 << NOISE_BITS) - 1)
        ]
        for channel in range(channels)
    ]
    return torch.stack(planes, dim=1).view(len(codes), channels, height, width)


@lru_cache(maxsize=16)
def _noise_levels(mean: float, std: float, device: torch.device) -> Tensor:
    """Levels, uint8, at evenly spaced quantiles of the noise, on the device; kept there."""
    count = 1 << NOISE_BITS
    normal = torch.special.ndtri((torch.arange(count).double() + 0.5) / count)
    levels: Tensor = ((normal * std + mean) * 255).round().clamp(0, 255)
    return levels.to(torch.uint8).to(device)
