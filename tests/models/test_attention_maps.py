"""Attention maps: what the model's own attention does with them, the identities of the rollout, and merged tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from raybench.config.trial import ModelConfig
from raybench.errors import ConfigError
from raybench.models import build
from raybench.models.attention_maps import (
    Attended,
    Reading,
    attention_rollout,
    merged_patches,
    merges,
    no_maps,
    no_rollout,
    patch_attention,
    patch_rollout,
    patch_side,
    reading,
    record_attention,
)
from raybench.models.tome_vit import apply_tome

torch.set_num_threads(1)

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
OWN: dict[str, dict[str, Any]] = {
    "vit_tiny_patch4_32": {},
    "basic_vit": {"patch_size": 8, "dim": 24, "depth": 3, "heads": 3},
    "vit_b16_gap": {"patch_size": 8, "dim": 24, "depth": 3, "heads": 3},
    "ci2p_vit": {"encoder_channels": 8, "latent_channels": 12, "dim": 24, "depth": 2, "heads": 3},
    "ci2p_vit_ds": {"encoder_channels": 8, "latent_channels": 12, "dim": 24, "depth": 2, "heads": 3},
}
TIMM: dict[str, dict[str, Any]] = {
    "class token": {},
    "distilled": {"distilled": True},
    "registers": {"reg_tokens": 4},
    "average": {"global_pool": "avg"},
    "average without class token": {"class_token": False, "global_pool": "avg", "reg_tokens": 3},
    "q/k norm": {"qk_norm": True},
}


def own(name: str) -> nn.Module:
    config = ModelConfig(name=name, options=OWN[name])
    torch.manual_seed(0)
    return build(config, num_classes=5, in_channels=3, image_size=32, mean=(0.0,) * 3, std=(1.0,) * 3).module.eval()


def tiny(*, distilled: bool = False, **options: Any) -> Any:
    """timm's, with weights that make tokens look at different places."""
    torch.manual_seed(0)
    kind = VisionTransformerDistilled if distilled else VisionTransformer
    model: Any = kind(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=5, **options).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(std=0.3)
    return model


def maps(tokens: int = 5, layers: int = 3, heads: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, heads, tokens, tokens, generator=generator).softmax(-1) for _ in range(layers)]


