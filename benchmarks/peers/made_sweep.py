"""A sweep of any size, made up: rows as trials write them, in raybench's files and in those of Ray Tune.

What the numbers are like decides what they take on disk, so they are what training leaves: losses are means of float32
in double, that of validation the sum of ten batches over 5,000 images; accuracies are counts over the images of their
split; times are noisy and kept to as many bits as a trial keeps of them. The sweep is that of `deit_reverse`: alpha,
kind of distillation and train size make 21 cells, a learning rate of three is tuned; 300 epochs on a cosine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from raybench.results.compact import encode_compact
from raybench.results.parts import LARGE_VALUES
from raybench.results.schema import (
    PARTS,
    TIME_BITS,
    Status,
    TrialRow,
    epoch_schema,
    polars_schema,
    trial_schema,
    trial_table,
)
from raybench.results.storage import write_atomically

Doubles = npt.NDArray[np.float64]
EPOCHS = 300
VAL_SIZE, VAL_BATCH = 5000, 500
TRAIN_SIZES = (5000, 20000, 45000)
RATES = (0.003, 0.01, 0.03)
KINDS = {"alone": (), "hard": ("kd_hard",), "soft": ("kd_soft",), "both": ("kd_hard", "kd_soft")}
SETTINGS = [("alone", 0.0), *((kind, alpha) for kind in ("hard", "soft", "both") for alpha in (0.5, 0.9))]
NOISE = 0.01
"""Of losses and times from epoch to epoch, relative."""
RAY_TRIALS = 1000
AT_A_TIME = 500


@dataclass(frozen=True)
class Trial:
    """What is known of a trial before it runs."""

    number: int

    @property
    def trial_id(self) -> str:
        """Twelve hex digits, in no order, as real ones are."""
        return hashlib.sha256(f"trial {self.number}".encode()).hexdigest()[:12]

    @property
    def kind(self) -> str:
        """Of distillation."""
        return SETTINGS[self.number % len(SETTINGS)][0]

    @property
    def alpha(self) -> float:
        """Its weight."""
        return SETTINGS[self.number % len(SETTINGS)][1]

    @property
    def train_size(self) -> int:
        """Images."""
        return TRAIN_SIZES[self.number // len(SETTINGS) % len(TRAIN_SIZES)]

    @property
    def lr(self) -> float:
        """Base learning rate."""
        return RATES[self.number // (len(SETTINGS) * len(TRAIN_SIZES)) % len(RATES)]

    @property
    def seed(self) -> int:
        """Everything else being equal."""
        return self.number // (len(SETTINGS) * len(TRAIN_SIZES) * len(RATES))

    @property
    def cell(self) -> str:
        """The levels of its factors."""
        return f"alpha={self.alpha} type={self.kind} train_size={self.train_size}"


def epochs_of(trial: Trial, epochs: int = EPOCHS) -> pl.DataFrame:
    """The trial's rows of the `epochs` table."""
    draw = np.random.default_rng(trial.number)
    done = np.arange(1, epochs + 1)
    ended = 1 - np.exp(-done / 60)  # how much of what is learned has been learned

    def noisy(values: Doubles | float, relative: float = NOISE) -> Doubles:
        return np.asarray(values * (1 + relative * draw.standard_normal(epochs)), dtype=np.float64)

    ce = noisy(4.6 - ended * draw.uniform(3.2, 4.2))
    parts = {"ce": ce} | {name: noisy(ce * draw.uniform(0.3, 0.9)) for name in KINDS[trial.kind]}
    terms = [parts[name] for name in KINDS[trial.kind]]
    # The parts and their sum are means over the epoch, each of float32: equal but for what rounding leaves.
    loss = noisy((1 - trial.alpha) * ce + trial.alpha * sum(terms) / len(terms), 2**-26) if terms else ce
    batches = draw.normal(VAL_BATCH * ce[:, None] * 1.2, NOISE * VAL_BATCH, (epochs, VAL_SIZE // VAL_BATCH))
    right = np.clip(ended * draw.uniform(0.5, 0.9) + draw.normal(0, 0.005, epochs), 0.01, 0.99)
    steps = noisy(trial.train_size / draw.uniform(1500, 4000))
    share = np.array([0.05, 0.15 if terms else 0.0, 0.7, 0.08])[:, None]
    phases = steps * share * (1 + NOISE * draw.standard_normal((4, epochs)))
    names = ("data_time", "teacher_time", "forward_backward_time", "optimizer_time")
    columns: dict[str, object] = {
        "trial_id": [trial.trial_id] * epochs,
        "attempt": np.full(epochs, 1 + (trial.number % 50 == 0)),
        "epoch": done,
        "lr": trial.lr * 0.5 * (1 + np.cos(np.pi * (done - 0.004) / epochs)),
        "train_loss": loss,
        "train_top1": 100 * (draw.binomial(trial.train_size, right) / trial.train_size),
        "eval_loss": batches.astype(np.float32).astype(np.float64).sum(axis=1) / VAL_SIZE,
        "eval_top1": 100 * (draw.binomial(VAL_SIZE, right * 0.9) / VAL_SIZE),
        "eval_top5": 100 * (draw.binomial(VAL_SIZE, right**0.3) / VAL_SIZE),
        "train_time": coarse(steps),
        "eval_time": coarse(noisy(VAL_SIZE / 9000)),
        "train_samples_per_sec": coarse(trial.train_size / steps),
        **dict(zip(names, coarse(phases), strict=True)),
        **{f"part/{name}": parts.get(name) for name in PARTS},
    }
    schema = polars_schema(epoch_schema())
    return pl.DataFrame({name: columns.get(name) for name in schema}, schema)


def coarse(values: Doubles) -> Doubles:
    """To as many bits as a trial keeps of its times."""
    mantissa, exponent = np.frexp(values)
    return np.asarray(np.ldexp(np.round(mantissa * 2**TIME_BITS), exponent - TIME_BITS), dtype=np.float64)


def trials_of(trials: list[Trial], last: pl.DataFrame) -> pl.DataFrame:
    """Rows of the `trials` table; `last` holds the last epoch of each of them, in the same order."""
    from raybench.config.trial import DatasetConfig, DistillationConfig, ModelConfig, TeacherConfig, TrialConfig
    from raybench.results.manifest import environment

    config = TrialConfig(
        dataset=DatasetConfig(name="cifar100", train_size=TRAIN_SIZES[0], val_size=VAL_SIZE),
        model=ModelConfig(name="resnet20"),
        distillation=DistillationConfig(type="soft", teacher=TeacherConfig(name="vit_micro_patch2_8")),
    )
    row = TrialRow(
        trial_id="", sweep="made_up", preset="paper", cell="", status=Status.COMPLETE, attempt=1, seed=0,
        dataset_variant="official", dataset_fingerprint="0123456789ab", node="node-1", param_count=0.27, gmacs=0.041,
        epochs=EPOCHS, best_epoch=EPOCHS, config=config.flat(), env=environment(),
    )  # fmt: skip
    constants = pl.DataFrame(trial_table(row, "trial"))
    draw = np.random.default_rng(0)
    count = len(trials)
    own: dict[str, Any] = {
        "trial_id": last["trial_id"],
        "setting_id": [hashlib.sha256(each.cell.encode()).hexdigest()[:12] for each in trials],
        "cell": [each.cell for each in trials],
        "attempt": last["attempt"],
        "seed": [each.seed for each in trials],
        "status": [Status.PRUNED if each.number % 20 == 7 else Status.COMPLETE for each in trials],
        "config/distillation.alpha": [each.alpha for each in trials],
        "config/distillation.type": ["none" if each.kind == "alone" else each.kind for each in trials],
        "config/dataset.train_size": [str(each.train_size) for each in trials],
        "config/optimizer.lr": [each.lr for each in trials],
        "config/seed": [each.seed for each in trials],
        "eval_loss": last["eval_loss"],
        "eval_top1": last["eval_top1"],
        "test_top1": 100 * (draw.binomial(10_000, last["eval_top1"].to_numpy() / 100) / 10_000),
        "test_loss": last["eval_loss"].to_numpy() * draw.normal(1, NOISE, count),
        "train_time": last["train_time"] * EPOCHS,
        "device_hours": last["train_time"] * EPOCHS / 3600 * draw.normal(1, NOISE, count),
    }
    schema = polars_schema(trial_schema())
    frame = pl.DataFrame({name: [constants[name].item()] * count for name in schema if name not in own}, {
        name: kind for name, kind in schema.items() if name not in own
    })  # fmt: skip
    found = frame.with_columns(pl.Series(name, values) for name, values in own.items() if name in schema)
    return found.select(pl.col(name).cast(kind) for name, kind in schema.items())


def make(folder: Path, trials: int) -> None:
    """Write both tables of so many trials, as compaction leaves them after a long sweep."""
    a_file = -(-LARGE_VALUES // (len(epoch_schema()) * EPOCHS))
    everything = [Trial(number) for number in range(trials)]

    def one_file(number: int, some: list[Trial]) -> pl.DataFrame:
        # Of frames in one piece no slice keeps the whole in memory.
        starts = range(0, len(some), AT_A_TIME)
        pieces = (pl.concat(map(epochs_of, some[at : at + AT_A_TIME]), rechunk=True) for at in starts)
        frame = pl.concat(pieces)
        write_atomically(folder / "epochs" / f"compact-{number}.parquet", encode_compact(frame, epoch_schema()))
        return frame.filter(pl.col("epoch") == EPOCHS)

    starts = enumerate(range(0, trials, a_file), 1)
    ends = [one_file(number, everything[start : start + a_file]) for number, start in starts]
    a_file = -(-LARGE_VALUES // len(trial_schema()))
    last = pl.concat(ends)
    for number, start in enumerate(range(0, trials, a_file), 1):
        frame = trials_of(everything[start : start + a_file], last.slice(start, a_file))
        write_atomically(folder / "trials" / f"compact-{number}.parquet", encode_compact(frame, trial_schema()))


def ray_lines(trial: Trial) -> Iterator[str]:
    """The lines of the trial's `result.json` as Tune's JSON logger writes them, one an epoch."""
    config = {
        "alpha": trial.alpha, "kind": trial.kind, "lr": trial.lr, "seed": trial.seed, "train_size": trial.train_size,
        "model": "resnet20", "teacher": "vit_micro_patch2_8", "batch_size": 128, "weight_decay": 5e-4, "epochs": EPOCHS,
    }  # fmt: skip
    total = 0.0
    for row in epochs_of(trial).drop("trial_id", "attempt").iter_rows(named=True):
        took = row["train_time"] + row["eval_time"]
        total += took
        own = {name: value for name, value in row.items() if value is not None}
        yield json.dumps({
            **own, "timestamp": 1790000000 + int(total), "checkpoint_dir_name": None, "done": row["epoch"] == EPOCHS,
            "training_iteration": row["epoch"], "trial_id": trial.trial_id[:8], "date": "2026-11-28_13-00-00",
            "time_this_iter_s": took, "time_total_s": total, "pid": 12345, "hostname": "node-1", "node_ip": "10.0.0.1",
            "config": config, "time_since_restore": total, "iterations_since_restore": row["epoch"],
        })  # fmt: skip


def make_ray(folder: Path, trials: int) -> None:
    """Write `trials` folders as Tune leaves them."""
    for number in range(trials):
        trial = Trial(number)
        path = folder / f"train_{trial.trial_id[:8]}" / "result.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in ray_lines(trial)))
