"""The rows of the two result tables and the columns in which they are kept.

A folder of these files reads as one table with any Parquet reader, so a column is always there and never changes its
type:

- The rows' own fields are columns of the field's type.
- `config/<key>` follows the annotation of that key in `TrialConfig`: int64 for whole numbers, float64 for numbers, bool
  for flags, string for everything else. A key that may be a number or a word (`dataset.train_size`: 500 or `all`) is a
  string column, `"500"`, `"all"`. Every key of `TrialConfig` has its column in every file; an unknown key becomes a
  string column.
- `env/<key>` follows `ENVIRONMENT`; an unknown key becomes a string column.
- `part/<name>` is float64; those of `PARTS` are in every file.

In a string column text stays as it is and any other value is written as JSON. None is null everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from functools import cache
from json import dumps
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import polars as pl
import pyarrow as pa

from raybench.config.trial import Section, TrialConfig
from raybench.errors import ResultsError

Writer = Literal["trial", "driver"]


class Status(StrEnum):
    """How a trial stands."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    """A scheduler stopped it."""
    DIVERGED = "diverged"
    """Its loss was not finite."""
    FAILED = "failed"
    """It broke, after its retries; `reason` says how."""
    RUNNING = "running"


SETTLED = frozenset({Status.COMPLETE, Status.PRUNED, Status.DIVERGED, Status.FAILED})
"""Statuses of trials that are not due again."""

TIME_BITS = 12
"""Significant bits of the times in an epoch's row, and of its energy: to 0.05 %, where two runs differ by 1 % and more.

