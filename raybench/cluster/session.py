"""A Ray session: started here or joined, its token in a file of our own, ended without leaving a process behind."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raybench.cluster.autoscaling import with_startable
from raybench.cluster.guard import Guard
from raybench.cluster.reaper import MARK, reaper
from raybench.config.folders import cache_root
from raybench.config.placement import Node
from raybench.errors import RaybenchError

FORWARDED = (
    *("RAYBENCH_CACHE", "RAYBENCH_DATA", "RAYBENCH_DEPOT", "RAYBENCH_SWEEPS", "HF_HUB_OFFLINE", "HF_HOME"),
    "TORCH_HOME",
    *("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"),
)
"""Variables a joined cluster's workers are given as they are here. No credentials: Ray would keep and log them."""

KIND = "accelerator_type:"
"""In front of the kind of a node's GPUs among its resources."""

QUIET = {
    # Ray's own file loggers write a JSON and a CSV a trial and cost a second each; our rows replace them.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # We end with our own exit codes and our own last words.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Resume reads our rows, so Tune's snapshots of the experiment are only cost.
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # Where a command reads ./data or a weight file by its relative path, its trials on this machine must, too.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # As Tune sets it for its trials.
    "PL_DISABLE_FORK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}

PRELOAD = "RAY_preload_python_modules"
"""Ray reads it where it starts its processes."""
PRELOADED = "ray.tune,polars,pydantic,torch._dynamo"
"""What a worker of a Ray of our own imports before it is asked to train, which takes it seconds; the last is what torch
imports with its first optimizer. Nothing of raybench: a worker is told where the driver has it from with its first
trial. Not for GPUs: nor is it told before which one it has, and what has looked for GPUs by then sees all."""
KEPT = "RAY_num_workers_soft_limit"
"""Idle workers above it are ended. Ray takes the CPUs that are free, and those of trials about to begin are not."""
THREADS = "OMP_NUM_THREADS"
"""Ray sets it for each trial, by its CPUs, where it is not set. What is imported before has to be told already."""


def configure(address: str | None) -> None:
    """Set Ray's environment. Ray reads some of it when it is imported, so this comes before that."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if address is None:
        _own_token()


@contextlib.contextmanager
def session(
    address: str | None = None,
    verbose: bool = False,
    guard: Guard | None = None,
    cpus: int | None = None,
    preload: bool = False,
) -> Iterator[dict[str, float]]:
    """A Ray session, which `guard` watches; yields the cluster's resources.

    Of a Ray that is started here: `cpus` are its CPUs (none means all of this machine), and with `preload` each of the
    workers that it starts by itself, one a CPU, gets ready to train. Raises RaybenchError when `address` cannot be
    joined.
    """
    with reaper() if address is None else contextlib.nullcontext():
        yield from _session(address, verbose, guard, cpus, preload)


@contextlib.contextmanager
def _preloading(cpus: int | None) -> Iterator[None]:
    """What Ray's processes that are started inside are told, but for what the user tells them."""
    wanted = {PRELOAD: PRELOADED, KEPT: str(cpus or os.cpu_count()), THREADS: "1"}
    told = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(told)
    try:
        yield
    finally:
        for name in told:
            del os.environ[name]


def _session(
    address: str | None, verbose: bool, guard: Guard | None, cpus: int | None, preload: bool
) -> Iterator[dict[str, float]]:
    configure(address)
    import ray

    level = logging.INFO if verbose else logging.CRITICAL
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(level)
    options: dict[str, Any] = {"log_to_driver": verbose, "logging_level": level, "configure_logging": True}
    if address is None:
        options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1", "address": "local", "num_cpus": cpus}
    else:
        options |= {
            "address": address,
            "runtime_env": {"env_vars": {k: os.environ[k] for k in FORWARDED if k in os.environ}},
        }
    try:
        with _preloading(cpus) if preload else contextlib.nullcontext():
            ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        what = "start Ray" if address is None else f"join the Ray cluster at {address!r}"
        raise RaybenchError(f"cannot {what}: {str(error).splitlines()[0]}") from None
    except Exception as error:
        if type(error) is not Exception:  # Ray raises the bare one where its processes do not come up in 30 s
            raise
        raise RaybenchError(
            f"cannot start Ray: {str(error).partition('.')[0]}. Its processes have 30 s to come up: the machine is too "
            "busy or short of memory; look at both (raybench doctor), then run the same command again"
        ) from None
    try:
        if guard:
            guard.watch(_addresses())
        yield dict(ray.cluster_resources())
    finally:
        if guard:
            guard.watch(())
        ray.shutdown()


def _addresses() -> list[tuple[str, int]]:
    """Where Ray's head and this driver's own raylet listen."""
    import ray

    here = ray.get_runtime_context()
    host, _, port = here.gcs_address.rpartition(":")
    own = [node for node in ray.nodes() if node["NodeID"] == here.get_node_id()]
    return [(host, int(port)), *((node["NodeManagerAddress"], int(node["NodeManagerPort"])) for node in own)]


def _own_token() -> None:
    """Token authentication by a file only we can read, instead of the world-readable one Ray writes at home."""
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    path = cache_root() / "ray_token"
    if not _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".ray_token.{os.getpid()}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        # Of two that start at once the first one's counts, for its Ray has it already.
        if not _told(path):
            path.unlink(missing_ok=True)
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
        draft.unlink()
    path.chmod(0o600)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)
    os.environ["RAY_AUTH_MODE"] = "token"


def _told(path: Path) -> str:
    """The token in a file; empty where none is, or something that cannot be one."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""


def nodes_at(address: str) -> list[Node]:
    """The nodes of the cluster at an address, before a sweep is planned for them."""
    with session(address):
        return alive_nodes()


def alive_nodes() -> list[Node]:
    """The nodes of the cluster, as trials are placed on them, those included that it starts when trials wait."""
    import ray

    alive = [each for each in ray.nodes() if each["Alive"]]
    nodes = [_node(each["NodeManagerHostname"], each["Resources"]) for each in alive]
    if MARK in os.environ:  # a Ray of our own starts no machines
        return nodes
    more = with_startable([each["Resources"] for each in alive])[len(alive) :]
    return [*nodes, *(_node("to be started", each) for each in more)]


def _node(name: str, has: dict[str, float]) -> Node:
    kinds = (each.removeprefix(KIND) for each in has if each.startswith(KIND))
    # Ray counts what it keeps objects in apart from the rest.
    memory = (has.get("memory", 0.0) + has.get("object_store_memory", 0.0)) / 2**20
    return Node(name, has.get("CPU", 0.0), has.get("GPU", 0.0), frozenset(kinds), memory or None)
