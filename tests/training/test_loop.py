"""The loop: the same seed gives the same bits, interrupted or not; means, best epoch and losses that are no numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybench.config.trial import DatasetConfig, ModelConfig, OptimizerConfig, ScheduleConfig, TrialConfig
from raybench.data import ImageData
from raybench.models import BuiltModel
from raybench.training.batches import Batch, PlainImages, TrainingImages
from raybench.training.checkpoints import Checkpoints
from raybench.training.device import Device
from raybench.training.loop import Epoch, Run, evaluate, signed, train
from raybench.training.tasks import Classification, Parts

CPU = Device(torch.device("cpu"), "fp32")
EPOCHS = 4
N, VAL = 50, 20


class Net(nn.Module):
    """Small, with everything that has a state: batch statistics and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(6 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 4, 4) -> (B, 3)."""
        x = self.drop(F.relu(self.norm(self.conv(x))))
        logits: Tensor = self.head(x.flatten(1))
        return logits


def data() -> ImageData:
    """Three classes that differ in brightness, with noise, in 4 px."""
    numbers = np.random.default_rng(3)
    labels = np.arange(N + VAL, dtype=np.int64) % 3
    noise = numbers.integers(0, 100, (N + VAL, 1, 4, 4))
    images = (noise + 60 * labels[:, None, None, None]).astype(np.uint8)
    return ImageData(
        "any", images, labels, images[:5], labels[:5], ("a", "b", "c"), (0.5,), (0.25,), "embedded", "0" * 12
    )


def config(seed: int = 0, lr: float = 0.05, optimizer: str = "sgd", batch_size: int = 16) -> TrialConfig:
    return TrialConfig(
        dataset=DatasetConfig(name="any", val_size=VAL, augment=("crop1", "hflip")),
        model=ModelConfig(name="any"),
        optimizer=OptimizerConfig.model_validate({"name": optimizer, "lr": lr, "weight_decay": 0.001}),
        schedule=ScheduleConfig(epochs=EPOCHS),
        batch_size=batch_size,
        seed=seed,
    )


def make_run(trial: TrialConfig, device: Device = CPU, kind: type[Classification] = Classification) -> Run:
    """As a trial begins: model from the seed, then training's draws from the seed."""
    source = data()
    torch.manual_seed(trial.seed)
    task = kind(BuiltModel(Net(), source.mean, source.std, 4), device.device)
    training = TrainingImages(source, np.arange(N), trial.dataset, device.device)
    validation = PlainImages(source.train_images, source.train_labels, np.arange(N, N + VAL), device.device)
    torch.manual_seed(trial.seed)
    return Run(trial, task, training, validation, device)


def by_top1(epoch: Epoch) -> float:
    return signed(epoch.metrics["eval_top1"], "max")


def finish(run: Run, until: int = EPOCHS) -> list[Epoch]:
    """Train to an epoch; the epochs trained now."""
    epochs: list[Epoch] = []

    def keep(_: Run, epoch: Epoch) -> bool:
        epochs.append(epoch)
        return True

    assert train(run, until, by_top1, keep)
    return epochs


def numbers(epochs: list[Epoch]) -> list[dict[str, float]]:
    """What must not depend on time."""
    return [{"epoch": e.epoch, "lr": e.lr, **e.metrics, **e.parts} for e in epochs]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_same_seed_twice_is_the_same_bit_for_bit_and_another_is_not() -> None:
    runs, found = [], []
    for seed in (0, 0, 1):
        runs.append(make_run(config(seed)))
        found.append(numbers(finish(runs[-1])))
    first, again, other = found
    assert first == again
    assert same(runs[0].task.module.state_dict(), runs[1].task.module.state_dict())
    assert same(runs[0].best_weights, runs[1].best_weights)
    assert first != other
    assert not same(runs[0].task.module.state_dict(), runs[2].task.module.state_dict())


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_interrupted_and_restored_is_the_same_as_never_interrupted(tmp_path: Path, after: int, optimizer: str) -> None:
    whole = make_run(config(optimizer=optimizer))
    expected = numbers(finish(whole))
    before = make_run(config(optimizer=optimizer))
    rows = numbers(finish(before, until=after))
    Checkpoints(tmp_path).save(before.state())
    # What happens in between, in this process or another, must not matter.
    torch.manual_seed(999)
    torch.rand(5)
    resumed = make_run(config(optimizer=optimizer))
    state = Checkpoints(tmp_path).newest()
    assert state is not None
    resumed.restore(state)
    assert rows + numbers(finish(resumed)) == expected
    assert same(resumed.task.module.state_dict(), whole.task.module.state_dict())
    assert same(resumed.best_weights, whole.best_weights)
    assert (resumed.best_epoch, resumed.best_value) == (whole.best_epoch, whole.best_value)


