"""What trials take of the GPUs of a cluster, measured by a task on one GPU of each kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raybench.cluster.session import session
from raybench.config.placement import Node, pack
from raybench.errors import RaybenchError
from raybench.training.gpu_memory import Measured, answer


def measure_at(address: str, nodes: Sequence[Node], kind: str | None, question: str) -> Measured:
    """What was `asked` (training/gpu_memory.py), on the kind of GPU on which the fewest trials fit.

    `kind`: the only one that is asked for; none measures on each that there is. Raises RaybenchError.
    """
    kinds = {kind} if kind else {each for node in nodes if node.gpu >= 1 for each in (node.kinds or {None})}
    with session(address):
        measured = [_on(each, question) for each in sorted(kinds, key=str)]
    failed = next((each for each in measured if each.largest is None), None)
    return failed or min(measured, key=_trials)


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
