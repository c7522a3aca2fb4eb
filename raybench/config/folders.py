"""Where data, weights and results lie unless a command says otherwise, and what raybench can make again."""

from __future__ import annotations

import os
from pathlib import Path

from raybench.errors import ResultsError


def at_home(path: Path | str) -> Path:
    """The path with `~` put in. That of a user who is not known here stays, to be told as what is not there."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path's raises


def made_at(path: Path | str) -> Path:
    """The absolute path of what will be written, with `~` put in. Raises ResultsError for a user not known here."""
    found = at_home(path)
    if found.parts and found.parts[0].startswith("~"):
        raise ResultsError(f"{path} cannot be used: there is no user {found.parts[0][1:]} here; write the whole path")
    return found.absolute()


def cache_root() -> Path:
    """`RAYBENCH_CACHE`, else `raybench` in the user's cache folder. Decoded data, teachers and logits lie here.

    Raises ResultsError where it names the home of a user not known here.
    """
    if named := os.environ.get("RAYBENCH_CACHE"):
        return made_at(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "raybench"


def named_data_root(given: Path | None = None) -> Path | None:
    """The data root that an option or `RAYBENCH_DATA` names, as it is written there; none where neither does."""
    named = os.environ.get("RAYBENCH_DATA")
    return given or (Path(named) if named else None)


def data_folder(named: Path | None = None) -> Path:
    """Where data sets are looked for: the folder named, else `RAYBENCH_DATA`, else `data` in the folder one is in."""
    return at_home(named_data_root(named) or Path("data")).absolute()


def weight_folders(root: Path) -> tuple[Path, ...]:
    """Folders in which weight files are looked for: the root and its `weights`."""
    return root, root / "weights"


def results_root() -> str:
    """`RAYBENCH_RESULTS`, else `results` in the folder one is in: a folder, or an address in an object store."""
    return os.environ.get("RAYBENCH_RESULTS") or "results"
