"""Token merging in timm's transformers: against timm's own attention and plain loops, and by its identities."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from torch import Tensor, nn

from raybench import models
from raybench.config.trial import ModelConfig, Option
from raybench.errors import ConfigError
from raybench.models.macs import count_macs
from raybench.models.tome_vit import MergingBlock, Trace, apply_tome, source_map

torch.set_num_threads(1)

KINDS: dict[str, dict[str, Any]] = {
    "class token": {},
    "distilled": {"distilled": True},
    "no class token": {"class_token": False, "global_pool": "avg"},
    "registers": {"reg_tokens": 4},
    "registers only": {"class_token": False, "reg_tokens": 3, "global_pool": "avg"},
    "average of all": {"global_pool": "avg", "fc_norm": True},
    "attention pool": {"class_token": False, "global_pool": "map"},
    "LayerScale, q/k norm": {"init_values": 0.3, "qk_norm": True},
    "all norms": {"qk_norm": True, "scale_attn_norm": True, "scale_mlp_norm": True, "pre_norm": True},
    "no bias": {"qkv_bias": False, "proj_bias": False},
}
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def tiny(*, distilled: bool = False, fused: bool = True, seed: int = 0, **options: Any) -> Any:
    """A transformer of 64 patches, width 24 and 3 blocks, in eval mode, with weights that make tokens differ."""
    torch.manual_seed(seed)
    kind = VisionTransformerDistilled if distilled else VisionTransformer
    model: Any = kind(img_size=32, patch_size=4, embed_dim=24, depth=3, num_heads=3, num_classes=5, **options).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name and "ls" not in name:
                parameter.normal_(std=0.3)
    for block in model.blocks:
        if hasattr(block, "attn"):
            block.attn.fused_attn = fused
    return model


def output(model: nn.Module, images: Tensor = IMAGES) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(images)
    return out


@pytest.fixture(params=[True, False], ids=["fused", "plain"])
def fused(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("kind", KINDS)
def test_r_0_is_the_plain_model(kind: str, fused: bool) -> None:
    model = tiny(fused=fused, **KINDS[kind])
    plain = output(model)
    assert apply_tome(model, 0) is model
    # Shared facts, section 3: atol 1e-4. It is the same sums in the same order; 1e-6 leaves room for another kernel.
    torch.testing.assert_close(output(model), plain, rtol=0, atol=1e-6)


def merged_by_loops(model: Any, images: Tensor, rs: list[int], proportional: bool) -> tuple[Tensor, Tensor]:
    """Tokens after the last block and their source map: timm's own attention with log(size) as a mask, merged in loops.

    Keys are caught on their way through timm's k_norm. Tokens are a list of (vector, input tokens) a image.
    """
    outputs, sources = [], []
    for image in images:
        x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(image[None]))))[0]
        count = len(x)
        groups = [[token] for token in range(count)]
        prefix = model.num_prefix_tokens
        for block, r in zip(model.blocks, rs, strict=True):
            mask = torch.tensor([len(group) for group in groups]).log()[None, None, None]
            caught: list[Tensor] = []
            hook = block.attn.k_norm.register_forward_hook(lambda _, __, keys, caught=caught: caught.append(keys))
            mixed = block.attn(block.norm1(x[None]), attn_mask=mask if proportional else None)[0]
            hook.remove()
            x = x + block.ls1(mixed)
            keys = caught[0][0].mean(0)
            similarity = nn.functional.cosine_similarity(keys[:, None], keys[None], dim=-1).tolist()
            pairs = []
            for a in range(0, len(x), 2):
                best = max((similarity[a][b], b) for b in range(1, len(x), 2) if b >= prefix)
                if a >= prefix:
                    pairs.append((best[0], a, best[1]))
            pairs.sort(reverse=True)
            goes_to = {a: b for _, a, b in pairs[: min(r, (len(x) - prefix) // 2)]}
            staying = [a for _, a, _ in pairs if a not in goes_to]  # most similar first, but where prefix tokens are
            order = [*range(prefix), *(sorted(staying) if prefix else staying)]
            order += [b for b in range(1, len(x), 2) if b >= prefix]
            rows, found = [], []
            for token in order if goes_to else range(len(x)):
                members = [token, *(a for a, b in goes_to.items() if b == token)]
                weights = [len(groups[member]) for member in members]
                rows.append(sum(w * x[m] for w, m in zip(weights, members, strict=True)) / sum(weights))
                found.append([each for member in members for each in groups[member]])
            x, groups = torch.stack(rows), found
            x = x + block.ls2(block.mlp(block.norm2(x)))
        outputs.append(x)
        sources.append(torch.tensor([[float(token in group) for token in range(count)] for group in groups]))
    return torch.stack(outputs), torch.stack(sources)


@pytest.mark.parametrize("proportional", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_against_timms_attention_and_plain_loops(kind: str, proportional: bool, fused: bool) -> None:
    model = tiny(fused=fused, **KINDS[kind])
    rs = [9, 0, 40]  # the last is clipped
    with torch.no_grad():
        wanted, sources = merged_by_loops(model, IMAGES, rs, proportional)
    plain = output(model)
    caught: list[Tensor] = []
    apply_tome(model, rs, proportional=proportional, keep_source=True)
    model.blocks[-1].register_forward_hook(lambda _, __, tokens: caught.append(tokens))
    merged = output(model)
    # float32 in other orders over three blocks, values to about 10.
    torch.testing.assert_close(caught[0], wanted, rtol=1e-5, atol=2e-5)
    assert torch.equal(source_map(model), sources)
    assert (merged - plain).abs().max() > 1e-3
    # What the head sees: the tokens that went in, each with the value of the one it is part of.
    restored = model.norm(torch.einsum("bts,btc->bsc", sources, wanted))
    torch.testing.assert_close(merged, model.forward_head(restored), rtol=1e-5, atol=2e-5)


def test_average_pooling_weighs_tokens_by_size() -> None:
    model = apply_tome(tiny(**KINDS["no class token"]), 13, keep_source=True)
    caught: list[Tensor] = []
    model.blocks[-1].register_forward_hook(lambda _, __, tokens: caught.append(tokens))
    with torch.no_grad():
        pooled = model.pool(model.forward_features(IMAGES))
    sizes = source_map(model).sum(2)
    assert sizes.amax() > 1
    weighted = (caught[0] * sizes[..., None]).sum(1) / 64
    torch.testing.assert_close(pooled, weighted, rtol=1e-5, atol=1e-6)  # float32, another order


# Shared facts, section 3: 197 tokens at r = 8 end at 101, distilled 198 at 102.
@pytest.mark.parametrize(("distilled", "tokens", "left"), [(False, 197, 101), (True, 198, 102)])
def test_tokens_left_after_twelve_blocks(distilled: bool, tokens: int, left: int) -> None:
    kind = VisionTransformerDistilled if distilled else VisionTransformer
    model: Any = kind(embed_dim=8, depth=12, num_heads=2, num_classes=2).eval()
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert model.forward_features(images).shape[1] == tokens
        assert apply_tome(model, 8, keep_source=True).forward_features(images).shape[1] == left
    source = source_map(model)
    assert source.shape == (1, left, tokens)
    assert source.sum() == tokens


@pytest.mark.parametrize("kind", KINDS)
def test_prefix_tokens_stay_themselves(kind: str) -> None:
    model = tiny(**KINDS[kind])
    prefix = model.num_prefix_tokens
    with torch.no_grad():  # patches that look like the class token
        model.pos_embed.zero_()
        if model.cls_token is not None:
            model.cls_token.zero_()
        model.patch_embed.proj.weight.zero_()
        if model.patch_embed.proj.bias is not None:
            model.patch_embed.proj.bias.zero_()
    output(apply_tome(model, 20, keep_source=True))
    source = source_map(model)
    assert source.shape[1] < source.shape[2]
    assert torch.equal(source[:, :prefix], torch.eye(64 + prefix)[:prefix].expand(3, -1, -1))


@pytest.mark.parametrize("kind", KINDS)
def test_state_dicts_are_interchangeable(kind: str) -> None:
    plain, merging = tiny(**KINDS[kind]), tiny(seed=1, **KINDS[kind])
    before = [id(parameter) for parameter in merging.parameters()]
    apply_tome(merging, 5)
    assert [id(parameter) for parameter in merging.parameters()] == before
    assert list(merging.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in merging.named_parameters()] == [name for name, _ in plain.named_parameters()]
    merging.load_state_dict(plain.state_dict())
    plain.load_state_dict(merging.state_dict())
    assert torch.equal(output(merging), output(apply_tome(plain, 5)))
    assert torch.equal(output(copy.deepcopy(merging)), output(merging))
    assert torch.equal(output(pickle.loads(pickle.dumps(merging))), output(merging))


def test_no_random_number_is_drawn_and_modes_are_kept() -> None:
    for training in (True, False):
        model = tiny().train(training)
        state = torch.random.get_rng_state()
        apply_tome(model, 5)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert {module.training for module in model.modules()} == {training}


DROPS: dict[str, Any] = {
    "drop_path_rate": 0.5,
    "proj_drop_rate": 0.1,
    "attn_drop_rate": 0.1,
    "drop_rate": 0.1,
    "patch_drop_rate": 0.2,
}


def test_dropping_in_training(fused: bool) -> None:
    model = tiny(fused=fused, **DROPS).train()

    def seeded() -> Tensor:
        torch.manual_seed(3)
        return output(model)

    plain = seeded()
    apply_tome(model, 0)
    assert torch.equal(seeded(), plain)  # the same draws in the same order
    apply_tome(model, 6)
    assert torch.equal(seeded(), seeded())
    assert not torch.equal(seeded(), output(model))
    assert not torch.equal(seeded(), output(model.eval()))


def test_drop_path_drops_both_branches_of_a_merging_block() -> None:
    model = apply_tome(tiny(drop_path_rate=1 - 1e-7), 0)
    block, x = model.blocks[-1], torch.randn(2, 65, 24)
    torch.manual_seed(0)
    with torch.no_grad():
        assert not torch.equal(block(x, Trace()), x)
        assert torch.equal(block.train()(x, Trace()), x)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter(kind: str, fused: bool) -> None:
    model = apply_tome(tiny(fused=fused, **KINDS[kind]), 8).train()
    if "distilled" in KINDS[kind]:
        model.set_distilled_training(True)
        logits = torch.stack(model(IMAGES))
    else:
        logits = model(IMAGES)
    logits.square().sum().backward()
    without = [name for name, each in model.named_parameters() if each.grad is None or not each.grad.abs().sum() > 0]
    assert not without


def test_a_gate_is_kept() -> None:
    model = tiny()
    for block in model.blocks:
        block.attn.gate = nn.Linear(24, 24)
    plain = output(model)
    torch.testing.assert_close(output(apply_tome(model, 0)), plain, rtol=0, atol=1e-6)  # the same sums


def test_no_forward_knows_another() -> None:
    model = apply_tome(tiny(), 9, keep_source=True)
    wanted = output(model)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    hook = model.blocks[1].mlp.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        output(model, IMAGES[:2])
    hook.remove()
    with pytest.raises(ConfigError, match="no source map"):
        source_map(model)
    assert torch.equal(output(model), wanted)
    assert source_map(model).shape == (3, 65 - 27, 65)
    kept = [name for module in model.modules() for name, value in vars(module).items() if isinstance(value, Tensor)]
    assert kept == ["source"]
    apply_tome(model, 9)
    output(model)
    with pytest.raises(ConfigError, match="no source map"):
        source_map(model)


def test_r_may_be_changed() -> None:
    model = tiny()
    plain = output(model)
    eight = output(apply_tome(model, [8, 8, 8]))
    assert torch.equal(output(apply_tome(model, 8)), eight)
    model.blocks[0].r = 3
    three = output(model)
    assert torch.equal(three, output(apply_tome(tiny(), [3, 8, 8])))
    assert not torch.equal(three, eight)
    torch.testing.assert_close(output(apply_tome(model, 0)), plain, rtol=0, atol=1e-6)  # the same sums
    assert not torch.equal(output(apply_tome(model, 8, proportional=False)), eight)
    with pytest.raises(ConfigError, match="has 4 numbers, the model 3 blocks"):
        apply_tome(model, [1, 1, 1, 1])


def test_half_precision(fused: bool) -> None:
    model = apply_tome(tiny(fused=fused, qk_norm=True), 9)
    wanted = output(model)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = output(model)
    half = output(model.bfloat16(), IMAGES.bfloat16())
    assert (mixed.dtype, half.dtype) == (torch.bfloat16, torch.bfloat16)
    # bfloat16 has 8 bits, and other pairs may merge: of the spread of the logits a part, not all.
    for found in (mixed, half):
        assert (found.float() - wanted).std() < 0.3 * wanted.std()


def refusals() -> Iterator[tuple[str, Any, str]]:
    yield "resnet", lambda: timm.create_model("test_resnet"), "this is a ResNet"
    yield "swin", lambda: timm.create_model("swin_tiny_patch4_window7_224"), "this is a SwinTransformer"
    yield "tiny_vit", lambda: timm.create_model("tiny_vit_5m_224"), "this is a TinyVit"
    yield "eva", lambda: timm.create_model("eva02_tiny_patch14_224"), "this is a Eva"
    yield "parallel", lambda: tiny(block_fn=ParallelScalingBlock), "block 0 is a ParallelScalingBlock, not a Block"
    yield "diff", lambda: tiny(attn_layer="diff"), "the attention of block 0 is DiffAttention"
    yield "linear", lambda: nn.Linear(1, 1), "this is a Linear"


@pytest.mark.parametrize(("make", "words"), [(make, words) for _, make, words in refusals()])
def test_other_models_are_refused(make: Any, words: str) -> None:
    with torch.device("meta"):
        model = make()
    before = [type(module) for module in model.modules()]
    with pytest.raises(
        ConfigError, match=f"token merging needs timm's VisionTransformer or its distilled kind: {words}"
    ):
        apply_tome(model, 8)
    assert [type(module) for module in model.modules()] == before


def test_what_merging_cannot_do_is_refused() -> None:
    model = apply_tome(tiny(), 8)
    with pytest.raises(ConfigError, match="takes no attention mask"):
        model(IMAGES, attn_mask=torch.zeros(65, 65))
    with pytest.raises(ConfigError, match="takes no attention mask"):
        model(IMAGES, is_causal=True)
    with pytest.raises(ConfigError, match="no gradient checkpointing, no intermediate features"):
        model.forward_intermediates(IMAGES)
    model.set_grad_checkpointing(True)
    with pytest.raises(ConfigError, match="no gradient checkpointing, no intermediate features"):
        model(IMAGES.requires_grad_())
    checkpointing = tiny()
    checkpointing.set_grad_checkpointing(True)
    with pytest.raises(ConfigError, match="gradient checkpointing is on"):
        apply_tome(checkpointing, 8)


def built(name: str, weights: str = "none", **options: Option) -> nn.Module:
    torch.manual_seed(0)
    config = ModelConfig(name=name, weights=weights, options=options)
    half = (0.5,) * 3
    return models.build(config, num_classes=4, in_channels=3, image_size=32, mean=half, std=half).module.eval()


def rs(model: Any) -> list[int]:
    return [block.r for block in model.blocks]


@pytest.mark.parametrize(
    ("option", "wanted"),
    [
        (3, [3] * 6),
        ("3", [3] * 6),
        ("(4, -1)", [8, 6, 4, 3, 1, 0]),
        ("8,1", [0, 3, 6, 9, 12, 16]),
        ("[5,2]", [5, 2] + [0] * 4),
    ],
)
def test_the_option_of_a_configuration(option: int | str, wanted: list[int]) -> None:
    assert rs(built("test_vit", img_size=64, tome_r=option)) == wanted


def test_the_option_is_applied_after_the_weights(tmp_path: Path) -> None:
    plain = built("test_vit", img_size=64)
    assert not isinstance(plain.blocks[0], MergingBlock)  # type: ignore[index]
    assert not isinstance(built("test_vit", img_size=64, tome_r=0).blocks[0], MergingBlock)  # type: ignore[index]
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(0.05)
    save_file(plain.state_dict(), tmp_path / "plain.safetensors")
    merging = built("test_vit", str(tmp_path / "plain.safetensors"), img_size=64, tome_r=2)
    assert isinstance(merging.blocks[0], MergingBlock)  # type: ignore[index]
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(output(merging, images), output(apply_tome(plain, 2), images))
    assert [len(each) for each in models.head_parameters(merging)] == [4, 4]
    save_file(merging.state_dict(), tmp_path / "merging.safetensors")
    again = built("test_vit", str(tmp_path / "merging.safetensors"), img_size=64, tome_r=2)
    assert torch.equal(output(again, images), output(merging, images))


def test_options_that_make_no_sense() -> None:
    for value in (-1, 2.5, True, "", "eight", "(8, -1, 2)", "[1.5]", "(8.0, 1)", "[-1]", "{8: 1}"):
        with pytest.raises(ConfigError, match=r"model test_vit: tome_r = .* must be a whole number >= 0"):
            built("test_vit", tome_r=value)
    with pytest.raises(ConfigError, match=r"model test_vit: tome_r = \[1, .* has 7 numbers, the model 6 blocks"):
        built("test_vit", tome_r="[1, 1, 1, 1, 1, 1, 1]")
    with pytest.raises(ConfigError, match=r"model test_vit: tome_r = \(8, 2\): r = .* must lie in \[-1, 1\]"):
        built("test_vit", tome_r="(8, 2)")
    with pytest.raises(ConfigError, match=r"model test_resnet: tome_r = 8: token merging needs .* this is a ResNet"):
        built("test_resnet", tome_r=8)
    with pytest.raises(ConfigError, match="unknown option tome_r"):
        built("vit_tiny_patch4_32", tome_r=8)


# Shared facts, section 3, from the paper: bounds of the speed-up from multiply-adds, two decimals, hence 0.005. Here
# also the similarities (0.1 % of the work) and the channel that carries log(size) (1/64 of attention's) are counted.
@pytest.mark.parametrize(
    ("name", "r", "bound", "tolerance"),
    [
        ("vit_base_patch16_224", 13, 1.69, 0.005),
        ("vit_base_patch16_224", 16, 2.00, 0.005),
        ("vit_small_patch16_224", 13, 1.69, 0.01),  # the stem and attention are a larger share of a narrower model
    ],
)
def test_multiply_adds_at_224_px(name: str, r: int, bound: float, tolerance: float) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    plain = count_macs(model, 3, 224)
    assert count_macs(apply_tome(model, 0), 3, 224) == plain
    merged = count_macs(apply_tome(model, r), 3, 224)
    assert plain / merged == pytest.approx(bound, abs=tolerance)
