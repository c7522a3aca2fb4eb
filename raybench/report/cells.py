"""Cells made from rows alone, so that results are compared wherever they were made and whatever plan made them.

What differs between trials is either a factor, which makes cells, or tuned, and selected inside them; the seed repeats.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import polars as pl

from raybench.config.faults import no_such_key
from raybench.config.keys import get
from raybench.config.plan import Cell, Setting, cell_factors, label, short_key
from raybench.config.recorded import PREFIX, recorded_trial
from raybench.config.trial import RECIPE_VERSION, ModelConfig, TrialConfig, trial_keys
from raybench.errors import ResultsError
from raybench.results.schema import SETTLED

Found = TypeVar("Found")
Tried = dict[int, dict[str, dict[str, Any]]]
"""Place of a cell -> the settings that it has tried: their key -> what is tuned, with the values that matter."""
SPLIT = ("task", "dataset.name", "dataset.fingerprint", "dataset.val_size", "dataset.train_size")
"""Keys that say what a trial learned from and was judged on: two values of one are never averaged together."""
SEED_COLUMN = f"{PREFIX}seed"
NEVER_COMPARED = ("seed", "dataset.path", "dataset.test_path", "distillation.teacher.gate")
"""Keys that repeat a trial, or say where things lie rather than what."""
OF_ROWS = ("preset", "dataset_variant", "recipe")
"""Columns of a row, beside the configuration, whose values are never averaged together."""


@dataclass(frozen=True)
class Axes:
    """Which keys are compared and which are merely tuned."""

    factors: tuple[str, ...] = ()
    tuned: tuple[str, ...] = ()
    suggested: bool = False
    """Whether each cell's settings were suggested for it alone (tpe), so that no two cells can have the same ones."""


@dataclass(frozen=True)
class Read:
    """The configurations of rows. Trials that differ in their seeds alone share what is found of one of them."""

    trials: dict[str, TrialConfig] = field(default_factory=dict)
    """Trial id -> its configuration."""
    alike: dict[str, TrialConfig] = field(default_factory=dict)
    """Trial id -> that of the first trial that is the same but for its seed."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Trial id -> why its row is no configuration."""

    def once(self, find: Callable[[TrialConfig], Found], rows: pl.DataFrame) -> dict[str, Found]:
        """Trial id -> what `find` finds of it, for each of the rows; asked once for all that are alike."""
        known: dict[int, Found] = {}
        found: dict[str, Found] = {}
        for trial_id in rows["trial_id"]:
            trial = self.alike[trial_id]
            if id(trial) not in known:
                known[id(trial)] = find(trial)
            found[trial_id] = known[id(trial)]
        return found


@dataclass(frozen=True)
class Grouped:
    """Rows as cells, and what must be said about how they became them."""

    cells: tuple[Cell, ...]
    rows: pl.DataFrame
    """One row a trial, those that stand in a cell."""
    notes: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    """Trial -> why it stands in no cell."""
    stale: bool = False
    """Whether all of them were made by another recipe, so that none is what a sweep would make now."""


def grouped(trials: pl.DataFrame, axes: Axes, by: Sequence[str] = ()) -> Grouped:
    """Cells of `trials` (`Store.trials()`, of one preset and kind of task) in the order of their factors' values.

    Every key that differs between trials and is not tuned is a factor, those of `axes` first; with `by` those named are
    the factors and all others are tuned, but for the split of the data. Trials of another recipe are stale and stand
    beside none of this one's: they are left out where one of this one's is complete, else compared among themselves.
    Of rows with one configuration one counts. Settings compete where every cell of the same data has tried them.
    Raises ResultsError for a key of `by` that no row has.
    """
    read = _read(trials)
    known = trials.filter(~pl.col("trial_id").is_in(list(read.left_out))) if read.left_out else trials
    rows = _with_variants(known, read.trials)
    rows, left_out, recipes = _of_one_recipe(rows, _stale(rows, read))
    rows, superseded = _one_a_configuration(rows, read)
    differing = _differing(rows, read)
    if by:
        named = _named(by, differing, axes)
        # The split is not left to the user: means over unlike data say nothing.
        factors = [*named, *(key for key in differing if key in SPLIT and not _below(key, named))]
        tuned = [key for key in differing if not _below(key, factors)]
    else:
        tuned = [key for key in axes.tuned if key in differing or _holds(key, differing)]
        apart = [key for key in differing if not _below(key, (*axes.factors, *tuned))]
        factors = [*axes.factors, *apart]
    cells = _cells(rows, read, factors, tuned)
    cells, notes = _same_settings(cells, dict(rows.select("trial_id", "status").iter_rows()), axes)
    if superseded:
        made = f"{superseded} trial{'s' * (superseded > 1)} of other versions"
        notes = [*notes, f"{made} left out for later ones of the same configuration"]
    if recipes:
        notes = [_stale_note(rows.height, recipes), *notes]
    found = tuple(_with_baselines(cells, factors, tuned))
    return Grouped(found, rows, tuple(notes), read.left_out | left_out, stale=bool(recipes))


