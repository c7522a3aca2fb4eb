"""The encoder-decoder Transformer for translation, in pre-norm form.

Sources: Vaswani et al. 2017, "Attention Is All You Need", sections 3.1 to 3.5; Rush 2018 and Huang et al. 2022, "The
Annotated Transformer", for what departs from it: LayerNorm before every sublayer and once after each stack, dropout on
the attention weights too, Xavier-uniform for every matrix (biases as PyTorch makes them), nothing tied.
Its LayerNorm divides by the unbiased deviation plus eps; PyTorch's, used here, has the same parameters and differs by
the factor sqrt(511 / 512).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raybench.errors import ConfigError

START_ID, END_ID, PADDING_ID = 0, 1, 2
"""`<s>`, `</s>` and `<blank>`, as in every text data set."""
NORM_EPS = 1e-6

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one attention, each (B, heads, S, head_dim)."""


@dataclass(frozen=True, eq=False)
class Memory:
    """What the decoder knows of the source."""

    states: Tensor  # (B, S, d_model), after the encoder's last LayerNorm
    keys_values: tuple[KeysValues, ...]
    """Of the states, for each decoder layer."""
    allowed: Tensor  # (B, 1, 1, S) bool, true where there is no padding


@dataclass(eq=False)
class Cache:
    """What the decoder has read so far, so that a further token costs one row of attention rather than all."""

    ids: Tensor | None = None  # (B, T)
    keys_values: list[KeysValues] = field(default_factory=list)
    """Of each decoder layer's self-attention, T tokens."""


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """Attention weights, before their dropout, a tensor a layer: (B, heads, T, S), rows sum to 1."""

    encoder: tuple[Tensor, ...]
    decoder: tuple[Tensor, ...]
    cross: tuple[Tensor, ...]
    log_probs: Tensor
    """(B, T, target_vocabulary), the output of the same pass."""


