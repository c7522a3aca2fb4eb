"""A trial over several processes is the trial of one, but for the order of sums."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from raybench.config.trial import TrialConfig
from raybench.results.schema import Status
from raybench.training.batches import EVERYTHING, Share
from raybench.training.group import of_the_group
from raybench.training.trial import run_trial
from raybench.training.whole_batch import sees_batches

if TYPE_CHECKING:
    from conftest import Digits  # type: ignore[import-not-found]

REPOSITORY = Path(__file__).parents[2]

# One process of a group: runs each job in turn, as a worker of Ray Train does, and says what became of it.
WORKER = """\
import json, os, sys, torch
import torch.distributed as dist
from dataclasses import asdict
from pathlib import Path
from raybench.config.trial import TrialConfig
from raybench.training.recorder import Setup
from raybench.training.trial import follow, run_trial
rank, size, meeting = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
outcomes = []
for job in json.loads(sys.argv[4]):
    trial = TrialConfig.model_validate_json(json.dumps(job["trial"]))
    setup = Setup(sweep="a sweep", preset="quick", results=Path(job["results"]), workers=size,
                  checkpoint_every_s=3600.0)
    if job.get("dies") == rank:
        import raybench.training.loop as loop
        before = loop.Run.train_epoch
        loop.Run.train_epoch = lambda run: os._exit(9) if run.epoch == 1 else before(run)
    if rank == 0:
        outcomes.append(asdict(run_trial(trial, setup, "a cell", job.get("until"))))
    else:
        follow(trial, setup, job.get("until"))
print(json.dumps(outcomes))
dist.destroy_process_group()
"""


@dataclass(frozen=True)
class Job:
    """A trial that a group is to run."""

    trial: TrialConfig
    results: Path
    until: int | None = None
    dies: int | None = None
    """The process that dies in the second epoch."""

    def content(self) -> dict[str, Any]:
        return {
            "trial": self.trial.model_dump(mode="json"),
            "results": str(self.results),
            "until": self.until,
            "dies": self.dies,
        }


def together(folder: Path, size: int, jobs: Sequence[Job]) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each process of a group that runs these jobs."""
    content = json.dumps([job.content() for job in jobs])
    meeting = folder / "meeting"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(size), str(meeting), content],
            env=os.environ
            | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "RAYBENCH_CACHE": str(folder / "cache")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        ends = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, *end) for process, end in zip(started, ends, strict=True)]


def statuses(ends: Sequence[tuple[int, str, str]]) -> list[str]:
    """How each trial of the group stood at its end."""
    assert all(code == 0 for code, _, _ in ends), "\n".join(errors for _, _, errors in ends)
    return [outcome["status"] for outcome in json.loads(ends[0][1].splitlines()[-1])]


def plain(digits: Digits, **changes: Any) -> TrialConfig:
    """A transformer: no batch normalisation, and no random numbers drawn in its training."""
    # 61 images in batches of 32: the last one is cut unevenly.
    found: TrialConfig = digits.trial(model__name="vit_micro_patch2_8", dataset__train_size=61, **changes)
    return found


def same(found: list[dict[str, Any]], expected: list[dict[str, Any]], rel: float) -> None:
    """Every number of the rows is the same to `rel`."""
    assert len(found) == len(expected)
    for row, other in zip(found, expected, strict=True):
        for key, value in other.items():
            if isinstance(value, float):
                assert row[key] == pytest.approx(value, rel=rel, abs=rel), key


KINDS = ("plain", "summed", "distilled", "mixed", "normalised", "patient", "dropping")


@pytest.fixture(scope="module")
def trained(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[TrialConfig, Path]]:
    """Trials of each kind by two processes, in one group, for most of the time goes into starting them."""
    teacher = {"name": "resnet8", "prepare": "none", "seed": 5}
    distilled = {"type": "soft", "alpha": 0.5, "tau": 2.0, "teacher": teacher}
    folder = tmp_path_factory.mktemp("group")
    trials = {
        "plain": plain(digits),
        "summed": plain(digits, accumulate=2, optimizer__clip_norm=0.5),
        "distilled": plain(digits, distillation=distilled),
        "mixed": plain(digits, mix={"mixup": 0.8, "cutmix": 1.0}),
        "normalised": digits.trial(dataset__train_size=61),
        "patient": plain(digits, schedule={"epochs": 6, "patience": 1}, optimizer__lr=0.5),
        "dropping": digits.with_dropout(),
    }
    jobs = [Job(trial, folder / name) for name, trial in trials.items()]
    dropping = trials["dropping"]
    jobs += [Job(dropping, folder / "paused", until=1), Job(dropping, folder / "paused")]
    ends = statuses(together(folder, 2, jobs))
    assert ends == ["complete"] * len(trials) + ["running", "complete"]
    return {name: (trial, folder / name) for name, trial in trials.items()} | {"paused": (dropping, folder / "paused")}


