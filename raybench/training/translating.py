"""Sentences to be translated: an encoder-decoder Transformer with label smoothing, decoded greedily at the end."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raybench import data as data_sets
from raybench import models
from raybench.config.trial import DatasetConfig, ModelConfig, TrialConfig
from raybench.data import TextData
from raybench.data.text import PADDING_ID, Pairs, Vocabulary, detokenize
from raybench.data.views import epoch_order
from raybench.models import build_text
from raybench.models.macs import measure
from raybench.models.transformer import Transformer, greedy_decode
from raybench.training.batches import EVERYTHING, Share
from raybench.training.device import Device
from raybench.training.ingredients import check_planned, located, weights_root
from raybench.training.kinds import Finish, Made, Sizes
from raybench.training.metrics import Measures
from raybench.training.phases import Phases
from raybench.training.recorder import Setup
from raybench.training.tasks import ParameterGroup, Parts, trainable
from raybench.training.translation import bleu, bleu_signature, log_line, smoothed_kl, trim

EVAL_BATCH = 100
"""Sentences: their log-probabilities are (sentences, tokens, words)."""
SHOWN = 10
"""Translations kept to be read."""
LOG_EVERY = 40
"""Batches between the lines of the published run's log."""


def _tokens(targets: Tensor) -> Tensor:
    return (targets != PADDING_ID).sum()


MEASURES = Measures(
    {"loss": lambda output, _: output["kl"], "top1": lambda output, _: output["right"]},
    training=("top1",),
    count=_tokens,
    mean_of="tokens",
    final=("bleu",),
)
"""Divergence from the smoothed truth a token, and the share of tokens (%) that were the likeliest, each given those
before it."""


