"""Mixup and CutMix: each image of a batch mixed with the one at the same place from the batch's end.

Sources: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization"; Yun et al. 2019, "CutMix: Regularization
Strategy to Train Strong Classifiers with Localizable Features". One draw serves a batch, as in timm's `batch` mode; it
is a function of the key (a seed, an epoch and a step, say), not of a generator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raybench.data import hashing


@dataclass(frozen=True)
class Mix:
    """How a batch is mixed."""

    share: float = 1.0
    """Of an image's own label, lambda in the papers; 1 leaves the batch as it is."""
    box: tuple[int, int, int, int] | None = None
    """CutMix: top, bottom, left and right of what the partner gives, in pixels, ends excluded; none: Mixup."""


def draw(
    *key: int | str,
    size: int | tuple[int, int],
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
    prob: float = 1.0,
    switch_prob: float = 0.5,
) -> Mix:
    """The mix of one batch.

    key: what it is a function of, (seed, epoch, step) say. size: side, or height and width, of the images in pixels.
    lambda is of Beta(alpha, alpha); an alpha of 0 turns its kind off, and with both on `switch_prob` is that of CutMix.
    prob: of mixing at all. The box of CutMix is cut off at the border, and lambda is then what is left of the image.

    Raises ValueError for numbers out of range.
    """
    if min(mixup_alpha, cutmix_alpha) < 0 or not (0 <= prob <= 1 and 0 <= switch_prob <= 1):
        raise ValueError(
            f"mixup_alpha = {mixup_alpha}, cutmix_alpha = {cutmix_alpha}, prob = {prob}, switch_prob = {switch_prob}: "
            "alphas must be 0 or more, probabilities from 0 to 1"
        )
    done, switched, quantile, y, x = (_uniform(*key, part) for part in ("done", "switch", "lambda", "y", "x"))
    if max(mixup_alpha, cutmix_alpha) == 0 or done >= prob:
        return Mix()
    cut = cutmix_alpha > 0 and (mixup_alpha == 0 or switched < switch_prob)
    share = _beta(cutmix_alpha if cut else mixup_alpha, quantile)
    if not cut:
        return Mix(share)
    height, width = (size, size) if isinstance(size, int) else size
    box = cut_box(share, int(y * height), int(x * width), height, width)
    return Mix(1 - (box[1] - box[0]) * (box[3] - box[2]) / (height * width), box)


def cut_box(share: float, y: int, x: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of a box with 1 - share of the area around (y, x), cut off at the border.

    As in timm 1.0.31; CutMix's authors and earlier timm give it an even number of pixels a side.
    """
    edge = math.sqrt(1 - share)
    high, wide = int(height * edge), int(width * edge)
    top, bottom = max(y - high // 2, 0), min(y + (high + 1) // 2, height)
    left, right = max(x - wide // 2, 0), min(x + (wide + 1) // 2, width)
    return top, bottom, left, right


def mixed(images: Tensor, mix: Mix) -> Tensor:
    """The mixed images, of the shape and type they had: (B, C, H, W), uint8 or floating point.

    Levels of uint8 are rounded. The images themselves stay as they are.
    """
    if mix.share == 1:
        return images
    partners = images.flip(0)
    if mix.box is not None:
        top, bottom, left, right = mix.box
        result = images.clone()
        result[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
        return result
    if images.is_floating_point():
        return images * mix.share + partners * (1 - mix.share)
    blended = images.float() * mix.share + partners.float() * (1 - mix.share)
    return blended.round_().clamp_(0, 255).to(images.dtype)


def soft_targets(labels: Tensor, mix: Mix, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """What the mixed images should be called: float32 (B, classes), rows summing to 1.

    labels: int64 (B,). smoothing: share of each label that is spread over all classes.
    """
    own = torch.full((len(labels), num_classes), smoothing / num_classes, device=labels.device)
    own.scatter_(1, labels[:, None], 1 - smoothing + smoothing / num_classes)
    return own * mix.share + own.flip(0) * (1 - mix.share)


def _uniform(*key: int | str) -> float:
    """In (0, 1)."""
    bits = int(hashing.bits(np.zeros(1, dtype=np.int64), hashing.key("mix", *key)).view(np.uint64)[0])
    return ((bits >> 11) + 0.5) * 2.0**-53


def _beta(alpha: float, quantile: float) -> float:
    from scipy.special import betaincinv

    return float(betaincinv(alpha, alpha, quantile))
