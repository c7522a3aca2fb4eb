"""Teachers: prepared once, on the training part alone, shared, and gone on with when interrupted."""

from __future__ import annotations

import json
import os
import shutil
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from raybench.config.trial import TrialConfig
from raybench.data import load
from raybench.data.splits import split
from raybench.distillation import packing
from raybench.distillation.teacher import Teacher, TeacherRecord
from raybench.errors import RaybenchError, WeightsError
from raybench.training import preparation
from raybench.training.batches import Batch, TrainingImages
from raybench.training.device import Device
from raybench.training.ingredients import as_planned, gather
from raybench.training.loop import Run
from raybench.training.preparation import (
    Logits,
    ensure_teacher,
    load_teacher,
    prepare_teacher,
    teacher_folder,
    teacher_key,
    teacher_logits,
)
from raybench.training.recorder import Setup
from raybench.training.tasks import CachedTeacher, Classification, LiveTeacher

CPU = Device(torch.device("cpu"), "fp32")
SETUP = Setup()
VAL = 900
"""So that 397 of the digits' 1,297 training images are left."""


pytestmark = pytest.mark.usefixtures("own_cache")


def config(prepare: str = "finetune", teacher: dict[str, Any] | None = None, **dataset: Any) -> TrialConfig:
    """A distilled trial with a ResNet-8 for a teacher."""
    given = {"name": "resnet8", "prepare": prepare, "epochs": 2, "optimizer": {"lr": 0.05}, "batch_size": 64}
    trial = TrialConfig.model_validate(
        {
            "dataset": {
                "name": "digits",
                "val_size": VAL,
                "train_size": 100,
                "augment": ["crop1"],
                "views": 3,
                **dataset,
            },
            "model": {"name": "resnet8"},
            "distillation": {"type": "soft", "teacher": given | (teacher or {})},
        }
    )
    return as_planned(trial, SETUP)


def weights(trial: TrialConfig) -> dict[str, Tensor]:
    return load_file(teacher_folder(trial) / "weights.safetensors")


def fresh(trial: TrialConfig) -> dict[str, Tensor]:
    """The teacher's weights before any preparation."""
    own = trial.teacher_trial()
    assert own is not None
    return gather(own, SETUP, CPU).built.module.state_dict()


def changed(trial: TrialConfig) -> set[str]:
    """Names of the tensors that preparation changed."""
    before, after = fresh(trial), weights(trial)
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def forbid_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(run: Run) -> None:
        raise AssertionError(f"{run.config.model.name} is trained again")

    monkeypatch.setattr(Run, "train_epoch", refuse)


def test_a_worker_of_ours_is_watched_while_it_prepares() -> None:
    before = threading.active_count()
    record = prepare_teacher(config("none"), replace(SETUP, guarded=True), 50)
    assert record == ensure_teacher(config("none"), SETUP)
    assert threading.active_count() == before


def test_none_leaves_a_fresh_head_near_chance() -> None:
    trial = config("none")
    record = ensure_teacher(trial, SETUP)
    assert changed(trial) == set()
    # Ten classes, 900 images: an untrained model of ten is near 10 %, and less than twice that here.
    assert record.chance_top1 == 10
    assert record.near_chance
    assert record.eval_top1 < 20


def test_head_changes_the_head_alone_and_no_batch_statistics() -> None:
    trial = config("head")
    ensure_teacher(trial, SETUP)
    assert changed(trial) == {"linear.weight", "linear.bias"}


def test_finetune_changes_everything() -> None:
    trial = config("finetune")
    record = ensure_teacher(trial, SETUP)
    assert changed(trial) == set(fresh(trial))
    assert record.eval_top1 > ensure_teacher(config("none"), SETUP).eval_top1


