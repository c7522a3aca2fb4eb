"""Machines of a cluster with a depot: a teacher is prepared on one of them, and all have the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raybench.config.trial import TrialConfig
from raybench.distillation.cache import ViewCache
from raybench.distillation.teacher import TeacherRecord
from raybench.training import preparation
from raybench.training.ingredients import as_planned
from raybench.training.preparation import (
    LOGITS,
    WEIGHTS,
    ensure_teacher,
    find_teacher,
    prepare_teacher,
    teacher_folder,
)
from raybench.training.recorder import Setup
from raybench.training.tasks import Classification

SETUP = Setup()
IMAGES = 50
TRIAL = TrialConfig.model_validate(
    {
        "dataset": {"name": "digits", "val_size": 900, "train_size": IMAGES, "augment": ["crop1"], "views": 2},
        "model": {"name": "resnet8"},
        "distillation": {"type": "soft", "teacher": {"name": "resnet8", "prepare": "none"}},
    }
)


def planned() -> TrialConfig:
    """The trial as a plan knows it, whose teacher has its name from what the data are."""
    return as_planned(TRIAL, SETUP)


class Machines:
    """Caches of machines, one of which this process is at a time."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch

    def be(self, name: str, *, alone: bool = False) -> None:
        """Be that machine; alone: without the depot."""
        self.patch.setenv("RAYBENCH_CACHE", str(self.folder / name))
        if alone:
            self.patch.delenv("RAYBENCH_DEPOT", raising=False)
        else:
            self.patch.setenv("RAYBENCH_DEPOT", str(self.folder / "depot"))


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    return Machines(tmp_path, monkeypatch)


def content() -> dict[str, bytes]:
    """The teacher's files on this machine."""
    folder = teacher_folder(planned())
    (logits,) = folder.glob("logits-*")
    files = [folder / WEIGHTS, *(logits / name for name in LOGITS)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_teacher_is_prepared_on_one_machine_and_copied_by_the_others(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines.be("first")
    assert find_teacher(planned()) is None
    record = prepare_teacher(TRIAL, SETUP, IMAGES)
    made = content()

    machines.be("second")
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "_prepare", lambda *_: pytest.fail("prepared again"))
        patch.setattr(preparation.Logits, "_make", lambda *_: pytest.fail("computed again"))
        patch.setattr(ViewCache, "verify", lambda *_: None)  # which computes a part again, to compare
        assert find_teacher(planned()) == record
        assert prepare_teacher(TRIAL, SETUP, IMAGES) == record
    assert content() == made


def test_what_was_copied_is_compared_with_what_the_teacher_says(machines: Machines) -> None:
    machines.be("first")
    prepare_teacher(TRIAL, SETUP, IMAGES)
    machines.be("second")
    prepare_teacher(TRIAL, SETUP, IMAGES)
    (logits,) = teacher_folder(planned()).glob("logits-*")
    assert (logits / "verified.json").exists()


def test_all_machines_take_the_teacher_that_was_brought_first(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines.be("second", alone=True)
    own = ensure_teacher(TRIAL, SETUP)
    before = (teacher_folder(planned()) / WEIGHTS).read_bytes()

    machines.be("first")
    with monkeypatch.context() as patch:
        # Another machine, and so other bits.
        make = preparation._save_weights

        def otherwise(task: Classification, folder: Path) -> None:
            with torch.no_grad():
                next(task.module.parameters()).add_(1.0)
            make(task, folder)

        patch.setattr(preparation, "_save_weights", otherwise)
        record = ensure_teacher(TRIAL, SETUP)
    brought = (teacher_folder(planned()) / WEIGHTS).read_bytes()
    assert brought != before

    machines.be("second")
    assert ensure_teacher(TRIAL, SETUP) == record
    assert (teacher_folder(planned()) / WEIGHTS).read_bytes() == brought
    assert TeacherRecord.load(teacher_folder(planned())) != own  # its times, at the least, were others


def test_a_machine_that_has_a_teacher_already_brings_it(machines: Machines) -> None:
    machines.be("first", alone=True)
    record = ensure_teacher(TRIAL, SETUP)
    machines.be("first")
    assert ensure_teacher(TRIAL, SETUP) == record
    machines.be("second")
    assert find_teacher(planned()) == record


def test_a_teacher_prepared_instead_of_a_lost_copy_is_not_taken_for_the_depots(machines: Machines) -> None:
    trial = planned()
    machines.be("a")
    ensure_teacher(trial, SETUP)
    content = (teacher_folder(trial) / WEIGHTS).read_bytes()
    for path in (teacher_folder(trial) / WEIGHTS, teacher_folder(trial) / "teacher.json"):
        path.unlink()
    machines.be("a", alone=True)
    ensure_teacher(trial, SETUP)
    (teacher_folder(trial) / WEIGHTS).write_bytes(b"of other bits")
    machines.be("a")
    ensure_teacher(trial, SETUP)
    assert (teacher_folder(trial) / WEIGHTS).read_bytes() == content