Further digits are noise, which takes five bytes a time and row on disk; those of losses and metrics are all kept.
"""

PARTS = ("ce", "kd_hard", "kd_soft")
"""Parts of the loss that have their column in every file, empty where a trial has no such part."""

ENVIRONMENT: dict[str, pa.DataType] = {
    "raybench": pa.string(),
    "git_commit": pa.string(),
    "git_dirty": pa.bool_(),
    "lock_hash": pa.string(),
    "python": pa.string(),
    "torch": pa.string(),
    "ray": pa.string(),
    "timm": pa.string(),
    "numpy": pa.string(),
    "platform": pa.string(),
    "cpu": pa.string(),
    "cpu_count": pa.int64(),
    "gpu": pa.string(),
    "driver": pa.string(),
    "precision": pa.string(),
    "compiled": pa.string(),
    "threads": pa.int64(),
}
"""Keys behind `env/` that have their column in every file."""


def _about(description: str, unit: str = "") -> dict[str, str]:
    return {"description": description, "unit": unit} if unit else {"description": description}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRow:
    """One trial, as one attempt of it (or the driver on its behalf) saw it last."""

    trial_id: str = field(metadata=_about("identity of the configuration, 12 hex digits"))
    sweep: str = field(metadata=_about("name of the sweep"))
    preset: str = field(metadata=_about("paper, small or quick"))
    cell: str = field(metadata=_about("the levels of the factors, as text"))
    status: Status = field(metadata=_about("complete, pruned, diverged, failed or running"))
    attempt: int = field(metadata=_about("1 for the first start of the trial"))
    seed: int = field(metadata=_about("seed of the trial"))
    reason: str | None = field(default=None, metadata=_about("why it failed, diverged or was pruned"))
    failures: int | None = field(default=None, metadata=_about("attempts that broke"))
    setting_id: str | None = field(default=None, metadata=_about("identity without the seed"))
    epochs: int | None = field(default=None, metadata=_about("epochs finished", "epochs"))
    best_epoch: int | None = field(default=None, metadata=_about("epoch of the weights that were scored", "epochs"))
    eval_loss: float | None = field(default=None, metadata=_about("loss on validation at best_epoch"))
    eval_top1: float | None = field(default=None, metadata=_about("accuracy on validation at best_epoch", "%"))
    test_loss: float | None = field(default=None, metadata=_about("loss on the test set at best_epoch"))
    test_top1: float | None = field(default=None, metadata=_about("accuracy on the test set at best_epoch", "%"))
    test_top5: float | None = field(default=None, metadata=_about("top-5 accuracy on the test set at best_epoch", "%"))
    param_count: float | None = field(default=None, metadata=_about("parameters of the student", "millions"))
    gmacs: float | None = field(
        default=None, metadata=_about("multiply-adds of one forward pass, head left out", "1e9")
    )
    train_samples_per_sec: float | None = field(default=None, metadata=_about("training throughput", "images/s"))
    infer_samples_per_sec: float | None = field(default=None, metadata=_about("inference throughput", "images/s"))
    train_time: float | None = field(default=None, metadata=_about("time in training, all epochs", "s"))
    data_time: float | None = field(default=None, metadata=_about("of train_time: making batches", "s"))
    teacher_time: float | None = field(
        default=None, metadata=_about("of train_time: teacher's logits or encoder's code", "s")
    )
    forward_backward_time: float | None = field(
        default=None, metadata=_about("of train_time: forward and backward passes", "s")
    )
    optimizer_time: float | None = field(default=None, metadata=_about("of train_time: steps of the optimizer", "s"))
    eval_time: float | None = field(default=None, metadata=_about("time in validation, all epochs", "s"))
    setup_time: float | None = field(
        default=None, metadata=_about("from the start of this attempt to its first step: data, model, teacher", "s")
    )
    rows_time: float | None = field(default=None, metadata=_about("time spent on rows and TensorBoard events", "s"))
    peak_memory: float | None = field(default=None, metadata=_about("peak memory of the device or process", "MiB"))
    micro_batch: int | None = field(
        default=None, metadata=_about("most images of a forward pass, where memory ran out for the batch", "images")
    )
    deviation: str | None = field(
        default=None, metadata=_about("how its maths departs from its configuration; such trials are compared to none")
    )
    device_hours: float | None = field(default=None, metadata=_about("device time of all attempts", "h"))
    energy: float | None = field(
        default=None, metadata=_about("drawn by the whole device in training and validation, whoever shared it", "Wh")
    )
    checkpoint_time: float | None = field(default=None, metadata=_about("time spent on checkpoints", "s"))
    checkpoint_mib: float | None = field(default=None, metadata=_about("size of a checkpoint", "MiB"))
    teacher_top1: float | None = field(default=None, metadata=_about("the teacher's accuracy on validation", "%"))
    teacher_test_top1: float | None = field(
        default=None, metadata=_about("the teacher's accuracy on the test set", "%")
    )
    dataset_variant: str | None = field(default=None, metadata=_about("official, own split, subset of official …"))
    dataset_fingerprint: str | None = field(default=None, metadata=_about("hash of the decoded data, 12 hex digits"))
    node: str | None = field(default=None, metadata=_about("host that ran it"))
    started: datetime | None = field(default=None, metadata=_about("start of this attempt", "UTC"))
    ended: datetime | None = field(default=None, metadata=_about("end of this attempt", "UTC"))
    config: dict[str, Any] = field(default_factory=dict)
    """Hyperparameters under their dotted names, as `TrialConfig.flat()` gives them."""
    env: dict[str, Any] = field(default_factory=dict)
    """The environment, as `manifest.environment()` and the trial give it."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Further metrics by column name (test_top3), each a column of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochRow:
    """One epoch of one trial."""

    trial_id: str = field(metadata=_about("identity of the configuration, 12 hex digits"))
    attempt: int = field(metadata=_about("attempt that wrote the row; a resumed one writes the earlier epochs again"))
    epoch: int = field(metadata=_about("epochs finished, from 1", "epochs"))
    lr: float | None = field(default=None, metadata=_about("learning rate at the end of the epoch"))
    train_loss: float | None = field(default=None, metadata=_about("mean training loss"))
    train_top1: float | None = field(default=None, metadata=_about("accuracy on the training batches", "%"))
    eval_loss: float | None = field(default=None, metadata=_about("loss on validation"))
    eval_top1: float | None = field(default=None, metadata=_about("accuracy on validation", "%"))
    eval_top5: float | None = field(default=None, metadata=_about("top-5 accuracy on validation", "%"))
    train_time: float | None = field(default=None, metadata=_about("training time of the epoch", "s"))
    data_time: float | None = field(default=None, metadata=_about("of train_time: making batches", "s"))
    teacher_time: float | None = field(
        default=None, metadata=_about("of train_time: teacher's logits or encoder's code", "s")
    )
    forward_backward_time: float | None = field(
        default=None, metadata=_about("of train_time: forward and backward passes", "s")
    )
    optimizer_time: float | None = field(default=None, metadata=_about("of train_time: steps of the optimizer", "s"))
    eval_time: float | None = field(default=None, metadata=_about("validation time of the epoch", "s"))
    train_samples_per_sec: float | None = field(default=None, metadata=_about("training throughput", "images/s"))
    energy: float | None = field(
        default=None, metadata=_about("drawn by the whole device in the epoch, whoever shared it", "Wh")
    )
    parts: dict[str, float] = field(default_factory=dict)
    """Named parts of the training loss, unweighted means over the epoch."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Further metrics by column name (eval_top3), each a column of its own."""

    def value(self, name: str) -> float | None:
        """A metric by its column name, whether the table always has that column or not."""
        known: float | None = getattr(self, name) if name in FIXED else self.metrics.get(name)
        return known


