"""The operations of RandAugment on a batch, each image with an operation and a strength of its own.

Images are grouped by kind of operation, not looped over: what maps a level of a channel to another level is one table
of 256 entries an image and channel, looked up for all of them at once; moves of the image are one sampled grid. All is
done an image or an element at a time in a fixed order, so that an image's result does not depend on its batch.
The arithmetic is that of torchvision's functions on uint8 tensors.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raybench.data.transfer import over

OPERATIONS = (
    "identity",
    "auto_contrast",
    "equalize",
    "invert",
    "posterize",
    "solarize",
    "solarize_add",
    "contrast",
    "brightness",
    "color",
    "sharpness",
    "rotate",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
NUMBER = {name: number for number, name in enumerate(OPERATIONS)}
TABLES = OPERATIONS[1:9]
MOVES = OPERATIONS[11:]
GREY = (2989, 5870, 1140)
"""Of red, green and blue, in units of 1/10,000."""
SOLARIZED_BELOW = 128
"""Levels below which solarize_add brightens."""
Sampling = Literal["nearest", "bilinear"]


def apply(images: Tensor, operations: Tensor, strengths: Tensor, fill: tuple[float, ...], sampling: Sampling) -> Tensor:
    """Each image changed by its operation: uint8 (B, C, H, W), 1 or 3 channels.

    operations: integers (B,) into `OPERATIONS`; strengths: float64 (B,); both on the CPU. A strength is: bits kept
    (posterize), the level from which to invert (solarize), levels added (solarize_add), a factor with 1 for no change
    (contrast, brightness, color, sharpness), degrees anticlockwise (rotate), pixels to the right or down for each pixel
    (shear) or as such (translate). fill: a level for each channel of what comes into view from outside.
    """
    result = images.clone()
    for members, change in (
        ([NUMBER[name] for name in TABLES], _by_table),
        ([NUMBER["color"]], _color),
        ([NUMBER["sharpness"]], _sharpness),
    ):
        if len(chosen := torch.isin(operations, torch.tensor(members)).nonzero()[:, 0]):
            here = over(chosen, images.device)
            result[here] = change(images[here], operations[chosen], strengths[chosen])
    moved = torch.isin(operations, torch.tensor([NUMBER[name] for name in MOVES])).nonzero()[:, 0]
    if len(moved):
        here = over(moved, images.device)
        result[here] = _move(images[here], operations[moved], strengths[moved], fill, sampling)
    return result


def _on(values: Tensor, images: Tensor) -> Tensor:
    """(B,) as float32 (B, 1, 1, 1) on the device of the images."""
    return over(values.float(), images.device)[:, None, None, None]


def _blend(images: Tensor, others: Tensor, factors: Tensor) -> Tensor:
    """images * factor + others * (1 - factor), cut to levels; products are rounded before they are added."""
    mixed = images * _on(factors, images) + others * _on(1 - factors, images)
    return mixed.clamp_(0, 255).to(torch.uint8)


def _grey(images: Tensor) -> Tensor:
    """Luminance in whole levels, int32 (B, 1, H, W)."""
    if images.shape[1] == 1:
        return images.int()
    red, green, blue = (channel.int() * share for channel, share in zip(images.unbind(1), GREY, strict=True))
    return ((red + green + blue) // 10_000)[:, None]


def _color(images: Tensor, _operations: Tensor, factors: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    return _blend(images, _grey(images), factors)


def _sharpness(images: Tensor, _operations: Tensor, factors: Tensor) -> Tensor:
    """Blended with a smoothed copy, 1/13 from each neighbour and 5/13 from itself; the outermost pixels stay."""
    if min(images.shape[2:]) <= 2:
        return images
    x = images.int()
    three = x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]
    nine = three[..., :-2] + three[..., 1:-1] + three[..., 2:]
    centre = images[:, :, 1:-1, 1:-1]
    smooth = (2 * (nine + 4 * centre.int()) + 13) // 26  # a thirteenth is never half a level
    # In the order of torchvision's function: centre + (1 - factor) * (smooth - centre).
    sharp = centre + (smooth - centre.int()) * _on(1 - factors, images)
    result = images.clone()
    result[:, :, 1:-1, 1:-1] = sharp.clamp_(0, 255).to(torch.uint8)
    return result


def _by_table(images: Tensor, operations: Tensor, strengths: Tensor) -> Tensor:
    n, channels = images.shape[:2]
    table = torch.empty(n, channels, 256, device=images.device)
    for name in TABLES:
        chosen = (operations == NUMBER[name]).nonzero()[:, 0]
        if len(chosen):
            here = over(chosen, images.device)
            table[here] = _table(name, images[here], strengths[chosen])
    levels = table.clamp_(0, 255).to(torch.uint8).flatten()
    first = torch.arange(0, n * channels * 256, 256, dtype=torch.int32, device=images.device)
    places = images.reshape(n * channels, -1).int() + first[:, None]
    return levels.index_select(0, places.flatten()).view_as(images)


def _table(name: str, images: Tensor, strengths: Tensor) -> Tensor:
    """The level that each level 0..255 becomes, float32 (B, C or 1, 256); what is left of a level is cut off later."""
    level = torch.arange(256, device=images.device).float().expand(len(images), 1, 256)
    strength = over(strengths.float(), images.device)[:, None, None]
    if name == "invert":
        return 255 - level
    if name == "posterize":
        step = 2 ** (8 - strength)
        return (level / step).floor() * step
    if name == "solarize":
        return torch.where(level >= strength, 255 - level, level)
    if name == "solarize_add":
        return torch.where(level < SOLARIZED_BELOW, level + strength, level)
    if name == "brightness":
        return level * strength
    if name == "contrast":
        # From a whole sum, which is the same in whatever order it is made.
        mean = _grey(images).flatten(1).sum(1).double() / images[0, 0].numel()
        rest = over((1 - strengths).float(), images.device)[:, None, None]
        return level * strength + mean.float()[:, None, None] * rest
    return _stretched(images, level) if name == "auto_contrast" else _equalized(images)


def _stretched(images: Tensor, level: Tensor) -> Tensor:
    """The darkest level of each channel becomes 0, the brightest 255."""
    flat = images.flatten(2)
    low, high = flat.amin(2, keepdim=True).float(), flat.amax(2, keepdim=True).float()  # (B, C, 1)
    scale = (high - low) * (1 / 255)
    return torch.where(high == low, level, (level - low) / scale.where(high != low, torch.ones_like(scale)))


def _equalized(images: Tensor) -> Tensor:
    """Levels by their rank, with Pillow's way of rounding."""
    flat = images.flatten(2).long()
    count = torch.zeros(*flat.shape[:2], 256, dtype=torch.long, device=images.device)
    count.scatter_add_(2, flat, torch.ones_like(flat))
    last = flat.amax(2, keepdim=True)
    step = (flat.shape[2] - count.gather(2, last)) // 255  # (B, C, 1)
    before = count.cumsum(2) - count
    ranked = (before + step // 2) // step.clamp(min=1)
    plain = torch.arange(256, device=images.device).expand_as(ranked)
    return torch.where(step > 0, ranked, plain).float()


def _move(images: Tensor, operations: Tensor, strengths: Tensor, fill: tuple[float, ...], sampling: Sampling) -> Tensor:
    """Where each pixel of the result comes from: (x, y) -> (a x + b y + c, d x + e y + f), from the image's centre."""
    height, width = images.shape[2:]
    is_ = {name: operations == NUMBER[name] for name in MOVES}
    zero = torch.zeros_like(strengths)
    angle = torch.deg2rad(strengths.where(is_["rotate"], zero))
    a, d = angle.cos(), angle.sin()
    shear_x, shear_y = (strengths.where(is_[name], zero) for name in ("shear_x", "shear_y"))
    b, c = shear_x - d, shear_x * (height / 2) - strengths.where(is_["translate_x"], zero)
    d, f = d + shear_y, shear_y * (width / 2) - strengths.where(is_["translate_y"], zero)
    a, b, c, d, f = (over(each, images.device)[:, None, None] for each in (a, b, c, d, f))
    x = (torch.arange(width, device=images.device).double() - (width - 1) / 2)[None, None, :]
    y = (torch.arange(height, device=images.device).double() - (height - 1) / 2)[None, :, None]
    grid = torch.stack([(a * x + b * y + c) / (width / 2), (d * x + a * y + f) / (height / 2)], dim=3).float()
    outside = over(torch.tensor(fill), images.device).view(1, -1, 1, 1)
    sampled = F.grid_sample(images - outside, grid, mode=sampling, padding_mode="zeros", align_corners=False)
    return sampled.add_(outside).round_().clamp_(0, 255).to(torch.uint8)
