"""Whether K cached views of each image cost accuracy, against a live teacher that sees a fresh view in every epoch.

    RAYBENCH_DATA=DIR python benchmarks/view_accuracy.py [--json] [--seeds 5] [--images 2500] [--epochs 15]

Real CIFAR-10: the pretrained ResNet-56 teaches a ResNet-20, hard and soft, K / epochs = 1/3 as K = 50 is in the
published 150 epochs. Both sides have the same seeds, images, order and schedule; ours draws from K views whose logits
are kept in 16 bits, the peer from all 162 with the teacher in every step. What is told is the difference in test top-1,
paired by seed, with its 95 % t interval: 0 must lie within. As many trials at a time as there are cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.peers.pairs import hardware
from raybench.config.trial import TrialConfig
from raybench.report.statistics import estimate
from raybench.results.schema import Status
from raybench.results.store import Store
from raybench.training.recorder import Setup
from raybench.training.trial import run_trial


def trial(kind: str, views: int | str, cache: str, seed: int, images: int, epochs: int) -> TrialConfig:
    """One of a pair."""
    return TrialConfig.model_validate(
        {
            "dataset": {
                "name": "cifar10",
                "train_size": images,
                "val_size": 1000,
                "augment": ["crop4", "hflip"],
                "views": views,
            },
            "model": {"name": "resnet20"},
            "distillation": {
                "type": kind,
                "alpha": 0.9,
                "tau": 4.0,
                "cache": cache,
                "teacher": {"name": "resnet56", "weights": "pretrained", "prepare": "none"},
            },
            "optimizer": {"name": "sgd", "lr": 0.1, "weight_decay": 5e-4},
            "schedule": {"epochs": epochs, "warmup_epochs": 1},
            "batch_size": 64,
            "precision": "fp32",
            "seed": seed,
        }
    )


def run_one(config: str, setup: Setup) -> str:
    """A trial in a worker."""
    return run_trial(TrialConfig.model_validate_json(config), setup).status


def result(kind: str, args: argparse.Namespace, setup: Setup) -> dict[str, Any]:
    """Train both sides and compare."""
    count = max(1, args.epochs // 3)
    sides = [
        [trial(kind, views, cache, seed, args.images, args.epochs) for seed in range(args.seeds)]
        for views, cache in ((count, "lazy"), ("all", "off"))
    ]
    with ProcessPoolExecutor(os.cpu_count() or 1, multiprocessing.get_context("spawn")) as pool:
        done = [
            pool.submit(run_one, each.model_dump_json(), setup) for pair in zip(*sides, strict=True) for each in pair
        ]
        for future in done:
            if (status := future.result()) != Status.COMPLETE:
                raise SystemExit(f"a trial is {status}, not complete")
    assert isinstance(setup.results, Path)
    top1 = dict(Store(setup.results).trials().select("trial_id", "test_top1").iter_rows())
    ours, peer = ([top1[each.trial_id] for each in side] for side in sides)
    found = estimate([a - b for a, b in zip(ours, peer, strict=True)])
    assert found is not None
    low, high = found.low or found.mean, found.high or found.mean
    return {
        "claim": f"test top-1, {kind}, {count} cached views an image against a live teacher, {args.epochs} epochs",
        "ours": round(sum(ours) / len(ours), 3),
        "peer": round(sum(peer) / len(peer), 3),
        "unit": "%",
        "ratio": round(found.mean, 3),
        "ratio_is": "ours - peer",
        "ratio_range": [round(low, 3), round(high, 3)],
        "bar": 0,
        "holds": low <= 0 <= high,
        "n": found.n,
        "details": f"95 % interval of the difference {low:+.2f} to {high:+.2f} points; {args.images} images",
        "hardware": hardware(1),
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one object a claim")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2500)
    parser.add_argument("--epochs", type=int, default=15)
    args = parser.parse_args()
    if not (root := os.environ.get("RAYBENCH_DATA")):
        raise SystemExit("RAYBENCH_DATA must name a folder with CIFAR-10 and weights/resnet56-4bfd9763.th")
    with tempfile.TemporaryDirectory() as name:
        setup = Setup(sweep="view_accuracy", results=Path(name), data_root=Path(root), cpu=1, keep="none")
        for kind in ("hard", "soft"):
            found = result(kind, args, setup)
            said = f"{found['claim']}\n  {found['ours']:.2f} against {found['peer']:.2f} %; {found['details']}"
            print(json.dumps(found) if args.json else said, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