def test_the_record_is_saved_with_what_was_measured() -> None:
    trial = config("none")
    record = ensure_teacher(trial, SETUP)
    assert TeacherRecord.load(teacher_folder(trial)) == record
    assert (record.key, record.name, record.prepare) == (teacher_key(trial), "resnet8", "none")
    assert record.param_count == pytest.approx(0.075002)
    assert record.prepare_time > 0
    teacher = load_teacher(trial, SETUP, CPU)
    data = load("digits")
    chosen = split(data.train_labels, VAL, "all").val
    for images, labels, found in (
        (data.train_images[chosen], data.train_labels[chosen], record.eval_top1),
        (data.test_images, data.test_labels, record.test_top1),
    ):
        right = (teacher.logits(torch.from_numpy(images.copy())).argmax(1).numpy() == labels).mean()
        # Two logits that differ in 32 bits may tie in 16.
        assert found == pytest.approx(100 * right, abs=0.3)


def test_prepared_once_and_shared_by_students_and_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = config()
    record = ensure_teacher(trial, SETUP)
    forbid_training(monkeypatch)
    other = TrialConfig.model_validate(
        trial.model_dump()
        | {
            "seed": 4,
            "model": {"name": "vit_micro_patch2_8"},
            "schedule": {"epochs": 1},
            "dataset": trial.dataset.model_copy(update={"train_size": 30}).model_dump(),
        }
    )
    assert ensure_teacher(other, SETUP) == record


def test_another_seed_recipe_or_preparation_is_another_teacher() -> None:
    trials = [
        config(),
        config("head"),
        config("none"),
        config(teacher={"seed": 1}),
        config(teacher={"epochs": 3}),
        config(teacher={"name": "vit_micro_patch2_8"}),
        config(val_size=800),
    ]
    assert len({teacher_key(trial) for trial in trials}) == len(trials)
    # How many epochs nobody trains does not matter.
    assert teacher_key(config("none", {"epochs": 9})) == teacher_key(config("none"))


def test_never_trained_on_validation_or_test(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[np.ndarray[Any, Any]] = []
    shown: set[int] = set()
    begin, step = Run.__init__, Classification.step

    def watched(run: Run, *args: Any) -> None:
        begin(run, *args)
        assert isinstance(run.training, TrainingImages)
        used.append(run.training.indices.numpy())

    def seen(task: Any, batch: Batch) -> Any:
        shown.update(batch.positions.tolist())
        return step(task, batch)

    monkeypatch.setattr(Run, "__init__", watched)
    monkeypatch.setattr(Classification, "step", seen)
    ensure_teacher(config(), SETUP)
    (indices,) = used
    data = load("digits")
    parts = split(data.train_labels, VAL, "all")
    assert set(indices) == set(parts.train)
    assert not set(indices) & set(parts.val)
    assert shown == set(range(len(indices)))
    # The test set is another array; no test image is among those trained on.
    test = {image.tobytes() for image in data.test_images}
    assert not test & {image.tobytes() for image in data.train_images[indices]}


def test_a_students_images_are_a_prefix_of_the_teachers() -> None:
    trial = config()
    own = trial.teacher_trial()
    assert own is not None
    mine, theirs = (gather(each, SETUP, CPU).split.train for each in (trial, own))
    assert np.array_equal(mine, theirs[: len(mine)])


def in_process(work: Callable[[], object]) -> int:
    """Run in a forked process, which has torch imported already; returns its id."""
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork beside threads; the child touches none of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except BaseException:
        os._exit(1)


def test_two_processes_at_once_prepare_once(tmp_path: Path) -> None:
    trial = config()
    load("digits")  # decoded before the race
    said = tmp_path / "said"

    def work() -> None:
        def say(line: str) -> None:
            with said.open("a") as file:
                file.write(line + "\n")

        ensure_teacher(trial, SETUP, say)

    children = [in_process(work) for _ in range(2)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    lines = said.read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert ensure_teacher(trial, SETUP).eval_top1 > 0


def test_an_interrupted_preparation_goes_on_to_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = config(teacher={"epochs": 3})
    setup = replace(SETUP, checkpoint_every_s=0)
    lines: list[str] = []

    def killed(line: str) -> None:
        lines.append(line)
        if line.startswith("epoch 3/"):
            raise SystemExit

    with pytest.raises(SystemExit):
        ensure_teacher(trial, setup, killed)
    assert TeacherRecord.load(teacher_folder(trial)) is None
    again: list[str] = []
    interrupted = ensure_teacher(trial, setup, again.append)
    assert again == lines[2:]
    assert not (teacher_folder(trial) / "checkpoints").exists()
    after = weights(trial)
    monkeypatch.setenv("RAYBENCH_CACHE", os.environ["RAYBENCH_CACHE"] + "/another")
    whole = ensure_teacher(trial, setup)
    assert replace(interrupted, prepare_time=0) == replace(whole, prepare_time=0)
    assert all(torch.equal(after[name], tensor) for name, tensor in weights(trial).items())


def test_a_teacher_whose_weights_were_deleted_is_prepared_again() -> None:
    trial = config("none")
    ensure_teacher(trial, SETUP)
    (teacher_folder(trial) / "weights.safetensors").unlink()
    ensure_teacher(trial, SETUP)
    assert weights(trial)


@pytest.mark.scenario(13)
@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "record"])
def test_a_teacher_that_was_damaged_is_prepared_again(damage: str, caplog: pytest.LogCaptureFixture) -> None:
    trial = config("none")
    record = ensure_teacher(trial, SETUP)
    path = teacher_folder(trial) / "weights.safetensors"
    whole = {name: tensor.clone() for name, tensor in weights(trial).items()}  # not of the file that is cut below
    content = bytearray(path.read_bytes())
    if damage == "record":
        text = (teacher_folder(trial) / "teacher.json").read_text()
        (teacher_folder(trial) / "teacher.json").write_text(text.replace(str(record.eval_top1), '"x"'))
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    found = ensure_teacher(trial, SETUP)
    assert replace(found, prepare_time=0) == replace(record, prepare_time=0)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in weights(trial).items())
    assert (f"{path} is damaged" in caplog.text) == (damage != "record")


