"""The settings of a sweep as its rows tell them: what was varied, and the mean of a metric over the seeds of each.

Seeds of a setting are averaged, and nothing else ever is: rows of another sweep, preset, data set, variant of it or
train size are another population.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import polars as pl

from raybench.config.sweep import better
from raybench.report.scale import normal
from raybench.report.selection import Rank, first_best, rank_of
from raybench.report.statistics import Estimate, estimate

ALPHA, TYPE, TRAIN_SIZE = "distillation.alpha", "distillation.type", "dataset.train_size"
SOFT_ONLY = ("distillation.tau", "distillation.reduction")
COLUMNS = {
    "sweep": "sweep",
    "preset": "preset",
    "task": "config/task",
    "dataset": "config/dataset.name",
    "variant": "dataset_variant",
    "fingerprint": "dataset_fingerprint",
    "val_size": "config/dataset.val_size",
    "train_size": f"config/{TRAIN_SIZE}",
}
"""Field of `Population` -> column of the rows."""
SAID_BY_POPULATION = frozenset(COLUMNS.values()) - {f"config/{TRAIN_SIZE}"} | {
    f"config/dataset.{name}" for name in ("fingerprint", "path", "test_path")
}
CODES = frozenset(f"config/{section}.code" for section in ("model", "distillation", "distillation.teacher")) | {
    f"config/{section}.digest" for section in ("model", "distillation.teacher")
}
"""Identities of code from outside the repository and of weight files: they tell settings apart and are no
hyperparameters."""
SPEEDS = frozenset({"infer_samples_per_sec", "train_samples_per_sec", "train_time"})
"""Metrics that are only comparable on one device."""


@dataclass(frozen=True)
class Population:
    """Rows that may stand on one line. None: the rows do not say, or it does not matter here."""

    sweep: str | None = None
    preset: str | None = None
    task: str | None = None
    dataset: str | None = None
    variant: str | None = None
    fingerprint: str | None = None
    val_size: str | None = None
    train_size: str | None = None
    device: str | None = None
    """Only where speeds are looked at."""


@dataclass(frozen=True)
class SettingRow:
    """One setting of one cell."""

    population: Population
    cell: str
    setting_id: str
    values: Mapping[str, Any]
    """Dotted key -> value, of every key that differs between any two rows and of the kind and weight of distillation,
    on which it hangs which keys matter; options of models each by its name."""
    by_seed: tuple[tuple[int, float], ...]
    estimate: Estimate
    asked: int
    """Trials of it, those too that are not complete or have no number."""

    @property
    def group(self) -> tuple[Population, str]:
        """Settings of one group were tuned against each other."""
        return self.population, self.cell


def complete(trials: pl.DataFrame) -> pl.DataFrame:
    """Rows of trials that count: complete, and with the maths their configuration says."""
    if "status" not in trials.columns:
        return trials.clear()
    rows = trials.filter(pl.col("status").cast(pl.String) == "complete")
    return rows.filter(pl.col("deviation").is_null()) if "deviation" in rows.columns else rows


def settings_of(
    trials: pl.DataFrame, metric: str, keys: Sequence[str] = (), by_device: bool = False
) -> list[SettingRow]:
    """Every setting with a finite `metric`, in the order of the rows; `keys` are kept though they do not differ.

    `by_device` makes rows of different devices different populations.
    """
    if metric not in trials.columns:
        return []
    rows = complete(_with_asked(trials))
    rows = rows.filter(pl.col(metric).is_not_null() & pl.col(metric).is_finite())
    if not len(rows):
        return []
    said = SAID_BY_POPULATION | CODES | {"config/seed"}
    config = [name for name in rows.columns if name.startswith("config/") and name not in said]
    # Of a sweep with a hundred columns few vary: the others tell nothing apart.
    needed = (*keys, ALPHA, TYPE)
    kept = [name for name in config if _column_of(needed, name) or rows[name].n_unique() > 1]
    whose = rows.select(
        *(_text(rows, column).alias(field) for field, column in COLUMNS.items()),
        (_device(rows) if by_device else pl.lit(None, pl.String)).alias("device"),
        _text(rows, "cell").fill_null("").alias("cell"),
        _identity(rows).alias("setting_id"),
        "_asked",
        (pl.col("seed") if "seed" in rows.columns else pl.int_range(pl.len())).alias("seed"),
        pl.col(metric).alias("metric"),
        *kept,
    )
    by = [*(field.name for field in fields(Population)), "cell", "setting_id"]
    grouped = whose.group_by(by, maintain_order=True).agg(pl.col("seed", "metric"), pl.col("_asked", *kept).first())
    return [_setting_row(row, kept) for row in grouped.iter_rows(named=True)]


def _with_asked(trials: pl.DataFrame) -> pl.DataFrame:
    """Beside each row in `_asked`: trials of its setting in the same cell of the same sweep and preset."""
    whose = [name for name in ("sweep", "preset", "cell") if name in trials.columns]
    rows = trials.with_columns(_identity(trials).alias("_asked"))
    return rows.with_columns(pl.len().over("_asked", *whose).alias("_asked"))


def _identity(rows: pl.DataFrame) -> pl.Expr:
    return pl.coalesce(_text(rows, "setting_id"), _text(rows, "trial_id"), pl.lit(""))


def _column_of(keys: Sequence[str], column: str) -> bool:
    name = column.removeprefix("config/")
    return any(key == name or (name.endswith(".options") and key.startswith(f"{name}.")) for key in keys)


def _text(rows: pl.DataFrame, column: str) -> pl.Expr:
    return pl.col(column).cast(pl.String) if column in rows.columns else pl.lit(None, pl.String)


def _device(rows: pl.DataFrame) -> pl.Expr:
    return pl.coalesce(_text(rows, "env/gpu"), _text(rows, "env/cpu"))


def _setting_row(row: Mapping[str, Any], config: Sequence[str]) -> SettingRow:
    by_seed = tuple(sorted(zip(row["seed"], map(float, row["metric"]), strict=True)))
    found = estimate([value for _, value in by_seed])
    assert found is not None
    values: dict[str, Any] = {}
    for column in config:
        key, value = column.removeprefix("config/"), row[column]
        if key.endswith(".options"):
            values |= {f"{key}.{name}": option for name, option in options_of(value).items()}
        elif value is not None:
            values[key] = value
    population = Population(**{field.name: row[field.name] for field in fields(Population)})
    return SettingRow(population, row["cell"], row["setting_id"], values, by_seed, found, row["_asked"])


def options_of(text: str | None) -> dict[str, Any]:
    """The options of a model as its column has them; empty where that is no JSON object."""
    try:
        options = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return options if isinstance(options, dict) else {}


def select(settings: Sequence[SettingRow], metric: str) -> dict[tuple[Population, str], str]:
    """The setting of each group that is selected by `metric`, which they were measured by."""
    mode = better(metric)
    asked: dict[tuple[Population, str], int] = {}
    for each in settings:
        asked[each.group] = max(each.asked, asked.get(each.group, 0))
    groups: dict[tuple[Population, str], list[tuple[str, Rank]]] = {}
    for each in settings:
        rank = rank_of([value for _, value in each.by_seed], asked[each.group], mode)
        groups.setdefault(each.group, []).append((each.setting_id, rank))
    return {group: chosen for group, ranked in groups.items() if (chosen := first_best(ranked)) is not None}


def validation_of(metric: str, trials: pl.DataFrame) -> str:
    """The metric to select by: validation's of the same quantity where the rows have it, else its top-1 or loss."""
    names = [f"eval_{metric.partition('_')[2]}", "eval_top1", "eval_loss"]
    known = [name for name in names if name in trials.columns and trials[name].null_count() < len(trials)]
    return known[0] if known else metric


