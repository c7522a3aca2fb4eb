"""What a run says to programs: JSON lines, one an event."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any, TextIO


class Events:
    """Writes each event as a line; to nobody where there is no file."""

    def __init__(self, file: TextIO | None = None) -> None:
        self.file = file

    @property
    def on(self) -> bool:
        """Whether anybody listens."""
        return self.file is not None

    def write(self, event: str, **fields: Any) -> None:
        """`{"time": …, "event": …, …}`; what is no finite number is null."""
        if self.file is None:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps(
            {"time": now, "event": event, **{name: _finite(value) for name, value in fields.items()}}, default=str
        )
        print(line, file=self.file, flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value
