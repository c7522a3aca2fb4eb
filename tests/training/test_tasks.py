"""Tasks: what is trained, and on which logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raybench.config.trial import DistillationConfig, ModelConfig, Option, TeacherConfig
from raybench.data.views import normalise
from raybench.distillation.packing import Packing
from raybench.models import BuiltModel, build, head_parameters
from raybench.training.batches import Batch
from raybench.training.tasks import CachedTeacher, Classification, Distillation

CPU = torch.device("cpu")


def resnet(seed: int = 0) -> BuiltModel:
    torch.manual_seed(seed)
    return build(ModelConfig(name="resnet8"), num_classes=4, in_channels=1, image_size=8, mean=(0.5,), std=(0.5,))


def batch(n: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(2)
    views = torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Batch(torch.arange(n), torch.arange(n) % 3, views, torch.arange(n) % 4)


def cached(logits: Tensor) -> CachedTeacher:
    """A teacher of these logits (images, classes), in the midst of an epoch."""
    packing = Packing(logits.shape[1])
    teacher = CachedTeacher(lambda *_: lambda positions: packing.unpack(packing.pack(logits.half()))[positions])
    teacher.begin(0, 0, lambda: None)
    return teacher


def distil(alpha: float, rows: Tensor, kind: str = "both") -> Distillation:
    wanted = DistillationConfig.model_validate(
        {"type": kind, "alpha": alpha, "tau": 2.0, "teacher": TeacherConfig(name="any").model_dump()}
    )
    return Distillation(Classification(resnet(), CPU), wanted, cached(rows))


def test_cached_logits_are_those_of_the_images_shown_in_the_epoch() -> None:
    rows = torch.randn(3, 8, 4).half()  # of three epochs
    teacher = CachedTeacher(lambda epoch, *_: lambda positions: rows[epoch][positions].float())
    shown = batch()
    for epoch in (2, 0, 1):
        teacher.begin(epoch, 0, lambda: None)
        found = teacher(shown)
        assert found.dtype == torch.float32
        assert torch.equal(found, rows[epoch][shown.positions].float())


def test_distillation_at_alpha_zero_is_the_plain_student_bit_for_bit() -> None:
    plain = Classification(resnet(), CPU)
    distilled = distil(0.0, torch.randn(8, 4))
    for task in (plain, distilled):
        task.train()
        task.step(batch())["loss"].backward()
    for a, b in zip(plain.module.parameters(), distilled.module.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.equal(a.grad, b.grad)


def test_parts_of_the_loss_add_up() -> None:
    task = distil(0.3, torch.randn(8, 4))
    task.train()
    parts = task.step(batch())
    expected = 0.7 * parts["ce"] + 0.3 * (parts["kd_hard"] + parts["kd_soft"]) / 2
    torch.testing.assert_close(parts["loss"], expected)
    assert parts["output"].shape == (8, 4)


def test_label_smoothing_is_of_the_labels_term_only() -> None:
    shown = batch()
    smooth, sharp = Classification(resnet(), CPU, label_smoothing=0.2), Classification(resnet(), CPU)
    smooth.module.eval()
    sharp.module.eval()
    log_p = sharp.predict(shown.views).log_softmax(1)
    expected = 0.8 * sharp.step(shown)["loss"] - 0.2 * log_p.mean()
    torch.testing.assert_close(smooth.step(shown)["loss"], expected)


def test_a_linear_probe_trains_the_head_alone_and_no_statistics() -> None:
    task = Classification(resnet(), CPU, head_only=True)
    before = {name: tensor.clone() for name, tensor in task.module.state_dict().items()}
    head = {id(parameter) for parameter in head_parameters(task.module)}
    assert {id(p) for p in task.module.parameters() if p.requires_grad} == head
    optimizer = torch.optim.SGD([p for p in task.module.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        task.train()
        optimizer.zero_grad()
        task.step(batch())["loss"].backward()
        optimizer.step()
    changed = {name for name, tensor in task.module.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"linear.weight", "linear.bias"}


def test_the_layout_in_memory_changes_no_value() -> None:
    built = resnet()
    views = batch().views
    with torch.no_grad():
        plain = built.module.eval()((views.float() / 255 - 0.5) / 0.5)
        task = Classification(built, CPU)
        # Another order of sums in the convolutions: rounding of float32 over some hundred terms.
        torch.testing.assert_close(task.predict(views), plain, rtol=1e-4, atol=1e-4)


def distilled_vit() -> BuiltModel:
    torch.manual_seed(0)
    small: dict[str, Option] = {
        "img_size": 8,
        "patch_size": 4,
        "embed_dim": 12,
        "depth": 1,
        "num_heads": 3,
    }
    config = ModelConfig(name="deit_tiny_distilled_patch16_224", options=small)
    return build(config, num_classes=4, in_channels=1, image_size=8, mean=(0.5,), std=(0.5,))


def two_headed(alpha: float) -> Distillation:
    wanted = DistillationConfig.model_validate(
        {"type": "hard", "alpha": alpha, "teacher": TeacherConfig(name="any").model_dump()}
    )
    return Distillation(Classification(distilled_vit(), CPU), wanted, cached(torch.randn(8, 4)))


def test_the_class_head_learns_from_labels_and_the_distillation_head_from_the_teacher() -> None:
    task = two_headed(0.3)
    task.train()
    parts = task.step(batch())
    by_class, by_distillation = task.student.heads(batch().views)
    torch.testing.assert_close(parts["ce"], F.cross_entropy(by_class, batch().labels))
    torch.testing.assert_close(parts["kd_hard"], F.cross_entropy(by_distillation, task.teacher(batch()).argmax(1)))
    torch.testing.assert_close(parts["loss"], 0.7 * parts["ce"] + 0.3 * parts["kd_hard"])
    assert torch.equal(parts["output"], by_class)


def test_the_two_heads_are_those_that_timm_trains_and_averages() -> None:
    task = two_headed(0.5)
    timms: Any = task.module
    images = normalise(batch().views, (0.5,), (0.5,), 8)
    timms.eval()
    torch.testing.assert_close(task.predict(batch().views), timms(images))
    timms.train()
    timms.set_distilled_training(True)
    for ours, theirs in zip(task.student.heads(batch().views), timms(images), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("alpha", "asked"), [(0.0, 0), (1.0, 1)])
def test_a_head_that_is_never_trained_is_never_asked(alpha: float, asked: int) -> None:
    task = two_headed(alpha)
    task.train()
    task.step(batch())["loss"].backward()
    heads = [task.module.head, task.module.head_dist]
    trained = [head.weight.grad is not None and bool(head.weight.grad.any()) for head in heads]  # type: ignore[union-attr,operator]
    assert trained == [asked == 0, asked == 1]
    task.module.eval()
    assert torch.equal(task.predict(batch().views), task.student.heads(batch().views)[asked])


def test_a_distilled_model_alone_answers_with_its_class_head() -> None:
    task = Classification(distilled_vit(), CPU)
    task.module.eval()
    assert torch.equal(task.predict(batch().views), task.heads(batch().views)[0])
