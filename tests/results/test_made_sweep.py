"""The made-up sweep of benchmarks/results_scale.py: rows as trials write them, and both sides answer the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks import results_scale
from benchmarks.peers import made_sweep
from benchmarks.peers.made_sweep import EPOCHS, SETTINGS, VAL_SIZE, Trial, epochs_of, make, make_ray, ray_lines
from raybench.results.schema import TIME_BITS, coarse, epoch_schema, polars_schema, trial_schema
from raybench.results.store import Store

TRIALS = 2 * len(SETTINGS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few trials, both ways."""
    folder = tmp_path_factory.mktemp("scale")
    make(folder / "ours", TRIALS)
    make_ray(folder / "rays", TRIALS)
    return folder


@pytest.mark.parametrize("number", range(len(SETTINGS)))
def test_numbers_are_as_training_leaves_them(number: int) -> None:
    trial = Trial(number)
    rows = epochs_of(trial)
    assert rows.schema == polars_schema(epoch_schema())
    assert rows["epoch"].to_list() == [*range(1, EPOCHS + 1)]
    for column, images in (("train_top1", trial.train_size), ("eval_top1", VAL_SIZE), ("eval_top5", VAL_SIZE)):
        counts = (rows[column] / 100 * images).to_numpy()
        # What dividing a count by so many and multiplying again may lose.
        assert np.abs(counts - np.round(counts)).max() < 1e-9 * images
    for column in ("train_time", "eval_time", "data_time", "optimizer_time", "train_samples_per_sec"):
        assert all(coarse(value) == value for value in rows[column]), TIME_BITS
    parts = {name for name in ("ce", "kd_hard", "kd_soft") if rows[f"part/{name}"].null_count() == 0}
    assert parts == {"ce", *made_sweep.KINDS[trial.kind]}
    if trial.alpha == 0:
        assert rows["train_loss"].equals(rows["part/ce"])
    mantissas = rows["train_loss"].to_numpy().view(np.uint64) & np.uint64(0xFFFF)
    assert len(np.unique(mantissas)) > 0.99 * EPOCHS, "losses have all their bits"
    assert epochs_of(trial).equals(rows)


def test_the_store_reads_them(folder: Path) -> None:
    store = Store(folder / "ours")
    assert store.epochs().equals(pl.concat(epochs_of(Trial(n)) for n in range(TRIALS)).sort("trial_id", "epoch"))
    trials = store.trials()
    assert trials.schema == polars_schema(trial_schema())
    assert trials["cell"].n_unique() == len(SETTINGS) * 2
    assert store.skipped == []


def test_both_ways_answer_alike(folder: Path) -> None:
    ours, rays = results_scale.ours(folder / "ours"), results_scale.rays(folder / "rays")
    metric = results_scale.METRIC
    assert sorted(ours["compare"]()[metric]) == pytest.approx(sorted(rays["compare"]()[metric]), rel=1e-14)
    assert ours["curve"]()[metric].to_list() == rays["curve"]()["column_1"].to_list()
    assert ours["summary"]()["trials"].to_list() == [1] * TRIALS
    assert rays["summary"]().height == TRIALS


def test_tunes_lines_hold_an_epoch_each() -> None:
    rows = [json.loads(line) for line in ray_lines(Trial(3))]
    assert [row["training_iteration"] for row in rows] == [*range(1, EPOCHS + 1)]
    assert [row["done"] for row in rows] == [False] * (EPOCHS - 1) + [True]
    assert [row["eval_loss"] for row in rows] == epochs_of(Trial(3))["eval_loss"].to_list()


def test_what_is_measured_has_a_bar(folder: Path) -> None:
    found = results_scale.measure(folder / "ours", "ours")
    assert found.keys() - results_scale.BARS.keys() == {"another curve"}
    costs = results_scale.columns(folder / "ours" / "epochs")
    # All but the footers is in some column.
    assert sum(costs.values()) < results_scale.size(folder / "ours" / "epochs") / (TRIALS * EPOCHS)
    verdict = results_scale.claim("c", 2.0, 6.0, "s", 1.5, 5, "")
    assert (verdict["ratio"], verdict["holds"]) == (3.0, False)
    assert {"claim", "ours", "peer", "ratio", "bar", "holds", "n", "hardware"} <= verdict.keys()
    assert "MISSED" in results_scale.words(verdict)
