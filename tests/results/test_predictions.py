"""Predictions of test images: kept whole, read back, and damage is noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raybench.errors import ResultsError
from raybench.results.predictions import read_predictions, write_predictions


def test_what_was_kept_is_read_back(tmp_path: Path) -> None:
    labels, predicted = [0, 1, 65535, 3], [0, 2, 65535, 4]
    write_predictions(tmp_path, "0123456789ab", labels, predicted)
    found = read_predictions(tmp_path, "0123456789ab")
    assert found.label.dtype == found.prediction.dtype == np.uint16
    assert (found.label.tolist(), found.prediction.tolist(), found.top1) == (labels, predicted, 50.0)


def test_ten_thousand_take_two_bytes_a_column_each(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).integers(0, 1000, (2, 10_000)).tolist()
    write_predictions(tmp_path, "a", *numbers)
    # Two columns of two bytes, and a footer.
    assert (tmp_path / "predictions" / "a.parquet").stat().st_size < 42_000


def test_absent_and_damaged_ones_are_named(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="b: no predictions in"):
        read_predictions(tmp_path, "b")
    write_predictions(tmp_path, "a", [1, 2, 3], [1, 2, 3])
    path = tmp_path / "predictions" / "a.parquet"
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)
    with pytest.raises(ResultsError, match="not readable as predictions"):
        read_predictions(tmp_path, "a")
