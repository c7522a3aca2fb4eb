"""What a teacher adds to a whole sweep: ten trials with a lazy cache, its filling included, against ten without.

    python benchmarks/sweep_cost.py [--json] [--pairs 5] [--images 512] [--epochs 6]

Five values of alpha times two learning rates, against the student alone with as many trials. Scaled down from the
published run (150 epochs; a teacher's pass about 3.4 steps of the student's): K / epochs = 1/3 here too, and the
teacher is a DeiT-Ti at a size at which its pass takes about as many of the student's steps as published; how many it
really took is printed. Trials are whole ones, rows and all, as many at a time as there are cores, each with a thread of
its own, as a sweep runs them; their processes are started before. A live teacher's sweep is measured by one trial a
core in each pair, times ten over the cores. Ready before: the teacher's weights (random), and the images.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.pairs import Claim, arguments, interleaved, show, timed
from benchmarks.view_accuracy import run_one
from raybench.config.folders import cache_root
from raybench.config.trial import TrialConfig
from raybench.results.schema import Status
from raybench.training.ingredients import as_planned
from raybench.training.preparation import ensure_teacher, teacher_folder
from raybench.training.recorder import Setup

ALPHAS, RATES = (0.1, 0.3, 0.5, 0.7, 0.9), (0.01, 0.03)
PUBLISHED_LIVE = 4.44
BAR = 1.2


def trial(images: int, epochs: int, alpha: float, lr: float, size: int, seed: int, **more: Any) -> TrialConfig:
    """One of the sweep."""
    return TrialConfig.model_validate(
        {
            "dataset": {
                "name": "cifar10",
                "train_size": images,
                "val_size": 10,
                "augment": ["crop4", "hflip"],
                "views": max(1, epochs // 3),
            },
            "model": {"name": "resnet20"},
            "distillation": {
                "type": "soft",
                "alpha": alpha,
                "tau": 2.0,
                "cache": "lazy",
                "teacher": {"name": "deit_tiny_patch16_224", "prepare": "none", "image_size": size},
                **more,
            },
            "optimizer": {"name": "sgd", "lr": lr},
            "schedule": {"epochs": epochs},
            "batch_size": 64,
            "precision": "fp32",
            "seed": seed,
        }
    )


class Sweeps:
    """The two sweeps; each turn begins without logits."""

    def __init__(self, folder: Path, images: int, epochs: int, size: int, data: Path) -> None:
        self.folder, self.images, self.epochs, self.size = folder, images, epochs, size
        self.setup = Setup(sweep="sweep_cost", cpu=1, keep="none", data_root=data)
        self.turn = 0
        self.workers = os.cpu_count() or 1
        self.pool = ProcessPoolExecutor(self.workers, multiprocessing.get_context("spawn"))
        ensure_teacher(self.trial(0.5, 0.01), self.setup)

    def trial(self, alpha: float, lr: float, **more: Any) -> TrialConfig:
        """One of them."""
        return trial(self.images, self.epochs, alpha, lr, self.size, 0, **more)

    def with_cache(self) -> None:
        """Ten trials with a teacher, of whose logits nothing is there yet."""
        for logits in teacher_folder(as_planned(self.trial(0.5, 0.01), self.setup)).glob("logits-*"):
            logits.rename(self.folder / f"logits-{self.turn}")
        self.run([self.trial(alpha, lr) for alpha, lr in product(ALPHAS, RATES)])

    def alone(self) -> None:
        """Ten trials of the student alone, each at a rate of its own."""
        self.run([self.trial(0.0, 0.01 + 0.001 * index) for index in range(len(ALPHAS) * len(RATES))])

    def live(self) -> None:
        """One trial a core with a teacher in every step."""
        self.run([self.trial(0.5, 0.01 + 0.001 * index, cache="off") for index in range(self.workers)])

    def run(self, trials: list[TrialConfig]) -> None:
        """As many at a time as there are workers, into a folder of their own."""
        self.turn += 1
        setup = Setup(**{**self.setup.__dict__, "results": self.folder / f"results-{self.turn}"})
        done = [self.pool.submit(run_one, each.model_dump_json(), setup) for each in trials]
        assert all(each.result() == Status.COMPLETE for each in done)


def random_cifar(folder: Path, images: int) -> Path:
    """A data root with random images as CIFAR-10's Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    root = folder / "data"
    root.mkdir()
    generator = np.random.default_rng(0)
    for name, count in (("train", images + 10), ("test", 10)):
        encoded = []
        for _ in range(count):
            path = folder / "one.png"
            Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
            encoded.append(path.read_bytes())
        labels = (np.arange(count) % 10).tolist()
        pq.write_table(pa.table({"image": encoded, "label": labels}), root / f"cifar10_{name}.parquet")
    return root


def main() -> int:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--teacher-size", type=int, default=112, help="side in px at which the teacher looks")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["RAYBENCH_CACHE"] = str(folder / "cache")
        sweeps = Sweeps(folder, args.images, args.epochs, args.teacher_size, random_cifar(folder, args.images))
        assert cache_root() == folder / "cache"
        start = time.perf_counter()
        sweeps.live()
        cached_s, alone_s = interleaved(sweeps.with_cache, sweeps.alone, args.pairs)
        trials = len(ALPHAS) * len(RATES)
        live_s = [trials / sweeps.workers * timed(sweeps.live) for _ in range(args.pairs)]
        sweeps.pool.shutdown()
        live = statistics.median(live_s) / statistics.median(alone_s)
        details = (
            f"a live teacher's sweep: {live:.2f}x (published {PUBLISHED_LIVE}x), so its pass took {live - 1:.2f} "
            f"of the student's steps; {time.perf_counter() - start:.0f} s in all"
        )
        claim = "a sweep of ten trials with a teacher, its logits cached lazily, against ten trials without"
        show([Claim(claim, cached_s, alone_s, ratio="ours / peer", bar=BAR, details=details)], args.json, threads=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
