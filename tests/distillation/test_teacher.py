"""A teacher sees the student's view in its own size and normalisation, and learns nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from raybench.config.trial import DistillationConfig, ModelConfig, Option, TeacherConfig
from raybench.data.views import normalise
from raybench.distillation.teacher import Teacher, TeacherRecord
from raybench.models import BuiltModel, build
from raybench.training.batches import Batch
from raybench.training.tasks import Classification, Distillation, LiveTeacher

CPU = torch.device("cpu")
MEAN, STD, SIZE = (0.3, 0.4, 0.5), (0.2, 0.25, 0.3), 12


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Threads only hinder tensors this small."""
    torch.set_num_threads(1)


class Probe(nn.Module):
    """A linear model with what depends on the mode, that remembers what it was shown."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(3 * size * size, 4)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, size, size) -> (B, 4)."""
        self.seen.append(x.detach().clone())
        out: Tensor = self.head(self.drop(self.norm(x)).flatten(1))
        return out


def batch(n: int = 6) -> Batch:
    """Views of 8 px."""
    generator = torch.Generator().manual_seed(5)
    views = torch.randint(0, 256, (n, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return Batch(torch.arange(n), torch.zeros(n, dtype=torch.long), views, torch.arange(n) % 4)


def make_teacher() -> Teacher:
    torch.manual_seed(0)
    return Teacher(BuiltModel(Probe(SIZE), MEAN, STD, SIZE), CPU)


def test_sees_the_very_view_of_the_student_in_its_own_size_and_normalisation() -> None:
    teacher = make_teacher()
    student = Classification(BuiltModel(Probe(8), (0.5,) * 3, (0.5,) * 3, 8), CPU)
    wanted = DistillationConfig(type="soft", teacher=TeacherConfig(name="any"))
    shown = batch()
    Distillation(student, wanted, LiveTeacher(teacher)).step(shown)
    assert isinstance(teacher.module, Probe)
    assert isinstance(student.module, Probe)
    (by_teacher,), (by_student,) = teacher.module.seen, student.module.seen
    assert torch.equal(by_teacher, normalise(shown.views, MEAN, STD, SIZE))
    assert torch.equal(by_student, normalise(shown.views, (0.5,) * 3, (0.5,) * 3, 8))


def test_training_a_student_changes_nothing_of_it_and_gives_it_no_gradient() -> None:
    teacher = make_teacher()
    before = {name: tensor.clone() for name, tensor in teacher.module.state_dict().items()}
    student = Classification(BuiltModel(Probe(8), (0.5,) * 3, (0.5,) * 3, 8), CPU)
    task = Distillation(
        student, DistillationConfig(type="both", teacher=TeacherConfig(name="any")), LiveTeacher(teacher)
    )
    optimizer = torch.optim.SGD(task.module.parameters(), lr=0.1)
    for _ in range(3):
        task.train()
        task.step(batch())["loss"].backward()
        optimizer.step()
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.module.state_dict().items())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.module.parameters())
    assert not any(module.training for module in teacher.module.modules())
    assert all(module.training for module in student.module.modules())
    assert not teacher.logits(batch().views).requires_grad


def test_logits_are_16_bit_and_the_same_each_time() -> None:
    teacher, views = make_teacher(), batch().views
    assert teacher.logits(views).dtype == torch.float16
    assert torch.equal(teacher.logits(views), teacher.logits(views))


def test_logits_do_not_depend_on_a_students_autocast() -> None:
    teacher, views = make_teacher(), batch().views
    plain = teacher.logits(views)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(teacher.logits(views), plain)


def record(top1: float) -> TeacherRecord:
    return TeacherRecord("abc", "resnet8", "head", top1, top1 - 1, 10.0, 0.07, 1.5, "0" * 64)


def test_record_comes_back_from_its_folder(tmp_path: Path) -> None:
    record(55.0).save(tmp_path)
    assert TeacherRecord.load(tmp_path) == record(55.0)
    assert [path.name for path in tmp_path.iterdir()] == ["teacher.json"]


@pytest.mark.parametrize("content", ["", '{"key": "abc"', '{"key": "abc"}', "[1]", '{"key": 3}', "[" * 100_000])
def test_a_record_that_is_not_whole_is_none(tmp_path: Path, content: str) -> None:
    assert TeacherRecord.load(tmp_path) is None
    (tmp_path / "teacher.json").write_text(content)
    assert TeacherRecord.load(tmp_path) is None


def test_near_chance_is_below_twice_chance() -> None:
    assert record(19.9).near_chance
    assert not record(20.0).near_chance


def test_a_teacher_with_two_heads_says_what_it_was_scored_by() -> None:
    torch.manual_seed(0)
    small: dict[str, Option] = {"img_size": 8, "patch_size": 4, "embed_dim": 12, "depth": 1}
    config = ModelConfig(name="deit_tiny_distilled_patch16_224", options={**small, "num_heads": 3})
    built = build(config, num_classes=4, in_channels=1, image_size=8, mean=(0.5,), std=(0.5,))
    views = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    scored = Classification(built, CPU)
    scored.module.eval()
    expected = scored.predict(views).to(torch.float16)
    assert torch.equal(Teacher(built, CPU).logits(views), expected)
