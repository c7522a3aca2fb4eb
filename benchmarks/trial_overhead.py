"""What it costs that nothing is lost: a row, TensorBoard, the watchdog, a checkpoint, and all of it in a real trial.

    python benchmarks/trial_overhead.py [--json] [--folder DIR] [--pairs 6] [--epochs 12]

The share of training is that of a whole `run_trial` with everything on (rows, TensorBoard, checkpoints at the default
interval, all limits, the watchdog, the best weights kept) against the bare `train()` loop on the same ingredients and
the same look at the test set. Whole trials one after the other differ by more than the bar, since a shared machine is
faster in one minute than in the next; so the two take turns in one process, an epoch each, and only the seconds in
which each had its turn count. Two bare loops in turns show what is left of the machine's own unevenness. An epoch takes
about 1 s here. Files go to a folder of their own in ./results, or in --folder: a folder in memory would not count as a
disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import timm
import torch

import raybench.training.trial
from raybench.config.trial import TrialConfig
from raybench.results.manifest import environment
from raybench.results.schema import EpochRow, Status, TrialRow
from raybench.results.store import Store
from raybench.results.tensorboard import TrialBoard
from raybench.training.batches import PlainImages
from raybench.training.checkpoints import SHARE, Checkpoints, State
from raybench.training.classifying import make_task
from raybench.training.device import choose_device
from raybench.training.ingredients import gather
from raybench.training.limits import Limits
from raybench.training.loop import Epoch, Run, signed, train
from raybench.training.recorder import Setup
from raybench.training.trial import run_trial
from raybench.training.watchdog import Watchdog

ROOT = Path(__file__).parents[1]
ROW_BAR_MS = 20.0
SHARE_BAR = 0.02
EPOCH_S = 1.0
WRITES = 100
SAVES = 7
EVERYTHING = Setup(
    sweep="overhead", preset="quick", trial_time_s=3600.0, stall_s=600.0, memory_mib=2.0**20, guarded=True
)  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """Something measured, with its bar where it has one."""

    claim: str
    values: list[float]
    unit: str
    bar: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """Of all values."""
        return statistics.median(self.values)

    @property
    def holds(self) -> bool | None:
        """Whether the median is within the bar; none without a bar."""
        return None if self.bar is None else self.median <= self.bar

    def text(self) -> str:
        """A line for people."""
        spread = f"{min(self.values):.3g} to {max(self.values):.3g}, n = {len(self.values)}"
        bar = "" if self.bar is None else f", at most {self.bar:g}: {'holds' if self.holds else 'does not hold'}"
        return f"{self.claim}: median {self.median:.3g} {self.unit} ({spread}){bar}{self.note and '; ' + self.note}"


def timed(action: Callable[[], Any], times: int) -> list[float]:
    """Milliseconds of each counted call, after two that are not."""
    found = []
    for turn in range(times + 2):
        start = time.perf_counter()
        action()
        if turn >= 2:
            found.append(1000 * (time.perf_counter() - start))
    return found


def configuration(image_size: int, train_size: int, epochs: int) -> TrialConfig:
    """A small network on the embedded digits, as large as it takes."""
    return TrialConfig.model_validate(
        {
            "dataset": {
                "name": "digits",
                "train_size": train_size,
                "val_size": 200,
                "image_size": image_size,
                "augment": ["crop1"],
            },
            "model": {"name": "resnet8"},
            "optimizer": {"lr": 0.05},
            "schedule": {"epochs": epochs},
            "batch_size": 50,
        }
    )


def make_run(config: TrialConfig) -> tuple[Run, PlainImages]:
    """A run with nothing around it, and the test images."""
    setup = Setup()
    torch.set_num_threads(setup.threads)
    device = choose_device(config.precision, setup.gpu)
    ingredients = gather(config, setup, device)
    task, _ = make_task(config, setup, ingredients, device)
    data = ingredients.data
    images = PlainImages(data.test_images, data.test_labels, None, device.device)
    return Run(config, task, ingredients.training, ingredients.validation, device), images


class Turns:
    """Of two who share a process, one at a time; counts the seconds in which each had its turn."""

    def __init__(self, first: int) -> None:
        self.held: list[list[float]] = [[], []]
        """By turn: the way to the end of the first epoch, each further epoch, the end."""
        self._mine = (threading.Semaphore(first == 0), threading.Semaphore(first == 1))
        self._since = 0.0

    def take(self, who: int) -> None:
        """Wait for the turn of `who`."""
        self._mine[who].acquire()
        self._since = time.perf_counter()

    def give(self, who: int) -> None:
        """End it."""
        self.held[who].append(time.perf_counter() - self._since)
        self._mine[1 - who].release()

    def after(self, who: int, after_epoch: Callable[[Run, Epoch], bool]) -> Callable[[Run, Epoch], bool]:
        """What `after_epoch` does, then the other's turn."""

        def paced(run: Run, epoch: Epoch) -> bool:
            goes_on = after_epoch(run, epoch)
            self.give(who)
            self.take(who)
            return goes_on

        return paced