def _read(rows: pl.DataFrame) -> Read:
    read = Read()
    config = [name for name in rows.columns if name.startswith(PREFIX)]
    same = [name for name in config if name != SEED_COLUMN]
    own = [name for name in ("trial_id", "setting_id", SEED_COLUMN) if name in rows.columns]
    # A large sweep repeats few configurations with many seeds, and validating one takes a millisecond.
    groups = rows.group_by(same or "trial_id", maintain_order=True).agg(pl.struct(own).alias("_trials"))
    for group in groups.iter_rows(named=True):
        first: TrialConfig | None = None
        for trial in group.pop("_trials"):
            seed = trial.get(SEED_COLUMN)
            if first is None or not (isinstance(seed, int) and 0 <= seed < 2**32):
                try:
                    found = _as_prefilled(recorded_trial(group | trial))
                except ResultsError as error:
                    read.left_out[trial["trial_id"]] = str(error)
                    continue
                first = first or found
            else:
                found = first.model_copy(update={"seed": seed})
                _keep_identity(found, trial)
            read.trials[trial["trial_id"]] = found
            read.alike[trial["trial_id"]] = first
    return read


def _as_prefilled(trial: TrialConfig) -> TrialConfig:
    """With a lazy cache of logits the numbers and the trial are the same as with a prefilled one."""
    if trial.distillation.cache != "lazy":
        return trial
    distillation = trial.distillation.model_copy(update={"cache": "prefill"})
    copy = trial.model_copy(update={"distillation": distillation})
    _keep_identity(copy, trial.__dict__)
    return copy


def _keep_identity(trial: TrialConfig, known: Mapping[str, Any]) -> None:
    """Let a trial have the identity that it ran under, where that is known."""
    for name in ("trial_id", "setting_id"):
        if known.get(name) is not None:
            trial.__dict__[name] = known[name]


def _with_variants(rows: pl.DataFrame, read: dict[str, TrialConfig]) -> pl.DataFrame:
    """A trial that ended before its data were there has the variant of the others with the same data."""
    if "dataset_variant" not in rows.columns or not rows["dataset_variant"].null_count():
        return rows
    known: dict[str, set[str]] = {}
    for trial_id, variant in rows.select("trial_id", "dataset_variant").iter_rows():
        if variant is not None:
            known.setdefault(read[trial_id].dataset.data_key, set()).add(variant)

    def variant_of(trial_id: str, variant: str | None) -> str | None:
        others = known.get(read[trial_id].dataset.data_key, set())
        return next(iter(others)) if variant is None and len(others) == 1 else variant

    filled = [variant_of(*pair) for pair in rows.select("trial_id", "dataset_variant").iter_rows()]
    return rows.with_columns(pl.Series("dataset_variant", filled, pl.String))


def _stale(rows: pl.DataFrame, read: Read) -> dict[str, str]:
    """Trial -> the recipe that made it, of those that have another identity now than they ran under."""
    alike: dict[int, list[str]] = {}
    for trial_id in rows["trial_id"]:
        alike.setdefault(id(read.alike[trial_id]), []).append(trial_id)
    found: dict[str, str] = {}
    for trial_ids in alike.values():
        first, seeds = read.alike[trial_ids[0]].model_copy(), [read.trials[trial_id].seed for trial_id in trial_ids]
        other = [each for each, now in zip(trial_ids, first.ids_of_seeds(seeds), strict=True) if each != now]
        for trial_id in other:
            found[trial_id] = _recipe_of(trial_id, first, read.trials[trial_id].seed)
    return found


