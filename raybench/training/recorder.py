"""What a trial leaves behind, written by itself wherever it runs: its rows, TensorBoard events and checkpoints."""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raybench.config.trial import TrialConfig
from raybench.results.schema import EpochRow, Status, TrialRow
from raybench.results.store import Store
from raybench.training.checkpoints import Checkpoints, State
from raybench.training.loop import Epoch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """Where and for whom a trial runs. Nothing here decides its numbers, so nothing here is part of its identity."""

    sweep: str = ""
    preset: str = ""
    results: Path | None = None
    """The sweep's folder; none leaves nothing behind."""
    data_root: Path | None = None
    metric: str = "eval_top1"
    mode: str = "max"
    cpu: float = 1.0
    gpu: float = 0.0
    trial_time_s: float | None = None
    checkpoint_every_s: float = 5.0
    env: dict[str, Any] = field(default_factory=dict)
    reopened: dict[str, int] = field(default_factory=dict)
    """Trial id -> last attempt before it was asked to run again; settled rows up to that attempt do not count."""

    @property
    def threads(self) -> int:
        """CPU threads of one trial: its share, at least one."""
        return max(1, int(self.cpu))


def device_share(setup: Setup) -> float:
    """How much of a device a trial occupies: its share of a GPU, or on a CPU its share of the node's cores."""
    if setup.gpu > 0:
        return setup.gpu
    return min(1.0, setup.cpu / (os.cpu_count() or 1))


class Recorder:
    """Rows, events and checkpoints of one attempt of one trial."""

    def __init__(self, config: TrialConfig, cell: str, setup: Setup, folder: Path) -> None:
        self.config = config
        self.store = Store(folder)
        attempt = self.store.next_attempt(config.trial_id)
        self.checkpoints = Checkpoints(folder / "checkpoints" / config.trial_id, setup.checkpoint_every_s, attempt)
        self.rows: list[EpochRow] = []
        self.row = TrialRow(
            trial_id=config.trial_id,
            setting_id=config.setting_id,
            sweep=setup.sweep,
            preset=setup.preset,
            cell=cell,
            status=Status.RUNNING,
            attempt=attempt,
            failures=attempt - 1,
            seed=config.seed,
            node=socket.gethostname(),
            started=datetime.now(UTC),
            config=config.flat(),
            env=dict(setup.env),
        )
        self._folder = folder
        self._board: Any = None

    def resume(self) -> State | None:
        """The checkpoint to go on from, its epochs' rows taken over; none where the trial begins anew."""
        if (state := self.checkpoints.newest()) is None:
            return None
        rows = [row for row in self.store.last_epochs(self.config.trial_id) if row.epoch <= state["epoch"]]
        if [row.epoch for row in rows] != list(range(1, state["epoch"] + 1)):
            logger.warning(
                f"trial {self.config.trial_id}: rows of epochs before its checkpoint are lost; it begins anew"
            )
            return None
        self.rows = rows
        # Every attempt since has broken, but not one that stopped at this checkpoint on purpose.
        since = self.row.attempt - state.get("attempt", 1) - int(state.get("paused", False))
        self.row = replace(self.row, failures=state.get("failures", 0) + since)
        return state

    def start(self, **known: Any) -> None:
        """Say that the trial runs, and open its TensorBoard events."""
        from raybench.results.tensorboard import TrialBoard

        self.row = replace(self.row, epochs=len(self.rows), **known)
        self.store.write_trial(self.row)
        shown = {key: value for key, value in self.config.flat().items() if value is not None}
        self._board = TrialBoard(self._folder, self.config.trial_id, shown, ("test_top1", "eval_top1"), len(self.rows))

    def epoch(self, epoch: Epoch) -> None:
        """Commit an epoch's row, then show it."""
        row = EpochRow(
            trial_id=self.config.trial_id,
            attempt=self.row.attempt,
            epoch=epoch.epoch,
            lr=epoch.lr,
            train_time=epoch.train_time,
            eval_time=epoch.eval_time,
            train_samples_per_sec=epoch.train_samples_per_sec,
            parts=epoch.parts,
            **_columns(epoch.metrics, EpochRow),
        )
        self.rows.append(row)
        self.store.write_epochs(self.config.trial_id, self.row.attempt, self.rows)
        self._board.epoch(row)

    def save(self, state: State, *, paused: bool = False) -> None:
        """Keep a checkpoint; `paused` says that the attempt stops here on purpose."""
        self.checkpoints.save(
            {**state, "attempt": self.row.attempt, "failures": self.row.failures or 0, "paused": paused}
        )

    def pause(self) -> None:
        """The trial stops at a rung and stays `running`: its row says how far it is."""
        self.row = replace(self.row, epochs=len(self.rows))
        self.store.write_trial(self.row)
        self._board.close(Status.RUNNING, {})

    def settle(self, status: Status, reason: str | None = None, **known: Any) -> None:
        """The last row of the trial; its checkpoints are no longer needed."""
        known = _columns(known, TrialRow)
        self.row = replace(
            self.row, status=status, reason=reason, epochs=len(self.rows), ended=datetime.now(UTC), **known
        )
        self.store.write_trial(self.row)
        if self._board is not None:
            finals = {
                name: value for name in ("test_top1", "eval_top1") if (value := getattr(self.row, name)) is not None
            }
            self._board.close(status, finals)
        self.checkpoints.clear()


def _columns(values: dict[str, Any], row: type[EpochRow] | type[TrialRow]) -> dict[str, Any]:
    """Values by column as arguments of a row: metrics beyond its own columns go into `metrics`."""
    own = {entry.name for entry in fields(row)}
    further = {name: value for name, value in values.items() if name not in own}
    return {name: value for name, value in values.items() if name in own} | {"metrics": further}
