"""Nodes that die, are cut off, or take the head with them, on a cluster of several nodes on one machine."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import polars as pl
import psutil
import pytest
from polars.testing import assert_frame_equal

if TYPE_CHECKING:
    from conftest import Sweeps  # type: ignore[import-not-found]

# Ray's Cluster keeps much in its process; one of its own ends all of it with itself. The head has no CPU, so trials run
# on the two nodes. Nodes that stay silent are given up in seconds rather than after Ray's minute.
CLUSTER = """\
import json, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
cluster.wait_for_nodes()
of = lambda node, kind: node.all_processes[kind][0].process.pid
about = {"address": cluster.address, "nodes": [of(node, "raylet") for node in nodes]}
about |= {"gcs": of(cluster.head_node, "gcs_server"), "head": of(cluster.head_node, "raylet")}
print(json.dumps(about), flush=True)
for line in sys.stdin:
    cluster.add_node(num_cpus=1)
"""
IMPATIENT = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
TRAINING = ("--seeds", "1", "distillation.alpha=0.0", "schedule.epochs=600")


@dataclass(frozen=True)
class Nodes:
    """A running cluster: where its head listens, and the process ids of its parts."""

    address: str
    raylets: list[int]
    gcs: int
    head: int
    access: dict[str, str]
    orders: IO[str]

    def add(self) -> None:
        """One more node with one CPU, in a moment."""
        self.orders.write("add\n")
        self.orders.flush()

    def workers(self, raylet: int) -> list[psutil.Process]:
        """The processes that train on a node."""
        children = psutil.Process(raylet).children(recursive=True)
        return [child for child in children if any("ResourceTrainable" in part for part in child.cmdline())]


@pytest.fixture
def nodes(sweeps: Sweeps, tmp_path: Path) -> Iterator[Nodes]:
    """A head without CPUs and two nodes with one each."""
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    with (tmp_path / "cluster.txt").open("w") as log:
        cluster = subprocess.Popen(
            [sys.executable, "-c", CLUSTER],
            env=sweeps.environment | access | IMPATIENT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    ours: list[psutil.Process] = []
    try:
        assert cluster.stdout is not None
        assert cluster.stdin is not None
        about = json.loads(cluster.stdout.readline())
        ours = psutil.Process(cluster.pid).children(recursive=True)
        yield Nodes(about["address"], about["nodes"], about["gcs"], about["head"], access, cluster.stdin)
    finally:
        ours += psutil.Process(cluster.pid).children(recursive=True)
        cluster.kill()
        cluster.communicate()
        for process in ours:
            if process.is_running():
                process.kill()


def _join(sweeps: Sweeps, nodes: Nodes, results: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        sweeps.command(results, "--address", nodes.address, *TRAINING, *arguments),
        env=sweeps.environment | nodes.access,
        cwd=sweeps.folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def _both_train(sweeps: Sweeps, nodes: Nodes, results: str) -> None:
    """Wait until both nodes have written epochs of a trial."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        parts = list((sweeps.folder / results / "tiny" / "epochs").glob("*.parquet"))
        if len(parts) >= 2 and all(nodes.workers(raylet) for raylet in nodes.raylets):
            return
        time.sleep(0.05)
    raise AssertionError("the two nodes did not begin to train")


def _trials(sweeps: Sweeps, results: str) -> pl.DataFrame:
    return pl.read_parquet(sweeps.folder / results / "tiny" / "trials" / "*.parquet").sort("trial_id")


@pytest.fixture(scope="module")
def undisturbed(sweeps: Sweeps) -> pl.DataFrame:
    """The metrics of the same trials without a fault, on one machine."""
    whole = sweeps.run("undisturbed", *TRAINING)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    return sweeps.metrics("undisturbed")  # type: ignore[no-any-return]


@pytest.mark.scenario(5)
@pytest.mark.cluster
def test_a_node_dies_and_its_trial_goes_on_elsewhere(sweeps: Sweeps, nodes: Nodes, undisturbed: pl.DataFrame) -> None:
    driver = _join(sweeps, nodes, "node-died")
    _both_train(sweeps, nodes, "node-died")
    dead = nodes.raylets[0]
    for process in [psutil.Process(dead), *nodes.workers(dead)]:
        process.kill()
    output = driver.communicate(timeout=240)[0]
    assert driver.returncode == 0, output
    trials = _trials(sweeps, "node-died")
    assert set(trials["status"]) == {"complete"}
    assert sorted(trials["attempt"]) == [1, 2]
    assert trials["failures"].sum() == 1
    assert_frame_equal(sweeps.metrics("node-died"), undisturbed, check_exact=True)


@pytest.mark.scenario(6)
@pytest.mark.cluster
def test_a_node_that_is_cut_off_changes_nothing_afterwards(
    sweeps: Sweeps, nodes: Nodes, undisturbed: pl.DataFrame
) -> None:
    """The node's raylet answers nobody any more, while the trial on it trains on and writes.

    A third node has room at once, so that both attempts write at the same time.
    """
    driver = _join(sweeps, nodes, "cut-off")
    _both_train(sweeps, nodes, "cut-off")
    silent = nodes.raylets[0]
    (late,) = nodes.workers(silent)
    nodes.add()
    os.kill(silent, signal.SIGSTOP)
    folder = sweeps.folder / "cut-off" / "tiny" / "epochs"
    try:
        deadline = time.monotonic() + 300
        while not (second := list(folder.glob("*-a2.parquet"))) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert second, "the trial was not begun again elsewhere"
        first = folder / second[0].name.replace("-a2", "-a1")
        before = first.stat().st_mtime_ns
        while first.stat().st_mtime_ns == before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert first.stat().st_mtime_ns > before, "the copy that was cut off wrote nothing"
        output = driver.communicate(timeout=240)[0]
    finally:
        os.kill(silent, signal.SIGCONT)
    assert driver.returncode == 0, output
    trials = _trials(sweeps, "cut-off")
    assert set(trials["status"]) == {"complete"}
    assert sorted(trials["attempt"]) == [1, 2]
    assert_frame_equal(sweeps.metrics("cut-off"), undisturbed, check_exact=True)
    psutil.wait_procs([late], timeout=30)
    # What the late copy wrote to its end is there, or is compacted away; either way it counts for nothing.
    again = sweeps.run("cut-off", *TRAINING)
    assert again.returncode == 0, again.stdout
    assert "nothing to do: 2 of 2 trials settled (2 complete)" in again.stdout
    assert_frame_equal(sweeps.metrics("cut-off"), undisturbed, check_exact=True)


@pytest.mark.scenario(7)
@pytest.mark.cluster
def test_the_head_dies_and_the_driver_says_how_to_go_on(sweeps: Sweeps, nodes: Nodes) -> None:
    driver = _join(sweeps, nodes, "head-died")
    _both_train(sweeps, nodes, "head-died")
    begun = time.monotonic()
    for pid in (nodes.gcs, nodes.head):
        os.kill(pid, signal.SIGKILL)
    output = driver.communicate(timeout=300)[0]
    assert time.monotonic() - begun < 90
    assert driver.returncode == 1, output
    assert "no longer answers" in output
    assert "Go on with:  python -m raybench.sweep" in output
    again = sweeps.run("head-died", *TRAINING)
    assert again.returncode == 0, again.stdout + again.stderr
    trials = _trials(sweeps, "head-died")
    assert set(trials["status"]) == {"complete"}
