"""What a trial costs, by a few real steps of it in a process of its own, whose memory is that of nothing else.

python -m raybench.training.probing        reads a trial and where it runs as JSON, writes a Probed as JSON
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from raybench.config.plugins import Plugin, receive
from raybench.config.trial import TrialConfig
from raybench.errors import RaybenchError
from raybench.training.device import choose_device, out_of_memory
from raybench.training.footprint import ended_how, peak_resident_mib
from raybench.training.gpu_memory import few_steps, reserved_mib
from raybench.training.loop import EVAL_BATCH, Epoch
from raybench.training.recorder import Setup
from raybench.training.speed import in_words

REPEATS = 5
REPEAT_S = 2.0
"""No further repeat begins after so long; one is always made."""


@dataclass(frozen=True)
class Probed:
    """What the steps told."""

    train_s: float = 0.0
    """Of an example in training."""
    infer_s: float = 0.0
    """Of an example in validation."""
    memory_mib: float = 0.0
    """The most that it took: of a GPU what torch held, else resident memory of the process."""
    fault: str = ""
    """Why nothing could be measured, in words."""

    @classmethod
    def loaded(cls, text: str) -> Probed:
        """From JSON."""
        return cls(**json.loads(text))


def question(trial: TrialConfig, setup: Setup) -> str:
    """What is to be probed, as JSON."""
    folders = {name: str(path) for name in ("data_root", "weights_root") if (path := getattr(setup, name)) is not None}
    where = {"cpu": setup.cpu, "gpu": setup.gpu, "plugins": [asdict(plugin) for plugin in setup.plugins]}
    return json.dumps({"trial": trial.model_dump(mode="json"), "folders": folders, **where})


def probe_apart(asked: str) -> Probed:
    """The answer to a `question`, from a process of its own on this machine."""
    command = [sys.executable, "-m", "raybench.training.probing"]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    try:
        return Probed.loaded(done.stdout.splitlines()[-1])
    except (IndexError, ValueError, TypeError):
        return Probed(fault=ended_how(done))


def answer(asked: str) -> Probed:
    """The answer to a `question`, in this process."""
    content = json.loads(asked)
    folders: dict[str, Any] = {name: Path(path) for name, path in content["folders"].items()}
    plugins = tuple(Plugin(**each) for each in content["plugins"])
    try:
        receive(plugins)
        trial = TrialConfig.model_validate_json(json.dumps(content["trial"]))
        return _probe(trial, Setup(cpu=content["cpu"], gpu=content["gpu"], plugins=plugins, **folders))
    except RaybenchError as error:
        return Probed(fault=str(error))
    except Exception as error:  # whoever asked says what it means for the sweep
        return Probed(fault=out_of_memory(error) or in_words(error))


def _probe(trial: TrialConfig, setup: Setup) -> Probed:
    torch.set_num_threads(setup.threads)
    device = choose_device(trial.precision, setup.gpu)
    device.set_products()
    few = few_steps(trial, setup, device)
    few.run.train_epoch()  # warms up
    epochs: list[Epoch] = []
    begun = time.perf_counter()
    while not epochs or (len(epochs) < REPEATS and time.perf_counter() - begun < REPEAT_S):
        epochs.append(few.run.train_epoch())
    validated = max(1, min(EVAL_BATCH, few.sizes.validation))
    return Probed(
        train_s=statistics.median(epoch.train_time for epoch in epochs) / max(1.0, few.examples),
        infer_s=statistics.median(epoch.eval_time for epoch in epochs) / validated,
        memory_mib=reserved_mib() if device.device.type == "cuda" else peak_resident_mib(),
    )


if __name__ == "__main__":
    print(json.dumps(asdict(answer(sys.stdin.read()))))
