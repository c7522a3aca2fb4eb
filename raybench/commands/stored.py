"""What the rows of earlier trials tell of what trials like them will cost, on the hardware they are to run on."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from raybench.config.costs import step_key
from raybench.config.recorded import recorded_trial
from raybench.config.trial import DistillationConfig, TrialConfig
from raybench.errors import RaybenchError
from raybench.results.manifest import environment
from raybench.results.storage import Folder, entries
from raybench.results.store import Store
from raybench.training.cost import Speed
from raybench.training.kinds import Sizes
from raybench.training.recorder import Setup, device_share

if TYPE_CHECKING:
    from raybench.commands.sharing import Machines

ROWS_READ = 2000
"""Trials of a sweep that are looked at, the latest."""
ANY_SIZE = ("train_size", "fingerprint")
"""Of a data set, what does not decide how long an example takes; the fingerprint is that of a name here."""
SAME_SHARE = 0.02
"""Relative difference up to which two shares of a device are the same."""


@dataclass(frozen=True)
class _Row:
    """What one stored trial took."""

    trial_id: str
    train_size: int | Literal["all"]
    epoch_train_s: float
    epoch_eval_s: float
    fixed_s: float | None
    memory_mib: float | None


class Stored:
    """Rows of a sweep, and where they do not know a kind of trial those of the sweeps beside it."""

    def __init__(self, folder: Folder, setup: Setup, machines: Machines, sizes: Callable[[TrialConfig], Sizes]) -> None:
        """`folder` is the sweep's. Nothing is read before it is asked for."""
        self.setup = setup
        self.machines = machines
        self.sizes = sizes
        self._folders = _one_by_one(folder)
        self._by_key: dict[str, list[_Row]] = {}

    def speed(self, trial: TrialConfig) -> Speed | None:
        """Of trials of the same model, data, batch and image size; none where there are none."""
        keys = _keys(trial)
        while not (found := next((rows for key in keys if (rows := self._by_key.get(key))), None)):
            folder = next(self._folders, None)
            if folder is None:
                return None
            self._read(folder)
        return self._of(found, trial)

    def _of(self, rows: Sequence[_Row], trial: TrialConfig) -> Speed:
        """Those of the nearest train size: an epoch has some costs that do not grow with it."""
        sizes = {size: self._sizes_at(trial, size) for size in dict.fromkeys(row.train_size for row in rows)}
        images = max(1, self.sizes(trial).train)
        nearest = min(sizes, key=lambda size: abs(math.log(max(1, sizes[size].train) / images)))
        rows = [row for row in rows if row.train_size == nearest]
        fixed = [row.fixed_s for row in rows if row.fixed_s is not None]
        memory = [row.memory_mib for row in rows if row.memory_mib is not None]
        return Speed(
            train_s=statistics.median(row.epoch_train_s for row in rows) / max(1, sizes[nearest].train),
            infer_s=statistics.median(row.epoch_eval_s for row in rows) / max(1, sizes[nearest].validation),
            source="rows",
            fixed_s=statistics.median(fixed) if fixed else None,
            memory_mib=max(memory, default=None),
            trials=frozenset(row.trial_id for row in rows),
        )

    def _sizes_at(self, trial: TrialConfig, train_size: int | Literal["all"]) -> Sizes:
        dataset = trial.dataset.model_copy(update={"train_size": train_size})
        return self.sizes(trial.model_copy(update={"dataset": dataset}))

    def _read(self, folder: Folder) -> None:
        try:
            rows = Store(folder).trials()
        except (OSError, RaybenchError):  # no sweep, or one whose own command will tell
            return
        settings: dict[str, tuple[TrialConfig, str] | None] = {}
        for row in self._usable(rows).iter_rows(named=True):
            setting = row["setting_id"]
            if setting not in settings:
                settings[setting] = _read_setting(row)
            if (known := settings[setting]) is not None:
                trial, key = known
                self._by_key.setdefault(key, []).append(_row(trial, row))

    def _usable(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Trials that trained on such hardware with such a share, the latest."""
        wanted = {"train_time", "eval_time", "epochs", "device_hours", "setting_id", "ended"}
        if not wanted <= set(rows.columns) or not rows.height:
            return rows.head(0)
        spent = pl.col("train_time") + pl.col("eval_time")
        share = pl.col("device_hours") * 3600 / spent
        here = device_share(self.setup)
        gpu = pl.col("env/gpu").is_not_null() if self.setup.gpu > 0 else pl.col("env/gpu").is_null()
        same = [
            pl.col("epochs") >= 1,
            spent > 0,
            (share - here).abs() <= here * SAME_SHARE,
            pl.col("env/threads") == self.setup.threads,
            gpu,
            *self._same_machine(),
        ]
        return rows.filter(*same).sort("ended", nulls_last=False).tail(ROWS_READ)

    def _same_machine(self) -> list[pl.Expr]:
        if self.machines.address is not None:
            return [pl.col("node").is_in([node.name for node in self.machines.nodes])]
        here = environment()
        same = [pl.col(f"env/{name}") == here[name] for name in ("cpu", "cpu_count")]
        if self.setup.gpu > 0:
            import torch

            same.append(pl.col("env/gpu") == torch.cuda.get_device_name(0))
        return same


def _keys(trial: TrialConfig) -> list[str]:
    """Under which a trial's cost is looked up, the closest first. With kept logits a teacher takes next to nothing."""
    keys = [step_key(trial, without=ANY_SIZE)]
    if trial.canonical().distillation.teacher is not None and trial.distillation.cache != "off":
        keys.append(step_key(trial.model_copy(update={"distillation": DistillationConfig()}), without=ANY_SIZE))
    return keys


def _read_setting(row: dict[str, Any]) -> tuple[TrialConfig, str] | None:
    """The trial of a row, and under which key it is found; none where it is of another version."""
    try:
        trial = recorded_trial(row)
    except RaybenchError:
        return None
    return trial, _keys(trial)[0]


def _row(trial: TrialConfig, row: dict[str, Any]) -> _Row:
    fixed = None
    # Of a later attempt only the last part was timed.
    if row["attempt"] == 1 and row["status"] == "complete" and row["started"] is not None and row["ended"] is not None:
        fixed = max(0.0, (row["ended"] - row["started"]).total_seconds() - row["train_time"] - row["eval_time"])
    epochs = row["epochs"]
    return _Row(
        trial_id=row["trial_id"],
        train_size=trial.dataset.train_size,
        epoch_train_s=row["train_time"] / epochs,
        epoch_eval_s=row["eval_time"] / epochs,
        fixed_s=fixed,
        memory_mib=row["peak_memory"],
    )


def _one_by_one(folder: Folder) -> Iterator[Folder]:
    """The sweep's own folder, then those beside it."""
    yield folder
    try:
        names = sorted(entries(folder.parent))
    except RaybenchError:
        return
    yield from (folder.parent / name for name in names if name != folder.name)
