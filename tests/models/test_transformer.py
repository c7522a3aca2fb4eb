"""The Transformer: size of the published run, masks, attention maps, cached decoding, and that it can learn."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from raybench import models
from raybench.config.trial import ModelConfig
from raybench.errors import ConfigError, WeightsError
from raybench.models.transformer import (
    END_ID,
    PADDING_ID,
    START_ID,
    Attention,
    Transformer,
    build_transformer,
    greedy_decode,
    sinusoids,
    somewhere,
)

torch.set_num_threads(1)

NAME = "multi30k_transformer"
SOURCE, TARGET = 13, 11
SMALL: dict[str, Any] = {"layers": 2, "d_model": 16, "d_ff": 32, "heads": 4, "max_length": 40}


def small(seed: int = 0, **numbers: Any) -> Transformer:
    torch.manual_seed(seed)
    sizes = {"source_vocabulary": SOURCE, "target_vocabulary": TARGET}
    return build_transformer(**{**sizes, **SMALL, **numbers})


def ids(vocabulary: int, lengths: list[int], seed: int = 0) -> Tensor:
    """Rows of random words, none of them a special, padded to the longest."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(4, vocabulary, (len(lengths), max(lengths)), generator=generator)
    rows[:, 0] = START_ID
    rows[torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]] = PADDING_ID
    return rows


PYTORCH_NAMES = {
    r"^(en|de)coder\.": r"\1coder.layers.",
    r"^(en|de)coder_norm": r"\1coder.norm",
    r"self_attention": "self_attn",
    r"cross_attention": "multihead_attn",
    r"attn\.out": "attn.out_proj",
    r"attn\.(query|key|value)\.": "attn.in_proj_",  # one after the other in one tensor
    r"feed_forward\.0": "linear1",
    r"feed_forward\.3": "linear2",
}

SOURCES, TARGETS = ids(SOURCE, [7, 4, 5]), ids(TARGET, [6, 6, 3], seed=1)


def test_parameters_of_the_published_run() -> None:
    # Shared facts, section 5: N = 6, d_model 512, d_ff 2048, 8 heads, vocabularies 8317 and 6384, no weight tying.
    with torch.device("meta"):
        module = build_transformer(source_vocabulary=8317, target_vocabulary=6384)
    assert models.count_parameters(module) == 54_942_448


def test_log_probabilities_are_finite_and_every_parameter_gets_a_gradient() -> None:
    module = small().train()
    log_probs = module(SOURCES, TARGETS)
    assert log_probs.shape == (3, 6, TARGET)
    assert log_probs.isfinite().all()
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(3, 6))  # float32 sums of 11 numbers
    torch.autograd.backward(F.nll_loss(log_probs.flatten(0, 1), TARGETS.flatten()))
    without = [name for name, parameter in module.named_parameters() if parameter.grad is None]
    zero = [name for name, parameter in module.named_parameters() if not parameter.grad.any()]  # type: ignore[union-attr]
    assert (without, zero) == ([], [])


def test_the_state_dict_survives_safetensors(tmp_path: Path) -> None:
    module, other = small().eval(), small(seed=1).eval()
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    assert "positions" not in module.state_dict()
    assert not torch.equal(module(SOURCES, TARGETS), other(SOURCES, TARGETS))
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(module(SOURCES, TARGETS), other(SOURCES, TARGETS))


def test_the_seed_decides_weights_and_dropout() -> None:
    one, two = small(), small()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.generator.weight, small(seed=1).generator.weight)
    outputs = []
    for module in (one, two):
        torch.manual_seed(5)
        outputs.append(module.train()(SOURCES, TARGETS))
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], one(SOURCES, TARGETS))  # dropout goes on drawing