def test_a_checkpoint_carries_its_configuration_and_only_plain_values() -> None:
    run = make_run(config(seed=7))
    finish(run, until=1)
    assert TrialConfig.model_validate_json(run.state()["config"]) == config(seed=7)


def test_it_learns() -> None:
    epochs = finish(make_run(config()))
    assert epochs[-1].metrics["train_loss"] < epochs[0].metrics["train_loss"]
    assert epochs[-1].metrics["eval_top1"] > 60  # chance is 33


class Constant(Classification):
    """Says its batches' sizes instead of learning, to check the means."""

    def step(self, batch: Batch) -> Parts:
        """loss = images in the batch."""
        output = self.predict(batch.views)
        loss = output.sum() * 0 + float(len(batch.labels))
        return {"loss": loss, "ce": loss / 2, "output": output}


def test_means_are_over_images_not_over_batches() -> None:
    run = make_run(config(batch_size=20), kind=Constant)
    epoch = run.train_epoch()
    # Batches of 20, 20 and 10 images.
    assert epoch.metrics["train_loss"] == pytest.approx((20 * 20 + 20 * 20 + 10 * 10) / 50, rel=1e-12)
    assert epoch.parts == {"ce": pytest.approx(epoch.metrics["train_loss"] / 2, rel=1e-12)}


def test_training_metrics_are_those_of_the_views_in_training_mode() -> None:
    # One batch and no step worth mentioning: the epoch's loss is that of the initial model.
    trial = config(lr=1e-30, batch_size=N)
    run = make_run(trial)
    twin = copy.deepcopy(run.task.module)
    epoch = run.train_epoch()
    torch.manual_seed(trial.seed)
    (batch,) = make_run(trial).training.epoch(0, trial.seed, N)
    torch.manual_seed(trial.seed)
    task = Classification(BuiltModel(twin, (0.5,), (0.25,), 4), CPU.device)
    task.train()
    parts = task.step(batch)
    assert epoch.metrics["train_loss"] == parts["loss"].item()
    assert epoch.metrics["train_top1"] == 100 * (parts["output"].argmax(1) == batch.labels).double().mean().item()