def tuned_keys(settings: Sequence[SettingRow]) -> set[str]:
    """Keys that differ between two settings of one group; all the others are factors."""
    seen: dict[tuple[Population, str], dict[str, float | str]] = {}
    tuned: set[str] = set()
    keys = list(dict.fromkeys(key for each in settings for key in each.values))
    for each in settings:
        values = {key: normal(each.values.get(key)) for key in keys}
        first = seen.setdefault(each.group, values)
        tuned |= {key for key in keys if values[key] != first[key]}
    return tuned


def varying_keys(settings: Sequence[SettingRow]) -> list[str]:
    """Keys with more than one value; of keys that follow from each other only the first.

    Those are names that tell the same settings apart, and numbers in the same or the opposite order.
    """
    keys = list(dict.fromkeys(key for each in settings for key in each.values))
    kept: dict[str, tuple[bool, tuple[int, ...]]] = {}
    for key in keys:
        values = [normal(each.values.get(key)) for each in settings]
        pattern = _pattern(values)
        if len(set(values)) > 1 and not any(_follows(pattern, other) for other in kept.values()):
            kept[key] = pattern
    return list(kept)


def _pattern(values: Sequence[float | str]) -> tuple[bool, tuple[int, ...]]:
    """Whether all are numbers; each one's rank, of names in the order in which they come."""
    numbers = [value for value in values if isinstance(value, float)]
    plain = len(numbers) == len(values)
    levels: dict[float | str, int] = {}
    for value in sorted(numbers) if plain else values:
        levels.setdefault(value, len(levels))
    return plain, tuple(levels[value] for value in values)