def test_matrices_are_xavier_uniform() -> None:
    module = build_transformer(source_vocabulary=300, target_vocabulary=200, layers=1, d_model=64, d_ff=128, heads=4)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            bound = (6 / sum(parameter.shape)) ** 0.5
            assert parameter.abs().max().item() <= bound
            # Of a uniform distribution on +-bound; 4,096 draws or more give its deviation to about 1 %.
            assert parameter.std().item() == pytest.approx(bound / 3**0.5, rel=0.05), name


def test_positions_are_those_of_the_formula() -> None:
    table = sinusoids(50, 8)
    for position, column in [(0, 0), (0, 1), (7, 2), (49, 5), (31, 7)]:
        angle = torch.tensor(position / 10_000 ** (2 * (column // 2) / 8), dtype=torch.float64)
        expected = angle.cos() if column % 2 else angle.sin()
        assert table[position, column].item() == pytest.approx(expected.item(), abs=1e-7)  # rounded to float32


def test_attention_is_that_of_its_formula() -> None:
    torch.manual_seed(0)
    attention, x, y = Attention(8, heads=2, dropout=0.0), torch.randn(3, 5, 8), torch.randn(3, 4, 8)
    q, k, v = (
        layer(inputs).view(3, -1, 2, 4).transpose(1, 2)
        for layer, inputs in ((attention.query, x), (attention.key, y), (attention.value, y))
    )
    expected = attention.out((q @ k.mT / 2).softmax(-1).matmul(v).transpose(1, 2).reshape(3, 5, 8))  # sqrt(4) = 2
    found = attention(x, attention.keys_values(y), torch.ones(3, 1, 1, 4, dtype=torch.bool))
    torch.testing.assert_close(found, expected)  # another order of the same float32 sums


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")  # which it cannot use in pre-norm form
def test_the_whole_is_that_of_pytorch_with_the_same_weights() -> None:
    module = small().eval()
    sizes: dict[str, Any] = {"d_model": 16, "nhead": 4, "dim_feedforward": 32, "layer_norm_eps": 1e-6}
    other = torch.nn.Transformer(
        num_encoder_layers=2, num_decoder_layers=2, norm_first=True, batch_first=True, **sizes
    ).eval()
    state: dict[str, Tensor] = {}
    for name, value in module.state_dict().items():
        if name.startswith(("encoder", "decoder")):
            for ours, theirs in PYTORCH_NAMES.items():
                name = re.sub(ours, theirs, name)
            state[name] = torch.cat([state[name], value]) if name in state else value
    other.load_state_dict(state)

    def embed(embedding: torch.nn.Embedding, rows: Tensor) -> Tensor:
        return 4 * embedding.weight[rows] + sinusoids(rows.shape[1], 16)  # sqrt(16) = 4

    padding = SOURCES == PADDING_ID
    states = other(
        embed(module.source_embedding, SOURCES),
        embed(module.target_embedding, TARGETS),
        tgt_mask=torch.ones(6, 6, dtype=torch.bool).triu(1),
        src_key_padding_mask=padding,
        memory_key_padding_mask=padding,
        tgt_key_padding_mask=TARGETS == PADDING_ID,
    )
    expected = F.log_softmax(module.generator(states), dim=-1)
    torch.testing.assert_close(module(SOURCES, TARGETS), expected, rtol=0, atol=1e-5)  # float32 sums in another order


def test_a_later_target_token_changes_nothing_before_it() -> None:
    module = small().eval()
    changed = TARGETS.clone()
    changed[:, 4] = torch.tensor([4, 5, 6])
    assert not torch.equal(changed, TARGETS)
    before, after = module(SOURCES, TARGETS), module(SOURCES, changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:2, 4:], after[:2, 4:])


def test_more_padding_changes_nothing() -> None:
    module = small().eval()
    wide = module(F.pad(SOURCES, (0, 9), value=PADDING_ID), F.pad(TARGETS, (0, 5), value=PADDING_ID))
    # Sums over more terms, all of them zero, may be ordered otherwise in float32.
    torch.testing.assert_close(wide[:, : TARGETS.shape[1]], module(SOURCES, TARGETS), rtol=0, atol=1e-5)
    alone = module(SOURCES[1:2, :4], TARGETS[1:2])
    torch.testing.assert_close(alone, module(SOURCES, TARGETS)[1:2], rtol=0, atol=1e-5)


def test_source_words_matter_but_not_their_padding() -> None:
    module = small().eval()
    changed = SOURCES.clone()
    changed[0, 2] = 4 + (changed[0, 2] - 3) % (SOURCE - 4)
    assert not torch.allclose(module(SOURCES, TARGETS)[0], module(changed, TARGETS)[0])
    assert torch.equal(module(SOURCES, TARGETS)[1:], module(changed, TARGETS)[1:])


def test_a_sentence_of_padding_alone_is_finite_forwards_and_backwards() -> None:
    module = small()
    empty, nothing = torch.full_like(SOURCES, PADDING_ID), torch.full_like(TARGETS, PADDING_ID)
    log_probs = module(empty, nothing)
    log_probs.sum().backward()
    assert log_probs.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())
    assert module.attention_maps(empty, nothing).log_probs.isfinite().all()
    mask = torch.tensor([[True, False], [False, False]])
    assert somewhere(mask).tolist() == [[True, False], [True, True]]


def test_attention_maps_belong_to_the_same_output() -> None:
    module = small().eval()
    maps = module.attention_maps(SOURCES, TARGETS)
    # The fused kernel sums in another order: float32 rounding through two layers.
    torch.testing.assert_close(maps.log_probs, module(SOURCES, TARGETS), rtol=0, atol=1e-5)
    shapes = {"encoder": (3, 4, 7, 7), "decoder": (3, 4, 6, 6), "cross": (3, 4, 6, 7)}
    for kind, shape in shapes.items():
        layers = getattr(maps, kind)
        assert [tuple(each.shape) for each in layers] == [shape] * 2
        for each in layers:
            torch.testing.assert_close(each.sum(-1), torch.ones(shape[:-1]))
    padded = SOURCES == PADDING_ID
    for each in (*maps.encoder, *maps.cross):
        assert not each.transpose(1, 3)[padded].any()
    for each in maps.decoder:
        assert not each.triu(1).any()
        assert not each.transpose(1, 3)[TARGETS == PADDING_ID].any()


def test_attention_maps_with_dropout_draw_like_training() -> None:
    module = small(dropout=0.5).train()
    torch.manual_seed(0)
    one = module.attention_maps(SOURCES, TARGETS)
    torch.manual_seed(1)
    two = module.attention_maps(SOURCES, TARGETS)
    assert not torch.allclose(one.log_probs, two.log_probs)
    torch.testing.assert_close(one.cross[0].sum(-1), torch.ones(3, 4, 6))  # kept before their dropout


def naive(module: Transformer, source: Tensor, max_length: int) -> list[int]:
    """One sentence (S,), the whole prefix again for each token."""
    target = torch.tensor([[START_ID]])
    while target.shape[1] <= max_length and target[0, -1] != END_ID:
        target = torch.cat([target, module(source[None], target)[:, -1].argmax(-1, keepdim=True)], dim=1)
    return target[0, 1:].tolist()


def test_cached_batched_decoding_is_the_naive_loop() -> None:
    lengths = []
    for seed in range(6):
        module = small(seed=seed)
        with torch.no_grad():
            module.generator.bias[END_ID] += 0.7 * (seed % 3)  # so that rows end at different times
        source = ids(SOURCE, [7, 2, 5, 3, 6, 4], seed=seed)
        found = greedy_decode(module, source, 12)
        assert module.training
        module.eval()
        expected = [naive(module, words[words != PADDING_ID], 12) for words in source]
        longest = max(map(len, expected))
        assert found.tolist() == [words + [PADDING_ID] * (longest - len(words)) for words in expected]
        lengths += [len(words) for words in expected]
    assert len(set(lengths)) > 2
    assert max(lengths) == 12  # cut off, not ended


def test_mixed_precision_gives_log_probabilities_in_float32() -> None:
    module = small().eval()
    with torch.autocast("cpu", torch.bfloat16):
        log_probs, maps = module(SOURCES, TARGETS), module.attention_maps(SOURCES, TARGETS)
        assert greedy_decode(module, SOURCES, 4).shape == (3, 4)
    assert log_probs.dtype == torch.float32
    # bfloat16 has 8 bits: 0.4 % of values of order 1 in each of some twenty roundings on the way.
    torch.testing.assert_close(log_probs, module(SOURCES, TARGETS), rtol=0, atol=0.1)
    torch.testing.assert_close(maps.log_probs, log_probs, rtol=0, atol=0.1)


def test_decoding_nothing() -> None:
    assert greedy_decode(small(), SOURCES, 0).shape == (3, 0)


def test_too_long_a_sequence_names_both_lengths() -> None:
    with pytest.raises(ConfigError, match="a sequence of 7 tokens, but this Transformer has max_length 6"):
        small(max_length=6)(SOURCES, TARGETS)


def test_numbers_that_do_not_fit_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        small(layers=0, heads="4", dropout=1.0)
    assert list(caught.value.problems) == [
        "layers = 0 must be a whole number, at least 1",
        "heads = '4' must be a whole number, at least 1",
        "dropout = 1.0 must be a number in [0, 1)",
    ]
    with pytest.raises(ConfigError, match="d_model = 18 must be even and a multiple of heads = 4"):
        small(d_model=18)


def build(name: str = NAME, **config: Any) -> torch.nn.Module:
    return models.build_text(ModelConfig(name=name, **config), source_vocabulary=SOURCE, target_vocabulary=TARGET)


def test_the_registry_tells_text_models_from_image_models() -> None:
    assert NAME in models.names()
    assert NAME in models.names("text")
    assert NAME not in models.names("image")
    assert models.exists(NAME)
    assert set(models.names("text")) | set(models.names("image")) == set(models.names())
    with pytest.raises(ConfigError, match=f"model {NAME} translates sentences and cannot see images; allowed.*resnet8"):
        models.build(ModelConfig(name=NAME), num_classes=2, in_channels=1, image_size=8, mean=(0.5,), std=(0.5,))
    for name in ("resnet8", "vit_base_patch16_224"):
        with pytest.raises(ConfigError, match=f"model {name} classifies images and cannot read sentences.*{NAME}"):
            build(name)
    with pytest.raises(ConfigError, match=f'unknown model "multi30k_transfomer"; nearest known: {NAME}'):
        build("multi30k_transfomer")


def test_options_are_those_of_the_builder() -> None:
    module = build(options={**SMALL, "dropout": 0.3})
    assert isinstance(module, Transformer)
    assert (len(module.encoder), module.generator.weight.shape, module.dropout.p) == (2, (TARGET, 16), 0.3)
    allowed = "allowed: layers, d_model, d_ff, heads, dropout, max_length"
    with pytest.raises(ConfigError, match=f"model {NAME}: unknown option depth; {allowed}"):
        build(options={"depth": 3})
    with pytest.raises(ConfigError, match="image_size is for image models; leave it out"):
        build(image_size=32)


def test_weights_of_a_file(tmp_path: Path) -> None:
    module = small(seed=3).eval()
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    found = build(options=SMALL, weights=str(tmp_path / "model.safetensors")).eval()
    assert torch.equal(found(SOURCES, TARGETS), module(SOURCES, TARGETS))
    with pytest.raises(WeightsError, match=f"does not fit the model {NAME}; "):
        build(options={**SMALL, "d_ff": 8}, weights=str(tmp_path / "model.safetensors"))
    with pytest.raises(WeightsError, match=f"no weights are published for {NAME}"):
        build(weights="pretrained")
    with pytest.raises(WeightsError, match=f"no weights are published for {NAME}"):
        models.weights_available(ModelConfig(name=NAME, weights="pretrained"))
