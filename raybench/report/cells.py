"""Cells made from rows alone, so that results are compared wherever they were made and whatever plan made them.

What differs between trials is either a factor, which makes cells, or tuned, and selected inside them; the seed repeats.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from raybench.config.faults import no_such_key
from raybench.config.plan import Cell, Setting, cell_factors, label
from raybench.config.recorded import PREFIX, recorded_trial
from raybench.config.trial import TrialConfig, get
from raybench.errors import ResultsError

SPLIT = ("dataset.name", "dataset.fingerprint", "dataset.val_size", "dataset.train_size")
"""Keys that say which images a trial learned from and was judged on: two values of one are never averaged together."""
NEVER_COMPARED = (
    "seed",
    "dataset.path",
    "dataset.test_path",
    "distillation.cache",
    "distillation.teacher.gate",
    "latents",
)
"""Keys that repeat a trial, or say where things lie and how they are computed rather than what."""
OF_ROWS = ("preset", "dataset_variant")
"""Columns of a row, beside the configuration, whose values are never averaged together."""


@dataclass(frozen=True)
class Axes:
    """Which keys are compared and which are merely tuned."""

    factors: tuple[str, ...] = ()
    tuned: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grouped:
    """Rows as cells, and what must be said about how they became them."""

    cells: tuple[Cell, ...]
    rows: pl.DataFrame
    """One row a trial, those that stand in a cell."""
    notes: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    """Trial -> why it stands in no cell."""


def grouped(trials: pl.DataFrame, axes: Axes, by: Sequence[str] = ()) -> Grouped:
    """Cells of `trials` (`Store.trials()`, of one preset and kind of task) in the order of their factors' values.

    Every key that differs between trials and is not tuned is a factor, those of `axes` first; with `by` those named are
    the factors and all others are tuned, but for the split of the data. Settings are those that every cell has tried,
    where there are such. Raises ResultsError for a key of `by` that no row has.
    """
    rows = _latest(trials)
    differing = _differing(rows)
    if by:
        named = _named(by, rows)
        # The split is not left to the user: means over unlike data say nothing.
        factors = [*named, *(key for key in differing if key in SPLIT and key not in named)]
        tuned = [key for key in differing if key not in factors]
    else:
        tuned = [key for key in axes.tuned if key in differing or _holds(key, differing)]
        apart = [key for key in differing if not _below(key, (*axes.factors, *tuned))]
        factors = [*axes.factors, *apart]
    read, left_out = _read(rows)
    cells = _cells(rows, read, factors, tuned)
    cells, notes = _same_settings(cells)
    if superseded := trials.height - rows.height:
        made = f"{superseded} trial{'s' * (superseded > 1)} of other versions"
        notes = [*notes, f"{made} left out for later ones of the same configuration"]
    return Grouped(tuple(_with_baselines(cells, factors, tuned)), rows, tuple(notes), left_out)


def _named(by: Sequence[str], trials: pl.DataFrame) -> list[str]:
    """The dotted keys that `--by` asks for; a last part will do where it is one key's, or one's that differs."""
    known = [name.removeprefix(PREFIX) for name in trials.columns if name.startswith(PREFIX)]
    differing = _differing(trials)
    found: list[str] = []
    faults: list[str] = []
    for name in by:
        alike = [key for key in known if key == name] or [key for key in known if key.endswith(f".{name}")]
        if len(alike) > 1:
            alike = [key for key in alike if key in differing] or alike
        if len(alike) == 1:
            found.append(alike[0])
        elif alike:
            faults.append(f"--by {name}: may be {' or '.join(alike)}")
        else:
            faults.append(f"--by {no_such_key(name, name, known)}")
    if faults:
        raise ResultsError("\n".join(faults))
    return found


def _latest(trials: pl.DataFrame) -> pl.DataFrame:
    """One row a configuration: of several with the same one, made by other versions, the one that ended last."""
    config = [name for name in trials.columns if name.startswith(PREFIX)]
    if not config or "ended" not in trials.columns:
        return trials
    order = trials.with_row_index("_row").sort("ended", descending=True, nulls_last=True, maintain_order=True)
    kept = order.unique(
        [*config, *(name for name in OF_ROWS if name in trials.columns)], keep="first", maintain_order=True
    )
    return kept.sort("_row").drop("_row")


def _differing(rows: pl.DataFrame) -> list[str]:
    """Keys of the configuration that differ between rows, in the order of the columns."""
    names = [name for name in rows.columns if name.startswith(PREFIX)]
    if not rows.height:
        return []
    counts = rows.select(pl.col(names).n_unique()).row(0)
    keys = [name.removeprefix(PREFIX) for name, count in zip(names, counts, strict=True) if count > 1]
    return [key for key in keys if key not in NEVER_COMPARED]


def _read(rows: pl.DataFrame) -> tuple[dict[str, TrialConfig], dict[str, str]]:
    """Trial id -> its configuration; and those whose row is none."""
    read: dict[str, TrialConfig] = {}
    left_out: dict[str, str] = {}
    columns = [name for name in rows.columns if name.startswith(PREFIX) or name in ("trial_id", "setting_id")]
    for row in rows.select(columns).iter_rows(named=True):
        try:
            read[row["trial_id"]] = recorded_trial(row)
        except ResultsError as error:
            left_out[row["trial_id"]] = str(error)
    return read, left_out


def _cells(
    rows: pl.DataFrame, read: dict[str, TrialConfig], factors: Sequence[str], tuned: Sequence[str]
) -> list[Cell]:
    apart = [name for name in OF_ROWS if name in rows.columns and rows[name].n_unique() > 1]
    members: dict[str, list[TrialConfig]] = {}
    found: dict[str, dict[str, Any]] = {}
    for row in rows.select("trial_id", *apart).iter_rows(named=True):
        if (trial := read.get(row["trial_id"])) is None:
            continue
        own = cell_factors([trial], factors, tuned) | {name: row[name] for name in apart}
        key = _key(own)
        found[key] = own
        members.setdefault(key, []).append(trial)
    ordered = sorted(found, key=lambda key: [_rank(found[key].get(name)) for name in [*apart, *factors]])
    return [Cell(label(found[key]), found[key], None, _settings(members[key], tuned)) for key in ordered]


def _settings(trials: Sequence[TrialConfig], tuned: Sequence[str]) -> tuple[Setting, ...]:
    """Trials by what is tuned of them, each setting's by seed."""
    settings: dict[str, tuple[dict[str, Any], list[TrialConfig]]] = {}
    for trial in trials:
        canonical = trial.canonical()
        content = canonical.model_dump(mode="json")
        point = {key: get(content, key) for key in tuned if not _below(key, canonical.inert())}
        settings.setdefault(_key(point), (point, []))[1].append(trial)
    ranked = sorted(settings.values(), key=lambda entry: [_rank(entry[0].get(key)) for key in tuned])
    return tuple(Setting(point, tuple(sorted(members, key=lambda trial: trial.seed))) for point, members in ranked)