def _recipe_of(trial_id: str, alike: TrialConfig, seed: int) -> str:
    earlier = range(1, RECIPE_VERSION)
    return next((f"version {v}" for v in earlier if alike.ids_of_seeds([seed], v) == [trial_id]), "unknown")


def _of_one_recipe(rows: pl.DataFrame, stale: Mapping[str, str]) -> tuple[pl.DataFrame, dict[str, str], list[str]]:
    """Rows of this recipe, why others are left out, and no recipe; where all that is complete is stale that alone.

    Then a column says by which recipe each was made, and those are named.
    """
    if not stale:
        return rows, {}, []
    is_stale = pl.col("trial_id").is_in(list(stale))
    complete = rows.filter(pl.col("status") == "complete")
    if complete.filter(~is_stale).height or not complete.filter(is_stale).height:
        why = f"stale, made by another recipe than version {RECIPE_VERSION} of this code: a sweep would run it again"
        return rows.filter(~is_stale), dict.fromkeys(stale, why), []
    others = rows.filter(~is_stale)["trial_id"].to_list()
    why = "not complete yet, and all that is complete is of another recipe"
    kept = rows.filter(is_stale)
    made = pl.col("trial_id").replace_strict(stale, return_dtype=pl.String)
    return kept.with_columns(recipe=made), dict.fromkeys(others, why), sorted(set(stale.values()))


def _stale_note(count: int, recipes: Sequence[str]) -> str:
    trials = f"all {count:,} trials are" if count > 1 else "the one trial is"
    by = " and ".join(recipe if recipe.startswith("version") else "an unknown one" for recipe in recipes)
    return (
        f"STALE: {trials} of another recipe ({by}) than version {RECIPE_VERSION} of this code, "
        "and compared with nothing that it makes; a sweep would run them again"
    )


def _one_a_configuration(rows: pl.DataFrame, read: Read) -> tuple[pl.DataFrame, int]:
    """One row a configuration and preset: a complete one before any other, of these the one that ended last."""
    # A copy finds its identity as this version computes it.
    settings = read.once(lambda trial: trial.model_copy().setting_id, rows)
    identity = {trial_id: f"{setting} {read.trials[trial_id].seed}" for trial_id, setting in settings.items()}
    apart = [name for name in OF_ROWS if name in rows.columns]
    by = ["_complete", *(["ended"] if "ended" in rows.columns else [])]
    # Of a hundred columns these few are sorted.
    ranked = rows.select(
        *apart,
        *by[1:],
        _identity=pl.col("trial_id").replace_strict(identity, return_dtype=pl.String),
        _complete=pl.col("status") == "complete",
    ).with_row_index("_row")
    ranked = ranked.sort(by, descending=True, nulls_last=True, maintain_order=True)
    kept = ranked.unique(["_identity", *apart], keep="first", maintain_order=True)["_row"]
    return (rows, 0) if len(kept) == rows.height else (rows[kept.sort()], rows.height - len(kept))


def _differing(rows: pl.DataFrame, read: Read) -> list[str]:
    """Keys of the configuration that differ between trials, in the order of definition."""
    values: dict[str, set[str]] = {}
    trials = [*{id(trial): trial for trial_id in rows["trial_id"] if (trial := read.alike[trial_id])}.values()]
    for trial in trials:
        for key, value in trial.flat().items():
            values.setdefault(key, set()).add(json.dumps(value, default=str))
    # A section that some trials do not have, such as a teacher, is a key of theirs.
    names = [key for key in values if not _holds(key, values) and key not in NEVER_COMPARED]
    return [key for key in names if len(values[key]) > 1 and not _follows_name(key, trials)]


def _follows_name(key: str, trials: Sequence[TrialConfig]) -> bool:
    """Whether a key is the code of a model or kind, or the digest of a weight file, that was the same in all trials."""
    section, _, last = key.rpartition(".")
    if last not in ("code", "digest"):
        return False
    flats = [trial.flat() for trial in trials]
    if last == "digest":
        # Only a file named by its path is told apart by its content.
        flats = [flat for flat in flats if flat.get(key) and _from_file(flat.get(f"{section}.weights"))]
        pairs = {(flat[f"{section}.weights"], flat[key]) for flat in flats}
        return len(pairs) == len({named for named, _ in pairs})
    name = f"{section}.type" if section == "distillation" else f"{section}.name"
    pairs = {(flat.get(name), flat[key]) for flat in flats if flat.get(key) is not None}
    return len(pairs) == len({named for named, _ in pairs})


