"""A place that all machines of a cluster reach, from which each copies once what was made or found once in the cluster.

`RAYBENCH_DEPOT` names it: a folder of a network file system, or an address in an object store. Under a name lies a set
of files: `<name>/contents.json` says which, with size and SHA-256, and in which folder beside it; it is written last
and never replaced, so of two machines that bring the same at once the first one's files count for all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybench.errors import ResultsError
from raybench.results.storage import Folder, create, explain, folder_at, read, remove

CONTENTS = "contents.json"
MARK = ".depot"
"""In a folder that was brought or copied: which of the sets that ever lay in the depot it holds."""
CHUNK = 2**20


@dataclass(frozen=True)
class Depot:
    """The depot of this cluster."""

    root: Folder

    def publish(self, name: str, folder: Path, files: Sequence[str]) -> bool:
        """Bring these files of a folder under a name, unless something is there; whether they were brought.

        Raises ResultsError when they cannot be written.
        """
        if self._contents(name) is not None:
            return False
        place = secrets.token_hex(8)
        listed = {file: _about(folder / file) for file in files}
        try:
            for file in files:
                _copy(folder / file, self.root / name / place / file)
            content = json.dumps({"place": place, "files": listed}).encode()
            if _create(self.root / name / CONTENTS, content):
                (folder / MARK).write_text(place)
                return True
        except OSError as error:
            raise explain(error, self.root / name / place) from error
        remove([self.root / name / place / file for file in files])  # another machine was quicker
        return False

    def fetch(self, name: str, folder: Path) -> bool:
        """Copy what lies under a name into a folder, in the order it was listed; False where nothing does.

        Whoever calls holds a lock on the folder. Each file is there whole or not at all, its SHA-256 checked. Raises
        ResultsError where the copy is not what was brought, or cannot be written.
        """
        contents = self._contents(name)
        if contents is None:
            return False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for file, about in contents["files"].items():
                draft = folder / f".{file}.fetched"
                _copy(self.root / name / contents["place"] / file, draft)
                if _about(draft) != about:
                    draft.unlink()
                    raise ResultsError(
                        f"{self.root / name / contents['place'] / file} is not what was brought there (SHA-256); "
                        f"remove {self.root / name} and run the same command again"
                    )
                draft.replace(folder / file)
            (folder / MARK).write_text(contents["place"])
        except OSError as error:
            raise explain(error, folder) from error
        return True

    def agrees(self, name: str, folder: Path) -> bool:
        """Whether a folder holds what lies under a name: it was brought from there, or copied from here."""
        contents = self._contents(name)
        try:
            return contents is not None and (folder / MARK).read_text() == contents["place"]
        except FileNotFoundError:
            return False

    def _contents(self, name: str) -> dict[str, Any] | None:
        try:
            content = json.loads(read(self.root / name / CONTENTS))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            raise ResultsError(f"{self.root / name / CONTENTS} cannot be read ({error}); remove it") from error
        return dict(content)


def depot() -> Depot | None:
    """The depot that `RAYBENCH_DEPOT` names; none where it names none."""
    named = os.environ.get("RAYBENCH_DEPOT")
    return Depot(folder_at(named)) if named else None


def _about(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _copy(source: Folder, target: Folder) -> None:
    """A large file from here to there or from there to here, not through memory as a whole."""
    if isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(source, Path):
        source.fs.get_file(source.path, str(target))
    elif not isinstance(target, Path):
        target.fs.put_file(str(source), target.path)
    else:
        with source.open("rb") as reading, target.open("wb") as writing:
            shutil.copyfileobj(reading, writing, CHUNK)
            writing.flush()
            os.fsync(writing.fileno())


def _create(path: Folder, content: bytes) -> bool:
    """Write a small file unless one of that name is there; whether it was written."""
    if not isinstance(path, Path):
        return create(path, content)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    draft.write_bytes(content)
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        return False
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
    return True
