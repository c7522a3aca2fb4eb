"""Names tell cells and populations apart, and say no more than that."""

from __future__ import annotations

from typing import Any

import pytest

from raybench.report.naming import key_title, metric_title, metric_words, names_of, population_titles, size_text
from raybench.report.settings import Population

ALPHA, TYPE = "distillation.alpha", "distillation.type"


@pytest.mark.parametrize(
    ("metric", "title", "words"),
    [
        ("eval_top1", "validation top-1 (%)", "validation top-1"),
        ("test_bleu", "test BLEU", "test BLEU"),
        ("train_loss", "training loss", "training loss"),
        ("gmacs", "work (GMAC an image)", "work"),
        ("train_time", "training time (s)", "training time"),
        ("other", "other", "other"),
    ],
)
def test_metrics(metric: str, title: str, words: str) -> None:
    assert (metric_title(metric), metric_words(metric)) == (title, words)


def test_keys_and_sizes() -> None:
    assert key_title("optimizer.lr") == "learning rate"
    assert key_title("distillation.tau") == "tau"
    assert size_text("all", "translation") == "all sentence pairs"
    assert size_text("20000", None) == "20,000 training images"


@pytest.mark.parametrize(
    ("members", "names"),
    [
        ([{"optimizer.lr": 0.1}], [""]),
        ([{"optimizer.lr": 0.1}, {"optimizer.lr": 0.3}], ["lr 0.1", "lr 0.3"]),
        (
            [{ALPHA: 0.0, TYPE: "hard"}, {ALPHA: 0.5, TYPE: "hard"}, {ALPHA: 0.5, TYPE: "soft"}],
            ["student alone", "hard, alpha 0.5", "soft, alpha 0.5"],
        ),
        (
            [
                {"model.name": "resnet20"},
                {"model.name": "vit", "model.options.dim": 64},
                {"model.name": "vit", "model.options.dim": 64, "model.options.tome_r": 8},
            ],
            ["resnet20", "vit", "vit, tome_r 8"],
        ),
        ([{"a": 1}, {"a": 1}], ["setting (1)", "setting (2)"]),
    ],
)
def test_what_differs_is_said(members: list[dict[str, Any]], names: list[str]) -> None:
    assert names_of(members) == names


def test_titles_of_populations() -> None:
    one = Population(preset="small", dataset="digits", fingerprint="a", train_size="500")
    assert population_titles([one, one]) == {one: ""}
    other = Population(preset="paper", dataset="cifar10", fingerprint="b", train_size="500")
    assert list(population_titles([one, other]).values()) == ["preset small, digits", "preset paper, cifar10"]
    changed = Population(preset="small", dataset="digits", fingerprint="b", train_size="500")
    assert list(population_titles([one, changed]).values()) == ["fingerprint a", "fingerprint b"]
    sizes = [Population(train_size="500"), Population(train_size="all")]
    assert list(population_titles(sizes).values()) == ["500 training images", "all training images"]
