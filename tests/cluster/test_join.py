"""A sweep on a running cluster of two nodes."""

from __future__ import annotations

import secrets
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest

if TYPE_CHECKING:
    from conftest import Sweeps  # type: ignore[import-not-found]

# Ray's Cluster keeps much in its process; one of its own ends all of it with itself.
CLUSTER = """\
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.mark.scenario(9)
@pytest.mark.slow
def test_two_nodes_share_the_trials(sweeps: Sweeps, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    cluster = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env=sweeps.environment | access,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert cluster.stdout is not None
        address = cluster.stdout.readline().strip()
        # `auto` is how the head of a cluster is found by whoever is on it.
        result = sweeps.run("joined", "--address", "auto", **access, RAY_ADDRESS=address)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "on the cluster at auto" in result.stdout
        trials = pl.read_parquet(sweeps.folder / "joined" / "tiny" / "trials" / "*.parquet").sort("started")
        assert set(trials["status"]) == {"complete"}
        # Each node has one CPU, so trials that overlap in time ran on both.
        overlaps = (trials["started"].shift(-1) < trials["ended"]).sum()
        assert overlaps > 0
        refused = sweeps.run("refused", "--address", address, "resources.cpu=2", **access)
        assert refused.returncode == 2
        assert "no node has so many" in refused.stderr
    finally:
        cluster.communicate("", timeout=60)
