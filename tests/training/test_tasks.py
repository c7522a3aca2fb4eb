"""Tasks: what is trained, and on which logits."""

from __future__ import annotations

import torch
from torch import Tensor

from raybench.config.trial import DistillationConfig, ModelConfig, TeacherConfig
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


def distil(alpha: float, rows: Tensor, kind: str = "both") -> Distillation:
    wanted = DistillationConfig.model_validate(
        {"type": kind, "alpha": alpha, "tau": 2.0, "teacher": TeacherConfig(name="any").model_dump()}
    )
    return Distillation(Classification(resnet(), CPU), wanted, CachedTeacher(rows))


def test_cached_logits_are_those_of_the_images_and_views_shown() -> None:
    rows = torch.randn(8, 3, 4).half()
    shown = batch()
    found = CachedTeacher(rows)(shown)
    assert found.dtype == torch.float32
    for row, (position, slot) in enumerate(zip(shown.positions.tolist(), shown.slots.tolist(), strict=True)):
        assert torch.equal(found[row], rows[position, slot].float())


def test_distillation_at_alpha_zero_is_the_plain_student_bit_for_bit() -> None:
    plain = Classification(resnet(), CPU)
    distilled = distil(0.0, torch.randn(8, 3, 4).half())
    for task in (plain, distilled):
        task.train()
        task.step(batch())["loss"].backward()
    for a, b in zip(plain.module.parameters(), distilled.module.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.equal(a.grad, b.grad)


def test_parts_of_the_loss_add_up() -> None:
    task = distil(0.3, torch.randn(8, 3, 4).half())
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
    log_p = sharp.logits(shown.views).log_softmax(1)
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
        torch.testing.assert_close(task.logits(views), plain, rtol=1e-4, atol=1e-4)
