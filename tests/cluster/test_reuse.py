"""A worker that has run ninety-nine trials runs the hundredth as a fresh one does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import polars as pl
import pytest
from polars.testing import assert_frame_equal

if TYPE_CHECKING:
    from conftest import Sweeps  # type: ignore[import-not-found]

# One worker at a time, distilled and not, with dropout's draws and batch normalisation's statistics in between.
COMMON = ("schedule.epochs=2", "--max-concurrent", "1")
MODELS = "factors.model.name='[resnet8, vit_micro_patch2_8]'"


@pytest.mark.slow
def test_the_hundredth_trial_of_a_worker_is_bit_identical_to_its_first(sweeps: Sweeps) -> None:
    hundred = sweeps.start("hundred", *COMMON, "--seeds", "25", "optimizer.lr=0.1", MODELS.replace("'", ""))
    workers = set()
    try:
        while hundred.poll() is None:
            workers |= {process.pid for process in sweeps.workers(hundred.pid)}
            time.sleep(0.2)
        output = hundred.communicate()[0]
    finally:
        hundred.kill()
    assert hundred.returncode == 0, output
    assert len(workers) == 1, "other processes ran some of them"
    trials = pl.read_parquet(sweeps.folder / "hundred" / "tiny" / "trials" / "*.parquet").sort("started")
    assert trials.height == 100
    assert set(trials["status"]) == {"complete"}
    last = trials[-1].to_dicts()[0]
    alone = sweeps.run(
        "alone",
        *COMMON,
        "optimizer.lr=0.1",
        f"seeds=[{last['seed']}]",
        f"distillation.alpha={last['config/distillation.alpha']}",
        f"model.name={last['config/model.name']}",
    )
    assert alone.returncode == 0, alone.stdout + alone.stderr
    first = sweeps.metrics("alone")
    assert set(first["trial_id"]) == {last["trial_id"]}
    assert_frame_equal(
        sweeps.metrics("hundred").filter(pl.col("trial_id") == last["trial_id"]), first, check_exact=True
    )
