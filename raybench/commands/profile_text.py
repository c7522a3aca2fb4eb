"""Profiles of models for people: a table in a terminal (rich), plain lines elsewhere, a block a model where it is
narrow."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raybench.report.sheet import Column

PREFIXES = ("", "k", "M", "G", "T", "P")
DIGITS = 4
GAP = "  "
PROSE_WIDTH = 120


def quantity(number: float) -> str:
    """A number in four digits with its prefix: 88.96 M, 8.477 G; integers below 1000 as they are."""
    if isinstance(number, int) and number < 1000:
        return str(number)
    rounded = float(f"{number:.{DIGITS - 1}e}")  # first, for 999,960 is 1.000 M and not 1000 k
    step = 0
    while rounded >= 1000 and step < len(PREFIXES) - 1:
        rounded /= 1000
        step += 1
    before = len(str(int(rounded)))
    return f"{rounded:.{max(0, DIGITS - before)}f} {PREFIXES[step]}".rstrip()


def print_profiles(entries: Sequence[dict[str, Any]], console: Console) -> None:
    """The table of these profiles, and below it what its numbers are."""
    columns = _columns(entries)
    width = sum(column.width + len(GAP) for column in columns) + 2
    prose = min(console.width, PROSE_WIDTH) if console.is_terminal else PROSE_WIDTH
    if console.is_terminal and width > console.width:
        _print(console, _blocks(columns))
    elif console.is_terminal:
        console.print(_rich(columns))
    else:
        _print(console, _plain(columns))
    _print(console, [line for note in _notes(entries) for line in textwrap.wrap(note, prose, subsequent_indent="  ")])


def _columns(entries: Sequence[dict[str, Any]]) -> list[Column]:
    def numbers(title: str, texts: Callable[[dict[str, Any]], str]) -> Column:
        return Column(title, tuple(texts(entry) for entry in entries), right=True)

    samples = _samples(entries)
    columns = [
        Column("model", tuple(entry["model"] for entry in entries)),
        numbers("px", lambda entry: str(entry.get("image_size", "–"))),
        numbers("parameters", lambda entry: quantity(entry["param_count"])),
        numbers("without\nhead", lambda entry: quantity(entry["param_count_no_head"])),
    ]
    if any(entry["param_count_trainable"] != entry["param_count"] for entry in entries):
        columns.append(numbers("trainable", lambda entry: quantity(entry["param_count_trainable"])))
    columns += [
        numbers("MACs", lambda entry: quantity(entry["macs"])),
        numbers("without\nproducts", lambda entry: quantity(entry["macs_without_attention_products"])),
    ]
    if any("repeats" in entry for entry in entries):
        columns += [
            numbers(f"training\n{samples}/s", lambda entry: _rate(entry, "train")),
            numbers(f"answering\n{samples}/s", lambda entry: _rate(entry, "infer")),
            numbers("memory\nMiB", _memory),
        ]
    return columns


def _samples(entries: Sequence[dict[str, Any]]) -> str:
    """What the models are fed with, in the plural."""
    sentences = ["length" in entry for entry in entries]
    return "pairs" if all(sentences) else "samples" if any(sentences) else "images"


def _rate(entry: dict[str, Any], what: str) -> str:
    if f"{what}_samples_per_sec" not in entry:
        return "–"
    low, high = entry[f"{what}_samples_per_sec_range"]
    return f"{quantity(entry[f'{what}_samples_per_sec'])} ({quantity(low)} to {quantity(high)})"


def _memory(entry: dict[str, Any]) -> str:
    if "peak_memory" not in entry:
        return "–"
    peak, before = entry["peak_memory"], entry["memory_before_model"]
    return f"{peak:.0f} ({before:.0f} before)" if before else f"{peak:.0f}"


def _notes(entries: Sequence[dict[str, Any]]) -> list[str]:
    first = entries[0]
    notes = []
    if options := first["options"]:
        notes.append(f"options: {' '.join(f'{key}={value}' for key, value in options.items())}")
    if classes := {entry["num_classes"] for entry in entries if "num_classes" in entry}:
        notes.append(f"{classes.pop()} classes")
    for entry in entries:
        if "length" in entry:
            words = f"{entry['source_vocabulary']:,} words read and {entry['target_vocabulary']:,} written"
            notes.append(f"{entry['model']}: {words}, {entry['length']} tokens a sentence")
    sample = {"pairs": "one pair of sentences", "samples": "one image or pair of sentences"}
    notes.append(
        f"MACs: multiply-adds of {sample.get(_samples(entries), 'one image')}, the head left out; without products: "
        "those of attention (queries with keys, weights with values) left out too"
    )
    if "repeats" in first:
        hardware = first["hardware"]
        threads = f"{hardware['threads']} thread{'s' if hardware['threads'] != 1 else ''}"
        device = hardware["gpu"] or f"{hardware['cpu'] or 'CPU'}, {threads}"
        versions = ", ".join(f"{name} {first['versions'][name]}" for name in ("torch", "timm"))
        notes.append(
            f"batch {first['batch_size']}, {first['precision']}, {device}, {versions}; median of {first['repeats']} "
            "repeats, the models in turn, and the slowest and fastest"
        )
        for what in dict.fromkeys(entry["peak_memory_is"] for entry in entries if "peak_memory_is" in entry):
            before = any(entry.get("memory_before_model") for entry in entries)
            notes.append(f"memory: {what}{'; in brackets that before the model was made' if before else ''}")
    return notes + [f"not measured: {entry['model']}: {entry['error']}" for entry in entries if "error" in entry]


def _rich(columns: Sequence[Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.title, justify="right" if column.right else "left", no_wrap=True)
    for row in zip(*(column.texts for column in columns), strict=True):
        table.add_row(*(Text(text) for text in row))
    return table


def _plain(columns: Sequence[Column]) -> list[str]:
    titles = [["", *column.title.split("\n")][-2:] for column in columns]
    lines = [_row(columns, [title[line] for title in titles]) for line in range(2)]
    lines.append("-" * (sum(column.width for column in columns) + len(GAP) * (len(columns) - 1)))
    lines += [_row(columns, row) for row in zip(*(column.texts for column in columns), strict=True)]
    return [*lines, ""]


def _row(columns: Sequence[Column], texts: Sequence[str]) -> str:
    padded = [t.rjust(c.width) if c.right else t.ljust(c.width) for c, t in zip(columns, texts, strict=True)]
    return GAP.join(padded).rstrip()


def _blocks(columns: Sequence[Column]) -> list[str]:
    lines = []
    for row in zip(*(column.texts for column in columns), strict=True):
        lines.append(row[0])
        told = zip(columns[1:], row[1:], strict=True)
        lines += [f"  {' '.join(column.title.split())}: {text}" for column, text in told]
        lines.append("")
    return lines


def _print(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
