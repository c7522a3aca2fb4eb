"""On a GPU: steps of ViT-B -> ResNet-50 on CIFAR-100's shape with cached logits, against plain and live ones.

    python benchmarks/gpu_teacher_cache.py [--json] [--pairs 5]

`teacher_cache.py` with the published pair: 100 steps a turn against the plain student, 10 against a live teacher. Needs
torch, timm, pyarrow, pydantic, psutil, polars and this folder as PYTHONPATH; no Ray.
"""

from __future__ import annotations

import sys

import torch

from benchmarks import teacher_cache

PAIR = ["--student", "resnet50", "--teachers", "vit_base_patch16_224", "--steps", "100", "--live-steps", "10"]

if __name__ == "__main__":
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device")
    sys.exit(teacher_cache.main([*PAIR, *sys.argv[1:]]))
