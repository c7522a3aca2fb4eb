"""What plain Ray Tune leaves of the sweep (benchmarks/peers/plain_tune.py), against what its trials reported."""

from __future__ import annotations

import json
import secrets
import sys
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.contestant import Key, Rows, Verdict, first_difference

SCRIPT = Path(__file__).with_name("plain_tune.py")
EPOCHS = 30
TRIALS = 12
RESTORE_REFUSED = 4
"""Exit code of the script where `Tuner.restore` raised."""


class PlainTune:
    """A script with `Tuner.restore`; the same command goes on."""

    name: str = "Ray Tune"
    workers: tuple[str, ...] = ("ImplicitFunc", "train_one")

    def command(self, folder: Path) -> list[str]:
        """The script."""
        return [sys.executable, str(SCRIPT), str(folder)]

    def variables(self, scratch: Path) -> dict[str, str]:
        """A token file, since Ray would write one into the user's home."""
        token = scratch / "token"
        if not token.exists():
            token.touch(mode=0o600)
            token.write_text(secrets.token_hex(32))
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}

    def marks(self, folder: Path) -> set[Hashable]:
        """Runs, workers and trials that reported an epoch."""
        return {(note["run"], note["pid"], note["trial_id"]) for note in notes(folder)}

    def written(self, folder: Path) -> float:
        """When the last epoch was reported."""
        path = folder / "reported.jsonl"
        return path.stat().st_mtime if path.exists() else 0.0

    def epochs(self, folder: Path) -> int:
        """Epochs that were reported, each counted once."""
        return len({(trial(note["config"]), note["metrics"]["epoch"]) for note in notes(folder)})

    def read(self, folder: Path) -> Rows:
        """What the trials reported so far."""
        reported = notes(folder)
        rows = {(trial(note["config"]), note["metrics"]["epoch"]): _text(note["metrics"]) for note in reported}
        furthest: dict[str, int] = {}
        for name, epoch in rows:
            furthest[name] = max(epoch, furthest.get(name, 0))
        return Rows(rows, {}, sum(epoch < EPOCHS for epoch in furthest.values()))

    def broken(self, code: int) -> bool:
        """Whether `Tuner.restore` raised."""
        return code == RESTORE_REFUSED

    def judge(self, folder: Path, before: Sequence[Rows], reference: Path) -> Verdict:  # noqa: ARG002
        """What was reported and is neither in the result grid nor in a trial's result file counts as lost."""
        reported, grid = notes(folder), _grid(folder)
        final, whole = _rows(grid), _rows(_grid(reference))
        found = _rows(_files(folder)) | final
        wanted = whole | {
            (trial(note["config"]), note["metrics"]["epoch"]): _text(note["metrics"]) for note in reported
        }
        ids = {note["trial_id"] for note in reported} | {each["trial_id"] for each in grid if each["trial_id"]}
        starts = Counter(name for name, _, _ in {(trial(n["config"]), n["run"], n["pid"]) for n in reported})
        trained = Counter((trial(note["config"]), note["metrics"]["epoch"]) for note in reported)
        epochs = Counter((each["trial_id"], row["epoch"]) for each in grid for row in each["rows"])
        differences = first_difference(final, whole)
        failed = [each["error"] for each in grid if each["error"]]
        return Verdict(
            lost=sum(found.get(key) != text for key, text in wanted.items()),
            duplicates=sum(count - 1 for count in epochs.values()),
            duplicates_on_disk=0,
            wrong_ids=max(0, len(ids) - TRIALS) + abs(len(grid) - TRIALS),
            again=sum(count - 1 for count in trained.values()),
            restarted=sum(count > 1 for count in starts.values()),
            unreadable=0,
            identical=not differences and not failed,
            differences=differences or (failed[0].strip().splitlines()[-1] if failed else ""),
        )


def notes(folder: Path) -> list[dict[str, Any]]:
    """What the trials noted once `tune.report` had returned."""
    path = folder / "reported.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def trial(config: dict[str, Any]) -> str:
    """A trial by its settings, since Tune's ids are another each time."""
    return f"alpha={config['alpha']} lr={config['lr']} seed={config['seed']}"


def _text(metrics: dict[str, Any]) -> str:
    """All metrics that are not times; what a row does not have is `NaN` in a data frame."""
    own = ("lr_now", "train_", "eval_", "test_")
    kept = {name: value for name, value in metrics.items() if name.startswith(own) and value == value}
    return str(sorted(kept.items()))


def _grid(folder: Path) -> list[dict[str, Any]]:
    path = folder / "grid.json"
    return json.loads(path.read_text()) if path.exists() else []


def _files(folder: Path) -> list[dict[str, Any]]:
    """The trials' own result files in the experiment's folder; a last line cut off is left out."""
    found = []
    for path in (folder / "smoke").glob("*/result.json"):
        rows = []
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        if rows:
            found.append({"config": rows[0]["config"], "rows": rows})
    return found


def _rows(grid: list[dict[str, Any]]) -> dict[Key, str]:
    return {
        (trial(each["config"]), int(row["epoch"])): _text(row)
        for each in grid
        for row in each["rows"]
        if "epoch" in row
    }