def bare(config: TrialConfig, turns: Turns, who: int) -> list[float]:
    """The loop with nothing around it, from the data to the test set. The seconds inside its epochs."""
    run, images = make_run(config)
    torch.manual_seed(config.seed)
    inside: list[float] = []

    def after_epoch(run: Run, epoch: Epoch) -> bool:  # noqa: ARG001
        inside.append(epoch.train_time + epoch.eval_time)
        return True

    until = config.schedule.epochs
    train(run, until, lambda epoch: signed(epoch.metrics["eval_top1"], "max"), turns.after(who, after_epoch))
    run.use_best()
    run.evaluate(images)
    return inside


def safe(config: TrialConfig, folder: Path, turns: Turns, who: int) -> list[float]:
    """The same trial with everything on."""

    def paced(run: Run, until: int, score: Any, after_epoch: Any) -> bool:
        return train(run, until, score, turns.after(who, after_epoch))

    with mock.patch.object(raybench.training.trial, "train", paced):
        outcome = run_trial(config, replace(EVERYTHING, results=folder))
    if outcome.status != Status.COMPLETE:
        raise RuntimeError(f"the trial ended as {outcome.status}: {outcome.reason}")
    rows = Store(folder).last_epochs(config.trial_id)
    return [(row.train_time or 0) + (row.eval_time or 0) for row in rows]


@dataclass(frozen=True)
class Taken:
    """Seconds of a whole trial, by turn, and of these the seconds inside each of its epochs."""

    held: list[float]
    inside: list[float]

    @property
    def whole(self) -> float:
        """Seconds of all."""
        return sum(self.held)

    @property
    def between(self) -> float:
        """Seconds outside the epochs: all that a trial does but training and validation."""
        return self.whole - sum(self.inside)


def in_turns(first: int, *sides: Callable[[Turns, int], list[float]]) -> list[Taken]:
    """Both sides, an epoch each."""
    turns = Turns(first)

    def side(who: int) -> list[float]:
        turns.take(who)
        try:
            return sides[who](turns, who)
        finally:
            turns.give(who)

    with ThreadPoolExecutor(2) as pool:
        inside = list(pool.map(side, (0, 1)))
    return [Taken(held, each) for held, each in zip(turns.held, inside, strict=True)]


def one_second_epoch(epochs: int) -> tuple[TrialConfig, float]:
    """A configuration whose epoch takes about EPOCH_S, and the seconds it takes."""
    train_size, size = 800, 16
    while True:
        run, _ = make_run(configuration(size, train_size, 3))
        run.train_epoch()
        timed_epochs = [run.train_epoch() for _ in range(2)]
        taken = [epoch.train_time + epoch.eval_time for epoch in timed_epochs]
        if min(taken) > 0.8 * EPOCH_S or size >= 64:
            break
        size += 8
    train_size = max(100, min(1000, round(train_size * EPOCH_S / min(taken) / 50) * 50))
    return configuration(size, train_size, epochs), min(taken) * train_size / 800


def rows(trial_id: str, count: int) -> list[EpochRow]:
    """Rows as a distilled trial has them."""
    return [
        EpochRow(
            trial_id=trial_id,
            attempt=1,
            epoch=epoch,
            lr=0.1 / epoch,
            train_loss=0.731,
            train_top1=71.3,
            eval_loss=0.812,
            eval_top1=68.9,
            eval_top5=97.1,
            train_time=1.013,
            eval_time=0.071,
            train_samples_per_sec=987.6,
            parts={"ce": 0.61, "kd_soft": 0.84},
        )
        for epoch in range(1, count + 1)
    ]


def row_writes(folder: Path, config: TrialConfig) -> Iterator[Figure]:
    """One write of each kind of row, and of the tables as they grow."""
    store, about = Store(folder), environment()
    row = TrialRow(
        trial_id=config.trial_id,
        sweep="overhead",
        preset="quick",
        cell="alpha=0.5",
        status=Status.RUNNING,
        attempt=1,
        seed=0,
        config=config.flat(),
        env=dict(about),
    )
    yield Figure("write_trial", timed(lambda: store.write_trial(row), WRITES), "ms", ROW_BAR_MS)
    for count in (1, 100, 1000):
        written = rows(config.trial_id, count)
        taken = timed(lambda written=written: store.write_epochs(config.trial_id, 1, written), WRITES)  # type: ignore[misc]
        yield Figure(f"write_epochs, epochs so far {count}", taken, "ms", ROW_BAR_MS)
    board = TrialBoard(folder, config.trial_id, {"lr": 0.1}, ("test_top1",), 0)
    (one,) = rows(config.trial_id, 1)
    yield Figure("an epoch in TensorBoard", timed(lambda: board.epoch(one), WRITES), "ms")
    board.close(Status.COMPLETE, {"test_top1": 90.0})