@dataclass(frozen=True)
class SentenceBatch:
    """Sentence pairs as ids, `<s>` first, all on one device."""

    source: Tensor  # (B, S)
    target: Tensor  # (B, T)
    shared: int = 0
    """Tokens to be said of the batch of which this is one process's share; 0 where it is whole."""

    @property
    def labels(self) -> Tensor:
        """The tokens to be said, (B, T - 1)."""
        return self.target[:, 1:]

    @cached_property
    def weight(self) -> int:
        """Tokens to be said."""
        return int(_tokens(self.labels))

    def parts(self, most: int | None) -> list[SentenceBatch]:
        """The batch in as few parts of at most `most` sentences as will do."""
        if most is None or len(self.source) <= most:
            return [self]
        count = -(-len(self.source) // most)
        pairs = zip(self.source.tensor_split(count), self.target.tensor_split(count), strict=True)
        return [SentenceBatch(*pair) for pair in pairs]


class Sentences:
    """Pairs on the device: to train on in the order of (seed, epoch), or to evaluate on as they come."""

    def __init__(self, pairs: Pairs, device: torch.device) -> None:
        self.source = torch.from_numpy(pairs.source).long()
        self.target = torch.from_numpy(pairs.target).long()
        self.device = device

    def __len__(self) -> int:
        return len(self.source)

    def measured(self, measures: Measures) -> tuple[str, ...]:
        """The metrics of training batches."""
        return measures.training

    def steps(self, batch_size: int) -> int:
        """Batches of one epoch; the last may be smaller."""
        return -(-len(self) // batch_size)

    def epoch(self, epoch: int, seed: int, batch_size: int, share: Share = EVERYTHING) -> Iterator[SentenceBatch]:
        """One pass in the order of (seed, epoch)."""
        for chosen in epoch_order(len(self), epoch, seed).split(batch_size):
            whole = int(_tokens(self.target[chosen, 1:])) if share.divides(len(chosen)) else 0
            yield self._batch(chosen[share.cut(len(chosen))], whole)

    def batches(self, batch_size: int) -> Iterator[tuple[SentenceBatch, Tensor]]:
        """Pairs, and the tokens to be said."""
        for chosen in torch.arange(len(self)).split(min(batch_size, EVAL_BATCH)):
            batch = self._batch(chosen)
            yield batch, batch.labels

    def _batch(self, chosen: Tensor, shared: int = 0) -> SentenceBatch:
        # Cut on the CPU, where looking at lengths waits for nobody.
        source, target = trim(self.source[chosen], self.target[chosen], PADDING_ID)
        return SentenceBatch(source.to(self.device), target.to(self.device), shared)


class Translation:
    """KL divergence of the next token from the smoothed truth, a mean over tokens."""

    measures = MEASURES
    log_every = LOG_EVERY
    phases: Phases

    def __init__(self, module: nn.Module, smoothing: float, device: torch.device) -> None:
        self.module = module.to(device)
        self.smoothing = smoothing

    @property
    def compiled(self) -> str | None:
        """Nothing is compiled: sentences make batches of many sizes."""
        return None

    def begin(self, epoch: int, seed: int, check: Callable[[], None]) -> None:
        """Nothing to get ready."""

    def train(self) -> None:
        """Training mode."""
        self.module.train()

    def groups(self) -> list[ParameterGroup]:
        """Every parameter."""
        return trainable(self.module)

    def predict(self, inputs: SentenceBatch) -> dict[str, Tensor]:
        """The divergence (`kl`) and the tokens that are `right`, both summed over the batch."""
        log_probs = self.module(inputs.source, inputs.target[:, :-1]).float().flatten(0, 1)  # (B * (T - 1), V)
        labels = inputs.labels.flatten()
        right = (log_probs.argmax(dim=1) == labels) & (labels != PADDING_ID)
        return {"kl": smoothed_kl(log_probs, labels, self.smoothing, PADDING_ID), "right": right.sum()}

    def step(self, batch: SentenceBatch) -> Parts:
        """`loss`, a mean over tokens."""
        output = self.predict(batch)
        loss = output["kl"] / batch.weight
        return {"loss": loss, "output": {name: value.detach() for name, value in output.items()}}

    def line(self, step: int, group: int, loss: float, tokens_per_sec: float, lr: float) -> str:
        """A line of the log, as the published run prints it."""
        return log_line(step, group, loss, tokens_per_sec, lr)


def datasets() -> tuple[str, ...]:
    """Every data set of sentence pairs."""
    return data_sets.names("text")


def unknown_model(name: str) -> str | None:
    """What is wrong with a model's name; none for one that translates."""
    known = models.names("text")
    return None if name in known else f"translates nothing; models that do: {', '.join(known)}"


def load(dataset: DatasetConfig, data_root: Path | None, download: bool = True) -> TextData:  # noqa: ARG001
    """The pairs; nothing is downloaded. Raises DataError."""
    return data_sets.load_text(dataset.name, data_root)


def sizes(dataset: DatasetConfig, data: TextData) -> Sizes:
    """How many pairs; raises DataError where there are not so many."""
    return Sizes(len(data.training_pairs(dataset.train_size)), len(data.val), len(data.test))


def bare_model(model: ModelConfig, dataset: DatasetConfig, data: TextData, setup: Setup) -> nn.Module:  # noqa: ARG001
    """The model without its weights or memory for them. Raises ConfigError too where BLEU cannot be counted."""
    bleu_signature()  # asked for when a trial ends, hours later
    with torch.device("meta"):
        return _build(model.model_copy(update={"weights": "none"}), data, setup)


def _build(model: ModelConfig, data: TextData, setup: Setup) -> nn.Module:
    return build_text(
        located(model, setup),
        source_vocabulary=len(data.source_vocabulary),
        target_vocabulary=len(data.target_vocabulary),
        weights_root=weights_root(setup),
    )


def _data(config: TrialConfig, setup: Setup) -> TextData:
    data = load(config.dataset, setup.data_root)
    check_planned(config.dataset, data.fingerprint)
    return data


def make(config: TrialConfig, setup: Setup, device: Device) -> Made:
    """Pairs and model of a trial."""
    data = _data(config, setup)
    torch.manual_seed(config.seed)
    module = _build(config.model, data, setup)
    pairs = data.training_pairs(config.dataset.train_size)
    training, validation, test = (Sentences(each, device.device) for each in (pairs, data.val, data.test))
    return Made(
        task=Translation(module, config.label_smoothing, device.device),
        training=training,
        validation=validation,
        test=test,
        sizes=sizes(config.dataset, data),
        macs=lambda: _macs(module, data),
        about={"dataset_variant": data.variant, "dataset_fingerprint": data.fingerprint},
        header={"bleu": json.dumps(bleu_signature())},
        finish=lambda log: _finish(module, data, device, log),
    )


def _macs(module: nn.Module, data: TextData) -> int:
    """Of one pair of the data set's full length."""
    length = data.val.source.shape[1]
    ids = torch.zeros(1, length, dtype=torch.long, device=next(module.parameters()).device)
    return measure(module, ids, ids).total()


def _finish(module: nn.Module, data: TextData, device: Device, log: list[str]) -> Finish:
    """BLEU on validation and test, some translations to read, where the encoder looked, and the run's log."""
    assert isinstance(module, Transformer)
    metrics: dict[str, float] = {}
    said: list[str] = []
    for split, pairs in (("eval", data.val), ("test", data.test)):
        said = translations(module, pairs, data.target_vocabulary, device)
        metrics[f"{split}_bleu"] = bleu(said, pairs.references)
    files = {"translations.md": _shown(data, said).encode(), "log.txt": "".join(f"{line}\n" for line in log).encode()}
    files["attention.png"] = _attention(module, data, device)
    return Finish(metrics, files)


def translations(module: Transformer, pairs: Pairs, words: Vocabulary, device: Device) -> list[str]:
    """Greedy translations of every pair's source, as sentences."""
    found: list[str] = []
    rows = torch.from_numpy(pairs.source).long()
    for chosen in rows.split(EVAL_BATCH):
        source, _ = trim(chosen, chosen, PADDING_ID)
        with device.autocast():
            decoded = greedy_decode(module, source.to(device.device), rows.shape[1])
        found += [detokenize(words.decode(row)) for row in decoded.tolist()]
    return found


def _shown(data: TextData, said: list[str]) -> str:
    """The first translations of the test set, with what was asked and what was right."""
    sources = [" ".join(data.source_vocabulary.decode(row)) for row in data.test.source[:SHOWN, 1:].tolist()]
    lines = [f"# {data.name}: test sentences as translated by the best epoch's weights", ""]
    for source, reference, translation in zip(sources, data.test.references, said, strict=False):
        lines += [f"- source: {source}", f"  reference: {reference}", f"  translation: {translation}"]
    return "\n".join(lines) + "\n"


@torch.no_grad()
def _attention(module: Transformer, data: TextData, device: Device) -> bytes:
    """Where the encoder looks in the first test sentence, as a PNG."""
    from raybench.report.attention import attention_figure

    source, target = (torch.from_numpy(rows[:1]).long() for rows in (data.test.source, data.test.target))
    source, target = trim(source, target, PADDING_ID)
    module.eval()
    maps = module.attention_maps(source.to(device.device), target.to(device.device)).encoder
    tokens = [data.source_vocabulary.words[index] for index in source[0].tolist()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "attention.png"
        attention_figure([each[0].float().cpu().numpy() for each in maps], tokens, path)
        return path.read_bytes()


def probe(config: TrialConfig, setup: Setup, device: Device) -> tuple[Callable[[int], Tensor], Any]:
    """The loss of so many sentences by the model without its weights."""
    data = _data(config, setup)
    bare = config.model.model_copy(update={"weights": "none"})
    task = Translation(_build(bare, data, setup), config.label_smoothing, device.device)
    sentences = Sentences(data.val, device.device)

    def loss(count: int) -> Tensor:
        batch, _ = next(sentences.batches(count))
        value: Tensor = task.step(batch)["loss"]
        return value

    return loss, task.module
