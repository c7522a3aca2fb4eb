"""What rows tell of trials to come: whose rows, of which hardware, and how many."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from raybench.commands.sharing import Machines
from raybench.commands.stored import Stored
from raybench.config.placement import Node
from raybench.training.cost import Estimator
from raybench.training.recorder import Setup, device_share

if TYPE_CHECKING:
    from .conftest import Settled

HERE = Machines((Node("this machine", 2.0),))


def stored(folder: Path, setup: Setup | None = None, machines: Machines = HERE) -> Stored:
    setup = setup or Setup()
    return Stored(folder, setup, machines, Estimator(setup).sizes)


def test_of_the_same_trials_it_is_their_median(settled: Settled) -> None:
    alone, _ = settled.halves()
    for trial, train_s in zip(alone, (2.4, 4.8, 2.4, 24.0), strict=True):
        settled.settle([trial], **settled.took(train_s, 1.0))
    speed = stored(settled.folder).speed(alone[0])
    assert speed is not None
    # Four epochs of 60 images, and of 100 for validation.
    assert speed.train_s == pytest.approx(3.6 / 4 / 60)
    assert speed.infer_s == pytest.approx(1.0 / 4 / 100)
    assert (speed.fixed_s, speed.memory_mib, speed.source) == (2.0, 600.0, "rows")
    assert speed.trials == {trial.trial_id for trial in alone}


def test_with_kept_logits_the_student_alone_tells_until_there_is_better(settled: Settled) -> None:
    alone, taught = settled.halves()
    settled.settle(alone, **settled.took(2.4, 1.0))
    speed = stored(settled.folder).speed(taught[0])
    assert speed is not None
    assert speed.train_s == pytest.approx(0.01)
    settled.settle(taught[:1], **settled.took(4.8, 1.0))
    speed = stored(settled.folder).speed(taught[1])
    assert speed is not None
    assert speed.train_s == pytest.approx(0.02)
    assert len(speed.trials) == 1


def test_of_a_live_teacher_the_student_alone_tells_nothing(settled: Settled) -> None:
    alone, taught = settled.halves("distillation.cache=off")
    settled.settle(alone, **settled.took(2.4, 1.0))
    assert stored(settled.folder).speed(taught[0]) is None


def test_of_several_train_sizes_the_nearest_tells(settled: Settled) -> None:
    for size, train_s in ((60, 2.4), (600, 12.0)):
        settled.settle(settled.halves(f"dataset.train_size={size}")[0], **settled.took(train_s, 1.0))
    for size, image_s in ((60, 0.01), (80, 0.01), (500, 0.005), (1000, 0.005)):
        speed = stored(settled.folder).speed(settled.halves(f"dataset.train_size={size}")[0][0])
        assert speed is not None
        assert speed.train_s == pytest.approx(image_s)


def test_what_runs_otherwise_is_not_asked(settled: Settled) -> None:
    (trial, *_), _ = settled.halves()
    settled.settle([trial], **settled.took(2.4, 1.0))
    assert stored(settled.folder).speed(trial) is not None
    for override in ("batch_size=7", "model.name=resnet20", "precision=fp32", "optimizer.name=adam", "accumulate=2"):
        assert stored(settled.folder).speed(settled.halves(override)[0][0]) is None
    assert stored(settled.folder).speed(settled.halves("optimizer.lr=0.7", "schedule.epochs=9")[0][0]) is not None


@pytest.mark.parametrize(
    "env", [{"cpu": "another"}, {"cpu_count": 999}, {"threads": 2}, {"gpu": "a GPU"}], ids=lambda env: next(iter(env))
)
def test_other_hardware_tells_nothing(settled: Settled, env: dict[str, Any]) -> None:
    (trial, *_), _ = settled.halves()
    settled.settle([trial], **settled.took(2.4, 1.0, **env))
    assert stored(settled.folder).speed(trial) is None


def test_another_share_of_the_device_tells_nothing(settled: Settled) -> None:
    (trial, *_), _ = settled.halves()
    settled.settle([trial], **{**settled.took(2.4, 1.0), "device_hours": 3.4 / 3600 * device_share(Setup()) * 2})
    assert stored(settled.folder).speed(trial) is None


def test_a_cluster_is_known_by_its_nodes(settled: Settled) -> None:
    (trial, *_), _ = settled.halves()
    settled.settle([trial], **settled.took(2.4, 1.0, cpu="another"), node="gpu-1")
    there = Machines((Node("gpu-1", 2.0),), "auto")
    assert stored(settled.folder, machines=there).speed(trial) is not None
    assert stored(settled.folder, machines=Machines((Node("gpu-2", 2.0),), "auto")).speed(trial) is None


def test_a_sweep_beside_it_tells_where_its_own_rows_do_not(settled: Settled) -> None:
    (trial, *_), _ = settled.halves()
    settled.settle([trial], **settled.took(2.4, 1.0))
    (settled.results / "a file").write_text("that is no sweep")
    other = settled.results / "other"
    speed = stored(other).speed(trial)
    assert speed is not None
    assert speed.train_s == pytest.approx(0.01)


def test_damaged_rows_and_those_of_another_version_tell_nothing(settled: Settled) -> None:
    (one, other, *_), _ = settled.halves()
    settled.settle([one], **settled.took(2.4, 1.0), config={**one.flat(), "model.name": 7})
    settled.settle([other], **settled.took(2.4, 1.0))
    (part,) = (settled.folder / "trials").glob(f"{other.trial_id}*")
    part.write_bytes(part.read_bytes()[:-40])
    assert stored(settled.folder).speed(other) is None


def test_no_rows_tell_nothing(settled: Settled) -> None:
    (trial, *_), _ = settled.halves()
    assert stored(settled.folder).speed(trial) is None
