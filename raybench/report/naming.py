"""Keys, metrics, cells and populations as axes, legends and sentences name them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from raybench.report.scale import normal, text_of
from raybench.report.settings import ALPHA, TRAIN_SIZE, TYPE, Population, effective
from raybench.report.sheet import quantity_title, short_name

UNITS = {
    "infer_samples_per_sec": "inference (images/s)",
    "train_samples_per_sec": "training (images/s)",
    "param_count": "parameters (millions)",
    "gmacs": "work (GMAC an image)",
    "train_time": "training time (s)",
    "peak_memory": "peak memory (MiB)",
}
AXES = {
    "optimizer.lr": "learning rate",
    "optimizer.weight_decay": "weight decay",
    TRAIN_SIZE: "train size",
    TYPE: "kind of distillation",
}
"""Keys that are said in words."""
SPLITS = {"eval": "validation", "test": "test", "train": "training"}


def names_of(members: Sequence[Mapping[str, Any]], tasks: Sequence[str | None] = ()) -> list[str]:
    """What tells each of these apart from the others, in words; empty for a lone one.

    Options of a model are said only where models of the same name differ in them.
    """
    shown = [effective(values) for values in members]
    # The kind of distillation before its weight, as in the tables.
    keys = sorted(dict.fromkeys(key for values in shown for key in values), key=lambda key: key == ALPHA)
    names = []
    for row, values in enumerate(shown):
        words = []
        for key in keys:
            # An option that a model does not have is not worth a word; a plain model beside it is its name.
            if key in values and len({normal(other.get(key)) for other in _peers(shown, values, key)}) > 1:
                words.append(_word(key, values[key], tasks[row] if tasks else None))
        names.append(", ".join(words))
    counts, seen = Counter(names), Counter[str]()
    for row, name in enumerate(names):
        seen[name] += 1
        if counts[name] > 1:
            names[row] = f"{name or 'setting'} ({seen[name]})"
    return names


def _peers(members: Sequence[dict[str, Any]], own: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    if key.startswith("model.") and key != "model.name":
        return [other for other in members if other.get("model.name") == own.get("model.name")]
    if key.startswith("distillation.") and key != ALPHA:
        return [other for other in members if other.get(ALPHA) != 0]
    return list(members)


def _word(key: str, value: Any, task: str | None) -> str:
    if key == ALPHA and value == 0:
        return "student alone"
    if key == TRAIN_SIZE:
        return size_text(value, task)
    if isinstance(value, str) and key.rpartition(".")[2] in ("name", "type"):
        return value
    return f"{short_name(key)} {text_of(value)}"


def size_text(value: Any, task: str | None) -> str:
    """A train size with its unit."""
    what = "sentence pairs" if task == "translation" else "training images"
    return f"{'all' if value == 'all' else text_of(value)} {what}"


def population_titles(populations: Sequence[Population]) -> dict[Population, str]:
    """What tells each apart from the others, in words; empty for a lone one."""
    distinct = list(dict.fromkeys(populations))
    apart = [field.name for field in fields(Population) if len({getattr(p, field.name) for p in distinct}) > 1]
    # The same data may be told apart by name and by variant too, and a hash is the last thing to read.
    for name in ("fingerprint", "val_size", "task"):
        told = [other for other in apart if other != name]
        if len({tuple(getattr(each, other) for other in told) for each in distinct}) == len(distinct):
            apart = told
    return {each: ", ".join(_part(each, name) for name in apart if getattr(each, name)) for each in distinct}


def _part(population: Population, name: str) -> str:
    value = str(getattr(population, name))
    if name == "train_size":
        return size_text(value, population.task)
    if name == "val_size":
        return f"{text_of(value)} validation images"
    return f"{name} {value}" if name in ("preset", "fingerprint") else value


def metric_title(metric: str) -> str:
    """`eval_top1` -> `validation top-1 (%)`; `gmacs` -> `work (GMAC an image)`."""
    if metric in UNITS:
        return UNITS[metric]
    split = SPLITS.get(metric.partition("_")[0])
    return f"{split} {quantity_title(metric)}" if split else metric


def metric_words(metric: str) -> str:
    """The same without its unit, as in a sentence."""
    return metric_title(metric).partition(" (")[0]


def key_title(key: str) -> str:
    """A key as an axis or a sentence names it: `optimizer.lr` -> `learning rate`."""
    return AXES.get(key, short_name(key))
