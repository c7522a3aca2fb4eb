"""What training a translator needs besides the loop: its learning rate, loss, score and log line; no state, no I/O.

Sources: Vaswani et al. 2017, "Attention Is All You Need", sections 5.3 and 5.4; Huang et al. 2022, "The Annotated
Transformer", for the divergence as a loss and for the format of the log.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from raybench.errors import ConfigError


def noam_rate(step: int, d_model: int, warmup: int, factor: float = 1.0) -> float:
    """Learning rate of a step, counted in batches from 1: linear to its peak at `warmup`, then as 1 / sqrt(step).

    factor * d_model^-0.5 * min(step^-0.5, step * warmup^-1.5), equation 3 of the paper; step 0 counts as 1.

    The published run steps its schedule after every batch, also where gradients only accumulate. So the batch of index
    g, from 0 over all epochs, is trained at `noam_rate(max(g, 1))`, and its log line, written after the schedule's
    step, shows `noam_rate(g + 1)`: the first line, of batch 1, shows the rate of step 2.
    """
    step = max(step, 1)
    return factor / math.sqrt(d_model) * min(1 / math.sqrt(step), step * math.pow(warmup, -1.5))


def smoothed_kl(log_probs: Tensor, target: Tensor, smoothing: float, padding_id: int) -> Tensor:
    """KL divergence from the smoothed truth, summed over the target tokens: a scalar, 0 for a perfect model.

    log_probs: (N, V), float32 or more. target: (N,); rows whose target is `padding_id` count nothing. The truth gives
    1 - smoothing to the target, nothing to padding, and smoothing / (V - 2) to each other word. To be divided by the
    number of target tokens that are not padding. Unlike cross-entropy with label smoothing it leaves out the truth's
    own entropy, so it differs from that by a constant. Computed from two columns and one sum of each row: the truth
    (N, V) is never made.
    """
    certain, other = 1 - smoothing, smoothing / (log_probs.shape[1] - 2)
    entropy = _x_log_x(certain) + (log_probs.shape[1] - 2) * _x_log_x(other)  # of the truth, negative
    chosen = log_probs.gather(1, target[:, None])[:, 0]  # (N,)
    divergence = entropy - certain * chosen
    if other > 0:
        divergence = divergence - other * (log_probs.sum(dim=1) - chosen - log_probs[:, padding_id])
    return divergence.masked_fill(target == padding_id, 0).sum()


def _x_log_x(x: float) -> float:
    return x * math.log(x) if x > 0 else 0.0


def trim(source: Tensor, target: Tensor, padding_id: int) -> tuple[Tensor, Tensor]:
    """Rows (B, S) and (B, T) without the columns at the end in which no row has a word.

    A model that looks at no padding says the same of what is left, in a fifth of the time for captions padded to 72.
    """

    def cut(rows: Tensor) -> Tensor:
        used = (rows != padding_id).any(dim=0).nonzero()
        return rows[:, : int(used[-1]) + 1] if len(used) else rows[:, :1]

    return cut(source), cut(target)


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU in %, by sacrebleu with its defaults, of whole sentences against sentences as written.

    Hypotheses are detokenized (`raybench.data.text.detokenize`) and metric and references left as they are, so the
    number is comparable with other papers' under the same signature (Post 2018, "A Call for Clarity in Reporting BLEU
    Scores"). The references of Multi30k, tokenized and detokenized again, score 100.00.

    Raises ConfigError where sacrebleu is not installed, ValueError for no sentences or unequal numbers of them.
    """
    if not hypotheses or len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} translations for {len(references)} references")
    return float(_metric().corpus_score(list(hypotheses), [list(references)]).score)


def bleu_signature() -> str:
    """How `bleu` counts, in sacrebleu's words, for a table's footnote. Raises ConfigError where it is not installed."""
    metric = _metric()
    metric.corpus_score(["one"], [["one"]])  # the number of references is known only then
    return str(metric.get_signature())


def _metric() -> Any:
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise ConfigError([f'BLEU needs sacrebleu ({error}): pip install "raybench[text]"']) from error
    return BLEU()


def log_line(step: int, accumulation_step: int, loss: float, tokens_per_sec: float, lr: float) -> str:
    """A line of the published run's log: batch of the epoch, from 0, accumulation step, loss per token, speed, rate.

    The accumulation step is the number, from 1, of the group of batches to which this one belongs. The published run
    has then taken its step, as it steps after a group's first batch; here it comes after the last.
    """
    return (
        f"Epoch Step: {step:6d} | Accumulation Step: {accumulation_step:3d} | Loss: {loss:6.2f} "
        f"| Tokens / Sec: {tokens_per_sec:7.1f} | Learning Rate: {lr:6.1e}"
    )
