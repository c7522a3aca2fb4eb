"""A frozen teacher that is shown the student's own view, resized and normalised for itself."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import Tensor

from raybench.data.views import normalise
from raybench.models import BuiltModel
from raybench.models.two_heads import class_logits
from raybench.results.storage import write_atomically

RECORD = "teacher.json"
"""In a teacher's folder: its `TeacherRecord`."""


@dataclass(frozen=True)
class TeacherRecord:
    """What is known of a prepared teacher; kept beside its weights and copied into the rows of its students."""

    key: str
    name: str
    prepare: str
    eval_top1: float
    """Top-1 (%) on the validation split."""
    test_top1: float
    """Top-1 (%) on the test set."""
    chance_top1: float
    param_count: float
    """Millions."""
    prepare_time: float
    """Seconds."""
    weights_digest: str = field(default="", compare=False)
    """SHA-256 of the file of its weights, whose header may list the same in another order; "" of former records."""

    @property
    def near_chance(self) -> bool:
        """Whether it knows hardly more than a guess: less than twice chance."""
        return self.eval_top1 < 2 * self.chance_top1

    def save(self, folder: Path) -> None:
        """Write beside the weights; last, so that a folder with a record is whole."""
        write_atomically(folder / RECORD, json.dumps(asdict(self), indent=1).encode())

    @classmethod
    def load(cls, folder: Path) -> TeacherRecord | None:
        """The record in a folder, or none where the teacher is not (wholly) prepared."""
        try:
            return TypeAdapter(cls).validate_json((folder / RECORD).read_bytes())
        except (OSError, ValueError):
            return None


class Teacher:
    """A model in eval mode, without gradients, that maps uint8 views to logits: those it was prepared and scored by."""

    def __init__(self, built: BuiltModel, device: torch.device, autocast: torch.dtype | None = None) -> None:
        module = built.module.to(device).to(memory_format=torch.channels_last)
        self.module = module.eval().requires_grad_(False)
        self.mean, self.std, self.image_size = built.mean, built.std, built.image_size
        self.device = device
        self.autocast = autocast

    @torch.no_grad()
    def logits(self, views: Tensor) -> Tensor:
        """uint8 views (B, C, H, W) -> float16 logits (B, classes), the precision in which the cache keeps them."""
        # Its own autocast, also inside a student's: the logits are the same as when the cache was filled.
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            images = normalise(views.to(self.device), self.mean, self.std, self.image_size)
            output = class_logits(self.module, images)
        return output.to(torch.float16)
