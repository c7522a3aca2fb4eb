"""A comparison for other programs: every number in full, as records, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from raybench.config.price import Price
from raybench.report.budget import Budget
from raybench.report.comparison import CellResult


def records(results: Sequence[CellResult], price: Price | None = None) -> list[dict[str, Any]]:
    """One flat record a cell, the same keys in each, none where nothing is known."""
    keys = list(dict.fromkeys(key for result in results for key in result.factors))
    tuned = list(dict.fromkeys(key for result in results for key in result.tuned))
    return [_record(result, keys, tuned, price) for result in results]


def _record(result: CellResult, keys: Sequence[str], tuned: Sequence[str], price: Price | None) -> dict[str, Any]:
    difference = result.difference
    told = asdict(difference) if difference else {}
    return {
        "cell": result.label,
        **{key: _plain(result.factors.get(key)) for key in keys},
        **{f"selected/{key}": _plain(result.tuned.get(key)) for key in tuned},
        "metric": result.test_metric,
        **_estimate(result.test, ""),
        "by_seed": _plain(dict(result.by_seed)),
        **_estimate(result.test_bpp, "test_bpp_"),
        "selected_by": result.metric,
        **_estimate(result.validation, "validation_"),
        "compared_with": result.baseline,
        "difference": told.get("mean"),
        "difference_sd": told.get("sd"),
        "difference_low": told.get("low"),
        "difference_high": told.get("high"),
        "difference_n": told.get("n"),
        "difference_by_seed": _plain(dict(difference.by_seed)) if difference else None,
        "paired": difference.paired if difference else None,
        "p": told.get("p"),
        "p_holm": told.get("p_holm"),
        "verdict": told.get("verdict"),
        "best": result.best,
        "seeds_to_tell": told.get("seeds_needed"),
        **asdict(result.counts),
        "param_count": result.param_count,
        "gmacs": result.gmacs,
        "infer_samples_per_sec": result.infer_samples_per_sec,
        "train_time": result.train_time,
        "epoch_time": result.epoch_time,
        "peak_memory": result.peak_memory,
        "device_hours": result.device_hours,
        "energy": result.energy,
        "cost": price.of(result.device_hours) if price is not None else None,
        "teacher": result.teacher,
        "teacher_top1": result.teacher_top1[0] if result.teacher_top1 else None,
        "teacher_top1_high": result.teacher_top1[1] if result.teacher_top1 else None,
        "presets": "+".join(result.presets),
        "dataset_variants": "+".join(result.variants),
        "trial_ids": " ".join(trial.trial_id for trial in result.selected),
    }


def cost_record(budget: Budget | None, label: str) -> dict[str, Any]:
    """What a cell is at equal cost, the same keys for each; none where it has no curve, or no other has."""
    cell = next((cell for cell in budget.cells if cell.label == label), None) if budget else None
    return {
        "epochs": budget.epochs if budget else None,
        **_estimate(cell and cell.at_epochs, "epochs_"),
        "device_seconds": budget.device_seconds if budget else None,
        **_estimate(cell and cell.at_time, "device_seconds_"),
        "target": budget.target if budget else None,
        "target_seeds": cell.target.seeds if cell else None,
        "target_epochs": cell.target.epochs if cell else None,
        "target_device_seconds": cell.target.device_seconds if cell else None,
    }


def _estimate(found: Any, prefix: str) -> dict[str, Any]:
    names = ("n", "mean", "sd", "low", "high")
    return {f"{prefix}{name}": getattr(found, name) if found else None for name in names}


def _plain(value: Any) -> Any:
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list | tuple) else value


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Records as CSV with one header, their keys in the order met; what is not known is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json(content: Any) -> str:
    """JSON that every reader takes: what is no finite number is null."""
    return json.dumps(_finite(content), indent=2, default=str) + "\n"


def _finite(content: Any) -> Any:
    if isinstance(content, float) and not math.isfinite(content):
        return None
    if is_dataclass(content) and not isinstance(content, type):
        return _finite(asdict(content))
    if isinstance(content, Mapping):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content
