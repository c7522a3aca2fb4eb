"""The whole way of a cluster on hosts of a lab: `ray up` with the cluster.yaml of the project, sweeps from the laptop,
a host that dies, the same back, one that is cut off, `ray down`. Twice, without a hand on it.

Minutes each; what happens is printed as it happens, with its time.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import psutil
import pytest

from raybench.results.store import Store

if TYPE_CHECKING:
    from .conftest import Lab

pytestmark = pytest.mark.cluster

SWEEP = "deit_reverse"
LONG = ("distillation.alpha=0.0", "dataset.train_size=1000")
"""Six trials, as many as run at a time."""
LONG_S = 180.0
"""For each of them: so they are far from their end when Ray notices, after 63 s, that a host is silent."""
IN_THE_FILE = {"192.168.1.10": "host1", "192.168.1.11": "host2", "192.168.1.12": "host3"}
RAYBENCH = ".venv/bin/python -m raybench"
RAY = "RAY_UP_enable_autoscaler_v2=0 .venv/bin/ray"

Say = Callable[[str], None]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    begun = time.monotonic()

    def print_now(text: str) -> None:
        with capsys.disabled():
            print(f"  {time.monotonic() - begun:6.0f} s  {text}", flush=True)

    return print_now


@pytest.mark.parametrize("time_around", ["first", "second"])
def test_a_sweep_on_hosts_that_die_come_back_and_are_cut_off(lab: Lab, say: Say, time_around: str) -> None:
    say(f"{time_around} time: {len(lab.hosts)} hosts and a laptop are up")
    run = Cluster(lab, say)
    run.check("before ray up", expected=0)
    run.up()
    run.check("after ray up", SWEEP, "--preset", "quick", expected=0)

    with run.submitted(SWEEP, "--preset", "quick", epochs=12) as sweep:
        sweep.wait_for("each host has finished a trial", lambda: set(lab.hosts) <= sweep.finished_on())
        lab.kill("host3")
        say(f"host3 is dead; trials that ran on it: {sweep.running_on('host3')}")
        sweep.wait_for("the sweep has ended", lambda: sweep.process.poll() is not None, 900)
    sweep.must_be_whole(lost_on="host3")

    lab.boot("host3")
    say("host3 has power again; its disk is what it was")
    run.wait_for_nodes()
    run.check("with host3 again", expected=0)
    epochs = sweep.epochs_in(LONG_S)
    with run.submitted(SWEEP, "--preset", "quick", *LONG, f"schedule.epochs={epochs}", epochs=epochs) as more:
        more.wait_for("each host has work", lambda: all(more.running_on(name) for name in lab.hosts))
        lab.cut_off("host2")
        say(f"host2 is cut off; trials that run on it: {more.running_on('host2')}")
        run.check("with host2 cut off", expected=1, says="10.77.0.12: cannot be reached")
        more.wait_for("the sweep has ended", lambda: more.process.poll() is not None, 900)
    more.must_be_whole(lost_on="host2")
    lab.plug_in("host2")
    time.sleep(5)
    say("host2 is plugged in again; whatever its copies of the trials wrote late, the rows are the same:")
    more.must_be_whole(lost_on="host2")

    run.down()
    lab.close()
    left = [line for line in map(_command_line, psutil.process_iter()) if str(lab.folder) in line]
    assert left == []
    say("nothing is left running")


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


class Cluster:
    """What a person does on the laptop."""

    def __init__(self, lab: Lab, say: Say) -> None:
        self.lab, self.say = lab, say
        text = (lab.clone / "cluster.yaml").read_text()
        for address, host in IN_THE_FILE.items():
            text = text.replace(address, lab.hosts[host])
        self.file = lab.folder / "cluster.yaml"
        self.file.write_text(text)
        self.file.chmod(0o644)

    def laptop(self, command: str, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
        done: subprocess.CompletedProcess[str] = self.lab.run(self.lab.laptop, command, timeout_s)
        return done

    def up(self) -> None:
        begun = time.monotonic()
        done = self.laptop(f"{RAY} up -y --no-config-cache {self.file}", 900)
        assert done.returncode == 0, done.stdout
        self.say(f"ray up: {time.monotonic() - begun:.0f} s")
        self.wait_for_nodes()

    def wait_for_nodes(self) -> None:
        """Until every host is a node of Ray, without our help."""
        begun = time.monotonic()
        deadline = begun + 300
        while (alive := self.alive()) != set(self.lab.hosts.values()):
            assert time.monotonic() < deadline, f"only {alive} joined\n{self.monitor()}"
            time.sleep(5)
        self.say(f"all {len(alive)} hosts are nodes of Ray, {time.monotonic() - begun:.0f} s later")

    def alive(self) -> set[str]:
        """Addresses of Ray's nodes, asked on the head."""
        done = self.lab.run("host1", ". ~/.raybench/environment; cd raybench; python -m raybench.cluster.nodes")
        return set(re.findall(r'"(10\.77\.0\.\d+)":', done.stdout))

    def monitor(self) -> str:
        text: str = self.lab.run("host1", "tail -n 40 /tmp/ray/session_latest/logs/monitor.*").stdout
        return text

    def check(self, when: str, *sweep: str, expected: int, says: str = "") -> None:
        begun = time.monotonic()
        done = self.laptop(f"{RAYBENCH} cluster check -f {self.file} {' '.join(sweep)}")
        assert done.returncode == expected, done.stdout
        assert says in done.stdout
        self.say(f"check {when}: exit code {expected}, {time.monotonic() - begun:.0f} s")
        for line in done.stdout.splitlines():
            self.say(f"    {line}")

    def submitted(self, *arguments: str, epochs: int) -> Submitted:
        """A sweep, each of whose trials has so many epochs."""
        return Submitted(self, arguments, epochs)

    def down(self) -> None:
        begun = time.monotonic()
        done = self.laptop(f"{RAYBENCH} cluster down -f {self.file}")
        assert done.returncode == 0, done.stdout
        deadline = time.monotonic() + 60
        while any(left := {name: self.lab.processes(name) for name in self.lab.hosts}.values()):
            assert time.monotonic() < deadline, left
            time.sleep(2)
        self.say(f"raybench cluster down: nothing but sshd runs on any host {time.monotonic() - begun:.0f} s later")


