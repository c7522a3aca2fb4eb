"""A classifier as an ONNX file, from pixels to logits, and whether onnxruntime computes with it what PyTorch does."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raybench.data.views import normalise
from raybench.errors import RaybenchError, ResultsError
from raybench.models.two_heads import has_two_heads, two_heads
from raybench.training.tasks import Classification

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4
"""Of the largest logit. Both sides compute in float32 (6e-8 a step), but sum in another order and with other kernels
for exp and erf; over the layers of a deep network that grows to some 1e-6; a wrong operator makes whole digits."""
BATCHES = (1, 3)
"""Sizes of the first batches that are compared; the last has the rest. None is the exported example's, which has 2."""
EXAMPLE = 2


class Scored(nn.Module):
    """A trial's answer for pixels: normalisation, the model, and of two heads the shares by which it was scored."""

    def __init__(self, student: Classification) -> None:
        super().__init__()
        self.module = student.module
        self.asked = student.asked
        self.mean: Tensor
        self.std: Tensor
        for name, values in (("mean", student.mean), ("std", student.std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Pixels in [0, 1], (B, C, size, size) -> logits (B, classes)."""
        x = (images - self.mean) / self.std
        if not has_two_heads(self.module):
            logits: Tensor = self.module(x)
            return logits
        by_class, by_distillation = two_heads(self.module, x)
        share, other = self.asked
        return share * by_class + other * by_distillation


def lacking() -> str | None:
    """Which packages are not installed and how they come, in words; none where all are."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    return f'{", ".join(missing)} not installed: pip install "raybench[onnx]"' if missing else None


def write_onnx(student: Classification, path: Path, about: Mapping[str, str]) -> None:
    """Write a file whose input `images` is (batch, C, size, size) in [0, 1] and whose output is `logits`.

    The model must be on the CPU and in eval mode. `about` goes into the file's metadata. Raises ResultsError, with the
    cause, where torch cannot say the model in ONNX.
    """
    example = torch.zeros(EXAMPLE, len(student.mean), student.image_size, student.image_size)
    shapes = ({0: torch.export.Dim("batch")},)
    try:
        with _quiet(), torch.no_grad():
            program = _traced(Scored(student).eval(), example, shapes)
            made: Any = torch.onnx.export(
                program,
                (),
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=shapes,
                dynamo=True,
                verbose=False,
            )
            made.model.metadata_props.update(about)
            made.save(path)
    except Exception as error:  # the exporter lets through whatever its hundreds of parts raise
        raise ResultsError(f"torch cannot write this model as ONNX: {_cause(error)}") from error


def _traced(module: nn.Module, example: Tensor, shapes: Any) -> torch.export.ExportedProgram:
    try:
        return torch.export.export(module, (example,), dynamic_shapes=shapes, strict=False)
    except Exception:  # len() of a tensor fixes the batch there; reading the code itself takes longer and does not
        return torch.export.export(module, (example,), dynamic_shapes=shapes, strict=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """What the exporter says of its own inside is nobody's business here."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _cause(error: BaseException) -> str:
    """The first line of what an error goes back to."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    lines = re.sub(r"\x1b\[\d+m", "", str(error)).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".")


@torch.no_grad()
def compare_onnx(path: Path, student: Classification, views: Tensor) -> float:
    """Largest difference of a logit, over these uint8 views (n, C, H, W) in batches of several sizes.

    Raises ResultsError where it is more than `TOLERANCE` of the largest logit, or where the file takes no such batch.
    """
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    channels = views.shape[1]
    pixels = normalise(views, (0.0,) * channels, (1.0,) * channels, student.image_size)
    wanted, start, far, largest = student.predict(views).float().numpy(), 0, 0.0, 0.0
    for size in (*BATCHES, len(views)):
        part = slice(start, min(start + size, len(views)))
        if part.start >= part.stop:
            break
        try:
            (logits,) = session.run(["logits"], {"images": pixels[part].numpy()})
        except Exception as error:  # its errors have no class of their own in Python
            raise ResultsError(f"onnxruntime refuses the file: {_cause(error)}") from error
        far = max(far, float(np.abs(logits - wanted[part]).max()))
        largest = max(largest, float(np.abs(wanted[part]).max()))
        start = part.stop
    check_close(far, largest, "onnxruntime")
    return far


def check_close(far: float, largest: float, whose: str) -> None:
    """Raise RaybenchError where logits differ by more than `TOLERANCE` of the largest one, NaN being far from all."""
    if not far <= TOLERANCE * max(largest, 1e-6):
        raise RaybenchError(
            f"{whose} answers otherwise: logits differ by {far:.3g}, more than {TOLERANCE:g} of the largest, "
            f"{largest:.3g}"
        )
