"""On a GPU: images a second of every paper's model, forward and in training.

    python benchmarks/gpu_models.py [--json] [--pairs 5] [--models NAME …] [--batch 128]
    python benchmarks/gpu_models.py --cpu --models resnet20 --batch 4 --pairs 1     to try it

Steps on random images that lie on the device (`raybench/training/speed.py`), in the precision of `auto`, each model at
the size of its paper, by itself. Needs torch, timm, pyarrow, pydantic and this folder as
PYTHONPATH; no Ray.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from benchmarks.peers.pairs import arguments
from benchmarks.peers.rates import Figure, show
from raybench.config.trial import ModelConfig, Option
from raybench.training.speed import Load, compare_speeds


@dataclass(frozen=True)
class Model:
    """A model as a paper has it."""

    name: str
    size: int
    """Side of its images in pixels."""
    classes: int
    options: tuple[tuple[str, Option], ...] = ()

    @property
    def label(self) -> str:
        """Its name with what is special about it, at its size."""
        special = " ".join(f"{key}={value}" for key, value in self.options)
        return f"{self.name}{special and f' {special}'} at {self.size}"


MODELS = (
    # reversed DeiT and DeiT: students, teachers
    Model("resnet20", 32, 100),
    Model("resnet50", 32, 100),
    Model("vit_base_patch16_224", 224, 100),
    Model("deit_tiny_patch16_224", 224, 1000),
    Model("deit_small_distilled_patch16_224", 224, 1000),
    # token merging
    Model("vit_small_patch16_224", 224, 1000),
    Model("vit_small_patch16_224", 224, 1000, (("tome_r", 13),)),
    Model("vit_base_patch16_224", 224, 1000, (("tome_r", 13),)),
    # vision transformers on the code of a codec
    Model("vit_b16_gap", 256, 10),
    Model("vit_base_patch32_224", 256, 10, (("img_size", 256),)),
    Model("ci2p_vit", 256, 10),
    Model("ci2p_vit_ds", 256, 10),
    Model("cnn_vit", 256, 10),
)


def figures(args: argparse.Namespace) -> Iterator[Figure]:
    """Two rates a model."""
    chosen = [model for model in MODELS if not args.models or model.name in args.models]
    for model in chosen:
        # Each by itself, with all of the GPU's memory: it is not compared with the others.
        load = Load(
            ModelConfig(name=model.name, options=dict(model.options)),
            num_classes=model.classes,
            image_size=model.size,
            batch_size=args.batch,
            precision="auto",
            threads=torch.get_num_threads(),
        )
        found = compare_speeds({model.label: load}, args.pairs)[model.label]
        if isinstance(found, str):
            print(f"{model.label}: {found}", file=sys.stderr)
            continue
        for what, rate in (("training", found.train), ("forward", found.infer)):
            yield Figure(
                f"images/s of {model.label}, {what}, batch {args.batch}",
                (rate.low, rate.median, rate.high),
                "images/s",
                details=f"slowest, median and fastest of {args.pairs} repeats",
            )


def main() -> int:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.add_argument("--models", nargs="+", metavar="NAME", choices=sorted({model.name for model in MODELS}))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--cpu", action="store_true", help="try it on a CPU")
    args = parser.parse_args()
    if not args.cpu and not torch.cuda.is_available():
        raise SystemExit("no CUDA device (--cpu tries it without)")
    show(figures(args), args.json, torch.get_num_threads())
    return 0


if __name__ == "__main__":
    sys.exit(main())