def test_a_teacher_of_another_version_of_its_model_is_prepared_again_once_it_was_told() -> None:
    trial = config("none")
    ensure_teacher(trial, SETUP)
    path = teacher_folder(trial) / "weights.safetensors"
    with safe_open(path, "pt") as file:
        about = file.metadata()
    others = weights(trial) | {"linear.bias": torch.zeros(7)}
    save_file(others, path.with_name("others"), about)
    path.with_name("others").replace(path)
    record = path.with_name("teacher.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"weights_digest": ""}))  # as of a former record
    ensure_teacher(trial, SETUP)
    with pytest.raises(RaybenchError, match=r"another version of resnet8 .*linear.bias.* with --rerun failed"):
        load_teacher(trial, SETUP, CPU)
    ensure_teacher(trial, SETUP)
    load_teacher(trial, SETUP, CPU)


@pytest.mark.parametrize("lost", ["weights.safetensors", "teacher.json"])
def test_a_teacher_prepared_again_answers_for_itself(lost: str) -> None:
    """On another device or with other threads it has other bits: nothing of the one before may stand beside it."""
    trial = config("none")
    prepare_teacher(trial, SETUP, 100)
    (logits,) = teacher_folder(trial).glob("logits-*/rows.i16")
    whole = logits.read_bytes()
    with logits.open("r+b") as file:  # those of another teacher
        file.write(bytes(64))
    (teacher_folder(trial) / lost).unlink()
    prepare_teacher(trial, SETUP, 100)
    assert logits.read_bytes() == whole


def test_a_teacher_that_diverges_is_an_error_with_what_to_change() -> None:
    trial = config(teacher={"optimizer": {"lr": 1e20}})
    with pytest.raises(RaybenchError, match=r"teacher resnet8.*optimizer\.lr = 1e\+20"):
        ensure_teacher(trial, SETUP)
    assert TeacherRecord.load(teacher_folder(trial)) is None


def test_normalisation_and_size_of_the_first_weights_stay_with_the_teacher() -> None:
    trial = config("none", {"mean": [0.1], "std": [0.7], "image_size": 12})
    ensure_teacher(trial, SETUP)
    teacher = load_teacher(trial, SETUP, CPU)
    assert (teacher.mean, teacher.std, teacher.image_size) == ((0.1,), (0.7,), 12)


def test_weights_named_by_a_path_are_needed_for_the_preparation_only(tmp_path: Path) -> None:
    source = config("none", {"seed": 9})
    ensure_teacher(source, SETUP)
    path = tmp_path / "given.safetensors"
    path.write_bytes((teacher_folder(source) / "weights.safetensors").read_bytes())
    trial = config("none", {"weights": str(path)})
    ensure_teacher(trial, SETUP)
    path.unlink()
    views = torch.from_numpy(load("digits").test_images[:20].copy())
    mine, theirs = (load_teacher(each, SETUP, CPU).logits(views) for each in (trial, source))
    assert torch.equal(mine, theirs)


def test_a_weight_file_that_is_replaced_is_another_teacher(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    given = []
    for seed in (8, 9):
        source = config("none", {"seed": seed})
        ensure_teacher(source, SETUP)
        path.write_bytes((teacher_folder(source) / "weights.safetensors").read_bytes())
        by_hand = with_path(path)
        ensure_teacher(by_hand, SETUP)
        given.append((as_planned(by_hand, SETUP), load_teacher(by_hand, SETUP, CPU)))
    (first, _), (second, _) = given
    assert first.dataset.fingerprint == load("digits").fingerprint  # so that other data have other teachers
    assert teacher_key(first) != teacher_key(second)
    assert first.trial_id != second.trial_id
    views = torch.from_numpy(load("digits").test_images[:20].copy())
    assert not torch.equal(*(teacher.logits(views) for _, teacher in given))
    with pytest.raises(WeightsError, match="not the weights of resnet8 of the plan"):
        gather(first.model_copy(update={"model": first.teacher_trial().model}), SETUP, CPU)  # type: ignore[union-attr]


def with_path(path: Path) -> TrialConfig:
    """A trial made by hand whose teacher's weights are a file's."""
    return TrialConfig.model_validate(
        {
            "dataset": {"name": "digits", "val_size": VAL, "train_size": 100},
            "model": {"name": "resnet8"},
            "distillation": {
                "type": "soft",
                "teacher": {"name": "resnet8", "prepare": "none", "weights": str(path)},
            },
        }
    )


def test_logits_kept_in_part_are_made_of_whole_ones_where_those_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("DENSE_CLASSES", 5), ("KEPT", 4), ("SURE", 2)):
        monkeypatch.setattr(packing, name, value)

    def of_kind(kind: str) -> TrialConfig:
        trial = config("none")
        told = trial.distillation.model_copy(update={"type": kind, "tau": 3.0})
        return trial.model_copy(update={"distillation": told})

    def kept(trial: TrialConfig) -> bytes:
        ensure_teacher(trial, SETUP)
        logits = Logits(trial, SETUP, CPU)
        logits.fill(100)
        return (logits.cache.folder / "rows.i16").read_bytes()

    asked = kept(of_kind("hard"))
    (folder,) = teacher_folder(of_kind("hard")).glob("logits-*")
    shutil.rmtree(folder)
    assert len(kept(of_kind("soft"))) > len(asked)
    with monkeypatch.context() as context:
        context.setattr(Teacher, "logits", refuse)
        assert kept(of_kind("hard")) == asked


def refuse(teacher: Teacher, views: Tensor) -> Tensor:
    raise AssertionError(f"asked again: {teacher.image_size} {len(views)}")


def test_a_published_file_that_is_replaced_is_another_teacher_of_the_same_trial() -> None:
    old, new = (config("none", {"weights": "pretrained", "digest": each * 12}) for each in "ab")
    assert teacher_key(old) != teacher_key(new)
    assert old.trial_id == new.trial_id


def with_cache(trial: TrialConfig, how: str) -> TrialConfig:
    return trial.model_copy(update={"distillation": trial.distillation.model_copy(update={"cache": how})})


def filled(trial: TrialConfig, images: int) -> Tensor:
    """The logits of the first images in all their views, (images, views, classes), computed where missing."""
    ensure_teacher(trial, SETUP)
    logits = Logits(trial, SETUP, CPU)
    logits.fill(images)
    cache = logits.cache
    slots = [torch.full((cache.blocks,), slot) for slot in range(cache.views)]
    return torch.stack([cache.rows(images, slot, CPU.device)(torch.arange(images)) for slot in slots], dim=1)


@pytest.mark.parametrize("how", ["prefill", "lazy"])
def test_cached_logits_are_the_live_teachers_of_the_same_views_to_rounding(how: str) -> None:
    trial = config("finetune")
    ingredients = gather(trial, SETUP, CPU)
    cached, _ = teacher_logits(with_cache(trial, how), SETUP, ingredients.training, CPU)
    live, _ = teacher_logits(with_cache(trial, "off"), SETUP, ingredients.training, CPU)
    assert isinstance(cached, CachedTeacher)
    assert isinstance(live, LiveTeacher)
    for epoch in range(3):
        cached.begin(epoch, 7, lambda: None)
        for batch in ingredients.training.epoch(epoch, 7, 33):
            # Batches of 256 and of 33 sum in another order (1e-6), which may turn the last of 11 bits.
            torch.testing.assert_close(cached(batch), live(batch), rtol=2**-10, atol=1e-3)


def test_a_lazy_cache_asks_its_teacher_for_what_an_epoch_shows_and_no_more() -> None:
    trial = with_cache(config("none", train_size=300), "lazy")
    assert prepare_teacher(trial, SETUP, 300)
    assert not list(teacher_folder(trial).glob("logits-*"))
    training = gather(trial, SETUP, CPU).training
    logits = Logits(trial, SETUP, CPU)
    teacher, checks = logits.of_epochs(training), 0

    def check() -> None:
        nonlocal checks
        checks += 1

    for epoch in range(2):
        before = checks
        teacher.begin(epoch, 0, check)
        fresh = {
            (block, slot)
            for block, slot in enumerate(training.block_slots(epoch, 0).tolist())
            if slot not in [training.block_slots(e, 0)[block] for e in range(epoch)]
        }
        assert checks - before == len(fresh)
        assert not logits.cache.missing(300, training.block_slots(epoch, 0))
    assert 2 <= checks < 2 * 3
    assert len(logits.cache.missing(300)) == 2 * 3 - checks


def test_a_lazy_trial_is_the_prefilled_one() -> None:
    lazy, prefilled = with_cache(config(), "lazy"), with_cache(config(), "prefill")
    assert lazy.trial_id == prefilled.trial_id
    assert lazy.canonical() == prefilled.canonical()


def test_a_trials_draws_are_the_same_whoever_computes_its_logits() -> None:
    trial = config("none")
    ensure_teacher(trial, SETUP)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for _ in range(2):  # computed, then found
        Logits(trial, SETUP, CPU).fill(50)
        assert torch.equal(torch.get_rng_state(), before)


def test_memory_that_the_teacher_lacks_is_not_the_students_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = config("none")
    ensure_teacher(trial, SETUP)

    def lacks(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Teacher, "logits", lacks)
    with pytest.raises(RaybenchError, match=r"out of memory: 2\.00 GiB .* for 256 images of the teacher"):
        Logits(trial, SETUP, CPU).fill(50)


def test_a_smaller_train_size_reads_the_prefix_of_what_a_larger_one_filled() -> None:
    large, small = config("none", train_size=300), config("none", train_size=50)
    whole = filled(large, 300)
    assert torch.equal(filled(small, 50), whole[:50])
    assert len(list(teacher_folder(small).glob("logits-*"))) == 1


def test_other_views_have_logits_of_their_own() -> None:
    few, more = config("none"), config("none", views=5)
    # Views are a prefix of more views, and so are their logits: the very same batches are computed.
    assert torch.equal(filled(few, 100), filled(more, 100)[:, :3])
    assert Logits(few, SETUP, CPU).cache.folder != Logits(more, SETUP, CPU).cache.folder


def test_preparing_ahead_leaves_nothing_to_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = config("head")
    prepare_teacher(trial, SETUP, 100)
    forbid_training(monkeypatch)
    monkeypatch.setattr(preparation, "load_teacher", None)
    teacher_logits(trial, SETUP, gather(trial, SETUP, CPU).training, CPU)


def test_preparing_ahead_for_live_trials_keeps_no_logits() -> None:
    trial = config("none")
    off = with_cache(trial, "off")
    prepare_teacher(off, SETUP, 100)
    assert not list(teacher_folder(off).glob("logits-*"))