def _from_file(weights: Any) -> bool:
    return ModelConfig(name="any", weights=weights or "none").from_file


def _named(by: Sequence[str], differing: Sequence[str], axes: Axes) -> list[str]:
    """The dotted keys that `--by` asks for; a last part will do where it is one key's, or one's that differs."""
    known = trial_keys()
    found: list[str] = []
    faults: list[str] = []
    for name in by:
        alike = [key for key in known if key == name] or [key for key in known if key.endswith(f".{name}")]
        if len(alike) > 1:
            alike = [key for key in alike if key in differing or key in axes.factors] or alike
        if len(alike) == 1:
            found.append(alike[0])
        elif alike:
            faults.append(f"--by {name}: may be {' or '.join(alike)}")
        else:
            faults.append(f"--by {no_such_key(name, name, known)}")
    if faults:
        raise ResultsError("\n".join(faults))
    return found


def _cells(rows: pl.DataFrame, read: Read, factors: Sequence[str], tuned: Sequence[str]) -> list[Cell]:
    apart = [name for name in OF_ROWS if name in rows.columns and rows[name].drop_nulls().n_unique() > 1]
    of_trial = read.once(lambda trial: _keyed(cell_factors([trial], factors, tuned)), rows)
    points = read.once(lambda trial: _keyed(_point(trial, tuned)), rows)
    members: dict[tuple[Any, ...], list[TrialConfig]] = {}
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for trial_id, *of_row in rows.select("trial_id", *apart).iter_rows():
        own, key = of_trial[trial_id]
        if (whole := (key, *of_row)) not in found:
            found[whole] = own | dict(zip(apart, of_row, strict=True))
        members.setdefault(whole, []).append(read.trials[trial_id])
    ordered = sorted(found, key=lambda key: [_rank(found[key].get(name)) for name in [*apart, *factors]])
    return [Cell(label(found[key]), found[key], None, _settings(members[key], points, tuned)) for key in ordered]


