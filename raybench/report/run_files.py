"""A trial as files of its own: its epochs as CSV and its configuration as JSON, under the names that training scripts
use (those of the TinyViT report: `metrics.csv`, `config.json`)."""

from __future__ import annotations

import json

import polars as pl

from raybench.config.trial import TrialConfig

FIRST = ("epoch", "train_loss", "train_acc", "val_loss", "val_acc", "lr", "time")
"""Columns that every file has, in this order; accuracies are top-1 in %, `time` is training and validation in s."""
LEFT_OUT = ("trial_id", "attempt", "epoch", "lr")


def metrics_csv(epochs: pl.DataFrame) -> str:
    """One row an epoch: the columns of `FIRST`, empty where a task has none, then whatever else is known.

    `epochs`: one trial's rows, as `Store.epochs` gives them. Further columns keep their names, but for `eval_`, which
    is `val_` here. Numbers are written in full, so that they read back as they are stored.
    """
    known = {name: epochs[name] for name in epochs.columns if epochs[name].null_count() < epochs.height}
    columns = {_named(name): series for name, series in known.items() if name not in LEFT_OUT}
    columns |= {"epoch": epochs["epoch"], "lr": epochs["lr"]}
    columns["time"] = epochs["train_time"] + epochs["eval_time"]
    nothing = pl.Series([None] * epochs.height, dtype=pl.Float64)
    further = [name for name in columns if name not in FIRST]
    frame = pl.DataFrame({name: columns.get(name, nothing) for name in (*FIRST, *further)})
    return frame.sort("epoch").write_csv()


def _named(column: str) -> str:
    short = column.replace("eval_", "val_", 1) if column.startswith("eval_") else column
    return short.replace("_top1", "_acc") if short in ("train_top1", "val_top1") else short


def config_json(config: TrialConfig) -> str:
    """The whole configuration, every key with its value; `TrialConfig.model_validate_json` reads it back."""
    return json.dumps(config.model_dump(mode="json"), indent=2) + "\n"
