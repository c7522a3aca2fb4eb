"""A file from the network, in pieces, so that one sees how far it is and a silent server ends it."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path

from raybench.data.progress import tell

SILENT_SERVER_S = 20.0
"""How long a server may say nothing before a download counts as failed."""
PIECE_BYTES = 256 * 1024


def fetch(url: str, path: Path) -> None:
    """Write what an address serves to `path`, whole or not at all. Raises OSError where that fails."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    # A name that says who asks: some servers refuse Python's own.
    request = urllib.request.Request(url, headers={"User-Agent": "raybench"})
    try:
        with urllib.request.urlopen(request, timeout=SILENT_SERVER_S) as answer, draft.open("wb") as file:
            total = int(answer.headers.get("Content-Length") or 0)
            done = 0
            while piece := answer.read(PIECE_BYTES):
                file.write(piece)
                done += len(piece)
                tell(f"fetching {path.name}", done, total)
            if done < total:
                raise OSError(f"{url}: the connection ended after {done:,} of {total:,} bytes")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
