"""A translation trial from its configuration to its rows: a plain call, on the embedded task of copying."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from raybench.config.trial import TrialConfig
from raybench.data.text import PADDING_ID
from raybench.results.schema import Status
from raybench.results.store import Store
from raybench.training.device import choose_device
from raybench.training.loop import Run
from raybench.training.optimizers import learning_rate
from raybench.training.recorder import Setup
from raybench.training.translating import Sentences, Translation, make
from raybench.training.trial import run_trial

CPU = choose_device("fp32", 0)


def trial(**changes: Any) -> TrialConfig:
    content: dict[str, Any] = {
        "task": "translation",
        "dataset": {"name": "copy_task", "train_size": 320},
        "model": {
            "name": "multi30k_transformer",
            "options": {"layers": 1, "d_model": 16, "d_ff": 32, "heads": 2, "dropout": 0.0},
        },
        "optimizer": {"name": "adam", "lr": 0.3, "betas": [0.9, 0.98], "eps": 1e-9},
        "schedule": {"name": "noam", "d_model": 16, "warmup_steps": 10, "epochs": 2},
        "batch_size": 4,
        "label_smoothing": 0.1,
        "precision": "fp32",
    }
    return TrialConfig.model_validate(content | changes)


def setup(folder: Path) -> Setup:
    return Setup(results=folder, metric="eval_loss", mode="min", checkpoint_every_s=0)


def run(config: TrialConfig) -> Run:
    made = make(config, Setup(), CPU)
    return Run(config, made.task, made.training, made.validation, CPU)


def test_a_trial_leaves_losses_bleu_translations_attention_and_the_log(tmp_path: Path) -> None:
    config = trial()
    outcome = run_trial(config, setup(tmp_path))
    assert (outcome.status, outcome.reason) == (Status.COMPLETE, None)
    (row,) = Store(tmp_path).trials().to_dicts()
    fresh = run(config)
    assert 0 < row["eval_loss"] < 0.9 * fresh.evaluate(fresh.validation)["loss"]
    assert 0 < row["test_top1"] < 100
    assert 0 <= row["test_bleu"] <= 100
    assert {"eval_bleu", "eval_loss", "eval_top1"} <= {name for name, value in row.items() if value is not None}
    epochs = Store(tmp_path).epochs()
    assert (epochs["train_tokens_per_sec"] > epochs["train_samples_per_sec"]).all()
    named = {path.name.removeprefix(f"{config.trial_id}-"): path for path in (tmp_path / "examples").iterdir()}
    assert set(named) == {"translations.md", "attention.png", "log.txt"}
    assert named["translations.md"].read_text().count("translation: ") == 10
    assert named["attention.png"].read_bytes().startswith(b"\x89PNG")
    lines = named["log.txt"].read_text().splitlines()
    shown = [re.findall(r"Epoch Step: +(\d+) .* Learning Rate: (.*)", line)[0] for line in lines]
    rates = [learning_rate(config.schedule, 0.3, 0.0, epoch * 80 + step + 1) for epoch in (0, 1) for step in (1, 41)]
    assert shown == [(str(step), f"{rate:.1e}") for (step, rate) in zip((1, 41) * 2, rates, strict=True)]


def test_interrupted_after_an_epoch_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    config = trial(model={**trial().model.model_dump(), "options": {**trial().model.options, "dropout": 0.1}})
    for name, stops in (("whole", (2,)), ("halved", (1, 2))):
        for until in stops:
            run_trial(config, setup(tmp_path / name), until=until)
    metrics = ["train_loss", "eval_loss", "eval_top1", "train_top1", "lr"]
    whole, halved = (Store(tmp_path / name).epochs().select("epoch", *metrics) for name in ("whole", "halved"))
    assert whole.equals(halved)
    logs = [(tmp_path / name / "examples" / f"{config.trial_id}-log.txt").read_text() for name in ("whole", "halved")]
    speed = re.compile(r"Tokens / Sec: *\S+")
    assert speed.sub("", logs[0]) == speed.sub("", logs[1])


def test_summed_gradients_are_those_of_each_batch_added() -> None:
    config = trial(accumulate=5, dataset={"name": "copy_task", "train_size": 20})
    accumulated = run(config)
    steps = []
    accumulated.optimizer.step = lambda *_: steps.append(_gradients(accumulated))  # type: ignore[method-assign,assignment]
    accumulated.train_epoch()
    (found,) = steps
    single = run(config)
    single.task.train()
    single.optimizer.zero_grad()
    for batch in single.training.epoch(0, 0, 4):
        single.task.step(batch)["loss"].backward()
    for ours, theirs in zip(found, _gradients(single), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def _gradients(run: Run) -> list[torch.Tensor]:
    return [p.grad.clone() for p in run.task.module.parameters() if p.grad is not None]


def test_a_batch_in_parts_has_the_gradient_of_the_whole() -> None:
    # Sentences differ in length, so parts weigh by their tokens. Sums in another order: rounding of float32.
    whole = run(trial())
    batch = next(whole.training.epoch(0, 0, 8))
    whole.task.step(batch)["loss"].backward()
    expected = _gradients(whole)
    for parameter in whole.task.module.parameters():
        parameter.grad = None
    for part in batch.parts(3):
        (whole.task.step(part)["loss"] * (part.weight / batch.weight)).backward()
    for ours, theirs in zip(_gradients(whole), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_batches_are_cut_to_their_longest_sentence_and_lose_nothing() -> None:
    made = make(trial(), Setup(), CPU)
    sentences = made.validation
    assert isinstance(sentences, Sentences)
    whole = (sentences.target != PADDING_ID).sum() - len(sentences)  # <s> is never said
    cut = sum(batch.weight for batch, _ in sentences.batches(7))
    assert cut == whole
    assert all((labels != PADDING_ID).any(dim=0).all() for _, labels in sentences.batches(7))


@pytest.mark.parametrize("epoch", [0, 1])
def test_the_order_depends_on_seed_and_epoch_alone(epoch: int) -> None:
    made = make(trial(), Setup(), CPU)
    shown = [
        torch.cat(
            [(batch.source * (batch.source != PADDING_ID)).sum(1) for batch in made.training.epoch(epoch, seed, size)]
        )
        for seed, size in ((0, 4), (0, 32), (1, 4))
    ]
    assert torch.equal(shown[0], shown[1])
    assert not torch.equal(shown[0], shown[2])
    assert sorted(shown[0].tolist()) == sorted(shown[2].tolist())


def test_evaluation_does_not_depend_on_the_size_of_batches() -> None:
    trained = run(trial())
    trained.train_epoch()
    assert isinstance(trained.task, Translation)
    # Sums of float32 in another order.
    from raybench.training.loop import evaluate

    large, small = (evaluate(trained.task, trained.validation, CPU, batch) for batch in (100, 7))
    assert large == pytest.approx(small, rel=1e-5)