def coarse(value: float, towards: Callable[[float], int] = round) -> float:
    """The nearest number of TIME_BITS significant bits; with math.floor or math.ceil the next one below or above."""
    if not math.isfinite(value):
        return value
    mantissa, exponent = math.frexp(value)
    return math.ldexp(towards(mantissa * 2**TIME_BITS), exponent - TIME_BITS)


OPEN = {"config", "env", "parts", "metrics"}
"""Fields that become one column a key."""

FIXED = frozenset(entry.name for entry in fields(EpochRow)) - OPEN
"""Columns that every epoch has."""


def _own_fields(row: type[TrialRow] | type[EpochRow]) -> list[pa.Field]:
    types = {str: pa.string(), Status: pa.string(), int: pa.int64(), float: pa.float64()}
    hints = get_type_hints(row)
    columns = []
    for entry in fields(row):
        if entry.name in OPEN:
            continue
        kind = next(iter(_leaves(hints[entry.name])))
        arrow = pa.timestamp("us", tz="UTC") if kind is datetime else types[kind]
        columns.append(pa.field(entry.name, arrow, metadata=dict(entry.metadata)))
    return columns


def _leaves(annotation: Any) -> set[Any]:
    """The types an annotation allows, without None; a Literal counts as the types of its values."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _leaves(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return set().union(*(_leaves(each) for each in get_args(annotation)))
    if origin is Literal:
        return {type(value) for value in get_args(annotation)}
    return set() if annotation is NoneType else {origin or annotation}


def _config_types(section: type[Section], prefix: str = "") -> dict[str, pa.DataType]:
    types: dict[str, pa.DataType] = {}
    for name, info in section.model_fields.items():
        leaves = _leaves(info.annotation)
        nested = [leaf for leaf in leaves if isinstance(leaf, type) and issubclass(leaf, Section)]
        if nested:
            types.update(_config_types(nested[0], f"{prefix}{name}."))
        elif leaves == {bool}:
            types[prefix + name] = pa.bool_()
        elif leaves == {int}:
            types[prefix + name] = pa.int64()
        elif leaves <= {int, float}:
            types[prefix + name] = pa.float64()
        else:
            types[prefix + name] = pa.string()
    return types


@cache
def trial_schema() -> pa.Schema:
    """Columns that every file of the `trials` table has, units and descriptions in each field's metadata."""
    by = pa.field(
        "written_by", pa.string(), metadata=_about("trial, or driver where the trial could not say it itself")
    )
    config = [pa.field(f"config/{key}", kind) for key, kind in _config_types(TrialConfig).items()]
    environment = [pa.field(f"env/{key}", kind) for key, kind in ENVIRONMENT.items()]
    return pa.schema([*_own_fields(TrialRow), by, *config, *environment])


@cache
def epoch_schema() -> pa.Schema:
    """Columns that every file of the `epochs` table has, units and descriptions in each field's metadata."""
    return pa.schema([*_own_fields(EpochRow), *(pa.field(f"part/{name}", pa.float64()) for name in PARTS)])


@cache
def _sections() -> frozenset[str]:
    """Names behind which `TrialConfig` has further keys, such as `distillation.teacher`."""
    keys = _config_types(TrialConfig)
    return frozenset(key[:at] for key in keys for at, letter in enumerate(key) if letter == ".")


