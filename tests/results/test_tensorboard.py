"""Boards read back with TensorBoard's own reader."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from raybench.errors import ResultsError
from raybench.results.schema import EpochRow, Status
from raybench.results.storage import Folder, entries
from raybench.results.tensorboard import TrialBoard, write_overview

if TYPE_CHECKING:
    from upath import UPath


def read(folder: Folder) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard's own imports
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    return EventAccumulator(str(folder / "tensorboard" / "a")).Reload()


def hparams(events: Any) -> dict[str, Any]:
    from tensorboard.plugins.hparams import plugin_data_pb2

    found = {}
    for tag, content in events.summary_metadata.items():
        if content.plugin_data.plugin_name == "hparams":
            found[tag] = plugin_data_pb2.HParamsPluginData.FromString(content.plugin_data.content)
    return found


def epoch(number: int, **further: Any) -> EpochRow:
    return EpochRow(trial_id="a", attempt=1, epoch=number, **further)


def test_curves_and_hyperparameters_come_back(tmp_path: Path) -> None:
    given = {"optimizer.lr": 0.1, "model.name": "resnet8", "nested": [1], "none": None, "flag": True}
    board = TrialBoard(tmp_path, "a", given, ["eval/top1"], 0)
    started = hparams(read(tmp_path))
    session = started["_hparams_/session_start_info"].session_start_info.hparams
    assert {"optimizer.lr", "model.name", "nested", "flag"} == set(session)
    assert session["optimizer.lr"].number_value == 0.1
    assert session["nested"].string_value == "[1]"
    metrics = started["_hparams_/experiment"].experiment.metric_infos
    assert [info.name.tag for info in metrics] == ["eval/top1"]

    board.epoch(epoch(1, lr=0.5, eval_top1=50.0, parts={"ce": 1.5}))
    assert [(event.step, event.value) for event in read(tmp_path).Scalars("eval/top1")] == [(1, 50.0)], "seen at once"
    board.epoch(epoch(2, lr=0.25, eval_top1=75.0, eval_time=2.0))
    board.close(Status.PRUNED, {"test/top1": 62.5, "test/top5": None})
    events = read(tmp_path)
    assert set(events.Tags()["scalars"]) == {"train/lr", "eval/top1", "kd/ce", "perf/eval_time", "test/top1"}
    assert [(event.step, event.value) for event in events.Scalars("train/lr")] == [(1, 0.5), (2, 0.25)]
    assert [(event.step, event.value) for event in events.Scalars("test/top1")] == [(2, 62.5)]


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (Status.COMPLETE, "SUCCESS"),
        (Status.PRUNED, "SUCCESS"),
        (Status.FAILED, "FAILURE"),
        (Status.DIVERGED, "FAILURE"),
    ],
)
def test_end_of_the_session(tmp_path: Path, status: Status, outcome: str) -> None:
    from tensorboard.plugins.hparams import api_pb2

    TrialBoard(tmp_path, "a", {}, [], 0).close(status, {})
    end = hparams(read(tmp_path))["_hparams_/session_end_info"].session_end_info
    assert api_pb2.Status.Name(end.status) == f"STATUS_{outcome}"


def test_resuming_purges_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    board = TrialBoard(tmp_path, "a", {}, [], 0)
    for number in (1, 2, 3):
        board.epoch(epoch(number, eval_top1=1.0))
    time.sleep(1.0 - time.time() % 1)  # files are read in the order of their names, which say the second
    board = TrialBoard(tmp_path, "a", {}, [], 2)  # the first was killed: never closed
    board.epoch(epoch(3, eval_top1=2.0))
    board.epoch(epoch(4, eval_top1=2.0))
    board.close(Status.COMPLETE, {})
    curve = [(event.step, event.value) for event in read(tmp_path).Scalars("eval/top1")]
    assert curve == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("mine")
    with pytest.raises(ResultsError, match="tensorboard"):
        TrialBoard(tmp_path, "a", {}, [], 0)


@pytest.mark.scenario(19)
def test_on_s3_the_events_are_there_after_each_epoch(
    s3: UPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    board = TrialBoard(s3, "a", {"optimizer.lr": 0.1}, [], 0)
    for number in (1, 2):
        board.epoch(epoch(number, eval_top1=float(number)))
        steps = [event.step for event in read(s3).Scalars("eval/top1")]
        assert steps == [*range(1, number + 1)]
    board.close(Status.COMPLETE, {"test_top1": 3.0})
    assert [event.value for event in read(s3).Scalars("test_top1")] == [3.0]
    assert len(entries(s3 / "tensorboard" / "a")) == 1
    assert [*tmp_path.iterdir()] == [], "nothing stays on this machine"


def png(wide: int, high: int) -> bytes:
    """A picture of one colour."""
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (wide, high), "white").save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Asks a real TensorBoard over this folder, on this machine alone."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    address = next(found[0] for line in lines if (found := re.search(r"http://[^/ ]+", line)))

    def ask(path: str, content: dict[str, Any] | None = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"{address}/data/{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = answer.read()
        return json.loads(found) if "json" in answer.headers["Content-Type"] else found

    try:
        yield ask
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.slow
def test_a_real_tensorboard_shows_runs_tags_hparams_table_and_figures(
    tmp_path: Path, served: Callable[..., Any]
) -> None:
    for trial_id, rate in (("aaaa", 0.1), ("bbbb", 0.3)):
        board = TrialBoard(tmp_path, trial_id, {"optimizer.lr": rate}, ["test_top1"], 0)
        board.epoch(epoch(1, eval_top1=50.0 + rate))
        board.close(Status.COMPLETE, {"test_top1": 60.0 + rate})
    write_overview(tmp_path, "| a | b |\n| --- | --- |\n| 1 | 2 |\n", {"curves": png(30, 20)})
    runs = {"tensorboard/aaaa", "tensorboard/bbbb"}
    deadline = time.monotonic() + 100
    while not (runs | {"tensorboard/comparison"}) <= set(served("runs")) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert runs | {"tensorboard/comparison"} == set(served("runs"))
    assert "eval/top1" in served("plugin/scalars/tags")["tensorboard/aaaa"]
    assert served("plugin/scalars/scalars?run=tensorboard/bbbb&tag=eval/top1")[0][1:] == [1, pytest.approx(50.3)]
    assert "comparison" in served("plugin/text/tags")["tensorboard/comparison"]
    table = served("plugin/text/text?run=tensorboard/comparison&tag=comparison")[0]["text"]
    assert "<td>1</td>" in table.replace(" ", "")
    pictures = served("plugin/images/tags")["tensorboard/comparison"]
    assert "curves" in pictures
    (picture,) = served("plugin/images/images?run=tensorboard/comparison&tag=curves&sample=0")
    assert served(f"plugin/images/individualImage?{picture['query']}") == png(30, 20)
    wanted = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_SUCCESS"],
        "colParams": [],
        "startIndex": 0,
        "sliceSize": 9,
    }
    groups = served("plugin/hparams/session_groups", wanted)["sessionGroups"]
    assert sorted(group["hparams"]["optimizer.lr"] for group in groups) == [0.1, 0.3]
    finals = {value["name"]["tag"]: value["value"] for group in groups for value in group["metricValues"]}
    assert finals["test_top1"] == pytest.approx(60.2, abs=0.2)


@pytest.mark.scenario(30)
@pytest.mark.slow
def test_the_command_that_is_printed_listens_on_this_machine_alone(tmp_path: Path) -> None:
    """`tensorboard --logdir FOLDER` binds no address but loopback; what it may be told otherwise is the user's word."""
    board = TrialBoard(tmp_path, "a", {}, [], 0)
    board.epoch(epoch(1, eval_top1=50.0))
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        addresses: set[str] = set()
        deadline = time.monotonic() + 100
        while not addresses and process.poll() is None and time.monotonic() < deadline:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            listening = (each for one in family for each in one.net_connections("inet"))
            addresses = {each.laddr.ip for each in listening if each.status == psutil.CONN_LISTEN}
            time.sleep(0.2)
        assert addresses
        assert addresses <= {"127.0.0.1", "::1"}
    finally:
        process.kill()
        process.wait()
