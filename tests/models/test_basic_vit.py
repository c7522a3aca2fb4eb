"""The basic ViT: its patches, its zero row, its positions, and that it is otherwise a ViT."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from raybench.errors import ConfigError
from raybench.models import count_parameters
from raybench.models.basic_vit import BasicViT, basic_vit
from raybench.models.vit_small import Block

torch.set_num_threads(1)


def small(**numbers: int | float | str) -> BasicViT:
    torch.manual_seed(0)
    settings: dict[str, int | float | str] = {"num_classes": 5, "in_channels": 3, "image_size": 8, "patch_size": 4}
    return basic_vit(**{**settings, "dim": 12, "depth": 2, "heads": 3, **numbers})  # type: ignore[arg-type]


def test_the_numbers_of_the_report() -> None:
    # "Transformer-based image classification compared with pretrained models": 196 patches of 16x16, 768 numbers each,
    # one 768x768 map, 197x768 with the zero row, one 768x10 layer.
    with torch.device("meta"):
        module = basic_vit(num_classes=10, in_channels=3, image_size=224)
        assert module.patches(torch.empty(1, 3, 224, 224)).shape == (1, 196, 768)
    assert module.patch_embed.weight.shape == (768, 768)
    assert module.head.weight.shape == (10, 768)
    # ViT-B/16 has 85,806,346 (timm's vit_base_patch16_224 at 10 classes); class token and 197 positions are not here.
    assert count_parameters(module) == 85_806_346 - 768 - 197 * 768
    with torch.device("meta"):
        placed = basic_vit(num_classes=10, in_channels=3, image_size=224, positions="learned")
    assert count_parameters(placed) == 85_806_346 - 768


def test_a_patch_is_its_channels_rows_and_columns_in_that_order() -> None:
    module, x = small(), torch.randn(2, 3, 8, 8)
    patches = module.patches(x)
    assert torch.equal(patches[:, 1], x[:, :, :4, 4:].flatten(1))  # to the right of the first
    assert torch.equal(patches[:, 2], x[:, :, 4:, :4].flatten(1))  # below the first


def test_the_linear_map_is_a_convolution_with_stride() -> None:
    module, x = small(), torch.randn(2, 3, 8, 8)
    kernel = module.patch_embed.weight.reshape(12, 3, 4, 4)
    convolved = F.conv2d(x, kernel, module.patch_embed.bias, stride=4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(module.patch_embed(module.patches(x)), convolved)  # another order of the same sums


def test_it_is_a_vit_whose_class_token_is_zero() -> None:
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    vit = VisionTransformer(img_size=8, patch_size=4, embed_dim=12, depth=2, num_heads=3, num_classes=5).eval()
    state = vit.state_dict()
    state["patch_embed.weight"] = state.pop("patch_embed.proj.weight").flatten(1)
    state["patch_embed.bias"] = state.pop("patch_embed.proj.bias")
    placed, plain = small(positions="learned").eval(), small().eval()
    vit.load_state_dict({"cls_token": torch.zeros(1, 1, 12)}, strict=False)
    del state["cls_token"]
    placed.load_state_dict(state)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(placed(x), vit(x))  # another order of the same float32 sums
    vit.load_state_dict({"pos_embed": torch.zeros(1, 5, 12)}, strict=False)
    del state["pos_embed"]
    plain.load_state_dict(state)
    torch.testing.assert_close(plain(x), vit(x))
    # Weights of timm's stay near zero, so that logits could agree for want of any.
    assert vit(x).std() > 1e-3


def test_without_positions_an_image_is_a_set_of_patches() -> None:
    x = torch.randn(2, 3, 8, 8)
    swapped = x.roll(4, dims=-1)
    plain, placed = small().eval(), small(positions="learned").eval()
    torch.testing.assert_close(plain(x), plain(swapped))  # float32 sums in another order
    assert not torch.allclose(placed(x), placed(swapped), atol=1e-3)


def test_without_positions_the_same_weights_see_images_of_any_size() -> None:
    large, module = small(image_size=16).eval(), small().eval()
    module.load_state_dict(large.state_dict())
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(module(x), large(x))


def test_the_zero_row_is_no_parameter_and_learns_by_the_biases() -> None:
    module, x = small().eval(), torch.randn(2, 3, 8, 8)
    assert [name for name, _ in module.named_parameters() if "cls" in name or "pos" in name] == []
    row = torch.zeros(2, 1, 12)
    first = module.blocks[0]
    assert isinstance(first, Block)
    assert torch.equal(first.norm1(row), first.norm1.bias.expand(2, 1, 12))
    asked = first.attn.qkv(first.norm1(row))
    torch.testing.assert_close(asked, first.attn.qkv.bias.expand(2, 1, 36))  # the norm's bias begins at 0
    assert module(x).std(dim=0).min() > 0  # and yet what it reads differs between images


def test_drop_path_grows_linearly_with_depth() -> None:
    assert [block.drop_path for block in small(depth=3, drop_path_rate=0.2).blocks] == [0.0, 0.1, 0.2]


def test_numbers_that_do_not_fit_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        small(image_size=9, heads=5, positions="sine", drop_path_rate=1.0)
    assert caught.value.problems == (
        "model basic_vit: image_size = 9 must be a multiple of patch_size = 4",
        "model basic_vit: dim = 12 must be a multiple of heads = 5",
        'model basic_vit: positions = "sine" must be one of none, learned',
        "model basic_vit: drop_path_rate = 1.0 must lie in [0, 1)",
    )
    with pytest.raises(ConfigError, match="patch_size = 0 must be at least 1"):
        small(patch_size=0)