def test_validation_is_in_eval_mode_without_gradients_and_changes_nothing() -> None:
    run = make_run(config())
    run.task.train()
    before = copy.deepcopy(run.task.module.state_dict())
    first = evaluate(run.task, run.validation, CPU)
    assert not run.task.module.training
    assert evaluate(run.task, run.validation, CPU) == first
    assert same(run.task.module.state_dict(), before)
    ((images, labels),) = run.validation.batches(VAL)
    assert not run.task.predict(images).isnan().any()
    with torch.no_grad():
        logits = run.task.predict(images)
    # Sums of float32 in another order.
    assert first["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)


def scripted(values: list[float], monkeypatch: pytest.MonkeyPatch, name: str = "eval_top1") -> Run:
    """A run whose epochs have these validation metrics; its weights say the epoch."""
    run = make_run(config())

    def train_epoch() -> Epoch:
        run.epoch += 1
        with torch.no_grad():
            for parameter in run.task.module.parameters():
                parameter.fill_(run.epoch)
        metrics = {"train_loss": 1.0, "train_top1": 1.0, "eval_loss": 1.0, "eval_top1": 1.0, "eval_top5": 1.0}
        metrics[name] = values[run.epoch - 1]
        return Epoch(run.epoch, 0.1, metrics, {}, 1.0, 1.0, 1.0)

    monkeypatch.setattr(run, "train_epoch", train_epoch)
    return run


def test_of_equal_epochs_the_earlier_is_best(monkeypatch: pytest.MonkeyPatch) -> None:
    run = scripted([50.0, 70.0, 60.0, 70.0], monkeypatch)
    finish(run)
    assert run.best_epoch == 2
    run.use_best()
    assert all(bool((parameter == 2).all()) for parameter in run.task.module.parameters())


def test_the_least_loss_is_best_where_less_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    run = scripted([3.0, 1.0, 2.0, 1.0], monkeypatch, "eval_loss")
    train(run, EPOCHS, lambda epoch: signed(epoch.metrics["eval_loss"], "min"), lambda _run, _epoch: True)
    assert run.best_epoch == 2


@pytest.mark.parametrize("name", ["train_loss", "eval_loss"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_and_is_never_best(
    monkeypatch: pytest.MonkeyPatch, name: str, value: float
) -> None:
    run = scripted([1.0, 1.0, value, 1.0], monkeypatch, name)
    epochs: list[Epoch] = []

    def keep(_: Run, epoch: Epoch) -> bool:
        epochs.append(epoch)
        return True

    # The metric of the broken epoch is the best of all.
    assert not train(run, EPOCHS, lambda epoch: float(epoch.epoch), keep)
    assert run.epoch == 3
    assert run.best_epoch == 2
    assert [epoch.finite for epoch in epochs] == [True, True, False]
    assert epochs[-1].fault == f"{name} is {value} in epoch 3"


def test_a_metric_that_is_no_number_is_worst() -> None:
    assert signed(math.nan, "max") == signed(math.inf, "min") == signed(math.inf, "max") == -math.inf
    assert signed(3.0, "max") == 3.0
    assert signed(3.0, "min") == -3.0


def test_stops_when_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    run = scripted([1.0] * 4, monkeypatch)
    stop: Callable[[Run, Epoch], bool] = lambda _, epoch: epoch.epoch < 2  # noqa: E731
    assert not train(run, EPOCHS, by_top1, stop)
    assert run.epoch == 2


def test_the_rate_is_that_of_the_steps_middle() -> None:
    run = make_run(config(lr=0.1))
    epoch = run.train_epoch()
    # 50 images in batches of 16 are 4 steps; the last one's middle is at 3.5 / 4 of the first of 4 epochs.
    assert epoch.lr == pytest.approx(0.1 * 0.5 * (1 + math.cos(math.pi * 3.5 / 4 / EPOCHS)))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains_on_a_cpu_with_losses_in_32_bits(precision: str) -> None:
    seen: list[torch.dtype] = []

    class Watched(Classification):
        """Notes what its steps compute in."""

        def step(self, batch: Batch) -> Parts:
            parts = super().step(batch)
            seen.extend([parts["output"].dtype, parts["loss"].dtype])
            return parts

    run = make_run(config(), Device(torch.device("cpu"), precision), Watched)
    assert run.scaler.is_enabled() == (precision == "fp16")
    epochs = finish(run)
    assert set(seen[::2]) == {Device(torch.device("cpu"), precision).autocast_dtype}
    assert set(seen[1::2]) == {torch.float32}
    assert all(parameter.dtype == torch.float32 for parameter in run.task.module.parameters())
    plain = finish(make_run(config()))
    # 8 bits of mantissa, over 16 steps.
    assert epochs[0].metrics["train_loss"] == pytest.approx(plain[0].metrics["train_loss"], rel=0.05)


def test_without_fp16_the_scaler_does_nothing() -> None:
    run = make_run(config())
    assert not run.scaler.is_enabled()
    assert run.scaler.scale(torch.tensor(3.0)).item() == 3.0
    assert run.state()["scaler"] == {}


def test_fp16s_scale_is_restored(tmp_path: Path) -> None:
    device = Device(torch.device("cpu"), "fp16")
    run = make_run(config(), device)
    finish(run, until=1)
    run.scaler.update(512.0)
    Checkpoints(tmp_path).save(run.state())
    resumed = make_run(config(), device)
    state = Checkpoints(tmp_path).newest()
    assert state is not None
    resumed.restore(state)
    assert resumed.scaler.get_scale() == 512.0
