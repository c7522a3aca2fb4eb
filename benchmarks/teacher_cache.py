"""A step of distillation whose teacher's logits are cached, against a plain step, and against a live teacher's.

    python benchmarks/teacher_cache.py [--json] [--pairs 5] [--steps 20] [--teachers deit_tiny_patch16_224 …]

CIFAR-100's shape: 32x32 images, batch 128; the teacher sees the same views upsampled to 224. Sides take turns of some
steps, augmentation included, on a GPU in 16 bits where there is one, else in fp32. Before that the cached logits are
compared with the live teacher's of the same views. A live step of a ViT-B takes minutes on two cores, so its batches
are smaller (--live-batch), on both sides of that contest.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from benchmarks.peers.pairs import Claim, arguments, interleaved, show
from raybench.config.trial import DistillationConfig, ModelConfig, TeacherConfig, TrialConfig
from raybench.data import ImageData
from raybench.distillation.cache import ViewCache
from raybench.distillation.packing import Packing
from raybench.distillation.teacher import Teacher
from raybench.models import build
from raybench.training.batches import PlainImages, TrainingImages
from raybench.training.device import choose_device
from raybench.training.loop import Run
from raybench.training.tasks import CachedTeacher, Classification, Distillation, LiveTeacher, Task

CLASSES, VIEWS = 100, 2
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
OVERHEAD_BAR = 1.03
LIVE_BARS = {"vit_base_patch16_224": 8.0, "deit_base_patch16_224": 8.0, "deit_tiny_patch16_224": 2.0}
DEVICE = choose_device("auto", gpu=1)
HERE = DEVICE.device


def images(count: int) -> ImageData:
    """Random images of CIFAR-100's shape."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int64) % CLASSES
    return ImageData(
        name="cifar100",
        train_images=pixels,
        train_labels=labels,
        test_images=pixels[:10],
        test_labels=labels[:10],
        classes=tuple(map(str, range(CLASSES))),
        mean=MEAN,
        std=STD,
        variant="random",
        fingerprint="",
    )


class Contest:
    """One data set and batch size, and the ways of training on it."""

    def __init__(self, student: str, steps: int, batch: int) -> None:
        self.name, self.steps, self.batch = student, steps, batch
        self.data = images(steps * batch)
        self.config = TrialConfig.model_validate(
            {
                "dataset": {"name": "cifar100", "augment": ["crop4", "hflip"], "views": VIEWS},
                "model": {"name": student},
                "optimizer": {"name": "sgd", "lr": 0.01},
                "schedule": {"name": "constant", "epochs": 10_000},
                "batch_size": batch,
            }
        )
        self.training = TrainingImages(self.data, np.arange(len(self.data.train_labels)), self.config.dataset, HERE)

    def student(self) -> Classification:
        """A fresh student."""
        torch.manual_seed(0)
        config = ModelConfig(name=self.name)
        built = build(config, num_classes=CLASSES, in_channels=3, image_size=32, mean=MEAN, std=STD)
        return Classification(built, HERE)

    def teacher(self, name: str) -> Teacher:
        """A teacher with random weights, which cost what others do."""
        torch.manual_seed(1)
        config = ModelConfig(name=name, image_size=224)
        built = build(config, num_classes=CLASSES, in_channels=3, image_size=32, mean=MEAN, std=STD)
        return Teacher(built, HERE, DEVICE.autocast_dtype)

    def run(self, task: Task) -> Run:
        """The loop, with next to nothing to validate."""
        few = np.arange(min(10, len(self.training)))
        validation = PlainImages(self.data.train_images, self.data.train_labels, few, HERE)
        return Run(self.config, task, self.training, validation, DEVICE)

    def distilled(self, teacher: CachedTeacher | LiveTeacher) -> Run:
        """The same student, taught half of it."""
        wanted = DistillationConfig(type="soft", alpha=0.5, tau=2.0, teacher=TeacherConfig(name="any"))
        return self.run(Distillation(self.student(), wanted, teacher))

    def cached(self, folder: Path, teacher: Teacher) -> CachedTeacher:
        """What the teacher says of all views, computed before."""
        cache = ViewCache(folder, len(self.training), VIEWS, Packing(CLASSES))
        cache.fill(
            len(self.training),
            lambda positions, slot: torch.cat(
                [
                    teacher.logits(self.training.render(part, torch.full_like(part, slot)))
                    for part in positions.split(self.batch)
                ]
            ),
        )
        return self.reading(cache)

    def reading(self, cache: ViewCache) -> CachedTeacher:
        """A teacher out of a cache, as a trial has it."""
        return CachedTeacher(
            lambda epoch, seed, _: cache.rows(len(self.training), self.training.block_slots(epoch, seed), HERE)
        )


def contests(args: argparse.Namespace) -> Iterator[Claim]:
    """Each claim as it is measured."""
    with tempfile.TemporaryDirectory() as name:
        plain = Contest(args.student, args.steps, args.batch)
        logits = ViewCache(Path(name) / "plain", len(plain.training), VIEWS, Packing(CLASSES))
        # Whose they are costs a look-up nothing.
        logits.fill(len(plain.training), lambda positions, _: torch.randn(len(positions), CLASSES).half())
        cached = plain.reading(logits)
        ours, alone = plain.distilled(cached), plain.run(plain.student())
        yield Claim(
            f"a distillation step with cached logits, against a plain step ({args.student}, batch {args.batch})",
            *interleaved(ours.train_epoch, alone.train_epoch, args.pairs),
            ratio="ours / peer",
            bar=OVERHEAD_BAR,
        )
        for teacher_name in args.teachers:
            batch = args.live_batch if "base" in teacher_name and HERE.type == "cpu" else args.batch
            contest = Contest(args.student, args.live_steps, batch)
            teacher = contest.teacher(teacher_name)
            cached = contest.cached(Path(name) / teacher_name, teacher)
            live = LiveTeacher(teacher)
            cached.begin(0, contest.config.seed, lambda: None)
            for shown in islice(contest.training.epoch(0, contest.config.seed, batch), 1):
                torch.testing.assert_close(cached(shown), live(shown), rtol=2**-9, atol=1e-2)
            yield Claim(
                f"a distillation step with cached logits, against a live {teacher_name} at 224 (batch {batch})",
                *interleaved(contest.distilled(cached).train_epoch, contest.distilled(live).train_epoch, args.pairs),
                bar=LIVE_BARS.get(teacher_name),
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--steps", type=int, default=20, help="steps of a turn against the plain step")
    parser.add_argument("--live-steps", type=int, default=2, help="steps of a turn against a live teacher")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--live-batch", type=int, default=32, help="batch size of both sides for a ViT-B on a CPU")
    parser.add_argument("--teachers", nargs="*", default=["deit_tiny_patch16_224", "vit_base_patch16_224"])
    args = parser.parse_args(argv)
    DEVICE.set_products()
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    show(contests(args), args.json, threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
