"""Where raybench keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """`RAYBENCH_CACHE`, else `raybench` in the user's cache folder. Decoded data, teachers and logits lie here."""
    if named := os.environ.get("RAYBENCH_CACHE"):
        return Path(named).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "raybench"
