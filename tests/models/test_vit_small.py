"""Small vision transformers: identities of attention, stochastic depth and the shortened last block."""

from __future__ import annotations

import pytest
import torch

from raybench.errors import ConfigError
from raybench.models import count_parameters
from raybench.models.vit_small import Attention, Block, VisionTransformer, vit

torch.set_num_threads(1)


def small(**numbers: float) -> VisionTransformer:
    torch.manual_seed(0)
    settings = {"patch_size": 2, "dim": 12, "depth": 2, "heads": 3, "num_classes": 5, "in_channels": 3, "image_size": 8}
    return vit(**{**settings, **numbers})  # type: ignore[arg-type]


def test_attention_is_that_of_its_formula() -> None:
    torch.manual_seed(0)
    attention, x = Attention(8, heads=2), torch.randn(3, 5, 8)
    q, k, v = attention.qkv(x).view(3, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
    expected = attention.proj((q @ k.mT / 2).softmax(-1).matmul(v).transpose(1, 2).reshape(3, 5, 8))  # sqrt(4) = 2
    torch.testing.assert_close(attention(x), expected)  # another order of the same float32 sums


def test_the_last_block_gives_the_same_class_token_without_the_others() -> None:
    torch.manual_seed(0)
    block, x = Block(8, heads=2, drop_path=0.0), torch.randn(3, 5, 8)
    torch.testing.assert_close(block(x, queries=1), block(x)[:, :1])  # another order of the same float32 sums


def test_blocks_with_zero_projections_are_the_identity() -> None:
    block, x = Block(8, heads=2, drop_path=0.0), torch.randn(2, 4, 8)
    for layer in (block.attn.proj, block.mlp.fc2):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    assert torch.equal(block(x), x)


def test_positions_matter() -> None:
    module, images = small().eval(), torch.randn(2, 3, 8, 8)
    shifted = images.roll(2, dims=-1)
    assert not torch.allclose(module(images), module(shifted))
    torch.nn.init.zeros_(module.pos_embed)
    # Without positions the patches are a set; float32 sums in another order.
    torch.testing.assert_close(module(images), module(shifted))


def test_drop_path_drops_images_in_training_only_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    block = Block(8, heads=2, drop_path=0.5)
    x = torch.randn(1, 4, 8).expand(4000, 4, 8)
    with torch.no_grad():
        thinned = block._thinned(x)
        dropped = (thinned == 0).all(dim=(1, 2))
        assert torch.equal(thinned[~dropped], 2 * x[~dropped])
        # 4,000 coin tosses: standard error 0.008, so 0.04 is five of them.
        assert dropped.float().mean().item() == pytest.approx(0.5, abs=0.04)
        assert torch.equal(block.eval()._thinned(x), x)


def test_drop_path_grows_linearly_with_depth() -> None:
    rates = [block.drop_path for block in small(depth=3, drop_path_rate=0.2).blocks]
    assert rates == [0.0, 0.1, 0.2]


def test_parameters() -> None:
    # dim d: a block 12 d^2 + 13 d, patches 12 d + d, class token d, positions 17 d, norm 2 d, head 5 d + 5.
    d = 12
    assert count_parameters(small()) == 2 * (12 * d * d + 13 * d) + 13 * d + d + 17 * d + 2 * d + 5 * d + 5


def test_numbers_that_do_not_fit_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        small(image_size=9, heads=5, drop_path_rate=1.0)
    text = str(caught.value)
    assert "image_size = 9 must be a multiple of patch_size = 2" in text
    assert "dim = 12 must be a multiple of heads = 5" in text
    assert "drop_path_rate = 1.0 must lie in [0, 1)" in text