class Submitted:
    """A sweep that the laptop has handed to the cluster and follows."""

    def __init__(self, cluster: Cluster, arguments: tuple[str, ...], epochs: int) -> None:
        self.cluster, self.lab, self.arguments, self.epochs = cluster, cluster.lab, arguments, epochs
        self.store = Store(self.lab.shared / "results" / SWEEP)
        self.log: Path = self.lab.folder / "submit.txt"
        self.before = list(self.store.trials(["trial_id"])["trial_id"])

    def __enter__(self) -> Submitted:
        command = f"exec {RAYBENCH} cluster submit -f {self.cluster.file} {' '.join(self.arguments)}"
        self.cluster.say(f"raybench cluster submit {' '.join(self.arguments)}")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                self.lab.command(self.lab.laptop, command), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def wait_for(self, what: str, done: Callable[[], bool], seconds: float = 600) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s\n{self.log.read_text()}"
            assert self.process.poll() in (None, 0), self.log.read_text()
            time.sleep(0.5)
        self.cluster.say(what)

    def trials(self) -> pl.DataFrame:
        """Those of this sweep; an earlier one lies in the same folder."""
        rows = self.store.trials(["trial_id", "status", "node", "attempt", "failures", "epochs"])
        return rows.filter(~pl.col("trial_id").is_in(self.before))

    def finished_on(self) -> set[str]:
        rows = self.trials()
        return set(rows.filter(pl.col("status") == "complete")["node"]) if rows.height else set()

    def running_on(self, host: str) -> int:
        rows = self.trials()
        return rows.filter((pl.col("status") == "running") & (pl.col("node") == host)).height if rows.height else 0

    def epochs_in(self, seconds: float) -> int:
        """Epochs of the trials with the most images in so many seconds, as fast as they were here."""
        rows = self.store.trials(["epochs", "train_time", "eval_time"])
        slowest = rows.select(((pl.col("train_time") + pl.col("eval_time")) / pl.col("epochs")).max()).item()
        return max(50, round(seconds / float(slowest)))

    def must_be_whole(self, lost_on: str) -> None:
        """Every trial complete, no epoch lost or twice, and what the lost host had was begun again elsewhere."""
        output = self.log.read_text()
        assert self.process.returncode == 0, output
        rows = self.trials()
        epochs = self.store.epochs(rows["trial_id"])
        assert set(rows["status"]) == {"complete"}, rows
        assert set(rows["epochs"]) == {self.epochs}
        counted = epochs.group_by("trial_id").agg(pl.len(), pl.col("epoch").n_unique().alias("distinct"))
        assert counted.height == rows.height
        assert set(counted["len"]) == set(counted["distinct"]) == {self.epochs}
        again = rows.filter(pl.col("attempt") > 1)
        assert again.height > 0, f"no trial was lost with {lost_on}"
        assert lost_on not in set(again["node"])
        by_node = dict(rows["node"].value_counts(sort=True).iter_rows())
        self.cluster.say(
            f"{rows.height} trials complete, 0 failed; {epochs.height} epochs, 0 lost, 0 twice; "
            f"{again.height} begun again; trials by host: {', '.join(f'{name} {n}' for name, n in by_node.items())}"
        )
