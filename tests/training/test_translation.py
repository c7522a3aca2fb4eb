"""The maths of training a translator: published figures, oracles, gradients, and that a small one learns to copy."""

from __future__ import annotations

import builtins
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raybench.data import TextData, load_text
from raybench.data.text import PADDING_ID, detokenize
from raybench.errors import ConfigError
from raybench.models.transformer import Transformer, build_transformer, greedy_decode
from raybench.training.translation import bleu, bleu_signature, log_line, noam_rate, smoothed_kl, trim

STEPS = 907
"""Batches of an epoch: 29,000 pairs in batches of 32. Shared facts, section 5."""


def published(index: int, epoch: int) -> str:
    """The rate in the log line of a batch of the published run: d_model 512, 3,000 steps of warm-up."""
    return f"{noam_rate(STEPS * epoch + index + 1, 512, 3000):.1e}"


def test_rates_of_the_published_run() -> None:
    # Shared facts, section 1: what the log prints at the first line, at epoch 3 step 281, and at the end (lines are
    # written for batches 1, 41, …, 881 of an epoch). Its line with 8.0e-04 at step 281 fits no epoch of 907 batches.
    assert published(1, epoch=0) == "5.4e-07"
    assert published(281, epoch=3) == "8.1e-04"
    assert published(881, epoch=7) == "5.2e-04"
    assert published(STEPS - 1, epoch=7) == "5.2e-04"
    # Shared facts, section 5: the peak is 8.07e-4 at step 3000, which is batch 279 of epoch 3.
    assert max(range(1, 8 * STEPS + 1), key=lambda step: noam_rate(step, 512, 3000)) == 3000 == 3 * STEPS + 279
    assert f"{noam_rate(3000, 512, 3000):.2e}" == "8.07e-04"


def test_both_branches_of_the_rate_meet_at_the_end_of_warmup() -> None:
    assert noam_rate(400, 64, 400) == pytest.approx(64**-0.5 * 400**-0.5, rel=1e-12)
    assert noam_rate(100, 64, 400) == pytest.approx(noam_rate(400, 64, 400) / 4, rel=1e-12)
    assert noam_rate(1600, 64, 400) == pytest.approx(noam_rate(400, 64, 400) / 2, rel=1e-12)
    assert noam_rate(7, 64, 400, factor=3.0) == pytest.approx(3 * noam_rate(7, 64, 400), rel=1e-12)
    assert noam_rate(0, 64, 400) == noam_rate(1, 64, 400)


def log_probabilities(rows: int = 6, words: int = 7, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, words, generator=generator, dtype=torch.float64).log_softmax(1)


TARGET = torch.tensor([0, PADDING_ID, 6, 3, PADDING_ID, 1])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4, 1.0])
def test_smoothed_kl_is_that_of_the_distribution_written_out(smoothing: float) -> None:
    log_probs = log_probabilities()
    truth = torch.full_like(log_probs, smoothing / (log_probs.shape[1] - 2))
    for row, word in enumerate(TARGET.tolist()):
        truth[row, word] = 1 - smoothing
        truth[row, PADDING_ID] = 0
        if word == PADDING_ID:
            truth[row] = 0
    expected = F.kl_div(log_probs, truth, reduction="sum")
    torch.testing.assert_close(smoothed_kl(log_probs, TARGET, smoothing, PADDING_ID), expected)


def test_smoothed_kl_without_smoothing_is_the_summed_cross_entropy() -> None:
    log_probs = log_probabilities()
    expected = F.nll_loss(log_probs, TARGET, ignore_index=PADDING_ID, reduction="sum")
    torch.testing.assert_close(smoothed_kl(log_probs, TARGET, 0.0, PADDING_ID), expected)


def test_smoothed_kl_is_zero_for_the_truth_and_more_for_all_else() -> None:
    truth = torch.full((1, 7), 0.1 / 5, dtype=torch.float64)
    truth[0, 3], truth[0, PADDING_ID] = 0.9, 1e-30
    # Nothing but rounding of float64 sums of order 1.
    assert abs(smoothed_kl(truth.log(), torch.tensor([3]), 0.1, PADDING_ID).item()) < 1e-14
    certain = torch.full((1, 7), -40.0, dtype=torch.float64)
    certain[0, 3] = 0.0
    assert smoothed_kl(certain, torch.tensor([3]), 0.1, PADDING_ID).item() > 1


def test_smoothed_kl_of_padding_alone_is_zero_with_zero_gradient() -> None:
    logits = torch.randn(3, 7, requires_grad=True)
    loss = smoothed_kl(logits.log_softmax(1), torch.full((3,), PADDING_ID), 0.1, PADDING_ID)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_match_finite_differences(smoothing: float) -> None:
    logits = log_probabilities().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: smoothed_kl(x.log_softmax(1), TARGET, smoothing, PADDING_ID), (logits,))


def per_token(module: Transformer, source: Tensor, target: Tensor) -> Tensor:
    log_probs = module(source, target[:, :-1])
    wanted = target[:, 1:].flatten()
    return smoothed_kl(log_probs.flatten(0, 1), wanted, 0.1, PADDING_ID) / (wanted != PADDING_ID).sum()


def test_untrained_loss_at_the_published_size() -> None:
    torch.manual_seed(0)
    module = build_transformer(source_vocabulary=8316, target_vocabulary=6384).eval()
    source, target = torch.randint(4, 6384, (2, 4, 12))
    with torch.no_grad():
        loss = per_token(module, source, target).item()
    # Shared facts, section 5: about 7.56, which is what equal probabilities give; the published run's first is 7.61.
    assert math.log(6384) + 0.9 * math.log(0.9) + 0.1 * math.log(0.1 / 6382) == pytest.approx(7.56, abs=0.005)
    assert loss == pytest.approx(7.56, abs=0.1)


