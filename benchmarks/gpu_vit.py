"""On a GPU: an epoch of ViT-B/16 on 20,000 images of CIFAR-10's shape at 224, and what part of the GPU's peak that is.

    python benchmarks/gpu_vit.py [--json] [--pairs 3] [--compile] [--peak-tflops N]
    python benchmarks/gpu_vit.py --cpu --model vit_tiny_patch16_224 --images 8 --batch 4 --pairs 1 --side 256

An epoch is our own loop's: augmentation, upsampling, forward, backward and AdamW, in the precision of `auto`. Its work
is that of the model's multiply-adds, twice as many floating-point operations each, and three times for the backward
pass too. The peak is that of large products of matrices of the same type, measured here; `--peak-tflops` takes the
one of a data sheet instead. Needs torch, timm, pyarrow, pydantic and this folder as PYTHONPATH; no Ray.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.peers.pairs import arguments
from benchmarks.peers.rates import Figure, show
from benchmarks.training_step import MEAN, STD, random_images
from raybench.config.trial import ModelConfig, TrialConfig
from raybench.models import build
from raybench.models.macs import count_macs
from raybench.training.batches import PlainImages, TrainingImages
from raybench.training.device import Device, choose_device
from raybench.training.loop import Run
from raybench.training.tasks import Classification

SIZE = 224
FORWARD_AND_BACKWARD = 3
"""The gradients of inputs and of weights cost as much as the forward pass, each."""
SIDE = 8192
"""Of the square matrices whose product is the measured peak."""


def run_of(args: argparse.Namespace, device: Device) -> tuple[Run, int]:
    """The loop, and the multiply-adds of an image's forward pass."""
    config = TrialConfig.model_validate(
        {
            "dataset": {"name": "cifar10", "augment": ["crop4", "hflip"]},
            "model": {"name": args.model, "image_size": SIZE},
            "optimizer": {"name": "adamw", "lr": 1e-4},
            "schedule": {"name": "constant", "epochs": 1000},
            "batch_size": args.batch,
            "compile": args.compile,
        }
    )
    data = random_images(args.images)
    torch.manual_seed(0)
    built = build(
        ModelConfig(name=args.model, image_size=SIZE), num_classes=10, in_channels=3, image_size=32, mean=MEAN, std=STD
    )
    macs = count_macs(built.module, 3, SIZE)
    task = Classification(built, device.device, compile_for=args.batch if args.compile else None)
    training = TrainingImages(data, np.arange(args.images), config.dataset, device.device)
    validation = PlainImages(data.train_images, data.train_labels, np.arange(2), device.device)
    return Run(config, task, training, validation, device), macs


def peak_flops(device: Device, side: int) -> float:
    """Floating-point operations a second of the product of two large matrices: the best of some."""
    kind = device.autocast_dtype or torch.float32
    a, b = (torch.randn(side, side, device=device.device, dtype=kind) for _ in range(2))
    best = 0.0
    for _ in range(10):
        device.synchronise()
        start = time.perf_counter()
        a @ b
        device.synchronise()
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best


def figures(args: argparse.Namespace) -> Iterator[Figure]:
    """Images a second, and operations a second against the peak."""
    device = choose_device("auto", gpu=0 if args.cpu else 1)
    device.set_products()
    run, macs = run_of(args, device)
    rates = []
    for turn in range(args.pairs + 1):
        device.synchronise()
        start = time.perf_counter()
        run.train_epoch()
        device.synchronise()
        if turn:  # the first warms up, and compiles
            rates.append(args.images / (time.perf_counter() - start))
    compiled = f"compiled: {run.task.compiled}; " if args.compile else ""
    what = f"an epoch of {args.model} on {args.images:,} images of CIFAR-10's shape at {SIZE}, batch {args.batch}"
    speed = Figure(f"images/s in {what}", rates, "images/s", details=f"{compiled}{device.precision}")
    yield speed
    peak = args.peak_tflops * 1e12 if args.peak_tflops else peak_flops(device, args.side)
    whence = "of the data sheet" if args.peak_tflops else f"of products of {args.side} x {args.side} matrices, here"
    yield dataclasses.replace(
        speed,
        claim=f"fraction of the peak in {what}",
        ours=[rate * macs * 2 * FORWARD_AND_BACKWARD / 1e12 for rate in rates],
        unit="TFLOP/s",
        limit=peak / 1e12,
        details=f"{speed.details}; {macs / 1e9:.2f} GMAC an image; the peak is that {whence}",
    )


def main() -> int:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.set_defaults(pairs=3)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--side", type=int, default=SIDE, help="of the matrices whose product is the peak")
    parser.add_argument("--peak-tflops", type=float, help="the GPU's peak in this precision by its data sheet")
    parser.add_argument("--compile", action="store_true", help="compile the training step")
    parser.add_argument("--cpu", action="store_true", help="try it on a CPU")
    args = parser.parse_args()
    if not args.cpu and not torch.cuda.is_available():
        raise SystemExit("no CUDA device (--cpu tries it without)")
    show(figures(args), args.json, torch.get_num_threads())
    return 0


if __name__ == "__main__":
    sys.exit(main())