def watching(folder: Path) -> Iterator[Figure]:
    """A look at all limits in a step, and the processor time of the watchdog's thread."""
    limits = Limits(3600.0, 600.0, 2.0**20)
    looks = 1000

    def look() -> None:
        for _ in range(looks):
            limits.check()

    yield Figure("a look at the limits, in each step", timed(look, 20), "us", note="median over 1000 at a time")
    taken = []
    for _ in range(3):
        with Watchdog(limits, folder / "stack.txt"):
            start, busy = time.perf_counter(), time.process_time()
            time.sleep(3.0)
            taken.append(1000 * (time.process_time() - busy) / (time.perf_counter() - start))
    yield Figure("processor time of the watchdog", taken, "ms a second")


def saves(folder: Path) -> Iterator[Figure]:
    """Checkpoints of a small network and of a large one, and their share at the default interval."""
    run, _ = make_run(configuration(8, 200, 2))
    run.train_epoch()
    run.keep_best(0.0)
    for name, state in (("resnet8", run.state()), ("ResNet-50", resnet50_state())):
        checkpoints = Checkpoints(folder / "checkpoints" / name, EVERYTHING.checkpoint_every_s)
        taken = timed(lambda state=state, keep=checkpoints: keep.save(state), SAVES)  # type: ignore[misc]
        took_s = statistics.median(taken) / 1000
        every_s = max(EVERYTHING.checkpoint_every_s, took_s / SHARE)
        size = f"{checkpoints.mib:.1f} MiB (model, momentum, best weights)"
        every = f"every {every_s:.3g} s, {took_s / every_s:.2%} of the time"
        yield Figure(f"a checkpoint of {name}", taken, "ms", note=f"{size}; {every}")


def resnet50_state() -> State:
    """What a checkpoint of a ResNet-50 in training holds: the model, its momentum and the best weights."""
    model = timm.create_model("resnet50", pretrained=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return {"epoch": 1, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "best_weights": best}


def whole_trial(folder: Path, pairs: int, epochs: int) -> Iterator[Figure]:
    """Everything together, paired; and as many pairs of bare loops."""
    config, epoch_s = one_second_epoch(epochs)
    short = config.model_copy(update={"schedule": config.schedule.model_copy(update={"epochs": 1})})
    plain = partial(bare, config)
    in_turns(0, partial(bare, short), partial(safe, short, folder / "warm-up"))
    shares, between, an_epoch, control = [], [], [], []
    for pair in range(pairs):
        alone, trial = in_turns(pair % 2, plain, partial(safe, config, folder / f"pair-{pair}"))
        shares.append(100 * (trial.whole / alone.whole - 1))
        between.append(100 * (trial.between - alone.between) / sum(alone.inside))
        # Neither the first turn nor the last: they hold what is made once for a trial.
        an_epoch.append(100 * (sum(trial.held[1:-1]) / sum(alone.held[1:-1]) - 1))
        one, other = in_turns(pair % 2, plain, plain)
        control.append(100 * (other.whole / one.whole - 1))
    note = f"{pairs} pairs of {epochs} epochs of {epoch_s:.2f} s ({config.dataset.image_size} px, resnet8)"
    bar = 100 * SHARE_BAR
    yield Figure("an epoch with everything against the bare loop's", an_epoch, "% longer", bar, note)
    yield Figure("a whole trial with everything against the bare loop", shares, "% longer", bar, "the same pairs")
    yield Figure("of the epochs' time, spent between them", between, "%", bar, "the same pairs")
    yield Figure("the bare loop against itself", control, "% longer", note="what the machine adds; as many pairs")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one object a claim")
    parser.add_argument("--folder", type=Path, default=ROOT / "results", help="where the files go; removed at the end")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=12)
    args = parser.parse_args()
    about = environment()
    hardware = f"{about['cpu']} {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    versions = f"torch {about['torch']}, Python {about['python']}, {time.strftime('%Y-%m-%d')}"
    args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".overhead-", dir=args.folder) as name:
        folder = Path(name)
        os.environ["RAYBENCH_CACHE"] = str(folder / "cache")
        measured = (
            row_writes(folder / "rows", configuration(8, 200, 2)),
            watching(folder),
            saves(folder),
            whole_trial(folder, args.pairs, args.epochs),
        )
        for figure in (each for part in measured for each in part):
            if args.json:
                claim = {"claim": f"{figure.claim}, {figure.unit}", "ours": round(figure.median, 4), "peer": None}
                bar = {"ratio": None, "bar": figure.bar, "holds": figure.holds}
                print(json.dumps(claim | bar | {"n": len(figure.values), "hardware": hardware}), flush=True)
            else:
                print(figure.text(), flush=True)
    if not args.json:
        print(f"{hardware}; {versions}")


if __name__ == "__main__":
    main()
