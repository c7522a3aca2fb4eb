"""What a trial leaves behind, written by itself wherever it runs: its rows, TensorBoard events and checkpoints."""

from __future__ import annotations

import logging
import math
import os
import socket
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from raybench.config.plugins import Plugin
from raybench.config.trial import TrialConfig
from raybench.results.predictions import write_predictions
from raybench.results.schema import EpochRow, Status, TrialRow, coarse
from raybench.results.storage import Folder, write_atomically
from raybench.results.store import Store
from raybench.training.checkpoints import Checkpoints, Misfit, State
from raybench.training.loop import Epoch
from raybench.training.phases import PHASES

Keep = Literal["none", "best", "last"]
"""What stays of a settled trial: nothing, the best epoch's weights, or the last whole state."""
PHASE_TIMES = tuple(f"{phase}_time" for phase in PHASES)
LOCK_S = 5.0
"""How long the last words wait for a main thread that is settling the trial itself."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """Where and for whom a trial runs. Nothing here decides its numbers, so nothing here is part of its identity."""

    sweep: str = ""
    preset: str = ""
    results: Folder | None = None
    """The sweep's folder; none leaves nothing behind."""
    lenders: Folder | None = None
    """Folder of the sweeps whose weights trials may borrow; none: where the sweep's folder lies."""
    data_root: Path | None = None
    weights_root: Path | None = None
    """Where weight files are looked for; none: where the data are."""
    metric: str = "eval_top1"
    shown: str | None = None
    """The test metric that is reported; none: the same on the test set."""
    mode: str = "max"
    cpu: float = 1.0
    gpu: float = 0.0
    """CPUs and GPUs of each worker of a trial."""
    kind: str | None = None
    """Of the GPU, by Ray's name; none takes any."""
    workers: int = 1
    """Processes that train a trial together."""
    trial_time_s: float | None = None
    memory_mib: float | None = None
    stall_s: float | None = None
    checkpoint_every_s: float = 5.0
    checkpoint_every_epochs: int | None = None
    keep: Keep = "best"
    profile: bool = False
    """Whether each trial leaves a profiler's trace of a few of its steps."""
    guarded: bool = False
    """Whether this process is ours to end where a trial hangs or the driver is gone; a plain call's is not."""
    env: dict[str, Any] = field(default_factory=dict)
    plugins: tuple[Plugin, ...] = ()
    """What a worker loads before it takes a trial."""
    reopened: dict[str, int] = field(default_factory=dict)
    """Trial id -> last attempt before it was asked to run again; settled rows up to that attempt do not count."""
    attempts: dict[str, int] = field(default_factory=dict)
    """Trial id -> the attempt that its next start is at least. Who hands trials out knows of starts that a network
    file system does not show yet to another machine."""

    @property
    def threads(self) -> int:
        """CPU threads of one trial: its share, at least one."""
        return max(1, int(self.cpu))


def device_share(setup: Setup) -> float:
    """How much of a device a trial occupies: its workers' shares of a GPU, or on a CPU of the node's cores."""
    each = setup.gpu if setup.gpu > 0 else min(1.0, setup.cpu / (os.cpu_count() or 1))
    return setup.workers * each


