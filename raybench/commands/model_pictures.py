"""What a trial's model makes of test images: where it looks, which patches it merges, what its codec keeps of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raybench.commands.finished import Finished, channels_last, classifies_nothing, reload_fault
from raybench.data.text import PADDING_ID
from raybench.data.views import normalise
from raybench.errors import RaybenchError
from raybench.models.attention_maps import (
    Reading,
    merged_patches,
    merges,
    no_maps,
    no_rollout,
    patch_attention,
    patch_rollout,
    patch_side,
    reading,
    record_attention,
)
from raybench.models.ci2p import UNIT_INPUT
from raybench.report.attention import attention_figure
from raybench.report.canvas import Pixels
from raybench.report.patch_attention import patch_attention_figure
from raybench.report.pictures import Picture, Row, merged_pixels, pictures_figure
from raybench.training.compressing import per_image
from raybench.training.translating import load as load_text
from raybench.training.translation import trim

SHOWN = 6
"""Test images of a figure where none are named."""


def _inputs(shown: Finished, places: Sequence[int]) -> tuple[Tensor, list[Pixels]]:
    """Test images as the task takes them, and as the model sees them, before it normalises them."""
    views, _ = shown.restored.images(places)
    channels = views.shape[1]
    seen = normalise(views, (0.0,) * channels, (1.0,) * channels, shown.restored.image_size)
    return views, [channels_last(each) for each in seen]


def _forward(shown: Finished, views: Tensor) -> Callable[[], object]:
    """One pass, in the precision of the trial."""

    def run() -> object:
        with shown.restored.device.autocast():
            return shown.restored.made.task.predict(views)

    return run


def no_attention(shown: Finished) -> str | None:
    """Why there are no attention maps, in words; none where there are."""
    task = shown.config.task
    if task == "compression":
        return "an image codec has no attention"
    if (fault := reload_fault(shown)) is not None or task == "translation":
        return fault
    return no_maps(shown.restored.made.task.module)


def attention(shown: Finished) -> list[str]:
    """Draw where every head of every layer looks, a figure a test example; returns their paths."""
    places = shown.places(1)
    if shown.config.task == "translation":
        return [str(_sentence(shown, place)) for place in places]
    module = shown.restored.made.task.module
    views, pixels = _inputs(shown, places)
    reads = reading(module, shown.restored.student.asked)
    attended = record_attention(module, _forward(shown, views))
    layers = patch_attention(attended, reads)  # (B, heads, patches)
    paths = []
    for index, place in enumerate(places):
        maps = []
        for weights in layers:
            side = patch_side(weights.shape[-1])
            maps.append(weights[index].unflatten(-1, (side, side)).numpy())
        path = shown.out / f"attention-{place}.png"
        explained = f"Where {_read(reads)} in each layer and head; test image {place}, n = 1."
        title = shown.title("Self-attention")
        paths.append(str(patch_attention_figure(pixels[index], maps, path, title, explained, shown.source)))
    return paths


def _read(reads: Reading) -> str:
    """Whose attention counts, and its verb."""
    if not reads.shares:
        return "the patches look, on average,"
    names = ("class", "distillation")
    asked = [name for name, share in zip(names, reads.shares, strict=False) if share]
    return f"the {' and the '.join(asked)} token look{'s' if len(asked) == 1 else ''}"


@torch.no_grad()
def _sentence(shown: Finished, place: int) -> Path:
    """Where the encoder looks in a test sentence."""
    data = load_text(shown.config.dataset, shown.data_root)
    module: Any = shown.restored.made.task.module
    pair = data.test.take(np.array([place]))
    source, target = trim(torch.from_numpy(pair.source).long(), torch.from_numpy(pair.target).long(), PADDING_ID)
    device = shown.restored.device.device
    maps = module.attention_maps(source.to(device), target.to(device)).encoder
    words = [data.source_vocabulary.words[index] for index in source[0].tolist()]
    return attention_figure(
        [each[0].float().cpu().numpy() for each in maps],
        words,
        shown.out / f"attention-{place}.png",
        range(1, len(maps) + 1),
        title=f"Encoder self-attention: test sentence {place} (n = 1)",
        source=shown.source,
    )


def no_flow(shown: Finished) -> str | None:
    """Why there is no attention rollout, in words; none where there is."""
    if (fault := classifies_nothing(shown) or reload_fault(shown)) is not None:
        return fault
    return no_rollout(shown.restored.made.task.module)


def rollout(shown: Finished) -> list[str]:
    """Draw how much of each patch is in what the head reads; returns the path."""
    places = shown.places(SHOWN)
    module = shown.restored.made.task.module
    views, pixels = _inputs(shown, places)
    reads = reading(module, shown.restored.student.asked)
    flow = patch_rollout(record_attention(module, _forward(shown, views)), reads)  # (B, patches)
    side = patch_side(flow.shape[1])
    heats = (flow * flow.shape[1]).unflatten(-1, (side, side)).numpy()
    images = Row("Test images", [Picture(each, str(place)) for each, place in zip(pixels, places, strict=True)])
    heated = Row("Rollout", [Picture(each, measured=True) for each in heats])
    explained = (
        f"How much of each patch is in {_what_is_read(reads)}, which the head reads after the last layer: products of "
        f"0.5 A + 0.5 I over the layers, heads averaged (Abnar and Zuidema 2020). 1: an equal share of the whole. "
        f"n = {len(places)} images. Source: {shown.source}."
    )
    title = shown.title("Attention rollout")
    path = shown.out / "rollout.png"
    return [str(pictures_figure([images, heated], path, title, explained, "shares of an equal one"))]


def _what_is_read(reads: Reading) -> str:
    return _read(reads).partition(" look")[0] if reads.shares else "the mean of the patches"


def no_merging(shown: Finished) -> str | None:
    """Why there are no merged patches, in words; none where there are."""
    if (fault := classifies_nothing(shown)) is not None:
        return fault
    if not shown.config.model.options.get("tome_r"):
        return "it merges no tokens (model.options.tome_r is 0)"
    if (fault := reload_fault(shown)) is not None:
        return fault
    return None if merges(shown.restored.made.task.module) else "it merges no tokens (tome_r is 0 in every block)"


def merging(shown: Finished) -> list[str]:
    """Draw which patches became one token; returns the path."""
    places = shown.places(SHOWN)
    views, pixels = _inputs(shown, places)
    owners = merged_patches(shown.restored.made.task.module, _forward(shown, views))
    side = patch_side(owners.shape[1])
    grids = owners.unflatten(-1, (side, side)).numpy()
    images = Row("Test images", [Picture(each, str(place)) for each, place in zip(pixels, places, strict=True)])
    merged = []
    for each, grid in zip(pixels, grids, strict=True):
        left = len(np.unique(grid))
        merged.append(Picture(merged_pixels(each, grid), f"{grid.size} patches in {left}", owners=grid))
    explained = (
        "Patches that are one token after the last layer have their mean colour; lines run between tokens. "
        f"tome_r = {shown.config.model.options['tome_r']}. n = {len(places)} images. Source: {shown.source}."
    )
    rows = [images, Row("Merged tokens", merged)]
    return [str(pictures_figure(rows, shown.out / "merging.png", shown.title("Merged tokens"), explained))]


def no_reconstruction(shown: Finished) -> str | None:
    """Why no image can be coded and decoded, in words; none where they can."""
    if shown.config.task == "compression":
        return reload_fault(shown)
    if (fault := classifies_nothing(shown)) is not None:
        return fault
    if shown.config.model.name not in UNIT_INPUT:
        return f"{shown.config.model.name} has no image codec in it"
    if (fault := reload_fault(shown)) is not None:
        return fault
    try:
        _ = shown.codec
    except RaybenchError as error:
        return str(error)
    return None


@torch.no_grad()
def reconstruction(shown: Finished) -> list[str]:
    """Draw what the codec keeps of images; returns the path with the mean rate and distortion."""
    places = shown.places(SHOWN)
    views, pixels = _inputs(shown, places)
    codec: Any = shown.restored.made.task.module
    device, where = shown.restored.device, "this trial's codec"
    if shown.config.task != "compression":
        codec = shown.codec.module.to(device.device)
        same = "whose encoder this model has" if shown.codec.same_encoder else "whose encoder is no longer this model's"
        where = f"the codec of {shown.codec.where}, {same}"
    channels = views.shape[1]
    images = normalise(views, (0.0,) * channels, (1.0,) * channels, shown.restored.image_size)
    with device.autocast():
        coded = codec(images)
    found = per_image(coded, images, shown.config.codec.lmbda)
    bpp, psnr = found["bpp"].tolist(), found["psnr"].tolist()
    originals = [Picture(each, str(place)) for each, place in zip(pixels, places, strict=True)]
    decoded = [
        Picture(channels_last(each.float()), f"{bits:.3f} bits a pixel\n{ratio:.1f} dB")
        for each, bits, ratio in zip(coded["x_hat"], bpp, psnr, strict=True)
    ]
    explained = (
        f"Coded and decoded by {where}: bits a pixel as the codec estimates them, PSNR (dB) of pixels in [0, 1]. "
        f"n = {len(places)} images. Source: {shown.source}."
    )
    rows = [Row("Test images", originals), Row("Reconstructions", decoded)]
    path = pictures_figure(rows, shown.out / "reconstruction.png", shown.title("Reconstruction"), explained)
    means = f"{np.mean(bpp):.3f} bits a pixel, {np.mean(psnr):.2f} dB on average of {len(places)}"
    return [f"{path}: {means}, by {where}"]
