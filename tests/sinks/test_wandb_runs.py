"""Offline runs of Weights & Biases, without an account and without a network."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from raybench.__main__ import main
from raybench.results.store import Store
from raybench.sinks.runs import Attempt
from raybench.sinks.wandb_runs import WHOLE, WandbRuns
from tests.sinks.conftest import leave

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("wandb") is None, reason='wandb is not installed: pip install "raybench[wandb]"'),
]


def content(folder: Path) -> dict[str, list[Any]]:
    """What a run's file holds, by kind of record."""
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    records: Any = wandb_internal_pb2

    (file,) = folder.glob("run-*.wandb")
    store: Any = DataStore()
    store.open_for_scan(str(file))
    found: dict[str, list[Any]] = {}
    while (data := store.scan_data()) is not None:
        record = records.Record()
        record.ParseFromString(data)
        found.setdefault(record.WhichOneof("record_type"), []).append(record)
    store.close()
    return found


def test_each_trial_is_an_offline_run_once(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb-cache"))
    to = tmp_path / "to"
    arguments = ["sink", "wandb", "s", "--to", str(to), "--results", str(store.folder.parent)]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "3 runs written, 0 there already; 1 not settled yet" in said
    assert "wandb sync --include-offline" in said
    folders = sorted((to / "wandb").glob("offline-run-*"))
    assert len(folders) == 3
    assert main(arguments) == 0
    assert "0 runs written, 3 there already" in capsys.readouterr().out

    records = content(folders[0])
    assert len(records["history"]) == 3
    (run,) = records["run"]
    assert run.run.project == "s"
    assert run.run.run_group == "alpha=0.5"
    keys = {"/".join(update.nested_key) or update.key for each in [run.run.config] for update in each.update}
    assert "model.name" in keys

    # Cut short, and run again: each is written anew, in the place of the earlier one.
    (folders[0] / WHOLE).unlink()
    trial_id = leave(store, 2, attempt=2, top1=70.0)
    sink = WandbRuns(to, "s")
    assert main(arguments) == 0
    assert "2 runs written, 1 there already" in capsys.readouterr().out
    assert Attempt(trial_id, 2) in sink.known()
    assert Attempt(trial_id, 1) not in sink.known()
    assert len(list((to / "wandb").glob("offline-run-*"))) == 3
