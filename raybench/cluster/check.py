"""Asking every machine of a cluster what it is, all at once, over SSH."""

from __future__ import annotations

import json
import os
import platform
import secrets
import shlex
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import raybench
from raybench.cluster import probe
from raybench.cluster.autoscaling import startable
from raybench.cluster.cluster_file import ClusterFile
from raybench.cluster.findings import Findings, Said, examine
from raybench.cluster.ssh import Answer, Host, in_project, run, words

ASK_S = 120.0
"""A machine of a cluster that is at work takes its time to start a Python."""
RUNS_S = 900.0
"""To look whether a sweep can run there: data may be fetched and decoded."""
PYTHON = "test -x ~/raybench/.venv/bin/python && python=~/raybench/.venv/bin/python || python=python3"
ENVIRONMENT = "test ! -e ~/.raybench/environment || . ~/.raybench/environment"


@dataclass(frozen=True)
class Checked:
    """What every machine said, and what is wrong."""

    machines: tuple[Said, ...]
    alive: Mapping[str, str] | None
    findings: Findings
    preset: str | None = None
    """Of the sweep that was asked about, and why; none where none was."""


@dataclass(frozen=True)
class Asked:
    """The sweep of which every machine is asked whether it can run there."""

    name: str
    text: str
    """Of its file here; the machines may have an older one."""
    arguments: Sequence[str] = ()
    """Of `raybench.commands.ready`, beside the file and the preset."""
    preset: str = "auto"
    """The same on every machine: `auto` is what the cluster as a whole makes of it."""


def check(cluster: ClusterFile, sweep: Asked | None = None) -> Checked:
    """Ask all machines; `cluster` has their addresses (`ClusterFile.running`)."""
    assert cluster.head is not None
    hosts, why = (cluster.head, *cluster.workers), ""
    with ThreadPoolExecutor(len(hosts) + 1) as threads:
        asking = threads.submit(_nodes, cluster.head)
        machines, nodes = _look(hosts, threads), asking.result()
        if sweep is not None:
            preset, why = preset_for(sweep.preset, cluster, machines, nodes)
            sweep = replace(sweep, preset=preset)
            machines = list(threads.map(partial(_with_data, sweep), hosts, machines))
    alive = None if nodes is None else nodes["alive"]
    chosen = None if sweep is None else f"{sweep.preset} ({why})" if why else sweep.preset
    return Checked(tuple(machines), alive, examine(versions_here(), machines, alive), chosen)


def _look(hosts: Sequence[Host], threads: ThreadPoolExecutor) -> list[Said]:
    """What every machine says of itself and, where it reads what they wrote, of the storage of the others."""
    mark = secrets.token_hex(8)
    machines = list(threads.map(lambda host: _ask(host, mark, "write"), hosts))
    addresses = [each.address for each in machines if not each.silent]
    asked = [host for host in hosts if host.address in addresses]
    looked = dict(zip(addresses, threads.map(lambda host: _ask(host, mark, "read", addresses), asked), strict=True))
    list(threads.map(lambda host: _ask(host, mark, "clear"), asked))
    return [_with(each, looked.get(each.address)) for each in machines]


def preset_for(
    preset: str, cluster: ClusterFile, machines: Sequence[Said], nodes: Mapping[str, Any] | None
) -> tuple[str, str]:
    """(preset, why). `auto` is what `submit` makes of it: paper where the cluster has a GPU, or may start one.

    `nodes`: what the running Ray says of itself. Without one counts what the machines have and the cluster file allows.
    """
    if preset != "auto":
        return preset, ""
    if nodes is not None:
        found = nodes["gpus"] > 0
    else:
        here = any(isinstance(each.about.get("gpus"), list) and each.about["gpus"] for each in machines)
        found = here or any(each.get("GPU", 0) > 0 for each in startable(cluster.content))
    return ("paper", "a GPU in the cluster") if found else ("quick", "no GPU in the cluster")


def versions_here() -> dict[str, str | None]:
    """The versions of this machine, which those of the cluster are to equal."""
    own = {name: metadata.version(name) for name in probe.PACKAGES}
    source = Path(raybench.__file__).parent
    trees = {"raybench": probe.tree_hash(source), "sweeps": probe.tree_hash(source.parent / "sweeps")}
    return {"python": platform.python_version(), **own, **trees}


def _ask(host: Host, mark: str, role: str, seek: Sequence[str] = ()) -> Said:
    asked = json.dumps({"mark": mark, "role": role, "address": host.address, "seek": list(seek)})
    command = f"{ENVIRONMENT}; {PYTHON}; exec $python - {shlex.quote(asked)}"
    begun = time.time()
    answer = run(host, f"bash -c {shlex.quote(command)}", given=Path(probe.__file__).read_text(), timeout_s=ASK_S)
    return _heard(host, begun, answer)


def _heard(host: Host, begun: float, answer: Answer) -> Said:
    if not answer.reached:
        key = f" (key {host.key})" if host.key and not os.path.exists(host.key) else ""  # noqa: PTH110 - any error is no
        return Said(host.address, silent=f"cannot be reached as {host.user}{key}: {answer.last_error}")
    try:
        about = json.loads(answer.output.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return Said(host.address, silent=f"does not say what it is: {answer.last_error}")
    return Said(host.address, begun, time.time(), about)


def _with(machine: Said, looked: Said | None) -> Said:
    if looked is None or looked.silent or not machine.about.get("results"):
        return machine
    return replace(machine, seen=frozenset(looked.about["seen"]))


def _nodes(head: Host) -> dict[str, Any] | None:
    """What `raybench.cluster.nodes` says on the head; none where no Ray runs."""
    answer = run(head, in_project("python -m raybench.cluster.nodes"), timeout_s=ASK_S)
    try:
        found = json.loads(answer.output.strip().splitlines()[-1])
        return {"alive": dict(found["alive"]), "gpus": float(found["gpus"])} if answer.code == 0 else None
    except (ValueError, IndexError, TypeError, KeyError):  # nothing, or what an older raybench says
        return None


def _with_data(sweep: Asked, host: Host, machine: Said) -> Said:
    """A machine with what it has for the sweep, asked where raybench is installed."""
    return replace(machine, data=_ready(host, sweep)) if machine.installed else machine


def _ready(host: Host, sweep: Asked) -> dict[str, Any]:
    """What `raybench.commands.ready` says there of the sweep."""
    file = f'"$folder"/{shlex.quote(sweep.name)}.yaml'
    ask = f"python -m raybench.commands.ready {file} {words([*sweep.arguments, '--preset', sweep.preset])}"
    command = f'folder=$(mktemp -d) && cat > {file} && {ask}; code=$?; rm -rf "$folder"; exit $code'
    answer = run(host, in_project(command), given=sweep.text, timeout_s=RUNS_S)
    try:
        found: dict[str, Any] = json.loads(answer.output.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {"faults": [f"cannot say whether the sweep can run there: {answer.last_error}"]}
    return found
