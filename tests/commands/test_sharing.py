"""What is said, and refused, of how trials share machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from raybench.commands import sharing
from raybench.commands.sharing import Machines, check_fits, check_workers, placement_text, settle, workers_text
from raybench.config.placement import Node, Share
from raybench.config.plan import make_plan
from raybench.config.sweep import SweepConfig
from raybench.config.trial import TrialConfig
from raybench.errors import ConfigError, RaybenchError
from raybench.training.gpu_memory import Measured, Peak
from raybench.training.recorder import Setup

HERE = Machines((Node("this machine", 2),))
GPUS = Machines((Node("this machine", 16, 2),))
CLUSTER = Machines(
    (Node("head", 4), Node("gpu-1", 32, 4), Node("gpu-2", 32, 4), Node("old", 8, 1, frozenset({"V100"}))), "auto"
)


def sweep_of(base: dict[str, Any] | None = None, **resources: Any) -> SweepConfig:
    """A sweep of one trial a seed with these resources."""
    trial = {"dataset": {"name": "digits"}, "model": {"name": "resnet8"}, "batch_size": 32, **(base or {})}
    return SweepConfig.model_validate(
        {"name": "some", "preset": "quick", "base": trial, "factors": {"batch_size": [32, 64]}, "resources": resources}
    )


@pytest.mark.parametrize(
    ("machines", "share", "concurrent", "said"),
    [
        (HERE, Share(), None, "2 at a time, 1 CPU each"),
        (HERE, Share(), 1, "1 at a time, 1 CPU each"),
        (GPUS, Share(4, 0.5), None, "4 at a time, 4 CPU and 0.5 GPU each"),
        (GPUS, Share(1, 1, workers=2), None, "1 at a time, 2 workers of 1 CPU and 1 GPU each"),
        (
            CLUSTER,
            Share(4, 0.5),
            None,
            "18 at a time on the cluster at auto, 4 CPU and 0.5 GPU each (gpu-1, gpu-2: 8 each; old: 2; head: none)",
        ),
        (
            CLUSTER,
            Share(1, 1, workers=4),
            None,
            "2 at a time on the cluster at auto, 4 workers of 1 CPU and 1 GPU each "
            "(gpu-1, gpu-2: 4 workers each; old: 1 worker; head: none)",
        ),
        (
            CLUSTER,
            Share(1, 1, "V100"),
            None,
            "1 at a time on the cluster at auto, 1 CPU and 1 GPU V100 each (old: 1; head, gpu-1, gpu-2: none)",
        ),
    ],
)  # fmt: skip
def test_trials_at_a_time_a_node(machines: Machines, share: Share, concurrent: int | None, said: str) -> None:
    assert placement_text(machines, share, concurrent) == said


def test_many_nodes_are_not_all_named() -> None:
    many = Machines(tuple(Node(f"gpu-{number}", 8, 1) for number in range(100)), "auto")
    assert placement_text(many, Share(1, 1), None).endswith("gpu-4, gpu-5 and 94 more: 1 each)")


@pytest.mark.parametrize(
    ("machines", "resources", "says"),
    [
        (HERE, {"cpu": 3}, "some: resources.cpu = 3: this machine has 2"),
        (HERE, {"gpu": 1}, "resources.gpu = 1: this machine has none (resources.gpu=0 trains on the CPU)"),
        (HERE, {"workers": 3}, "resources.workers = 3 with 1 CPU each: this machine has room for 2"),
        (GPUS, {"gpu": 1, "workers": 3}, "workers = 3 with 1 CPU and 1 GPU each: this machine has room for 2"),
        (CLUSTER, {"cpu": 64}, "resources.cpu = 64 and resources.gpu = 0: no node has so many"),
        (CLUSTER, {"gpu": 1, "accelerator_type": "V10"}, "did you mean V100?"),
        (CLUSTER, {"gpu": 1, "workers": 10}, "there is room for 9"),
    ],
)  # fmt: skip
def test_what_can_never_run_is_refused(machines: Machines, resources: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_fits(sweep_of(**resources), machines)
    assert says in str(error.value)


def test_what_can_run_is_not_refused() -> None:
    check_fits(sweep_of(cpu=2), HERE)
    check_fits(sweep_of(gpu="auto"), HERE)
    check_fits(sweep_of(gpu=1, workers=9), CLUSTER)
    # A kind of GPU means nothing where there is none to be had.
    check_fits(sweep_of(gpu=0, accelerator_type="V100"), HERE)


def test_each_worker_needs_a_part_of_every_batch() -> None:
    config = sweep_of(workers=40)
    with pytest.raises(ConfigError) as error:
        check_workers(config, make_plan(config))
    assert "resources.workers = 40: each needs a part of every batch; batch_size = 32" in str(error.value)
    compiled = sweep_of({"compile": True}, workers=2)
    with pytest.raises(ConfigError) as error:
        check_workers(compiled, make_plan(compiled))
    assert "compile = true is for one process" in str(error.value)
    check_workers(sweep_of(workers=32), make_plan(sweep_of(workers=32)))


def test_the_plan_says_how_workers_share_a_batch() -> None:
    assert workers_text(make_plan(sweep_of())) == ""
    text = workers_text(make_plan(sweep_of(workers=8)))
    assert text.startswith("8 workers a trial share each batch (32 = 8 x 4, 64 = 8 x 8); batch and learning rate stay")


def _never() -> list[Any]:
    raise AssertionError("asked for trials although nothing is to be measured")


def test_a_share_that_is_given_is_not_measured() -> None:
    assert settle(sweep_of(cpu=4, gpu=0.5), GPUS, _never, Setup()) == Share(4, 0.5)
    assert settle(sweep_of(gpu=1, workers=2), GPUS, _never, Setup()) == Share(1, 1, workers=2)
    assert settle(sweep_of(gpu=0, accelerator_type="A100"), GPUS, _never, Setup()) == Share()


def test_auto_without_a_gpu_is_the_cpu() -> None:
    share = settle(sweep_of(gpu="auto"), HERE, _never, Setup())
    assert (share.gpu, share.why) == (0, "gpu: auto, and there is no GPU: on the CPU")


def test_auto_with_nothing_due_measures_nothing() -> None:
    assert settle(sweep_of(gpu="auto"), GPUS, list, Setup()).gpu == 1


def test_auto_packs_by_the_largest_of_the_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    config = sweep_of(cpu=2, gpu="auto")
    trials = list(make_plan(config).trials())
    peaks = (Peak("resnet8, batch 32", 1000.0), Peak("resnet8, batch 64", 2000.0))
    asked: list[Any] = []

    def measured(trials: Sequence[TrialConfig], *_: object) -> Measured:
        asked.extend(trials)
        return Measured(24_000.0, peaks)

    monkeypatch.setattr(sharing, "_measure", measured)
    share = settle(config, GPUS, lambda: trials, Setup())
    assert asked == trials
    # 24,000 / (1.1 x 2,000 + 600) = 8.57
    assert (share.cpu, share.gpu, share.limit_mib) == (2, 0.125, 2400.0)
    assert share.why == (
        "gpu: auto: 8 trials a GPU of 24,000 MiB; resnet8, batch 64, took most: 2,000 MiB in a step, 2,800 MiB with a "
        "margin and its context"
    )
    # Sixteen CPUs are enough for eight trials of two: here they decide, not the two GPUs.
    assert placement_text(GPUS, share, None) == "8 at a time, 2 CPU and 0.125 GPU each"


def test_what_cannot_be_measured_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    config = sweep_of(gpu="auto")
    monkeypatch.setattr(sharing, "_measure", lambda *_: Measured(0.0, fault="no CUDA device"))
    with pytest.raises(RaybenchError) as error:
        settle(config, GPUS, lambda: list(make_plan(config).trials()), Setup())
    assert "could not be measured (no CUDA device); give each trial a share, such as resources.gpu=0.5" in str(
        error.value
    )


@pytest.mark.parametrize(
    ("resources", "says"),
    [
        ({"gpu": 4}, "gpu: 1 with workers: 4"),
        ({"gpu": 0.5, "workers": 2}, "gpu = 0.5 with workers = 2"),
        ({"gpu": "auto", "workers": 2}, "gpu = auto with workers = 2"),
        ({"workers": 0}, "greater than 0"),
        ({"gpu": "some"}, "'auto'"),
    ],
)
def test_resources_that_make_no_sense(resources: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - pydantic's own
        sweep_of(**resources)
    assert says in str(error.value)
