"""On a GPU: some trials at once on it, against one after the other.

    python benchmarks/gpu_packing.py [--json] [--pairs 5] [--trials 4] [--model resnet20]
    python benchmarks/gpu_packing.py --cpu --trials 2 --images 256 --pairs 1     to try it

A trial is an epoch of 32x32 images in batches of 128 by our own loop, in the precision of `auto`, in a process of its
own as Ray starts them; without NVIDIA's MPS the GPU gives them turns. Every process is started, and has trained an
epoch, before anything is timed. Needs torch, timm, pyarrow, pydantic and this folder as PYTHONPATH; no Ray.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from multiprocessing.connection import Connection

import numpy as np
import torch

from benchmarks.peers.pairs import Claim, arguments, interleaved, show
from benchmarks.peers.rates import where
from benchmarks.training_step import BATCH, content, random_images
from raybench.config.trial import ModelConfig, TrialConfig
from raybench.models import build
from raybench.training.batches import PlainImages, TrainingImages
from raybench.training.device import choose_device
from raybench.training.loop import Run
from raybench.training.tasks import Classification


def run_of(model: str, count: int, gpu: float) -> Run:
    """A trial's loop, with next to nothing to validate."""
    config = TrialConfig.model_validate(content() | {"model": {"name": model}})
    device = choose_device("auto", gpu=gpu)
    device.set_products()
    data = random_images(count)
    torch.manual_seed(0)
    named = ModelConfig(name=model)
    built = build(named, num_classes=10, in_channels=3, image_size=32, mean=data.mean, std=data.std)
    training = TrainingImages(data, np.arange(count), config.dataset, device.device)
    validation = PlainImages(data.train_images, data.train_labels, np.arange(10), device.device)
    return Run(config, Classification(built, device.device), training, validation, device)


def worker(pipe: Connection, model: str, count: int, gpu: float) -> None:
    """Trains an epoch whenever it is asked to, and says when it is done."""
    torch.set_num_threads(1)
    run = run_of(model, count, gpu)
    while pipe.recv():
        run.train_epoch()
        run.device.synchronise()
        pipe.send(True)


class Worker:
    """A process that trains."""

    def __init__(self, args: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, there = context.Pipe()
        given = (there, args.model, args.images, 0.0 if args.cpu else 1 / args.trials)
        self.process = context.Process(target=worker, args=given, daemon=True)
        self.process.start()
        there.close()  # so that a worker that dies is noticed

    def start(self) -> None:
        """Begin an epoch."""
        self.pipe.send(True)

    def wait(self) -> None:
        """Until it is done."""
        self.pipe.recv()

    def end(self) -> None:
        """No more epochs."""
        self.pipe.send(False)
        self.process.join()


def main() -> int:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.add_argument("--trials", type=int, default=4, help="at once (default: 4)")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--images", type=int, default=100 * BATCH, help="images of an epoch")
    parser.add_argument("--cpu", action="store_true", help="try it on a CPU")
    args = parser.parse_args()
    if not args.cpu and not torch.cuda.is_available():
        raise SystemExit("no CUDA device (--cpu tries it without)")
    workers = [Worker(args) for _ in range(args.trials)]
    for each in workers:  # one by one: each warms up by itself
        each.start()
        each.wait()

    def at_once() -> None:
        for each in workers:
            each.start()
        for each in workers:
            each.wait()

    def in_turn() -> None:
        for each in workers:
            each.start()
            each.wait()

    claim = f"{args.trials} trials of {args.model} at once on a GPU, against one after the other"
    taken = interleaved(at_once, in_turn, args.pairs)
    show([Claim(claim, *taken, details=where(1))], args.json, threads=1)
    for each in workers:
        each.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
