"""Damaged data files, as the command tells of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raybench.results.store import Store
from raybench.training.recorder import Setup
from raybench.training.trial import run_trial

if TYPE_CHECKING:
    from .conftest import Settled

CIFAR = ("dataset.name=cifar10", "dataset.image_size=32", "distillation.teacher.image_size=8")


def write(folder: Path, corrupt: int = 0, without: int | None = None) -> Path:
    """A CIFAR-10 pair of 400 and 100 images; `corrupt` training images are cut short, one class may be left out."""
    folder.mkdir()
    for part, rows in (("train", 400), ("test", 100)):
        pixels = np.random.default_rng(rows).integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)
        labels = [row % 10 for row in range(rows)]
        chosen = [row for row in range(rows) if labels[row] != without]
        encoded = []
        for row in chosen:
            Image.fromarray(pixels[row]).save(file := io.BytesIO(), "PNG")
            encoded.append(file.getvalue()[: 100 if part == "train" and row < corrupt else None])
        table = pa.table({"image": encoded, "label": [labels[row] for row in chosen], "official_index": chosen})
        pq.write_table(table, folder / f"cifar10_{part}.parquet")
    return folder


@pytest.mark.scenario(25)
def test_few_corrupt_images_are_told_in_the_plan_and_in_the_row(settled: Settled, tmp_path: Path) -> None:
    root = write(tmp_path / "data", corrupt=2)
    variant = "subset of official without 2 training images (corrupt)"
    code, out, err = settled.run("--dry-run", "--data-root", str(root), *CIFAR)
    assert (code, err) == (0, "")
    assert f"cifar10 ({variant}), 32x32" in out

    trial = next(settled.plan(*CIFAR, "schedule.epochs=1", "dataset.train_size=20").trials())
    outcome = run_trial(trial, Setup(sweep="tiny", preset="quick", results=tmp_path / "rows", data_root=root))
    assert outcome.status == "complete", outcome.reason
    (row,) = Store(tmp_path / "rows").trials().to_dicts()
    assert row["dataset_variant"] == variant


@pytest.mark.scenario(25)
@pytest.mark.parametrize(
    ("corrupt", "without", "said"),
    [
        (
            6,
            None,
            "cifar10_train.parquet: 6 of the first 6 images are corrupt (rows 0, 1, 2, 3, 4 and 1 more; row 0",
        ),
        (0, 3, "cifar10_train.parquet: no image of class 3 (cat); each of the 10 classes must have one"),
    ],
)
def test_more_is_an_error_that_names_the_file(
    settled: Settled, tmp_path: Path, corrupt: int, without: int | None, said: str
) -> None:
    root = write(tmp_path / "data", corrupt, without)
    code, out, err = settled.run("--data-root", str(root), *CIFAR)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {root}/{said}")
    assert not settled.results.exists()
