"""A batch in parts: the same gradient, losses and metrics as the whole, but for batch normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from raybench.config.trial import TrialConfig
from raybench.training.batches import Batch
from raybench.training.device import Device
from raybench.training.ingredients import gather
from raybench.training.loop import Run
from raybench.training.recorder import Setup
from raybench.training.tasks import CachedTeacher, Classification, Distillation, Task

if TYPE_CHECKING:
    from conftest import Digits  # type: ignore[import-not-found]

CPU = Device(torch.device("cpu"), "fp32")
VIT = "vit_micro_patch2_8"


def batch(images: int) -> Batch:
    views = torch.arange(images * 4).reshape(images, 1, 2, 2).to(torch.uint8)
    return Batch(torch.arange(images), torch.arange(images) % 4, views, torch.arange(images) % 10)


@pytest.mark.parametrize(
    ("images", "most", "sizes"),
    [
        (8, None, [8]),
        (8, 8, [8]),
        (8, 4, [4, 4]),
        (7, 4, [4, 3]),
        # The single image left over that joined its batch is not left over in the parts either.
        (33, 16, [11, 11, 11]),
        (5, 3, [3, 2]),
        (3, 1, [1, 1, 1]),
    ],
)
def test_parts_are_few_equal_and_in_order(images: int, most: int | None, sizes: list[int]) -> None:
    whole = batch(images)
    parts = whole.parts(most)
    assert [len(part.labels) for part in parts] == sizes
    for name in ("positions", "slots", "views", "labels"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


def make_run(trial: TrialConfig, micro_batch: int | None, device: Device = CPU) -> Run:
    """A run as a trial begins it, its teacher's logits drawn at random."""
    ingredients = gather(trial, Setup(), device)
    task: Task = Classification(ingredients.built, device.device, trial.label_smoothing)
    if trial.distillation.type != "none":
        generator = torch.Generator().manual_seed(3)
        logits = torch.randn(len(ingredients.training), 10, generator=generator).to(device.device)
        teacher = CachedTeacher(lambda *_: lambda positions: logits[positions])
        teacher.begin(0, 0, lambda: None)
        task = Distillation(task, trial.distillation, teacher)  # type: ignore[arg-type]
    torch.manual_seed(trial.seed)
    return Run(trial, task, ingredients.training, ingredients.validation, device, micro_batch)


DISTILLATIONS: list[dict[str, Any]] = [
    {"type": "none"},
    {"type": "hard"},
    {"type": "soft", "tau": 3.0},
    {"type": "soft", "reduction": "deit"},
    {"type": "both"},
]


def trial_of(digits: Digits, distillation: dict[str, Any], **changes: Any) -> TrialConfig:
    given = distillation if distillation["type"] == "none" else {**distillation, "teacher": {"name": "resnet8"}}
    trial: TrialConfig = digits.trial(distillation=given, model__name=VIT, label_smoothing=0.1, **changes)
    return trial


