"""Runs on a real MLflow server, a process on 127.0.0.1."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from raybench.__main__ import main
from raybench.errors import RaybenchError
from raybench.results.store import Store
from raybench.sinks.mlflow_runs import MlflowRuns
from raybench.sinks.runs import runs, send
from tests.sinks.conftest import leave

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("mlflow") is None, reason='MLflow is not installed: pip install "raybench[mlflow]"'),
]
START_S = 300.0
"""A server imports for 20 s of computing, which on a busy machine takes minutes."""


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server with a database of its own."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", "sqlite:///runs.db", "--artifacts-destination", "artifacts"]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "NO_PROXY": "127.0.0.1"}
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=os.environ | quiet, stdout=log, stderr=log)
    try:
        uri, asked = f"http://127.0.0.1:{port}", urllib.request.build_opener(urllib.request.ProxyHandler({}))
        end = time.monotonic() + START_S
        while True:
            try:
                asked.open(f"{uri}/health", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log.txt").read_text()
                assert time.monotonic() < end, (folder / "log.txt").read_text()
                time.sleep(0.5)
        yield uri
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is on this machine."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def there(uri: str, experiment: str) -> tuple[Any, list[Any]]:
    from mlflow.tracking import MlflowClient

    client: Any = MlflowClient(tracking_uri=uri)
    return client, list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))


def test_the_server_has_each_trial_once(server: str, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["sink", "mlflow", "s", "--to", server, "--results", str(store.folder.parent)]
    assert main(arguments) == 0
    assert f"experiment s at {server}: 3 runs written, 0 there already; 1 not settled yet" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "0 runs written, 3 there already" in capsys.readouterr().out
    client, found = there(server, "s")
    by_seed = {run.data.params["seed"]: run for run in found}
    assert len(found) == len(by_seed) == 3
    run = by_seed["0"]
    assert run.info.status == "FINISHED"
    assert run.info.end_time - run.info.start_time == 60_000
    assert run.data.params["model.name"] == "resnet8"
    assert run.data.metrics["test_top1"] == 51.5
    assert run.data.tags["env.torch"] == "2.15.0"
    history = client.get_metric_history(run.info.run_id, "eval_top1")
    assert [(point.step, point.value) for point in history] == [(1, 51.0), (2, 52.0), (3, 53.0)]
    assert by_seed["2"].info.status == "FAILED"

    # Run again, and cut short: each has one whole run in the end.
    leave(store, 2, attempt=2, top1=70.0)
    sink = MlflowRuns(server, "s")
    assert send(store, sink).written == 1
    _, found = there(server, "s")
    assert sorted(run.data.metrics.get("test_top1", 0.0) for run in found) == [51.5, 51.5, 71.5]


def test_a_run_that_was_cut_short_is_written_again(server: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    def cut(*_: Any) -> None:
        raise ConnectionError("cut")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_terminated", cut)
        with pytest.raises(RaybenchError, match="cut"):
            send(store, MlflowRuns(server, "cut"))
    assert len(there(server, "cut")[1]) == 1
    assert send(store, MlflowRuns(server, "cut")).written == 3
    _, found = there(server, "cut")
    assert sorted(run.info.status for run in found) == ["FAILED", "FINISHED", "FINISHED"]
    assert len({run.data.params["seed"] for run in found}) == 3
    assert next(runs(store, store.trials())).curve  # the rows are as they were


def test_a_server_that_is_not_there_is_said(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    arguments = [
        "sink",
        "mlflow",
        "s",
        "--to",
        f"http://127.0.0.1:{free_port()}",
        "--results",
        str(store.folder.parent),
    ]
    assert main(arguments) == 2
    heard = capsys.readouterr().err
    assert "MLflow does not take it" in heard
    assert "check that its server runs" in heard
