"""JSON lines: one an event, and nothing that a reader of JSON would refuse."""

from __future__ import annotations

import io
import json
from datetime import datetime
from pathlib import Path

from raybench.report.events import Events


def test_one_line_an_event() -> None:
    out = io.StringIO()
    events = Events(out)
    assert events.on
    events.write("ended", trial_id="a", value=float("nan"), many=[float("inf"), 1.5], inside={"x": float("-inf")})
    events.write("path", where=Path("/a"), text='two\nlines "quoted"')
    first, second = map(json.loads, out.getvalue().splitlines())
    assert datetime.fromisoformat(first.pop("time")).tzinfo is not None
    assert first == {"event": "ended", "trial_id": "a", "value": None, "many": [None, 1.5], "inside": {"x": None}}
    assert (second["where"], second["text"]) == ("/a", 'two\nlines "quoted"')


def test_to_nobody() -> None:
    events = Events()
    assert not events.on
    events.write("ended", trial_id="a")