@pytest.mark.parametrize("name", [name for name in KINDS if name != "dropping"])
def test_two_processes_give_the_numbers_of_one(
    trained: dict[str, tuple[TrialConfig, Path]], digits: Digits, tmp_path: Path, name: str
) -> None:
    trial, folder = trained[name]
    assert run_trial(trial, digits.setup(tmp_path), "a cell").status == Status.COMPLETE
    # Sums in another order, over the steps of all epochs; nothing else differs.
    same(digits.numbers(folder, trial), digits.numbers(tmp_path, trial), rel=1e-4)


def test_what_is_paused_goes_on_as_if_it_had_not_been(
    trained: dict[str, tuple[TrialConfig, Path]], digits: Digits
) -> None:
    """Also where each process draws random numbers of its own."""
    trial, paused = trained["paused"]
    assert digits.numbers(paused, trial) == digits.numbers(trained["dropping"][1], trial)


def test_processes_draw_different_numbers(trained: dict[str, tuple[TrialConfig, Path]], digits: Digits) -> None:
    """With the same ones the halves of a batch would lose the same paths, which is another kind of noise."""
    trial, folder = trained["dropping"]
    losses = [row["train_loss"] for row in digits.numbers(folder, trial)[:-1]]
    assert all(math.isfinite(loss) for loss in losses)
    assert len(set(losses)) == len(losses)


def test_the_row_says_how_many_there_were(trained: dict[str, tuple[TrialConfig, Path]], digits: Digits) -> None:
    trial, folder = trained["plain"]
    assert digits.row(folder, trial)["env/workers"] == "2"
    assert trial.trial_id in {path.name.partition("-")[0] for path in (folder / "trials").iterdir()}


@pytest.mark.slow
def test_a_batch_too_small_to_be_shared_is_trained_on_by_all(digits: Digits, tmp_path: Path) -> None:
    """66 images in batches of 32 leave two for three processes, with and without batch normalisation."""
    trials = [plain(digits, dataset__train_size=66), digits.trial(dataset__train_size=66)]
    ends = together(tmp_path, 3, [Job(trial, tmp_path / str(at)) for at, trial in enumerate(trials)])
    assert statuses(ends) == ["complete"] * 2
    for at, trial in enumerate(trials):
        run_trial(trial, digits.setup(tmp_path / "alone"), "a cell")
        same(digits.numbers(tmp_path / str(at), trial), digits.numbers(tmp_path / "alone", trial), rel=1e-4)


def test_one_that_dies_ends_the_attempt_and_not_the_trial(digits: Digits, tmp_path: Path) -> None:
    trial = plain(digits)
    results = tmp_path / "results"
    first, second = together(tmp_path, 2, [Job(trial, results, dies=1)])
    assert second[0] == 9
    assert first[0] == 1
    # Not settled: it goes on from its checkpoint, here in one process.
    assert digits.row(results, trial)["status"] == Status.RUNNING
    assert run_trial(trial, digits.setup(results), "a cell").status == Status.COMPLETE
    assert digits.row(results, trial)["failures"] == 1


@pytest.mark.parametrize("of", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 2, 7, 8, 61])
def test_shares_are_a_whole_batch(count: int, of: int) -> None:
    whole = list(range(count))
    cuts = [whole[Share(rank, of).cut(count)] for rank in range(of)]
    if count < of:
        assert cuts == [whole] * of
        return
    assert [each for cut in cuts for each in cut] == whole
    assert max(map(len, cuts)) - min(map(len, cuts)) <= 1
    assert EVERYTHING.cut(count) == slice(0, count)


def test_what_breaks_a_group_is_known_from_a_trials_own_fault() -> None:
    assert of_the_group(RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"))
    assert of_the_group(torch.distributed.DistBackendError("NCCL error"))
    assert not of_the_group(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not of_the_group(ValueError("Connection closed by peer"))


def test_batch_normalisation_and_its_kin_are_known() -> None:
    assert sees_batches(nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)))
    assert not sees_batches(nn.Sequential(nn.Linear(1, 1), nn.LayerNorm(1)))
