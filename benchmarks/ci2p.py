"""How much faster CI2P-ViT trains and answers than ViT-B/16 on the same images, in one process on this machine.

    python benchmarks/ci2p.py [--batch-size 8] [--threads 2] [--repeats 5] [--image-size 256] [--json]

Both models take turns, step by step, so that what else the machine does meets them alike; one warm-up each, then the
median of `--repeats`. A training step is forward, backward and AdamW's step on cross-entropy; random images and random
weights cost what others do. Published is 2x in training (arXiv 2502.10120: 9 h against 20 h on Animals-10): that is the
bar, though it belongs to other hardware. The ratio of multiply-adds is what arithmetic alone would give. On a GPU the
steps run in bfloat16.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raybench import models
from raybench.config.trial import ModelConfig
from raybench.distillation.cache import Rows, ViewCache
from raybench.distillation.packing import Halves
from raybench.models.macs import count_macs

OURS, PEER = "ci2p_vit", "vit_base_patch16_224"
CLASSES = 10
PUBLISHED_TRAINING_RATIO = 2.0
"""arXiv 2502.10120; for answering it publishes none."""


def build(name: str, image_size: int, device: torch.device) -> nn.Module:
    """A model with fresh weights for images of this size."""
    torch.manual_seed(0)
    config = ModelConfig(name=name, image_size=image_size)
    half = (0.5,) * 3
    built = models.build(config, num_classes=CLASSES, in_channels=3, image_size=image_size, mean=half, std=half)
    return built.module.to(device)


class Behind(nn.Module):
    """What of a CI2P-ViT comes after its encoder."""

    def __init__(self, whole: nn.Module, rows: Rows) -> None:
        super().__init__()
        self.whole = whole
        self.rows = rows

    def forward(self, positions: Tensor) -> Tensor:
        """Positions in the cache -> logits."""
        logits: Tensor = self.whole.decide(self.rows(positions))  # type: ignore[operator]
        return logits


def training(module: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """One step of training."""
    module.train()
    optimizer = torch.optim.AdamW((p for p in module.parameters() if p.requires_grad), lr=1e-4)

    def step() -> None:
        module.train()
        with precision(images.device):
            loss = F.cross_entropy(module(images), labels)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()

    return step


def answering(module: nn.Module, images: Tensor) -> Callable[[], None]:
    """One batch answered."""

    def step() -> None:
        module.eval()
        with torch.inference_mode(), precision(images.device):
            module(images)

    return step


def precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """bfloat16 on a GPU, 32 bits on a CPU."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()


def seconds(step: Callable[[], None], device: torch.device) -> float:
    """Wall seconds of one step, what it left on a GPU included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(steps: dict[str, Callable[[], None]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each step, the steps taking turns; the first turn is not counted."""
    measured: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items() if turn % 2 else reversed(steps.items()):
            took = seconds(step, device)
            if turn:
                measured[name].append(took)
    return measured


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8, help="images a step")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=5, help="counted steps of each model")
    parser.add_argument("--image-size", type=int, default=256, help="side in pixels, a multiple of 32")
    parser.add_argument("--json", action="store_true", help="one object a claim")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    modules = {name: build(name, args.image_size, device) for name in (OURS, PEER)}
    images = torch.rand(args.batch_size, 3, args.image_size, args.image_size, device=device)
    labels = torch.arange(args.batch_size, device=device) % CLASSES
    macs = {name: count_macs(module, 3, args.image_size) for name, module in modules.items()}
    with torch.no_grad():
        code = modules[OURS].eval().encode(images)  # type: ignore[operator]
    folder = tempfile.TemporaryDirectory()
    cache = ViewCache(Path(folder.name), args.batch_size, 1, Halves(tuple(code.shape[1:])))
    cache.fill(args.batch_size, lambda positions, _: code[positions])
    rows = cache.rows(args.batch_size, torch.zeros(cache.blocks, dtype=torch.int64), device)
    behind = Behind(modules[OURS], rows)
    positions = torch.arange(args.batch_size, device=device)
    claims: list[tuple[str, dict[str, Callable[[], None]], float | None]] = [
        ("answering", {name: answering(module, images) for name, module in modules.items()}, None),
        (
            "training",
            {name: training(module, images, labels) for name, module in modules.items()},
            PUBLISHED_TRAINING_RATIO,
        ),
        (
            "training on kept code (latents: lazy, filled before)",
            {OURS: training(behind, positions, labels), PEER: training(modules[PEER], images, labels)},
            PUBLISHED_TRAINING_RATIO,
        ),
    ]
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()}, {args.threads} threads"
    hardware = f"{where}, load {os.getloadavg()[0]:.1f}"
    for claim, steps, published in claims:
        report(claim, compare(steps, args.repeats, device), macs, published, hardware, args)


def report(
    claim: str,
    measured: dict[str, list[float]],
    macs: dict[str, int],
    published: float | None,
    hardware: str,
    args: argparse.Namespace,
) -> None:
    """Print one comparison: images a second of both, their ratio, the published one and that of multiply-adds."""
    speed = {name: args.batch_size / statistics.median(took) for name, took in measured.items()}
    ratio = speed[OURS] / speed[PEER]
    result = {
        "claim": f"{OURS} against {PEER}, {claim}, images/s at {args.image_size} px",
        "ours": round(speed[OURS], 3),
        "peer": round(speed[PEER], 3),
        "ratio": round(ratio, 3),
        "bar": published,
        "published": published,
        "macs_ratio": round(macs[PEER] / macs[OURS], 3),
        "holds": None if published is None else ratio >= published,
        "n": args.repeats,
        "batch_size": args.batch_size,
        "hardware": hardware,
    }
    if args.json:
        print(json.dumps(result))
        return
    spread = "; ".join(f"{name} {min(took):.3f} to {max(took):.3f} s a step" for name, took in measured.items())
    beside = "no published ratio" if published is None else f"published {published:g}x"
    print(
        f"{claim}: {ratio:.2f}x ({speed[OURS]:.2f} against {speed[PEER]:.2f} images/s, medians, n = {args.repeats}; "
        f"{spread}); {beside}; multiply-adds {result['macs_ratio']:.2f}x; batch {args.batch_size}; {hardware}"
    )


if __name__ == "__main__":
    main()