def gradient(run: Run) -> Tensor:
    """The gradient of an epoch's last batch, all parameters in one."""
    return torch.cat([p.grad.flatten() for p in run.task.module.parameters() if p.grad is not None])


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("distillation", DISTILLATIONS, ids=lambda d: "-".join(map(str, d.values())))
def test_the_gradient_is_that_of_the_whole_batch(digits: Digits, distillation: dict[str, Any], parts: int) -> None:
    # One batch of all images, odd and in no multiple of the parts.
    trial = trial_of(digits, distillation, batch_size=59, dataset__train_size=59)
    whole, halved = make_run(trial, None), make_run(trial, -(-59 // parts))
    for run in (whole, halved):
        run.train_epoch()
    expected, found = gradient(whole), gradient(halved)
    assert expected.norm() > 0
    # The same sums of 32-bit products in another order.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))
    if parts == 1:
        assert torch.equal(found, expected)


@pytest.mark.parametrize("micro_batch", [16, 11, 1])
@pytest.mark.parametrize("distillation", [DISTILLATIONS[0], DISTILLATIONS[4]], ids=["none", "both"])
def test_an_epochs_losses_and_metrics_are_the_same_means(
    digits: Digits, distillation: dict[str, Any], micro_batch: int
) -> None:
    # Batches of 32 and of 29 images: the last one is smaller.
    trial = trial_of(digits, distillation, dataset__train_size=61)
    whole, halved = (make_run(trial, size).train_epoch() for size in (None, micro_batch))
    # Sums in another order, after two steps.
    assert halved.metrics == pytest.approx(whole.metrics, rel=1e-4)
    assert halved.parts == pytest.approx(whole.parts, rel=1e-4)
    assert halved.parts.keys() == whole.parts.keys()
    assert halved.lr == whole.lr


def test_a_scaled_gradient_is_the_same_too(digits: Digits) -> None:
    device = Device(torch.device("cpu"), "fp16")
    trial = trial_of(digits, DISTILLATIONS[0], batch_size=59, dataset__train_size=59)
    whole, halved = (make_run(trial, size, device) for size in (None, 30))
    for run in (whole, halved):
        # A scale at which nothing overflows 16 bits, so that no step is left out.
        run.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        run.train_epoch()
    expected, found = gradient(whole), gradient(halved)
    # 11 bits of mantissa in the forward and the backward pass.
    assert float((found - expected).norm() / expected.norm()) < 0.01


def test_no_forward_pass_has_more_images_than_asked_for(digits: Digits) -> None:
    run = make_run(trial_of(digits, DISTILLATIONS[0], dataset__train_size=61), 11)
    seen: list[int] = []
    run.task.module.register_forward_hook(lambda _module, _inputs, output: seen.append(len(output)))
    run.train_epoch()
    assert max(seen[:-1]) <= 11
    # Validation needs no gradients, so many more fit; but half of what they were.
    assert seen[-1] == 100
    assert run.evaluate(run.validation)["top1"] >= 0


class Odd(nn.Module):
    """Batch statistics by another name."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_var", torch.ones(1))


@pytest.mark.parametrize(
    ("layer", "deviates"),
    [
        (lambda: nn.BatchNorm2d(1), True),
        (lambda: nn.BatchNorm1d(1, track_running_stats=False), True),
        (lambda: nn.SyncBatchNorm(1), True),
        (Odd, True),
        (lambda: nn.LayerNorm(8), False),
        (lambda: nn.GroupNorm(1, 1), False),
    ],
)
def test_what_sees_its_batch_deviates(digits: Digits, layer: Callable[[], nn.Module], deviates: bool) -> None:
    trial = trial_of(digits, DISTILLATIONS[0])
    for micro_batch in (None, 16):
        run = make_run(trial, micro_batch)
        run.task.module.add_module("other", layer())
        expected = "batch normalisation over 16 instead of 32 images" if deviates and micro_batch else None
        assert run.deviation == expected


@pytest.mark.parametrize(
    ("batch_size", "images", "half"), [(32, 60, 16), (33, 60, 17), (512, 60, 30), (2, 60, 1), (1, 60, None)]
)
def test_half_is_of_what_a_forward_pass_really_has(
    digits: Digits, batch_size: int, images: int, half: int | None
) -> None:
    trial = trial_of(digits, DISTILLATIONS[0], batch_size=batch_size, dataset__train_size=images)
    assert make_run(trial, None).halved == half
    # Once is enough.
    assert make_run(trial, 16).halved is None


def test_the_parts_in_use_are_part_of_the_state(digits: Digits) -> None:
    trial = digits.with_dropout()
    run = make_run(trial, 16)
    run.train_epoch()
    resumed = make_run(trial, None)
    resumed.restore(run.state())
    assert resumed.micro_batch == 16
    # A run that is to be halved goes on from the state of one that was not.
    plain = make_run(trial, None)
    plain.train_epoch()
    halved = make_run(trial, 16)
    halved.restore(plain.state())
    assert halved.micro_batch == 16