@pytest.fixture(scope="module")
def copies() -> TextData:
    return load_text("copy_task")


def tiny(data: TextData) -> Transformer:
    torch.manual_seed(0)
    sizes = {"source_vocabulary": len(data.source_vocabulary), "target_vocabulary": len(data.target_vocabulary)}
    return build_transformer(**sizes, layers=1, d_model=32, d_ff=64, heads=4, dropout=0.0)


def test_a_small_transformer_learns_to_copy(copies: TextData) -> None:
    module = tiny(copies)
    source, target = (torch.from_numpy(rows).long() for rows in (copies.train.source, copies.train.target))
    optimizer = torch.optim.Adam(module.parameters(), betas=(0.9, 0.98), eps=1e-9)
    order = torch.Generator().manual_seed(0)
    for step in range(1, 251):
        optimizer.param_groups[0]["lr"] = noam_rate(step, 32, 100, factor=0.5)
        chosen = torch.randint(len(source), (64,), generator=order)
        optimizer.zero_grad()
        per_token(module, *trim(source[chosen], target[chosen], PADDING_ID)).backward()
        optimizer.step()
    module.eval()
    source, target = (torch.from_numpy(rows).long() for rows in (copies.val.source, copies.val.target))
    with torch.no_grad():
        loss = per_token(module, source, target).item()
    # Measured 0.01. Who cannot read the source cannot tell 16 symbols apart: at best 2.2 for each of about 7 tokens in
    # 8 (1.96 measured); who reads it without positions came to 1.1; untrained it is 2.4.
    assert loss < 0.1
    words = [copies.target_vocabulary.decode(row) for row in greedy_decode(module, source, 12).tolist()]
    exact = sum(" ".join(each) == reference for each, reference in zip(words, copies.val.references, strict=True))
    assert exact >= 0.9 * len(words)


def test_trimming_changes_no_output_and_no_gradient(copies: TextData) -> None:
    source, target = (torch.from_numpy(rows[:8]).long() for rows in (copies.val.source, copies.val.target))
    source, target = (F.pad(rows, (0, 20), value=PADDING_ID) for rows in (source, target))
    whole, cut = tiny(copies), tiny(copies)
    short = trim(source, target, PADDING_ID)
    longest = max(len(reference.split()) for reference in copies.val.references[:8]) + 2
    assert [rows.shape for rows in short] == [(8, longest)] * 2
    losses = [per_token(whole, source, target), per_token(cut, *short)]
    torch.autograd.backward(losses)
    # Padding adds zeros to float32 sums, which may then be ordered otherwise.
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-5)
    for one, two in zip(whole.parameters(), cut.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=0, atol=1e-5)


def test_trimming_padding_alone_leaves_a_column() -> None:
    nothing = torch.full((2, 5), PADDING_ID)
    assert [rows.shape for rows in trim(nothing, nothing, PADDING_ID)] == [(2, 1), (2, 1)]


REFERENCES = ["A man in a blue shirt isn't on the man's ladder.", "Two girls, both in hats, play (badly) in mid-air."]


def test_bleu_is_100_for_the_references_and_less_for_others() -> None:
    assert bleu(REFERENCES, REFERENCES) == pytest.approx(100)
    worse = bleu([REFERENCES[0], "Two girls play."], REFERENCES)
    assert 0 < worse < 100
    assert bleu(["nothing fits", "here either"], REFERENCES) < worse


def test_bleu_is_that_of_its_formula() -> None:
    # Papineni et al. 2002, equation 1: 8 tokens for 9, matches 6 of 8, 4 of 7, 2 of 6, 1 of 5.
    hypothesis, reference = "a b c d x e f y", "a b c d z e f g h"
    by_hand = math.exp(1 - 9 / 8) * (6 / 8 * 4 / 7 * 2 / 6 * 1 / 5) ** 0.25
    assert bleu([hypothesis], [reference]) == pytest.approx(100 * by_hand)


def test_bleu_refuses_nothing_and_unequal_numbers() -> None:
    for hypotheses in ([], ["one"]):
        with pytest.raises(ValueError, match=f"{len(hypotheses)} translations for 2 references"):
            bleu(hypotheses, REFERENCES)


def test_detokenized_tokens_are_the_sentence() -> None:
    tokens = [
        ["A", "man", "in", "a", "blue", "shirt", "is", "n't", "on", "the", "man", "'s", "ladder", "."],
        ["Two", "girls", ",", "both", "in", "hats", ",", "play", "(", "badly", ")", "in", "mid", "-", "air", "."],
    ]
    assert [detokenize(words) for words in tokens] == REFERENCES
    assert bleu([" ".join(words) for words in tokens], REFERENCES) < 95


def test_the_signature_says_how_it_was_counted() -> None:
    import sacrebleu

    assert bleu_signature() == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"


def test_without_sacrebleu_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refusing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("sacrebleu"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refusing)
    for ask in (bleu_signature, lambda: bleu(["one"], ["one"])):
        with pytest.raises(ConfigError, match=r'BLEU needs sacrebleu \(.*\): pip install "raybench\[text\]"'):
            ask()


def test_the_published_log_line() -> None:
    # Shared facts, section 1.
    assert (
        log_line(281, 29, 2.10, 4276.3, 8.0e-4)
        == "Epoch Step:    281 | Accumulation Step:  29 | Loss:   2.10 | Tokens / Sec:  4276.3 | Learning Rate: 8.0e-04"
    )
