"""What trials take of a cluster's nodes, measured there: of a GPU of each kind, or a probe of a few steps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from raybench.cluster.session import session
from raybench.config.placement import Node, pack
from raybench.errors import RaybenchError
from raybench.training.gpu_memory import Measured, answer
from raybench.training.probing import Probed, probe_apart


def measure_at(address: str, nodes: Sequence[Node], kind: str | None, question: str) -> Measured:
    """What was `asked` (training/gpu_memory.py), on the kind of GPU on which the fewest trials fit.

    `kind`: the only one that is asked for; none measures on each that there is. Raises RaybenchError.
    """
    kinds = {kind} if kind else {each for node in nodes if node.gpu >= 1 for each in (node.kinds or {None})}
    with session(address):
        measured = [_on(each, question) for each in sorted(kinds, key=str)]
    failed = next((each for each in measured if each.largest is None), None)
    return failed or min(measured, key=_trials)


def probe_at(address: str, question: str, cpu: float, gpu: float, kind: str | None) -> Probed:
    """The answer to what is to be probed (training/probing.py), from a node with room for such a worker.

    Raises RaybenchError.
    """
    import ray

    options: dict[str, Any] = {"num_cpus": cpu, "num_gpus": gpu} | ({"accelerator_type": kind} if kind else {})
    with session(address):
        try:
            return Probed.loaded(ray.get(ray.remote(**options)(_probed).remote(question)))
        except ray.exceptions.RayError as error:
            raise RaybenchError(f"--probe: {str(error).splitlines()[0]}") from None


def _probed(question: str) -> str:
    # In a process of its own there, too: this one has Ray's memory, and what earlier tasks left.
    return json.dumps(asdict(probe_apart(question)))


def _trials(measured: Measured) -> int:
    assert measured.largest is not None
    return pack(measured.largest.mib, measured.gpu_mib).trials


def _on(kind: str | None, question: str) -> Measured:
    import ray

    options: dict[str, Any] = {"num_gpus": 1, "max_calls": 1} | ({"accelerator_type": kind} if kind else {})
    try:
        return Measured.loaded(ray.get(ray.remote(**options)(_answered).remote(question)))
    except ray.exceptions.RayError as error:
        raise RaybenchError(f"resources.gpu = auto: {str(error).splitlines()[0]}") from None


def _answered(question: str) -> str:
    return answer(question).dumped()