@pytest.mark.parametrize("name", OWN)
def test_the_values_mixed_by_the_maps_are_what_our_own_attention_gives(name: str) -> None:
    module = own(name)
    attentions = [each for each in module.modules() if type(each).__name__ == "Attention"]
    seen: list[tuple[Any, Tensor, Tensor]] = []
    hooks = [
        each.register_forward_hook(lambda layer, given, out: seen.append((layer, given[0], out))) for each in attentions
    ]
    attended = record_attention(module, lambda: module(IMAGES))
    for hook in hooks:
        hook.remove()
    assert len(attended.maps) == len(attentions) == len(seen)
    for weights, (layer, given, out) in zip(attended.maps, seen, strict=True):
        values = layer.qkv(given).chunk(3, -1)[2].unflatten(-1, (layer.heads, -1)).transpose(1, 2)
        mixed = layer.proj((weights @ values).transpose(1, 2).flatten(2))
        # The fused kernel sums in another order.
        torch.testing.assert_close(mixed[:, : out.shape[1]], out, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", TIMM)
def test_they_are_what_timm_multiplies_its_values_with_where_it_is_not_fused(kind: str) -> None:
    module = tiny(**TIMM[kind])
    fused = record_attention(module, lambda: module(IMAGES))
    dropped: list[Tensor] = []
    for block in module.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_pre_hook(lambda _, given: dropped.append(given[0]))
    with torch.no_grad():
        module(IMAGES)
    assert len(fused.maps) == len(dropped) == 3
    for ours, theirs in zip(fused.maps, dropped, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)  # the same float32 sums


def test_the_model_is_as_before_also_where_the_pass_fails() -> None:
    module = tiny().train()
    before = {name: len(each._forward_hooks) + len(each._forward_pre_hooks) for name, each in module.named_modules()}

    def broken() -> None:
        assert not module.training
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        record_attention(module, broken)
    record_attention(module, lambda: module(IMAGES))
    assert module.training
    assert all(block.attn.fused_attn for block in module.blocks)
    assert before == {
        name: len(each._forward_hooks) + len(each._forward_pre_hooks) for name, each in module.named_modules()
    }
    merging = apply_tome(tiny(), 2)
    record_attention(merging, lambda: merging(IMAGES))
    assert not merging.blocks.keep_source
    assert merging.blocks.source is None


def test_the_rollout_of_identity_is_identity_and_of_uniform_attention_uniform() -> None:
    own_token = torch.eye(5).expand(2, 3, 5, 5)
    assert torch.equal(attention_rollout([own_token] * 4), torch.eye(5).expand(2, 5, 5))
    alike = torch.full((1, 2, 5, 5), 1 / 5)
    for layers in (1, 2, 7):
        flow = attention_rollout([alike] * layers)[0]
        # (0.5 U + 0.5 I)^L = (1 - 2^-L) U + 2^-L I, for U U = U: a token has so much of itself, and of others equally.
        expected = (1 - 0.5**layers) / 5 + 0.5**layers * torch.eye(5)
        torch.testing.assert_close(flow, expected, rtol=1e-6, atol=0)
        others = flow[~torch.eye(5, dtype=torch.bool)]
        torch.testing.assert_close(others, others[0].expand_as(others), rtol=1e-6, atol=0)


def test_the_rollout_is_the_product_of_the_layers_the_last_one_in_front() -> None:
    layers = maps()
    expected = torch.eye(5).double()
    for each in layers:
        expected = (0.5 * each[1].double().mean(0) + 0.5 * torch.eye(5).double()) @ expected
    flow = attention_rollout(layers)
    torch.testing.assert_close(flow[1], expected.float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(flow.sum(-1), torch.ones(2, 5), rtol=1e-6, atol=0)
    # Nothing of a token that nobody looks at reaches another one.
    blind = [each.clone() for each in layers]
    for each in blind:
        each[..., 3] = 0
        each /= each.sum(-1, keepdim=True)
    flow = attention_rollout(blind)
    assert flow[:, [0, 1, 2, 4], 3].abs().max() == 0


def test_merging_nothing_changes_no_rollout() -> None:
    layers = maps()
    nothing = torch.eye(5).expand(2, 5, 5)
    assert torch.equal(attention_rollout(layers, [nothing] * 4), attention_rollout(layers))


def test_merged_tokens_are_averaged_by_their_patches() -> None:
    """Tokens 1 and 2 become one after the first layer, which then takes in token 3."""
    layers = [maps(4)[0], maps(3)[1], maps(2)[2]]
    first = torch.tensor([[1.0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]).expand(2, 3, 4)
    second = torch.tensor([[1.0, 0, 0, 0], [0, 1, 1, 1]]).expand(2, 2, 4)
    flow = attention_rollout(layers, [torch.eye(4).expand(2, 4, 4), first, second, second])
    mixed = [0.5 * each[0].mean(0) + 0.5 * torch.eye(each.shape[-1]) for each in layers]
    means = [
        torch.tensor([[1.0, 0, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 1]]),
        torch.tensor([[1, 0, 0], [0, 2 / 3, 1 / 3]]),
    ]
    expected = mixed[2] @ means[1] @ mixed[1] @ means[0] @ mixed[0]
    torch.testing.assert_close(flow[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", TIMM)
def test_r_0_has_the_maps_of_the_plain_model(kind: str) -> None:
    plain, merging = tiny(**TIMM[kind]), apply_tome(tiny(**TIMM[kind]), 0)
    ours = record_attention(merging, lambda: merging(IMAGES))
    theirs = record_attention(plain, lambda: plain(IMAGES))
    for one, other in zip(ours.maps, theirs.maps, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)  # the same sums by another kernel in between
    reads = reading(merging)
    torch.testing.assert_close(patch_rollout(ours, reads), patch_rollout(theirs, reads), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", TIMM)
def test_merged_tokens_keep_the_maps_and_the_rollout_whole(kind: str) -> None:
    module = apply_tome(tiny(**TIMM[kind]), 3)
    attended = record_attention(module, lambda: module(IMAGES))
    prefix = module.num_prefix_tokens
    assert [each.shape[-1] for each in attended.maps] == [prefix + patches for patches in (16, 13, 10)]
    assert [each.shape[1] for each in attended.sources] == [prefix + patches for patches in (16, 13, 10, 7)]
    assert all(each.shape[2] == prefix + 16 for each in attended.sources)
    flow = attention_rollout(attended.maps, attended.sources)
    assert flow.shape == (2, prefix + 7, prefix + 16)
    torch.testing.assert_close(flow.sum(-1), torch.ones(2, prefix + 7), rtol=1e-5, atol=0)
    whole = Reading(0, reading(module).shares)
    for weights in patch_attention(attended, whole):
        # Spread over patches, a row is still whole.
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3), rtol=1e-5, atol=0)


def test_what_a_merged_token_is_looked_at_with_is_that_of_its_patches() -> None:
    weights = torch.tensor([[[[0.2, 0.6, 0.2]]]]).expand(1, 1, 3, 3)
    source = torch.tensor([[[1.0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]])
    attended = Attended((weights,), (source, source))
    (seen,) = patch_attention(attended, Reading(1, (1.0,)))
    torch.testing.assert_close(seen, torch.tensor([[[0.3, 0.3, 0.2]]]))


def test_what_the_head_reads() -> None:
    assert reading(own("vit_tiny_patch4_32")) == reading(own("basic_vit")) == Reading(1, (1.0,))
    assert reading(own("vit_b16_gap")) == reading(own("ci2p_vit")) == Reading(0, ())
    assert reading(tiny(reg_tokens=4)) == Reading(5, (1.0,))
    assert reading(tiny(global_pool="avg")) == Reading(1, ())
    assert reading(tiny(distilled=True), (0.5, 0.5)) == Reading(2, (0.5, 0.5))
    attended = Attended((torch.eye(4).expand(1, 1, 4, 4),))
    assert patch_rollout(attended, Reading(2, (0.5, 0.5))).tolist() == [[0, 0]]
    assert patch_rollout(attended, Reading(0, ())).tolist() == [[0.25] * 4]
    assert patch_rollout(attended, Reading(2, ())).tolist() == [[0.5, 0.5]]


def test_of_a_distilled_model_both_tokens_are_followed() -> None:
    module = tiny(distilled=True)
    attended = record_attention(module, lambda: module(IMAGES))
    by_class, by_distillation, both = (
        patch_rollout(attended, reading(module, asked)) for asked in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5))
    )
    assert not torch.allclose(by_class, by_distillation)
    torch.testing.assert_close(both, (by_class + by_distillation) / 2)
    assert both.shape == (2, 16)


def test_each_scale_of_the_dual_one_has_maps_but_no_rollout() -> None:
    module = own("ci2p_vit_ds")
    images = torch.rand(1, 3, 64, 64)
    attended = record_attention(module, lambda: module(images))
    assert [each.shape for each in attended.maps] == [(1, 3, 16, 16), (1, 3, 4, 4)]
    assert [each.shape for each in patch_attention(attended, reading(module))] == [(1, 3, 16), (1, 3, 4)]
    assert no_maps(module) is None
    assert "two scales" in str(no_rollout(module))


def test_models_without_maps_say_why() -> None:
    resnet = build(
        ModelConfig(name="resnet8"), num_classes=5, in_channels=3, image_size=32, mean=(0.0,) * 3, std=(1.0,) * 3
    ).module
    assert "this is a " in str(no_maps(resnet))
    assert "global_pool map" in str(no_maps(tiny(class_token=False, global_pool="map")))
    assert no_maps(apply_tome(tiny(), 2)) is None
    with pytest.raises(ConfigError, match="no attention maps"):
        record_attention(resnet, lambda: None)
    with pytest.raises(ConfigError, match="no attention maps"):
        reading(resnet)


@pytest.mark.parametrize("kind", TIMM)
def test_every_patch_is_part_of_one_token(kind: str) -> None:
    module = apply_tome(tiny(**TIMM[kind]), 3)
    assert merges(module)
    owners = merged_patches(module, lambda: module(IMAGES))
    prefix = module.num_prefix_tokens
    assert owners.shape == (2, 16)
    assert owners.min() >= prefix  # what stands before the patches never merges
    assert [len(set(row)) for row in owners.tolist()] == [7, 7]
    assert not module.blocks.keep_source


def test_nothing_is_merged_at_r_0() -> None:
    assert not merges(apply_tome(tiny(), 0))
    assert not merges(tiny())
    with pytest.raises(ConfigError, match="merges no tokens"):
        merged_patches(tiny(), lambda: None)


def test_patches_of_a_square() -> None:
    assert patch_side(196) == 14
    with pytest.raises(ConfigError, match="make no square"):
        patch_side(15)
