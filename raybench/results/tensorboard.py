"""Curves and hyperparameters of trials for TensorBoard, and the comparison beside them."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raybench.results.schema import PARTS, EpochRow, Status
from raybench.results.storage import Folder, explain, write_atomically

TAGS = {
    "train_loss": "train/loss",
    "train_top1": "train/top1",
    "lr": "train/lr",
    "eval_loss": "eval/loss",
    "eval_top1": "eval/top1",
    "eval_top5": "eval/top5",
    "train_samples_per_sec": "perf/train_samples_per_sec",
    "train_time": "perf/train_time",
    "eval_time": "perf/eval_time",
}
"""Column of an epoch's row -> tag; a part of the loss becomes `kd/<part>` in distillation, else `part/<part>`.

The step is the epochs finished."""


class TrialBoard:
    """Writes <folder>/tensorboard/<trial_id>/. Needs torch, which is imported here and nowhere else in this package.

    On an object store, whose objects cannot grow, the events are gathered in a temporary folder and put as a whole
    after each epoch.
    """

    def __init__(
        self, folder: Folder, trial_id: str, hparams: Mapping[str, Any], metric_names: Sequence[str], start_epoch: int
    ) -> None:
        """Opens the board and writes the hyperparameters.

        `metric_names` are the tags shown beside the hyperparameters. `start_epoch` is the number of epochs finished
        before: what an earlier attempt logged beyond it is purged. Raises ResultsError when the folder is not writable.
        """
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams as summaries

        self._place = folder / "tensorboard" / trial_id
        if isinstance(self._place, Path):
            log_dir = self._place
        else:
            log_dir = Path(tempfile.mkdtemp(prefix="raybench-events-"))
            weakref.finalize(self, shutil.rmtree, log_dir, ignore_errors=True)
        self._log_dir = log_dir
        try:
            self._writer: Any = SummaryWriter(str(log_dir), purge_step=start_epoch + 1)
        except OSError as error:
            raise explain(error, log_dir) from error
        self._last = start_epoch
        flat = {key: _plain(value) for key, value in hparams.items() if value is not None}
        experiment, session_start, _ = summaries(flat, dict.fromkeys(metric_names, 0.0))
        self._add(experiment)
        self._add(session_start)
        self._flush()

    def epoch(self, row: EpochRow, parts: Mapping[str, float] | None = None) -> None:
        """Logs one epoch; `parts` are the parts of the loss, those of the row when not given."""
        self._last = row.epoch
        for name, tag in TAGS.items():
            value = getattr(row, name)
            if value is not None:
                self._writer.add_scalar(tag, value, row.epoch)
        for name, value in row.metrics.items():
            self._writer.add_scalar(name.replace("_", "/", 1), value, row.epoch)
        for name, value in (row.parts if parts is None else parts).items():
            self._writer.add_scalar(f"{'kd' if name in PARTS else 'part'}/{name}", value, row.epoch)
        self._flush()

    def close(self, status: Status, metrics: Mapping[str, float | None]) -> None:
        """Logs the final metrics (tag -> value) at the last epoch and how the trial ended."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

        for tag, value in metrics.items():
            if value is not None:
                self._writer.add_scalar(tag, value, self._last)
        outcome = {
            Status.COMPLETE: api_pb2.STATUS_SUCCESS,
            Status.PRUNED: api_pb2.STATUS_SUCCESS,
            Status.RUNNING: api_pb2.STATUS_RUNNING,
        }.get(status, api_pb2.STATUS_FAILURE)
        end = plugin_data_pb2.SessionEndInfo(status=outcome, end_time_secs=time.time())
        data = plugin_data_pb2.HParamsPluginData(session_end_info=end, version=metadata.PLUGIN_DATA_VERSION)
        about = metadata.create_summary_metadata(data)
        summary = Summary(value=[Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=about)])
        self._add(summary)
        self._flush()
        self._writer.close()
        if self._log_dir != self._place:
            shutil.rmtree(self._log_dir, ignore_errors=True)

    def _flush(self) -> None:
        """What was written so far can be read in its place."""
        self._writer.flush()
        if self._log_dir != self._place:
            for file in self._log_dir.iterdir():
                write_atomically(self._place / file.name, file.read_bytes())

    def _add(self, summary: Any) -> None:
        # The plugin's summaries have no public method of their own; add_hparams would open a second run.
        self._writer._get_file_writer().add_summary(summary)


def write_overview(folder: Folder, markdown: str, figures: Mapping[str, bytes]) -> None:
    """Writes <folder>/tensorboard/comparison/: the table under Text, figures (name -> PNG) under Images.

    One file, in the place of the last one: TensorBoard shows the latest. Needs no torch. Raises ResultsError when it
    cannot be written.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.plugins.image import metadata as image
    from tensorboard.plugins.text import metadata as text
    from tensorboard.summary.writer.record_writer import RecordWriter

    def value(tag: str, about: SummaryMetadata, content: Sequence[bytes]) -> Summary.Value:
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=len(content))])
        tensor = TensorProto(dtype=DT_STRING, tensor_shape=shape, string_val=list(content))
        return Summary.Value(tag=tag, metadata=about, tensor=tensor)

    values = [value("comparison", text.create_summary_metadata("comparison", ""), [markdown.encode()])]
    for name, png in figures.items():
        wide, high = (str(int.from_bytes(png[at : at + 4], "big")).encode() for at in (16, 20))  # PNG's first chunk
        about = image.create_summary_metadata(display_name=name, description="")
        values.append(value(name, about, [wide, high, png]))
    now = time.time()
    events = [Event(wall_time=now, file_version="brain.Event:2")]
    events.append(Event(wall_time=now, step=0, summary=Summary(value=values)))
    stream = io.BytesIO()
    writer = RecordWriter(stream)
    for event in events:
        writer.write(event.SerializeToString())
    write_atomically(folder / "tensorboard" / "comparison" / "events.out.tfevents.0.comparison", stream.getvalue())


def _plain(value: Any) -> str | int | float | bool:
    """What TensorBoard keeps of a hyperparameter: numbers, flags and text; anything else as JSON."""
    return value if isinstance(value, str | int | float | bool) else json.dumps(value, sort_keys=True)
