"""A plain training epoch of ResNet-20, 32x32 images: ours against a script like the papers', and against timm's parts.

    python benchmarks/training_step.py [--json] [--pairs 5] [--images 3840] [--threads N]

In fp32 all three do the same maths: same model, batches of 128, SGD, pad-4 crops and flips, cross-entropy. First it is
checked that one step of ours and of a plain loop give the same weights from the same views. Then comes ours with what
pays on this machine (`precision: amp`, compiled), against the same script in fp32. The peers' loaders have two workers
of their own. CIFAR-10 from RAYBENCH_DATA where it is there, else random images of its shape.
"""

from __future__ import annotations

import copy
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers.pairs import Claim, arguments, interleaved, show
from benchmarks.peers.plain_epoch import PaperScript, TimmLoop
from raybench.config.trial import ModelConfig, TrialConfig
from raybench.data import ImageData, Request, load
from raybench.data.views import normalise
from raybench.errors import DataError
from raybench.models import build
from raybench.training.batches import PlainImages, TrainingImages
from raybench.training.device import choose_device
from raybench.training.loop import Run
from raybench.training.tasks import Classification

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
BATCH, LR = 128, 0.1


def images(count: int) -> ImageData:
    """So many training images, real where there are any."""
    root = os.environ.get("RAYBENCH_DATA")
    config = TrialConfig.model_validate(content()).dataset
    try:
        if root is None:
            raise DataError("no RAYBENCH_DATA")
        return load(Request.of(config), Path(root), download=False)
    except DataError as error:
        print(f"random images ({error})", file=sys.stderr)
    return random_images(count)


def random_images(count: int) -> ImageData:
    """So many training images of CIFAR-10's shape."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int64) % 10
    return ImageData(
        name="cifar10",
        train_images=pixels,
        train_labels=labels,
        test_images=pixels[:10],
        test_labels=labels[:10],
        classes=tuple(map(str, range(10))),
        mean=MEAN,
        std=STD,
        variant="random",
        fingerprint="",
    )


def content(**more: Any) -> dict[str, Any]:
    """A plain trial."""
    return {
        "dataset": {"name": "cifar10", "augment": ["crop4", "hflip"]},
        "model": {"name": "resnet20"},
        "optimizer": {"name": "sgd", "lr": LR, "momentum": 0.9, "weight_decay": 5e-4},
        "schedule": {"name": "constant", "epochs": 1000},
        "batch_size": BATCH,
        **more,
    }


def ours(data: ImageData, count: int, **more: Any) -> Run:
    """Our loop, with next to nothing to validate."""
    config = TrialConfig.model_validate(content(**more))
    device = choose_device(config.precision, gpu=0)
    torch.manual_seed(0)
    built = build(
        ModelConfig(name="resnet20"), num_classes=10, in_channels=3, image_size=32, mean=data.mean, std=data.std
    )
    task = Classification(built, device.device, compile_for=BATCH if config.compile else None)
    training = TrainingImages(data, np.arange(count), config.dataset, device.device)
    validation = PlainImages(data.train_images, data.train_labels, np.arange(10), device.device)
    return Run(config, task, training, validation, device)


def same_step(data: ImageData) -> None:
    """One step of ours and of a plain loop from the same views: the same weights, but for the order of sums."""
    run = ours(data, BATCH, precision="fp32")
    plain = copy.deepcopy(run.task.module)
    optimizer = torch.optim.SGD(plain.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)
    (batch,) = run.training.epoch(0, run.config.seed, BATCH)
    plain.train()
    loss = torch.nn.functional.cross_entropy(plain(normalise(batch.views, data.mean, data.std)), batch.labels)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
    run.train_epoch()
    for a, b in zip(run.task.module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def main() -> int:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=30 * BATCH, help="images of an epoch")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = images(args.images)
    same_step(data)
    given = (data.train_images[: args.images], data.train_labels[: args.images], data.mean, data.std, BATCH, LR)
    script = PaperScript(ours(data, args.images).task.module, *given)
    timm_loop = TimmLoop(ours(data, args.images).task.module, *given)
    fp32 = ours(data, args.images, precision="fp32")
    contests: list[tuple[str, Run, PaperScript | TimmLoop, float | None]] = [
        ("fp32, against a script like the papers'", fp32, script, 1.4),
        ("fp32, against timm's parts", fp32, timm_loop, 1.4),
    ]
    fast = ours(data, args.images, precision="amp", compile=True)
    named = f"precision amp (here {fast.device.precision}) and compiled, against a script like the papers' in fp32"
    contests.append((named, fast, script, 2.5))
    for name, run, peer, bar in contests:
        ours_s, peer_s = interleaved(run.train_epoch, peer.epoch, args.pairs)
        speed = args.images / np.median(ours_s), args.images / np.median(peer_s)
        details = f"{speed[0]:.0f} against {speed[1]:.0f} images/s; compiled: {run.task.compiled or 'not asked for'}"
        show([Claim(f"a training epoch, {name}", ours_s, peer_s, bar=bar, details=details)], args.json, args.threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