def _follows(one: tuple[bool, tuple[int, ...]], other: tuple[bool, tuple[int, ...]]) -> bool:
    (plain, ranks), (also, others) = one, other
    if plain and also:
        return ranks == others or ranks == tuple(max(others) - rank for rank in others)
    pairs = set(zip(ranks, others, strict=True))
    return len(pairs) == len(set(ranks)) == len(set(others))


def effective(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that matter: the student alone has no kind of distillation or teacher, the hard one no temperature."""
    if values.get(ALPHA) == 0 or values.get(TYPE) == "none":
        return {key: value for key, value in values.items() if not key.startswith("distillation.")} | {ALPHA: 0.0}
    unread = SOFT_ONLY if values.get(TYPE) == "hard" else ()
    return {key: value for key, value in values.items() if key not in unread}


def log_of(key: str) -> bool | None:
    """Whether values of a key stand on a logarithmic axis; None: where they span a decade.

    Rates and sizes are looked at by their ratios, however close two of them are.
    """
    return True if key == TRAIN_SIZE or key.rpartition(".")[2] in ("lr", "min_lr", "weight_decay") else None


def row_facts(settings: Sequence[SettingRow], trials: pl.DataFrame, source: str) -> str:
    """What a caption ends with: seeds a point, presets, data, which trials are not in it, and the source."""
    seeds = [each.estimate.n for each in settings] or [0]
    said = f"{min(seeds)}" if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"
    presets = sorted({each.population.preset for each in settings if each.population.preset})
    variants = sorted({each.population.variant for each in settings if each.population.variant})
    data = sorted({each.population.dataset for each in settings if each.population.dataset})
    about = f"{', '.join(data)} ({', '.join(variants)})" if data and variants else ", ".join(data or variants)
    parts = [
        f"n = {said} seed{'s' * (said != '1')} a setting.",
        f"Preset {' and '.join(presets)}." if presets else "",
        f"Data: {about}." if about else "",
        _not_shown(trials),
        f"Source: {source}." if source else "",
    ]
    return " ".join(part for part in parts if part)


def _not_shown(trials: pl.DataFrame) -> str:
    counts = Counter(trials["status"].cast(pl.String)) if "status" in trials.columns else Counter[str]()
    done = counts.pop("complete", 0)
    if deviating := done - len(complete(trials)):
        counts["deviating"] = deviating
    listed = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()) if count)
    return f"Trials not in it: {listed}." if listed else ""
