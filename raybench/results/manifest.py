"""What ran here, when, with which versions: the environment of a row and the manifest of a sweep."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import raybench
from raybench.results.storage import Folder, read_if_there, write_atomically

Value = str | int | float | bool | None
NAME = "manifest.json"


def environment() -> dict[str, Value]:
    """The values behind `env/` that a process can tell without importing torch; looked up once a process.

    A package that is not installed, or a commit that is not known, is None. `git_commit` is that of raybench's own
    code.
    """
    return dict(_environment())


@cache
def _environment() -> dict[str, Value]:
    code = Path(raybench.__file__).parent
    # Only a checkout that tracks this file says which code ran; a project that holds a virtual environment does not.
    tracked = _git(code, "ls-files", "--error-unmatch", "__init__.py") is not None
    changes = _git(code, "status", "--porcelain", "--", ".") if tracked else None
    lock = code.parent / "requirements.lock"
    return {
        "raybench": raybench.__version__,
        "git_commit": _git(code, "rev-parse", "HEAD") if tracked else None,
        "git_dirty": None if changes is None else bool(changes),
        "lock_hash": hashlib.sha256(lock.read_bytes()).hexdigest()[:12] if lock.is_file() else None,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cpu_count": os.cpu_count(),
        **{name: _version(name) for name in ("torch", "ray", "timm", "numpy")},
    }


LARGEST_DIFF = 200_000
"""Characters of a diff that a manifest holds; of a longer one only its hash."""


def changed_code() -> str | None:
    """What differs between raybench's own code and its commit, as git's diff, or its hash; none where nothing does."""
    if not environment()["git_dirty"]:
        return None
    text = _git(Path(raybench.__file__).parent, "diff", "HEAD", "--", ".")
    if text is not None and len(text) > LARGEST_DIFF:
        return f"sha256 {hashlib.sha256(text.encode()).hexdigest()}, {len(text)} characters"
    return text


def write_manifest(folder: Folder, **content: Any) -> None:
    """Adds this run to the `runs` of `folder`/manifest.json, atomically; `environment` is filled in unless given.

    Usual content: command, started, ended, exit_code, trials (counts by status), environment. A run given again, that
    is with the same `started` and process, takes the place of its earlier entry, so a run may be written when it begins
    and when it ends, and one that was killed is seen by its empty `ended`. A manifest that cannot be parsed is kept
    beside the new one as manifest.json.unreadable. Raises ResultsError when it cannot be read or written.
    """
    path = folder / NAME
    run = {
        "pid": os.getpid(),
        "host": platform.node(),
        "environment": environment(),
        "git_diff": changed_code(),
        **content,
    }
    text = read_if_there(path) or b""
    runs = _parsed(text)
    if runs is None:
        write_atomically(path.with_name(f"{NAME}.unreadable"), text)
    kept = [earlier for earlier in runs or [] if not _same_run(earlier, run)]
    write_atomically(path, f"{json.dumps({'runs': [*kept, run]}, indent=2, default=str)}\n".encode())


def read_runs(folder: Folder) -> list[dict[str, Any]]:
    """The runs that `folder`/manifest.json tells of, in the order they began; changes nothing.

    Empty where there is no manifest, or none that can be parsed. Raises ResultsError where it cannot be read, or an
    object store does not answer.
    """
    return _parsed(read_if_there(folder / NAME) or b"") or []


def _parsed(text: bytes) -> list[dict[str, Any]] | None:
    """The runs: an empty list for an absent manifest, None for one that cannot be parsed."""
    if not text:
        return []
    try:
        return [dict(run) for run in json.loads(text)["runs"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _same_run(earlier: dict[str, Any], run: dict[str, Any]) -> bool:
    keys = ("started", "pid", "host")
    return run.get("started") is not None and all(
        earlier.get(key) == json.loads(json.dumps(run.get(key), default=str)) for key in keys
    )


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine() or None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
