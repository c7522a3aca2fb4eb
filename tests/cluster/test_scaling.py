"""Many nodes by name, on one machine: rate, packing, placement and loss, as `benchmarks/scaling.py` measures them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]


def measured(*arguments: str) -> list[dict[str, Any]]:
    """The claims of a part of the benchmark."""
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "benchmarks" / "scaling.py"), "--json", *arguments],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.stdout, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.cluster
@pytest.mark.parametrize("part", ["packing", "groups", "loss"])
def test_trials_lie_where_they_fit_and_survive(part: str) -> None:
    for claim in measured("--only", part, "--sleep", "3"):
        assert claim["holds"], claim


@pytest.mark.cluster
def test_twice_the_nodes_finish_twice_the_trials() -> None:
    claims = measured("--only", "throughput", "--trials", "500", "--sleep", "4")
    assert len(claims) == 4
    for claim in claims:
        assert claim["ratio"] >= 0.9, claim
