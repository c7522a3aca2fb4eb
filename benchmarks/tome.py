"""How much faster token merging makes a vision transformer here, beside what its multiply-adds allow.

    python benchmarks/tome.py [--json] [--model NAME] [--r 13] [--batch-size 8] [--threads 2] [--repeats 9]

Plain and merging model have the same weights and fused attention, live in one process and take turns, in alternating
order: a slow minute of the machine slows both. A turn is one batch of random images at the model's own size, in
inference mode; two turns of each are not counted. On a CUDA device where there is one, else on the CPU.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import time
from typing import Any

import timm
import torch
from torch import Tensor, nn

from raybench import models
from raybench.config.trial import ModelConfig
from raybench.errors import ConfigError, RaybenchError
from raybench.models.macs import count_macs
from raybench.models.tome_vit import apply_tome

WARM_UP = 2
OF_BOUND = 0.9
"""The share of what multiply-adds allow that is to arrive."""
PUBLISHED = {  # arXiv 2210.09461 at r = 13, images/s on a V100 without and with merging
    "vit_base_patch16_224": (309, 511),
    "vit_small_patch16_224": (953, 1564),
    "deit_small_patch16_224": (930, 1550),
}
"""The last is a DeiT-S trained with merging."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--json", action="store_true", help="one object instead of the table")
    found.add_argument("--model", default="vit_small_patch16_224", help="a timm VisionTransformer or DeiT")
    found.add_argument("--r", type=int, default=13, help="tokens merged in each block")
    found.add_argument("--batch-size", type=positive, default=8, help="images a turn")
    found.add_argument("--threads", type=positive, default=os.cpu_count(), help="of torch on the CPU")
    found.add_argument("--repeats", type=positive, default=9, help="counted turns of each model")
    return found


def positive(text: str) -> int:
    """A number of at least one."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} must be at least 1")
    return number


def pair(name: str, r: int, device: torch.device) -> tuple[nn.Module, nn.Module, int]:
    """The plain and the merging model with the same weights, and the side of their images in px."""
    torch.manual_seed(0)
    half = (0.5,) * 3
    built = models.build(ModelConfig(name=name), num_classes=1000, in_channels=3, image_size=224, mean=half, std=half)
    plain = built.module.eval().to(device)
    merging = apply_tome(copy.deepcopy(plain), r)
    blocks: Any = merging.blocks
    if not all(block.attn.fused_attn for block in blocks):
        raise ConfigError(["fused attention is off (TIMM_FUSED_ATTN?): plain and merging are compared with it"])
    return plain, merging, built.image_size


@torch.inference_mode()
def seconds(model: nn.Module, images: Tensor) -> float:
    """Wall seconds of one batch, the device's work included."""
    start = time.perf_counter()
    model(images)
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(plain: nn.Module, merging: nn.Module, images: Tensor, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of each counted turn of both."""
    plain_s: list[float] = []
    merging_s: list[float] = []
    for turn in range(WARM_UP + repeats):
        order = [(plain, plain_s), (merging, merging_s)]
        for model, found in order if turn % 2 == 0 else reversed(order):
            taken = seconds(model, images)
            if turn >= WARM_UP:
                found.append(taken)
    return plain_s, merging_s


def row(name: str, taken: list[float], images: int, gmacs: float) -> dict[str, Any]:
    """One model's line of the table."""
    return {
        "model": name,
        "median_s": statistics.median(taken),
        "min_s": min(taken),
        "max_s": max(taken),
        "images_per_s": images / statistics.median(taken),
        "gmacs": gmacs,
    }


def result(args: argparse.Namespace) -> dict[str, Any]:
    """Everything measured, with what it was measured on."""
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plain, merging, side = pair(args.model, args.r, device)
    gmacs = [count_macs(model, 3, side) / 1e9 for model in (plain, merging)]
    images = torch.randn(args.batch_size, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    plain_s, merging_s = measure(plain, merging, images, args.repeats)
    # Of neighbours in time, so that a slow turn of the machine is in both.
    ratios = [before / after for before, after in zip(plain_s, merging_s, strict=True)]
    ratio = statistics.median(plain_s) / statistics.median(merging_s)
    bound = gmacs[0] / gmacs[1]
    published = PUBLISHED.get(args.model) if args.r == 13 else None
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name()
    else:
        hardware = f"{platform.machine()}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}"
    return {
        "claim": f"speed-up of {args.model} by token merging at r = {args.r}",
        "rows": [
            row("plain", plain_s, args.batch_size, gmacs[0]),
            row(f"ToMe, r = {args.r}", merging_s, args.batch_size, gmacs[1]),
        ],
        "ours": statistics.median(merging_s),
        "peer": statistics.median(plain_s),
        "unit": "s a batch",
        "ratio": ratio,
        "bar": OF_BOUND * bound,
        "holds": ratio >= OF_BOUND * bound,
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "bound": bound,
        "published": published and published[1] / published[0],
        "n": args.repeats,
        "batch_size": args.batch_size,
        "hardware": hardware,
        "versions": {"torch": torch.__version__, "timm": timm.__version__},
    }


def text(found: dict[str, Any]) -> str:
    """The table for people."""
    lines = [
        f"{found['claim']}, batch {found['batch_size']}, n = {found['n']}; {found['hardware']}",
        f"{'':<14}{'s a batch':>11}{'min':>9}{'max':>9}{'images/s':>10}{'GMACs':>8}",
    ]
    lines += [
        f"{each['model']:<14}{each['median_s']:>11.4f}{each['min_s']:>9.4f}{each['max_s']:>9.4f}"
        f"{each['images_per_s']:>10.1f}{each['gmacs']:>8.3f}"
        for each in found["rows"]
    ]
    printed = "" if found["published"] is None else f"; published on a V100: {found['published']:.2f}x"
    lines.append(
        f"measured {found['ratio']:.2f}x (pairs {found['ratio_min']:.2f} to {found['ratio_max']:.2f}), "
        f"multiply-adds allow {found['bound']:.2f}x, 0.9 of it {'holds' if found['holds'] else 'MISSED'}{printed}"
    )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    args = parser().parse_args()
    try:
        found = result(args)
    except RaybenchError as error:
        raise SystemExit(f"error: {error}") from error
    print(json.dumps(found) if args.json else text(found))


if __name__ == "__main__":
    main()