def _keyed(content: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """With its text, which takes longer to make than all else that is done for a trial."""
    return content, _key(content)


def _point(trial: TrialConfig, tuned: Sequence[str]) -> dict[str, Any]:
    """What is tuned, with the values that matter."""
    canonical = trial.canonical()
    content, inert = canonical.model_dump(mode="json"), canonical.inert()
    return {key: get(content, key) for key in tuned if not _below(key, inert)}


def _settings(
    trials: Sequence[TrialConfig], points: Mapping[str, tuple[dict[str, Any], str]], tuned: Sequence[str]
) -> tuple[Setting, ...]:
    """Trials by what is tuned of them, each setting's by seed."""
    settings: dict[str, tuple[dict[str, Any], list[TrialConfig]]] = {}
    for trial in trials:
        point, key = points[trial.trial_id]
        settings.setdefault(key, (point, []))[1].append(trial)
    ranked = sorted(settings.values(), key=lambda entry: [_rank(entry[0].get(key)) for key in tuned])
    return tuple(Setting(point, tuple(sorted(members, key=lambda trial: trial.seed))) for point, members in ranked)


def _holds(section: str, keys: Iterable[str]) -> bool:
    return any(key.startswith(f"{section}.") for key in keys)


def _below(key: str, names: Iterable[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _same_settings(cells: Sequence[Cell], statuses: dict[str, str], axes: Axes) -> tuple[list[Cell], list[str]]:
    """Every cell with the settings that all of the same data have tried, so that none was tuned harder than another.

    Of what is tuned only where it acts, such as tau where there is a teacher, the cells where it does have the same.
    """
    by_data: dict[str, list[int]] = {}
    for place, cell in enumerate(cells):
        by_data.setdefault(_data(cell), []).append(place)
    allowed: dict[int, set[str]] = {}
    notes: dict[str, list[str]] = {}
    for places in by_data.values():
        tried = {place: each for place in places if (each := _tried(cells[place], statuses))}
        kept, said = _unlike(tried) if axes.suggested else _equalised(tried)
        allowed |= {place: set(settings) for place, settings in kept.items()}
        for note in said:
            notes.setdefault(note, []).append(_data_name(cells[places[0]]))
    found = []
    for place, cell in enumerate(cells):
        some = tuple(s for s in cell.settings if _key(s.tuned) in allowed.get(place, ())) or cell.settings
        competing = {id(setting) for setting in some}
        aside = tuple(trial for setting in cell.settings if id(setting) not in competing for trial in setting.trials)
        found.append(replace(cell, settings=some, aside=aside))
    # Where a note is of some of the data alone it says of which.
    named = [n if len(of) == len(by_data) else f"{n} (of {'; '.join(of)})" for n, of in notes.items()]
    return found, named


def _data_name(cell: Cell) -> str:
    return label(data_of(cell.factors))


def _unlike(tried: Tried) -> tuple[Tried, list[str]]:
    """Of settings suggested for each cell alone only their number can be the same."""
    counts = [len(each) for each in tried.values()]
    harder = "not the same ones: those with more were tuned harder"
    unlike = bool(counts) and min(counts) < max(counts)
    return {}, [f"cells have tried {min(counts)} to {max(counts)} settings, {harder}"] if unlike else []


def _equalised(tried: Tried) -> tuple[Tried, list[str]]:
    """Of each cell's settings those that all have, by the keys that act in all; then among cells with further keys."""
    acting = {place: frozenset(key for tuned in each.values() for key in tuned) for place, each in tried.items()}
    everywhere = frozenset.intersection(*acting.values()) if acting else frozenset()
    kept, notes = _shared(tried, everywhere, "cells")
    for keys in sorted({each for each in acting.values() if each != everywhere}, key=sorted):
        named = " and ".join(sorted(short_key(key) for key in keys - everywhere))
        alike = {place: kept[place] for place in tried if acting[place] == keys}
        same, said = _shared(alike, keys, f"cells that tune {named}")
        kept |= same
        notes += said
        others = {len(kept[place]) for place in tried if acting[place] != keys}
        most = max(len(each) for each in same.values())
        if others and most > min(others):
            notes.append(
                f"{named} can be tuned in some cells alone: there {most} settings compete, elsewhere {min(others)}"
            )
    return kept, notes


def _shared(tried: Tried, keys: frozenset[str], who: str) -> tuple[Tried, list[str]]:
    """The settings whose values of these keys every cell has tried; all, with a note, where there are none."""

    def part(tuned: Mapping[str, Any]) -> str:
        return _key({key: value for key, value in tuned.items() if key in keys})

    parts = [{part(tuned) for tuned in each.values()} for each in tried.values()]
    if len({frozenset(each) for each in parts}) < 2:
        return dict(tried), []
    counts = [len(each) for each in parts]
    unlike = min(counts) == max(counts)
    said = f"{who} have tried {'unlike' if unlike else f'{min(counts)} to {max(counts)}'} settings"
    shared = set.intersection(*parts)
    if not shared:
        return dict(tried), [f"{said}, not the same ones: those with more were tuned harder"]
    kept = {
        place: {key: tuned for key, tuned in each.items() if part(tuned) in shared} for place, each in tried.items()
    }
    return kept, [f"{said}; only the {len(shared)} tried in every cell compete"]


def _tried(cell: Cell, statuses: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The settings of which some trial has ended, whatever became of it; empty where none is complete."""
    complete = any(statuses.get(t.trial_id) == "complete" for setting in cell.settings for t in setting.trials)
    settled = [s for s in cell.settings if any(statuses.get(trial.trial_id) in SETTLED for trial in s.trials)]
    return {_key(setting.tuned): dict(setting.tuned) for setting in settled} if complete else {}


def _data(cell: Cell) -> str:
    return _key(data_of(cell.factors))


def data_of(factors: Mapping[str, Any]) -> dict[str, Any]:
    """Of a cell's factors those that say which split it learned from and is judged on, not how images are varied."""
    names = {*SPLIT, *OF_ROWS}
    whole = factors.get("dataset")
    parts = {f"dataset.{key}": value for key, value in whole.items()} if isinstance(whole, dict) else {}
    return {key: value for key, value in (dict(factors) | parts).items() if key in names}


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