def _holds(section: str, keys: Iterable[str]) -> bool:
    return any(key.startswith(f"{section}.") for key in keys)


def _below(key: str, names: Iterable[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _same_settings(cells: Sequence[Cell]) -> tuple[list[Cell], list[str]]:
    """Every cell with the settings that all have tried, so that none was tuned harder than another."""
    tried = [{_key(setting.tuned) for setting in cell.settings} for cell in cells]
    if len({frozenset(each) for each in tried}) < 2:
        return list(cells), []
    shared = set.intersection(*tried)
    counts = [len(each) for each in tried]
    said = (
        f"cells have tried {min(counts)} to {max(counts)} settings"
        if min(counts) < max(counts)
        else "cells have tried unlike settings"
    )
    if not shared:
        return list(cells), [f"{said}, none of them everywhere: their tuning is not the same"]
    kept = [replace(cell, settings=tuple(s for s in cell.settings if _key(s.tuned) in shared)) for cell in cells]
    return kept, [f"{said}; only the {len(shared)} tried in every cell compete"]


def _with_baselines(cells: Sequence[Cell], factors: Sequence[str], tuned: Sequence[str]) -> list[Cell]:
    """Cells with a teacher have the student alone as their baseline, where the same other factors were run with it."""
    by_key = {_key(cell.factors): cell.label for cell in cells}
    found = []
    for cell in cells:
        example = cell.settings[0].trials[0]
        alone = example.model_copy(update={"distillation": example.distillation.model_copy(update={"alpha": 0.0})})
        of_rows = {name: value for name, value in cell.factors.items() if name in OF_ROWS}
        baseline = by_key.get(_key(cell_factors([alone], factors, tuned) | of_rows))
        found.append(replace(cell, baseline=baseline if baseline != cell.label else None))
    return found


def _key(content: dict[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, default=str)


def _rank(value: Any) -> tuple[int, float, str]:
    """Numbers by size, then words, `all` last; what a cell does not have first."""
    if value is None:
        return (0, 0.0, "")
    if isinstance(value, int | float):
        return (1, float(value), "")
    return (3 if value == "all" else 2, 0.0, json.dumps(value, sort_keys=True, default=str))
