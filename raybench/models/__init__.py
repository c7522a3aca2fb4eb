"""Models: raybench's own, one file a family, and every timm name."""

from raybench.models.builder import (
    BuiltModel,
    build,
    build_text,
    check_weights,
    count_parameters,
    head_parameters,
    weight_file,
    weights_available,
)
from raybench.models.registry import exists, names, nearest

__all__ = [
    "BuiltModel",
    "build",
    "build_text",
    "check_weights",
    "count_parameters",
    "exists",
    "head_parameters",
    "names",
    "nearest",
    "weight_file",
    "weights_available",
]
