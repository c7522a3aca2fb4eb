"""What a trial's best weights predicted of each test image, in `predictions/<trial_id>.parquet`.

Kept so that two models can be compared image by image long after they were trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from raybench.errors import ResultsError
from raybench.results.parquet import UNREADABLE, decode, encode
from raybench.results.schema import to_arrow
from raybench.results.storage import Folder, read, write_atomically

SCHEMA = pa.schema([("label", pa.uint16()), ("prediction", pa.uint16())])
Classes = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Predictions:
    """Of one trial, in the order of its test set."""

    label: Classes
    """(n,) the right class of each image."""
    prediction: Classes
    """(n,) the class with the largest logit."""

    @property
    def top1(self) -> float:
        """Accuracy, %."""
        return 100 * float((self.label == self.prediction).mean())


def write_predictions(folder: Folder, trial_id: str, labels: Sequence[int], predictions: Sequence[int]) -> None:
    """Keep a trial's predictions in the sweep's `folder`. Raises ResultsError when they cannot be written."""
    frame = pl.DataFrame({"label": labels, "prediction": predictions}, {"label": pl.UInt16, "prediction": pl.UInt16})
    write_atomically(_path(folder, trial_id), encode(to_arrow(frame, SCHEMA), compress=True))


def read_predictions(folder: Folder, trial_id: str) -> Predictions:
    """A trial's predictions. Raises ResultsError where there are none, or where the file is damaged."""
    path = _path(folder, trial_id)
    try:
        frame = decode(read(path))
        return Predictions(*(frame[name].cast(pl.UInt16).to_numpy() for name in SCHEMA.names))
    except FileNotFoundError:
        raise ResultsError(
            f"{trial_id}: no predictions in {path.parent} (trials of classification keep them when they complete)"
        ) from None
    except UNREADABLE as error:
        raise ResultsError(f"{path}: not readable as predictions ({error})") from error


def _path(folder: Folder, trial_id: str) -> Folder:
    return folder / "predictions" / f"{trial_id}.parquet"
