"""RandAugment: which operations a view gets and how strong they are, by the tables of timm or of torchvision.

Source: Cubuk et al. 2020, "RandAugment: Practical automated data augmentation with a reduced search space". The two
libraries read the paper's magnitudes differently, so that `rand-m9` and `randaugment-n2-m9` are two augmentations:

| | timm, `rand-…` | torchvision, `randaugment-…` |
|---|---|---|
| operations | 15, each layer done with probability p (0.5) | 14 with the identity, each layer done |
| magnitude | 0..10, of a normal distribution with mstd | 0..30, fixed |
| what comes into view | the mean colour of the data | black |
| sampling of moves | bilinear (timm draws bilinear or bicubic) | nearest |
"""

from __future__ import annotations

import torch
from torch import Tensor

from raybench.config.augmentation import LARGEST_BIN, LARGEST_LEVEL, RandAugment
from raybench.data.draws import Draws
from raybench.data.operations import NUMBER, apply

TIMM = (
    "auto_contrast",
    "equalize",
    "invert",
    "rotate",
    "posterize",
    "solarize",
    "solarize_add",
    "color",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
TORCHVISION = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "auto_contrast",
    "equalize",
)
ENHANCEMENTS = ("color", "contrast", "brightness", "sharpness")
STEEPEST = 0.3
"""Largest shear, pixels for each pixel."""
WIDEST_TURN = 30.0
"""Degrees."""
FARTHEST = {"timm": 0.45, "torchvision": 150 / 331}
"""Largest translation, share of the edge."""
UNIFORM_ABOVE = 100
"""A larger `mstd` means a magnitude drawn evenly from 0 to m."""


def rand_augment(images: Tensor, codes: Tensor, config: RandAugment, mean: tuple[float, ...]) -> Tensor:
    """The images changed as their codes say: uint8 (B, C, H, W), on the device of `images`.

    codes: int64 (B,), on any device. mean: of each channel in [0, 1], which fills in for timm.
    """
    timm = config.family == "timm"
    fill = tuple(float(min(255, round(255 * x))) for x in mean) if timm else (0.0,) * images.shape[1]
    for layer in range(config.layers):
        operations, strengths = plan(codes, layer, config, images.shape[2], images.shape[3])
        images = apply(images, operations, strengths, fill, "bilinear" if timm else "nearest")
    return images


def plan(codes: Tensor, layer: int, config: RandAugment, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Each view's operation in a layer, int64 (B,) into `operations.OPERATIONS`, and its strength, float64 (B,)."""
    draws = Draws(codes, "rand augment")
    names = TIMM if config.family == "timm" else TORCHVISION
    chosen = draws.below(len(names), "operation", layer)
    share = _level(draws, layer, config) / (LARGEST_LEVEL if config.family == "timm" else LARGEST_BIN)
    sign = torch.where(draws.below(2, "sign", layer) == 1, -1.0, 1.0).double()
    find = _timm if config.family == "timm" else _torchvision
    strengths = torch.zeros(len(codes), dtype=torch.float64)
    for number, name in enumerate(names):
        strengths = torch.where(chosen == number, find(name, share, sign, config, height, width), strengths)
    operations = torch.tensor([NUMBER[name] for name in names])[chosen]
    if config.probability < 1:
        done = draws.uniform("done", layer) < config.probability
        operations = torch.where(done, operations, NUMBER["identity"])
    return operations, strengths


def _level(draws: Draws, layer: int, config: RandAugment) -> Tensor:
    if config.deviation > UNIFORM_ABOVE:
        return draws.uniform("level", layer, high=float(config.magnitude))
    if config.deviation > 0:
        drawn = config.magnitude + config.deviation * draws.normal("level", layer)
        return drawn.clamp(0, LARGEST_LEVEL)
    return torch.full((len(draws.codes),), float(config.magnitude), dtype=torch.float64)


def _move(name: str, family: str, share: Tensor, sign: Tensor, height: int, width: int) -> Tensor | None:
    """Degrees, slopes and pixels of the operations that move the image; none for the others."""
    if name == "rotate":
        return sign * share * WIDEST_TURN
    if name in ("shear_x", "shear_y"):
        return sign * share * STEEPEST
    if name in ("translate_x", "translate_y"):
        return sign * share * (FARTHEST[family] * (width if name == "translate_x" else height))
    return None


def _timm(name: str, share: Tensor, sign: Tensor, config: RandAugment, height: int, width: int) -> Tensor:
    """share: magnitude / 10."""
    if (moved := _move(name, "timm", share, sign, height, width)) is not None:
        return moved
    if name in ENHANCEMENTS:
        return (1 + sign * share * 0.9).clamp(min=0.1) if config.increasing else share * 1.8 + 0.1
    if name == "posterize":
        bits = (share * 4).floor()
        return 4 - bits if config.increasing else bits
    if name == "solarize":
        level = (share * 256).floor().clamp(max=256)
        return 256 - level if config.increasing else level
    if name == "solarize_add":
        return (share * 110).floor().clamp(max=128)
    return torch.zeros_like(share)


def _torchvision(name: str, share: Tensor, sign: Tensor, _config: RandAugment, height: int, width: int) -> Tensor:
    """share: magnitude / 30."""
    if (moved := _move(name, "torchvision", share, sign, height, width)) is not None:
        return moved.trunc() if name.startswith("translate") else moved
    if name in ENHANCEMENTS:
        return 1 + sign * share * 0.9
    if name == "posterize":
        return (8 - share * 4).round()
    return 255 * (1 - share) if name == "solarize" else torch.zeros_like(share)