class Attention(nn.Module):
    """Multi-head attention; keys and values are made apart, so that they can be kept."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def keys_values(self, x: Tensor) -> KeysValues:
        """(B, S, dim) -> keys and values, each (B, heads, S, head_dim)."""
        return self._split(self.key(x)), self._split(self.value(x))

    def forward(self, x: Tensor, keys_values: KeysValues, allowed: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        """(B, T, dim) -> (B, T, dim).

        allowed: bool (B, 1, 1 or T, S), true where a query may look, at least once in each row. With `maps` the
        weights (B, heads, T, S) are appended to it: the same output, without the fused kernel.
        """
        q, (k, v) = self._split(self.query(x)), keys_values
        dropout = self.dropout if self.training else 0.0
        if maps is None:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout)
        else:
            scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~allowed, -torch.inf)  # (B, heads, T, S)
            weights = scores.softmax(dim=-1, dtype=at_least_float32(scores))
            maps.append(weights)
            mixed = F.dropout(weights, dropout).to(v.dtype) @ v
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))  # (B, T, dim)
        return out

    def _split(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        return x.view(batch, tokens, self.heads, dim // self.heads).transpose(1, 2)  # (B, heads, T, head_dim)


class FeedForward(nn.Sequential):
    """Two linear layers with ReLU and dropout between them (equation 2)."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__(nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, dim))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each normalised before and added after dropout."""

    def __init__(self, dim: int, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.self_attention = Attention(dim, heads, dropout)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.feed_forward = FeedForward(dim, hidden, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, allowed: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        """(B, S, dim) -> (B, S, dim)."""
        normed = self.norm1(x)
        keys_values = self.self_attention.keys_values(normed)
        x = x + self.dropout(self.self_attention(normed, keys_values, allowed, maps))
        out: Tensor = x + self.dropout(self.feed_forward(self.norm2(x)))
        return out


class DecoderLayer(nn.Module):
    """Self-attention, attention to the source and feed-forward, each normalised before and added after dropout."""

    def __init__(self, dim: int, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.self_attention = Attention(dim, heads, dropout)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.cross_attention = Attention(dim, heads, dropout)
        self.norm3 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.feed_forward = FeedForward(dim, hidden, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        allowed: Tensor,
        source: KeysValues,
        source_allowed: Tensor,
        past: KeysValues | None = None,
        maps: tuple[list[Tensor], list[Tensor]] | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """(B, T, dim) -> (B, T, dim), and the keys and values of `past` and these tokens.

        allowed: bool (B, 1, T, past + T). `maps`: lists for the weights of self-attention and of attention to the
        source.
        """
        own_maps, cross_maps = maps if maps is not None else (None, None)
        normed = self.norm1(x)
        k, v = self.self_attention.keys_values(normed)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        x = x + self.dropout(self.self_attention(normed, (k, v), allowed, own_maps))
        x = x + self.dropout(self.cross_attention(self.norm2(x), source, source_allowed, cross_maps))
        return x + self.dropout(self.feed_forward(self.norm3(x))), (k, v)


class Transformer(nn.Module):
    """Encoder and decoder of `layers` each, and a linear generator with log-softmax."""

    def __init__(
        self,
        *,
        source_vocabulary: int,
        target_vocabulary: int,
        layers: int,
        d_model: int,
        d_ff: int,
        heads: int,
        dropout: float,
        max_length: int,
    ) -> None:
        super().__init__()
        self.scale = math.sqrt(d_model)
        self.source_embedding = nn.Embedding(source_vocabulary, d_model)
        self.target_embedding = nn.Embedding(target_vocabulary, d_model)
        self.dropout = nn.Dropout(dropout)
        self.encoder = nn.ModuleList(EncoderLayer(d_model, d_ff, heads, dropout) for _ in range(layers))
        self.encoder_norm = nn.LayerNorm(d_model, eps=NORM_EPS)
        self.decoder = nn.ModuleList(DecoderLayer(d_model, d_ff, heads, dropout) for _ in range(layers))
        self.decoder_norm = nn.LayerNorm(d_model, eps=NORM_EPS)
        self.generator = nn.Linear(d_model, target_vocabulary)
        self.positions: Tensor
        self.register_buffer("positions", sinusoids(max_length, d_model), persistent=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def get_classifier(self) -> nn.Linear:
        """The head: the layer that scores each word of the target vocabulary."""
        return self.generator

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Ids (B, S) and (B, T) -> log-probabilities (B, T, target_vocabulary) of each next target token.

        Padding (`PADDING_ID`) is seen by nobody and a target token by none before it. A sentence of padding alone
        gives finite numbers that mean nothing. Raises ConfigError for more than `max_length` tokens.
        """
        return self.decode(self.encode(source), target)

    def encode(self, source: Tensor, maps: list[Tensor] | None = None) -> Memory:
        """Ids (B, S) -> what the decoder reads of them; with `maps` each layer's weights (B, heads, S, S) go there."""
        allowed = somewhere((source != PADDING_ID)[:, None, None, :])  # (B, 1, 1, S)
        x = self._embed(self.source_embedding, source, 0)
        for layer in self.encoder:
            x = layer(x, allowed, maps)
        states = self.encoder_norm(x)  # (B, S, d_model)
        keys_values = (layer.cross_attention.keys_values(states) for layer in self._decoder_layers())
        return Memory(states, tuple(keys_values), allowed)

    def decode(
        self,
        memory: Memory,
        target: Tensor,
        cache: Cache | None = None,
        maps: tuple[list[Tensor], list[Tensor]] | None = None,
    ) -> Tensor:
        """Log-probabilities (B, T, target_vocabulary) after each target token (B, T).

        With a `cache` the tokens follow those it holds, and are added to it. `maps`: as for `DecoderLayer`.
        """
        ids = target if cache is None or cache.ids is None else torch.cat([cache.ids, target], dim=1)
        before, tokens = ids.shape[1] - target.shape[1], target.shape[1]
        causal = torch.ones(tokens, before + tokens, dtype=torch.bool, device=ids.device).tril(before)
        allowed = somewhere((ids != PADDING_ID)[:, None, None, :] & causal)  # (B, 1, T, before + T)
        x = self._embed(self.target_embedding, target, before)
        kept: list[KeysValues] = []
        for index, layer in enumerate(self._decoder_layers()):
            past = cache.keys_values[index] if cache is not None and before else None
            x, keys_values = layer(x, allowed, memory.keys_values[index], memory.allowed, past, maps)
            kept.append(keys_values)
        if cache is not None:
            cache.ids, cache.keys_values = ids, kept
        logits = self.generator(self.decoder_norm(x))  # (B, T, target_vocabulary)
        return F.log_softmax(logits, dim=-1, dtype=at_least_float32(logits))

    def attention_maps(self, source: Tensor, target: Tensor) -> AttentionMaps:
        """The weights of every attention, with the output of `forward`, by plain matrix products instead of SDPA."""
        encoder: list[Tensor] = []
        decoder: list[Tensor] = []
        cross: list[Tensor] = []
        log_probs = self.decode(self.encode(source, encoder), target, maps=(decoder, cross))
        return AttentionMaps(tuple(encoder), tuple(decoder), tuple(cross), log_probs)

    def _decoder_layers(self) -> list[DecoderLayer]:
        return [layer for layer in self.decoder if isinstance(layer, DecoderLayer)]

    def _embed(self, embedding: nn.Embedding, ids: Tensor, start: int) -> Tensor:
        end = start + ids.shape[1]
        if end > len(self.positions):
            raise ConfigError(
                [f"a sequence of {end} tokens, but this Transformer has max_length {len(self.positions)}"]
            )
        embedded: Tensor = self.dropout(embedding(ids) * self.scale + self.positions[start:end])  # (B, T, d_model)
        return embedded


def sinusoids(length: int, dim: int) -> Tensor:
    """Positions (length, dim): sines in even columns, cosines in odd, wavelengths 2 pi to 20,000 pi (section 3.5)."""
    position = torch.arange(length, dtype=torch.float64)[:, None]
    frequency = 10_000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angle = position * frequency  # (length, dim / 2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).float()


def at_least_float32(x: Tensor) -> torch.dtype:
    """The type for sums over x. Autocast widens softmax by itself on a GPU, not on a CPU."""
    return torch.promote_types(x.dtype, torch.float32)


def somewhere(allowed: Tensor) -> Tensor:
    """The mask, all true in rows that allow nothing: a softmax over nothing would be NaN, and spread."""
    return allowed | ~allowed.any(dim=-1, keepdim=True)


@torch.no_grad()
def greedy_decode(model: Transformer, source: Tensor, max_length: int) -> Tensor:
    """Translations (B, L) of ids (B, S), L at most `max_length`, by the likeliest next token.

    Without `<s>`; a row ends with `</s>` where it came to it, and is `<blank>` after that. Dropout is off meanwhile.
    """
    training = model.training
    model.eval()
    memory, cache = model.encode(source), Cache()
    last = source.new_full((len(source), 1), START_ID)
    going = torch.ones(len(source), dtype=torch.bool, device=source.device)
    chosen: list[Tensor] = []
    while len(chosen) < max_length and going.any():
        best = model.decode(memory, last, cache)[:, -1].argmax(dim=-1)  # (B,)
        chosen.append(torch.where(going, best, PADDING_ID))
        going &= best != END_ID
        last = chosen[-1][:, None]
    model.train(training)
    return torch.stack(chosen, dim=1) if chosen else source.new_empty(len(source), 0)


def build_transformer(
    *,
    source_vocabulary: int,
    target_vocabulary: int,
    layers: int = 6,
    d_model: int = 512,
    d_ff: int = 2048,
    heads: int = 8,
    dropout: float = 0.1,
    max_length: int = 512,
) -> Transformer:
    """A Transformer of these few numbers, by default the base model of the paper.

    Vocabularies in words, specials included; `max_length` in tokens. Raises ConfigError with all that does not fit.
    """
    numbers = {"layers": layers, "d_model": d_model, "d_ff": d_ff, "heads": heads, "max_length": max_length}
    problems = [
        f"{name} = {value!r} must be a whole number, at least 1"
        for name, value in numbers.items()
        if not isinstance(value, int) or isinstance(value, bool) or value < 1
    ]
    if not problems and (d_model % heads or d_model % 2):
        problems.append(f"d_model = {d_model} must be even and a multiple of heads = {heads}")
    if not isinstance(dropout, int | float) or isinstance(dropout, bool) or not 0 <= dropout < 1:
        problems.append(f"dropout = {dropout!r} must be a number in [0, 1)")
    if problems:
        raise ConfigError(problems)
    return Transformer(
        source_vocabulary=source_vocabulary,
        target_vocabulary=target_vocabulary,
        layers=layers,
        d_model=d_model,
        d_ff=d_ff,
        heads=heads,
        dropout=dropout,
        max_length=max_length,
    )


TEXT_MODELS: dict[str, Callable[..., nn.Module]] = {"multi30k_transformer": build_transformer}