def trial_table(row: TrialRow, by: Writer) -> pa.Table:
    """The row as a table of one row.

    Raises ResultsError when a hyperparameter or an environment value does not fit its column.
    """
    values: dict[str, Any] = {entry.name: getattr(row, entry.name) for entry in fields(row) if entry.name not in OPEN}
    values["written_by"] = by
    schema = trial_schema()
    # A nested `none` is told by the empty columns of its keys; a column of its own would differ from file to file.
    config = {key: value for key, value in row.config.items() if value is not None or key not in _sections()}
    for prefix, content in (("config", config), ("env", row.env)):
        for key in sorted(content):
            name = f"{prefix}/{key}"
            if schema.get_field_index(name) < 0:
                schema = schema.append(pa.field(name, pa.string()))
            values[name] = _fit(name, content[key], schema.field(name).type)
    schema = _with_metrics(schema, row.metrics)
    values |= row.metrics
    return to_arrow(
        pl.DataFrame({entry.name: [values.get(entry.name)] for entry in schema}, polars_schema(schema)), schema
    )


def epoch_table(trial_id: str, attempt: int, rows: Sequence[EpochRow]) -> pa.Table:
    """The rows as a table ordered by epoch; `attempt` becomes that of the writer.

    Raises ValueError when a row is another trial's or an epoch occurs twice.
    """
    rows = sorted(rows, key=lambda row: row.epoch)
    if strangers := {row.trial_id for row in rows} - {trial_id}:
        raise ValueError(f"rows of {', '.join(sorted(strangers))} given as rows of trial {trial_id}")
    if len({row.epoch for row in rows}) < len(rows):
        raise ValueError(f"trial {trial_id}: an epoch occurs twice in {[row.epoch for row in rows]}")
    schema = epoch_schema()
    for name in sorted({name for row in rows for name in row.parts} - set(PARTS)):
        schema = schema.append(pa.field(f"part/{name}", pa.float64()))
    schema = _with_metrics(schema, {name for row in rows for name in row.metrics})
    columns = {}
    for entry in schema:
        if entry.name == "attempt":
            values: list[Any] = [attempt] * len(rows)
        elif entry.name.startswith("part/"):
            values = [row.parts.get(entry.name.removeprefix("part/")) for row in rows]
        else:
            values = [row.value(entry.name) for row in rows]
        columns[entry.name] = values
    return to_arrow(pl.DataFrame(columns, polars_schema(schema)), schema)


def _with_metrics(schema: pa.Schema, names: Iterable[str]) -> pa.Schema:
    for name in sorted(names):
        schema = schema.append(pa.field(name, pa.float64(), metadata=_about("a further metric")))
    return schema


POLARS: dict[pa.DataType, pl.DataType] = {
    pa.string(): pl.String(),
    pa.int64(): pl.Int64(),
    pa.float64(): pl.Float64(),
    pa.bool_(): pl.Boolean(),
    pa.timestamp("us", tz="UTC"): pl.Datetime("us", "UTC"),
}
"""The only types there are in either table."""


def polars_schema(schema: pa.Schema) -> dict[str, pl.DataType]:
    """The same columns as polars names them."""
    return {entry.name: POLARS[entry.type] for entry in schema}


def to_arrow(frame: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    """The frame with the types and the field metadata of `schema`; further columns as they are.

    By way of polars, because the first `pyarrow.array` of a process imports pandas where that is installed:
    seconds in every trial's start.
    """
    table = frame.to_arrow()
    further = [pa.field(name, _plain(table.schema.field(name).type)) for name in frame.columns[len(schema) :]]
    return table.cast(pa.schema([*schema, *further]))


def _plain(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind


def epoch_row(values: Mapping[str, Any]) -> EpochRow:
    """The row a table's record stands for."""
    own = {entry.name: values.get(entry.name) for entry in fields(EpochRow) if entry.name not in OPEN}
    parts = {
        name.removeprefix("part/"): value
        for name, value in values.items()
        if name.startswith("part/") and value is not None
    }
    metrics = {
        name: value
        for name, value in values.items()
        if name not in FIXED and not name.startswith("part/") and value is not None
    }
    return EpochRow(**own, parts=parts, metrics=metrics)  # type: ignore[arg-type]  # the store wrote them with these types


def _fit(name: str, value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_string(kind):
        return str(value) if isinstance(value, str) else dumps(value, sort_keys=True)
    if pa.types.is_boolean(kind):
        fits = isinstance(value, bool)
    elif pa.types.is_integer(kind):
        fits = not isinstance(value, bool) and isinstance(value, int | float) and value == value // 1
    else:
        fits = not isinstance(value, bool) and isinstance(value, int | float)
    if not fits:
        raise ResultsError(f"{name} = {value!r} does not fit its column of {kind}; give a value of that type")
    return int(value) if pa.types.is_integer(kind) else value