class Recorder:
    """Rows, events and checkpoints of one attempt of one trial."""

    def __init__(self, config: TrialConfig, cell: str, setup: Setup, folder: Folder) -> None:
        """Takes the next attempt: its row says so from now on. Raises ResultsError when it cannot be written."""
        self.config = config
        self.setup = setup
        self.store = Store(folder)
        attempt = max(self.store.next_attempt(config.trial_id), setup.attempts.get(config.trial_id, 1))
        self.checkpoints = Checkpoints(
            folder / "checkpoints" / config.trial_id,
            every_s=setup.checkpoint_every_s,
            attempt=attempt,
            every_epochs=setup.checkpoint_every_epochs,
        )
        self.rows: list[EpochRow] = []
        self.row = TrialRow(
            trial_id=config.trial_id,
            setting_id=config.setting_id,
            sweep=setup.sweep,
            preset=setup.preset,
            cell=cell,
            status=Status.RUNNING,
            attempt=attempt,
            failures=attempt - 1 - self._settled_attempts,
            seed=config.seed,
            epochs=0,
            node=socket.gethostname(),
            started=datetime.now(UTC),
            config=config.flat(),
            env=dict(setup.env),
        )
        self._begun = time.monotonic()
        self._folder = folder
        self._board: Any = None
        self._settling = threading.Lock()
        self._checkpoint_time = 0.0
        """Seconds that earlier attempts spent on checkpoints, up to the one that this attempt goes on from."""
        self._rows_time = 0.0
        """The same on rows and events, and what this attempt spends on them."""
        # A copy of this attempt that starts meanwhile, elsewhere, takes the next number and never the same files.
        self.store.write_trial(self.row)

    @property
    def log(self) -> Folder:
        """What the attempt says of itself, a traceback too; the stack of a hung attempt lies beside it."""
        return self._folder / "logs" / f"{self.config.trial_id}-a{self.row.attempt}.txt"

    @property
    def trace(self) -> Folder:
        """Where the profiler's trace of this trial goes."""
        return self._folder / "profiles" / f"{self.config.trial_id}.pt.trace.json.gz"

    @property
    def spent_s(self) -> float:
        """Training and validation of all epochs so far, those of earlier attempts included, s."""
        return sum((row.train_time or 0) + (row.eval_time or 0) for row in self.rows)

    @property
    def superseded(self) -> bool:
        """Whether a later attempt began, since this one was taken for dead: then what is shared is the later one's."""
        return self.store.next_attempt(self.config.trial_id) > self.row.attempt + 1

    @property
    def _settled_attempts(self) -> int:
        """Attempts before the trial was asked to run again."""
        return self.setup.reopened.get(self.config.trial_id, 0)

    @property
    def _told(self) -> tuple[str, str]:
        """The metrics shown beside a trial's hyperparameters in TensorBoard."""
        return self.setup.shown or self.setup.metric.replace("eval_", "test_"), self.setup.metric

    def resume(self, misfit: Misfit = lambda _: None) -> State | None:
        """The checkpoint to go on from, its epochs' rows taken over; none where the trial begins anew."""
        known = self.store.last_epochs(self.config.trial_id)
        before = self._settled_attempts
        anew = before > 0 and self.store.status_at(self.config.trial_id, before) == Status.COMPLETE
        for state in self.checkpoints.states(misfit):
            if anew and state.get("attempt", 1) <= before:
                continue  # kept of a complete trial: from its end there would be nothing to run again
            rows = [row for row in known if row.epoch <= state["epoch"]]
            if [row.epoch for row in rows] == list(range(1, state["epoch"] + 1)):
                break
            logger.warning(
                f"trial {self.config.trial_id}: rows of epochs before its checkpoint of epoch {state['epoch']} are lost"
            )
        else:
            return None
        self.rows = rows
        if self._settled_attempts < state.get("attempt", 1):
            # Every attempt since has broken, but not one that stopped at this checkpoint on purpose.
            broken = self.row.attempt - state.get("attempt", 1) - int(state.get("paused", False))
            self.row = replace(self.row, failures=state.get("failures", 0) + broken)
        self._checkpoint_time = state.get("checkpoint_time", 0.0)
        self._rows_time = state.get("rows_time", 0.0)
        return state

    def start(self, **known: Any) -> None:
        """Say what is known of the trial before its first epoch, and open its TensorBoard events."""
        from raybench.results.tensorboard import TrialBoard

        setup_time = time.monotonic() - self._begun
        self.row = replace(self.row, epochs=len(self.rows), setup_time=setup_time, **known)
        self.store.write_trial(self.row)
        shown = {key: value for key, value in self.config.flat().items() if value is not None}
        self._board = TrialBoard(self._folder, self.config.trial_id, shown, self._told, len(self.rows))

    def epoch(self, epoch: Epoch, memory_mib: float) -> None:
        """Commit an epoch's row, then show it. `memory_mib` is what it took of the device or of the process."""
        begun = time.perf_counter()
        # Down, and the whole of them up, so that they never add up to more than it.
        phases = {f"{phase}_time": coarse(spent, math.floor) for phase, spent in epoch.phases.items()}
        row = EpochRow(
            trial_id=self.config.trial_id,
            attempt=self.row.attempt,
            epoch=epoch.epoch,
            lr=epoch.lr,
            train_time=coarse(epoch.train_time, math.ceil),
            eval_time=coarse(epoch.eval_time),
            train_samples_per_sec=coarse(epoch.train_samples_per_sec),
            energy=None if epoch.energy is None else coarse(epoch.energy),
            parts=epoch.parts,
            **_columns(epoch.metrics | phases, EpochRow),
        )
        self.rows.append(row)
        self.row = replace(self.row, peak_memory=max(self.row.peak_memory or 0.0, memory_mib))
        self.store.write_epochs(self.config.trial_id, self.row.attempt, self.rows)
        self._board.epoch(row)
        self._rows_time += time.perf_counter() - begun

    def save(self, state: State, *, paused: bool = False) -> None:
        """Keep a checkpoint; `paused` says that the attempt stops here on purpose."""
        about = {
            "attempt": self.row.attempt,
            "failures": self.row.failures or 0,
            "paused": paused,
            "checkpoint_time": self._checkpoint_time + self.checkpoints.seconds,
            "rows_time": self._rows_time,
        }
        self.checkpoints.save({**state, **about})

    def save_weights(self, weights: dict[str, Tensor], about: dict[str, str]) -> None:
        """Keep the best epoch's weights for later commands; `about` says how to use them."""
        if not self.superseded:
            self.checkpoints.save_weights(weights, {"attempt": str(self.row.attempt), **about})

    def keep_examples(self, files: Mapping[str, bytes]) -> None:
        """Keep what the trial shows of itself, as examples/<trial_id>-<name>."""
        for name, content in files.items():
            write_atomically(self._folder / "examples" / f"{self.config.trial_id}-{name}", content)

    def keep_predictions(self, labels: Sequence[int], predictions: Sequence[int]) -> None:
        """Keep which class was predicted of each test image."""
        if not self.superseded:
            write_predictions(self._folder, self.config.trial_id, labels, predictions)

    def pause(self) -> None:
        """The trial stops at a rung and stays `running`: its row says how far it is."""
        self.row = self._with_costs()
        self.store.write_trial(self.row)
        self.close()

    def close(self) -> None:
        """The attempt ends and the trial goes on in another."""
        if self._board is not None:
            self._board.close(Status.RUNNING, {})

    def settle(self, status: Status, reason: str | None = None, **known: Any) -> None:
        """The last row of the trial; its checkpoints are no longer needed."""
        with self._settling:
            self.row = replace(
                self._with_costs(), status=status, reason=reason, ended=self._now(), **_columns(known, TrialRow)
            )
            self.store.write_trial(self.row)
        if self._board is not None:
            found = {name: getattr(self.row, name, self.row.metrics.get(name)) for name in self._told}
            finals = {name: value for name, value in found.items() if value is not None}
            self._board.close(status, finals)
        if self.setup.keep != "last" and not self.superseded:
            self.checkpoints.clear()

    def give_up(self, reason: str) -> None:
        """Settle the trial for a main thread that hangs, unless it is doing so itself."""
        if not self._settling.acquire(timeout=LOCK_S) or self.row.status != Status.RUNNING:
            return
        self.store.write_trial(replace(self._with_costs(), status=Status.FAILED, reason=reason, ended=self._now()))
        if self.setup.keep != "last" and not self.superseded:
            self.checkpoints.clear()

    def _now(self) -> datetime:
        """The end of the attempt by the monotonic clock: the wall clock may have been set meanwhile."""
        assert self.row.started is not None
        return self.row.started + timedelta(seconds=time.monotonic() - self._begun)

    def _with_costs(self) -> TrialRow:
        """The row with what the epochs so far have cost."""
        if not self.rows:
            return self.row
        sums: dict[str, Any] = {
            name: _total(self.rows, name) for name in ("train_time", *PHASE_TIMES, "eval_time", "energy")
        }
        return replace(
            self.row,
            epochs=len(self.rows),
            **sums,
            rows_time=self._rows_time,
            device_hours=self.spent_s / 3600 * device_share(self.setup),
            # The first epoch warms up.
            train_samples_per_sec=statistics.median(
                row.train_samples_per_sec or 0 for row in self.rows[1:] or self.rows
            ),
            checkpoint_time=self._checkpoint_time + self.checkpoints.seconds,
            checkpoint_mib=self.checkpoints.mib or None,
        )


def _total(rows: Sequence[EpochRow], name: str) -> float | None:
    """The sum of a column; none where an epoch lacks it, as those of a CPU lack their energy."""
    values = [getattr(row, name) for row in rows]
    return None if None in values else sum(values)


def _columns(values: dict[str, Any], row: type[EpochRow] | type[TrialRow]) -> dict[str, Any]:
    """Values by column as arguments of a row: metrics beyond its own columns go into `metrics`."""
    own = {entry.name for entry in fields(row)}
    further = {name: value for name, value in values.items() if name not in own}
    return {name: value for name, value in values.items() if name in own} | {"metrics": further}
