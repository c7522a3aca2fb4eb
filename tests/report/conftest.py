"""What the tests share: rows of trials with as many columns as they need, results of cells, a look at a picture."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from raybench.report import spread
from raybench.report.comparison import CellResult, Counts
from raybench.report.statistics import estimate

Rows = list[dict[str, Any]]
Frame = Callable[[Rows], pl.DataFrame]


def _row(row: dict[str, Any], number: int) -> dict[str, Any]:
    known: dict[str, Any] = {
        "trial_id": f"{number:012x}",
        "sweep": "s",
        "preset": "small",
        "status": "complete",
        "deviation": None,
    }
    known |= {"seed": 0, "cell": "all", "dataset_variant": "official", "config/dataset.name": "digits"}
    full = known | row
    config = {key: value for key, value in full.items() if key.startswith("config/") or key in ("sweep", "preset")}
    return {"setting_id": repr(sorted(config.items(), key=str)), **full}


@pytest.fixture(scope="session")
def frame() -> Frame:
    """Rows as a frame; what a row leaves out is that of any complete trial, its setting that of its configuration."""

    def make(rows: Rows) -> pl.DataFrame:
        return pl.DataFrame([_row(row, number) for number, row in enumerate(rows)], infer_schema_length=None)

    return make


@pytest.fixture(scope="session")
def cell_result() -> Callable[..., CellResult]:
    """A result of a cell by label, factors and each seed's value, which is that of validation too.

    Nothing else of it was measured, but what is given by name.
    """

    def make(label: str, factors: Mapping[str, Any], values: Sequence[float], **known: Any) -> CellResult:
        about: dict[str, Any] = {
            **dict.fromkeys(("baseline", "difference", "teacher_top1", "gmacs", "infer_samples_per_sec")),
            **dict.fromkeys(("train_time", "epoch_time", "peak_memory", "device_hours", "param_count")),
            "tuned": {},
            "selected": (),
            "presets": ("small",),
            "variants": ("official",),
            "metric": "eval_top1",
            "test_metric": "test_top1",
            "test_mode": "max",
            "by_seed": tuple(enumerate(values)),
            "test": estimate(values),
            "validation": estimate(values),
            "counts": Counts(complete=len(values)),
        }
        return CellResult(label=label, factors=factors, **about | known)

    return make


@pytest.fixture
def independent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points taken as independent, which every textbook formula does."""
    monkeypatch.setattr(spread, "CORRELATIONS", np.zeros(1))


@pytest.fixture(scope="session")
def whole_picture() -> Callable[[Path | None], tuple[int, int]]:
    """Width and height of a picture that is there, not blank, and has nothing cut off at its rim."""

    def look(path: Path | None) -> tuple[int, int]:
        assert path is not None
        with Image.open(path) as image:
            image.load()
            pixels = np.asarray(image.convert("L"))
            size = image.size
        assert pixels[[0, -1]].min() == 255
        assert pixels[:, [0, -1]].min() == 255
        assert pixels.std() > 1
        return size

    return look


@pytest.fixture(scope="session")
def words_of() -> Callable[[Path | None], str]:
    """Every text of an SVG in the order drawn, as matplotlib notes it beside the shapes of its letters."""

    def read(path: Path | None) -> str:
        assert path is not None
        drawn = path.read_text()
        assert drawn.startswith("<?xml")
        return " ".join(" ".join(re.findall("<!--(.*?)-->", drawn, re.DOTALL)).split())

    return read
