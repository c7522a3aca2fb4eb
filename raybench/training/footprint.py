"""The memory that training a model takes, measured in a process of its own, where nothing else has left any behind.

python -m raybench.training.footprint        reads a Load as JSON, takes steps, writes a Footprint or {"error": …}
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import nn

from raybench.config.trial import ModelConfig
from raybench.errors import RaybenchError
from raybench.models import exists
from raybench.training.device import resident_mib
from raybench.training.speed import Load, Workload, in_words

STEPS = 2
"""The optimizer makes its state in the first, so the second is the first to have everything at once."""
ON_GPU = "peak allocated on the GPU in a training step"
RESIDENT = "peak resident memory of a process that trains only this model, Python and torch included"


@dataclass(frozen=True)
class Footprint:
    """Memory of a training step, MiB."""

    peak_mib: float
    """`ON_GPU` or `RESIDENT`."""
    before_mib: float
    """What of it was taken before the model was made: nothing on a GPU, Python and torch on a CPU."""


def footprint(load: Load) -> Footprint | str:
    """The memory that training a model takes, or in words why it could not be measured."""
    content = {field.name: getattr(load, field.name) for field in fields(load)}
    done = subprocess.run(
        [sys.executable, "-m", "raybench.training.footprint"],
        input=json.dumps({**content, "model": load.model.model_dump(mode="json")}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == -signal.SIGKILL:
        return "out of memory: its process was killed, as the system does when there is no more"
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return ended_how(done)
    return str(answer["error"]) if "error" in answer else Footprint(**answer)


def ended_how(done: subprocess.CompletedProcess[str]) -> str:
    """What to say of a process that ended without an answer: its exit code, and the last line it wrote to stderr."""
    said = done.stderr.strip().splitlines()
    return f"its process ended with exit code {done.returncode}{f': {said[-1]}' if said else ''}"


def peak_resident_mib() -> float:
    """The most resident memory this process ever had, MiB; what it has now where the system does not say."""
    # Not getrusage: its peak is inherited from the process that started this one.
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) / 1024 if found else resident_mib()


def main() -> None:
    """Measure the load on standard input."""
    content = json.load(sys.stdin)
    try:
        answer = asdict(_measured(Load(**{**content, "model": ModelConfig(**content["model"])})))
    except RaybenchError as error:
        answer = {"error": str(error)}
    except Exception as error:  # the parent tells of it, beside what it knows of the other models
        answer = {"error": in_words(error)}
    print(json.dumps(answer))


def _measured(load: Load) -> Footprint:
    if not exists(load.model.name):  # which imports timm where the model may be timm's
        raise RaybenchError(f'unknown model "{load.model.name}"')
    _import_everything()
    before_mib = resident_mib()
    workload = Workload(load)
    for _ in range(STEPS):
        workload.train()
    if workload.device.device.type == "cuda":
        return Footprint(workload.device.memory_mib(), 0.0)
    return Footprint(peak_resident_mib(), before_mib)


def _import_everything() -> None:
    """A step of next to nothing: torch imports much of what it needs, and starts its threads, in the first one."""
    module = nn.Linear(1, 1)
    torch.autograd.backward(module(torch.ones(1, 1)).sum())
    torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9).step()


if __name__ == "__main__":
    main()
