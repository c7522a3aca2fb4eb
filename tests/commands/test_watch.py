"""`raybench watch`: what it takes from a sweep's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from raybench.commands.watch import Look
from raybench.results.store import Store


@pytest.mark.parametrize(
    ("written", "metric"),
    [
        ("metric: {name: eval_bleu}", "eval_bleu"),
        ("metric: [", "eval_top1"),
        ('metric: "\\UFFFFFFFF"', "eval_top1"),
        ("!!bool maybe", "eval_top1"),
    ],
)
def test_the_metric_is_that_of_the_sweep_where_its_file_can_be_read(tmp_path: Path, written: str, metric: str) -> None:
    (tmp_path / "sweep.yaml").write_text(written)
    assert Look.at(Store(tmp_path)).metric == metric
