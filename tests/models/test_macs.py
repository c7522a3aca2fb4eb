"""Multiply-adds against closed forms, and against the figures of papers and of timm."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raybench import models
from raybench.config.trial import ModelConfig, Option
from raybench.models.macs import Macs, count_macs, measure
from raybench.models.resnet_cifar import resnet
from raybench.models.vit_small import vit

torch.set_num_threads(1)


def whole(name: str, size: int, classes: int = 10, **options: int) -> nn.Module:
    """A model of the papers, without memory."""
    config = ModelConfig(name=name, image_size=size, options={**options})
    half = (0.5,) * 3
    with torch.device("meta"):
        return models.build(config, num_classes=classes, in_channels=3, image_size=size, mean=half, std=half).module


def test_a_convolution_and_a_linear_layer() -> None:
    module = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Flatten(), nn.Linear(5 * 64, 7))
    assert count_macs(module, 3, 8) == 64 * 5 * 3 * 9 + 5 * 64 * 7


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Conv2d(6, 4, 3, stride=2, padding=1, groups=2), (2, 6, 8, 8), 2 * 16 * 4 * 3 * 9),
        (nn.ConvTranspose2d(6, 4, 5, stride=2), (2, 6, 8, 8), 2 * 64 * 4 * 6 * 25),
        (nn.Conv1d(6, 4, 3, padding="same"), (2, 6, 8), 2 * 8 * 4 * 6 * 3),
        (nn.Linear(6, 4), (2, 5, 6), 2 * 5 * 6 * 4),
        (nn.LayerNorm(6), (2, 5, 6), 5 * 60),
        (nn.LayerNorm(6, elementwise_affine=False), (2, 5, 6), 4 * 60),
        (nn.GroupNorm(2, 6), (2, 6, 5), 5 * 60),
        (nn.BatchNorm2d(6), (2, 6, 3, 3), 2 * 108),
        (nn.BatchNorm2d(6, affine=False), (2, 6, 3, 3), 108),
        (nn.AdaptiveAvgPool2d(1), (2, 6, 3, 3), 108),
        (nn.AdaptiveAvgPool2d(2), (2, 6, 4, 4), 192),
        (nn.AdaptiveAvgPool1d(1), (2, 6, 3), 36),
        (nn.Sequential(nn.GELU(), nn.Softmax(-1), nn.Hardswish(), nn.AvgPool2d(2)), (2, 6, 4, 4), 0),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_price_of_each_layer(layer: nn.Module, shape: tuple[int, ...], expected: int, device: str) -> None:
    # The convention of facts on CI2P-ViT (arXiv 2502.10120) and of fvcore.
    assert measure(copy.deepcopy(layer).to(device), torch.zeros(shape, device=device)).total() == expected


def test_resnet20_at_32_px() -> None:
    # He et al. 2016, section 4.2, layer by layer: 40,551,040 with the linear layer; the published table says 41 M.
    stem = 32 * 32 * 16 * 27
    first = 6 * 32 * 32 * 16 * 16 * 9
    second = 16 * 16 * 32 * 16 * 9 + 5 * 16 * 16 * 32 * 32 * 9
    third = 8 * 8 * 64 * 32 * 9 + 5 * 8 * 8 * 64 * 64 * 9
    norms = 2 * (7 * 32 * 32 * 16 + 6 * 16 * 16 * 32 + 6 * 8 * 8 * 64)
    model = resnet(20, num_classes=10, in_channels=3, image_size=32)
    found = measure(model, torch.zeros(1, 3, 32, 32))
    assert found == Macs(layers=stem + first + second + third, norms=norms, head=640)
    assert found.layers + found.head == 40_551_040
    assert count_macs(model, 3, 32) == found.total() == found.layers + norms
    assert found.total(head=True) == found.total() + 640


def test_attention_products_are_counted() -> None:
    dim, tokens = 12, 17
    model = vit(patch_size=2, dim=dim, depth=2, heads=3, num_classes=5, in_channels=1, image_size=8)
    patches = 16 * dim * 4
    whole = tokens * 12 * dim * dim
    # The last block makes only the class token's query, output and MLP.
    last = 2 * tokens * dim * dim + 10 * dim * dim
    # The first norm of both blocks sees all tokens, the second of the last and the one before the head only one.
    norms = 5 * dim * (3 * tokens + 2)
    products = 2 * tokens * tokens * dim + 2 * tokens * dim
    found = measure(model, torch.zeros(1, 1, 8, 8))
    assert found == Macs(layers=patches + whole + last, attention=products, norms=norms, head=5 * dim)
    assert count_macs(model, 1, 8, attention_products=False) == found.total() - products


class Products(nn.Module):
    """Matrix products written out, as no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(6, 4))
        self.stacked = nn.Parameter(torch.zeros(2, 4, 6))

    def forward(self, x: Tensor) -> Tensor:
        """(2, 5, 6) -> (2, 6, 6)."""
        y = x @ F.softplus(self.weight)  # with weights: 2 x 5 x 6 x 4
        y = torch.einsum("btd,bde->bte", y, self.stacked)  # with weights: 2 x 5 x 4 x 6
        return y.mT @ x  # of activations: 2 x 6 x 5 x 6


def test_products_with_weights_are_layers_and_others_attention() -> None:
    assert measure(Products(), torch.zeros(2, 5, 6)) == Macs(layers=480, attention=360)


@pytest.mark.parametrize("name", ["ci2p_vit", "ci2p_vit_ds", "vit_b16_gap"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_fused_and_plain_attention_cost_the_same(name: str, device: str) -> None:
    options: dict[str, Option] = {"dim": 16, "depth": 2, "heads": 2}
    if name != "vit_b16_gap":
        options |= {"encoder_channels": 4, "latent_channels": 12}
    found = []
    for fused in (True, False):
        config = ModelConfig(name=name, options=options | {"fused_attention": fused})
        module = models.build(config, num_classes=5, in_channels=3, image_size=64, mean=(0,) * 3, std=(1,) * 3).module
        found.append(measure(module.to(device), torch.zeros(1, 3, 64, 64, device=device)))
    assert found[0] == found[1]
    assert found[0].attention > 0


@pytest.mark.parametrize("options", [{}, {"tome_r": 13}])  # merged tokens' sizes are one more channel when fused
def test_fused_and_plain_attention_of_timm_cost_the_same(options: dict[str, int]) -> None:
    from timm.layers.config import set_fused_attn, use_fused_attn

    assert use_fused_attn()
    fused = count_macs(whole("vit_base_patch16_224", 256, **options), 3, 256)
    set_fused_attn(False)
    try:
        plain = count_macs(whole("vit_base_patch16_224", 256, **options), 3, 256)
    finally:
        set_fused_attn(True)
    assert fused == plain


def ci2p_by_hand(size: int) -> Macs:
    """CI2P-ViT layer by layer, from its description (arXiv 2502.10120, section 3)."""
    half, code = size // 2, size // 16
    encoder = half**2 * 3 * 128 * 25 + (size // 4) ** 2 * 128**2 * 25 + (size // 8) ** 2 * 128**2 * 25
    encoder += code**2 * 128 * 192 * 25 + (half**2 + (size // 4) ** 2 + (size // 8) ** 2) * 128**2
    merged = (code // 2) ** 2
    a = code**2 * (192 * 768 + 768 * 9 + 768 * 192) + 2 * 768 * 192
    b = code**2 * 192 * 1152 + merged * (1152 * 25 + 1152 * 768) + 2 * 1152 * 288
    norms_a, norms_b = 2 * code**2 * (768 + 768 + 192), 2 * (code**2 * 1152 + merged * (1152 + 768))
    return Macs(
        layers=encoder + a + b + 12 * merged * 12 * 768**2,
        attention=12 * 2 * merged**2 * 768,
        norms=norms_a + norms_b + 25 * 5 * merged * 768,
        pools=code**2 * 768 + merged * 1152,
        head=7680,
    )


# The printed figures of arXiv 2502.10120 by image size, in G; ds is printed without its attention products.
@pytest.mark.parametrize(
    ("size", "vit_g", "ci2p_g", "dual_g"),
    [(256, 23.127, 8.477, 6.442), (384, 55.433, 19.284, 14.492), (512, 107, 34.81, 25.762)],
)
def test_published_figures_of_ci2p(size: int, vit_g: float, ci2p_g: float, dual_g: float) -> None:
    # Half a unit of the last printed digit.
    assert count_macs(whole("vit_b16_gap", size), 3, size) / 1e9 == pytest.approx(
        vit_g, abs=0.5 if size == 512 else 5e-4
    )
    single = measure(whole("ci2p_vit", size), torch.zeros(1, 3, size, size, device="meta"))
    assert single == ci2p_by_hand(size)
    assert single.total() / 1e9 == pytest.approx(ci2p_g, abs=5e-4)
    dual = count_macs(whole("ci2p_vit_ds", size), 3, size, attention_products=False)
    assert dual / 1e9 == pytest.approx(dual_g, abs=5e-4)


def test_exact_counts_of_ci2p() -> None:
    # Counted by running the authors' model: 8.477 G and 6.442 G of the paper are of two conventions.
    single, dual = whole("ci2p_vit", 256), whole("ci2p_vit_ds", 256)
    assert count_macs(single, 3, 256) == 8_476_811_264
    assert count_macs(single, 3, 256, attention_products=False) == pytest.approx(8.401e9, abs=5e5)
    assert count_macs(dual, 3, 256, attention_products=False) == 6_441_525_248
    assert count_macs(dual, 3, 256) == pytest.approx(6.630e9, abs=5e5)


def test_vit_b16_with_and_without_class_token() -> None:
    # Facts of CI2P-ViT: 23.127 G without, 23.221 G with it, 21.919 G where fused attention is not seen.
    without = whole("vit_b16_gap", 256)
    assert count_macs(without, 3, 256) == pytest.approx(23.127e9, abs=5e5)
    assert count_macs(without, 3, 256, attention_products=False) == pytest.approx(21.919e9, abs=5e5)
    assert count_macs(whole("vit_base_patch16_224", 256), 3, 256) == pytest.approx(23.221e9, abs=5e5)
    # The paper prints 23.13 G for ViT-B/32 too: it has a quarter of the tokens.
    assert count_macs(whole("vit_base_patch32_224", 256), 3, 256) == pytest.approx(5.756e9, abs=5e5)


# GMACs at 224 of timm's tables, with the head. They are of the same convention: without norms ViT-B/16 has 17.56.
@pytest.mark.parametrize(
    ("name", "gmacs"),
    [
        ("deit_base_patch16_224", 17.58),
        ("deit_base_distilled_patch16_224", 17.68),
        ("regnety_160", 15.96),
        ("resnet18", 1.82),
        ("resnet50", 4.11),
        ("vit_base_patch32_224", 4.41),
    ],
)
def test_the_figures_of_timm(name: str, gmacs: float) -> None:
    found = measure(whole(name, 224, classes=1000), torch.zeros(1, 3, 224, 224, device="meta"))
    assert found.total(head=True) / 1e9 == pytest.approx(gmacs, abs=0.005)  # half a unit of the last printed digit


def test_the_figure_of_timm_for_tiny_vit_is_of_its_large_head() -> None:
    # timm's table says 1.28 for tiny_vit_5m_224: that is the head of 21,841 classes, and 1.27 with the usual 1000.
    image = torch.zeros(1, 3, 224, 224, device="meta")
    small, large = (measure(whole("tiny_vit_5m_224", 224, classes=classes), image) for classes in (1000, 21841))
    assert small.total() == large.total()
    assert large.total(head=True) / 1e9 == pytest.approx(1.28, abs=0.005)
    assert small.total(head=True) / 1e9 == pytest.approx(1.27, abs=0.005)
    assert large.head - small.head == 320 * 20841


class Translator(nn.Module):
    """Tokens in, and PyTorch's own layers, which evaluation would run as one kernel each."""

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, dim)
        layer = nn.TransformerEncoderLayer(dim, 2, 4 * dim, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.generator = nn.Linear(dim, 11)

    def forward(self, source: Tensor, mask: Tensor) -> Tensor:
        """(B, T) and (B, T) -> (B, T, 11)."""
        out: Tensor = self.generator(self.encoder(self.embed(source), src_key_padding_mask=mask))
        return out


def test_a_model_of_token_sequences() -> None:
    dim, tokens = 8, 5
    source, mask = torch.zeros(3, tokens, dtype=torch.long), torch.zeros(3, tokens, dtype=torch.bool)
    assert torch.backends.mha.get_fastpath_enabled()
    found = measure(Translator(dim), source, mask)
    assert found == Macs(
        layers=3 * tokens * (2 * 12 * dim**2 + 11 * dim),
        attention=3 * 2 * 2 * tokens**2 * dim,
        norms=3 * 4 * 5 * tokens * dim,
    )
    assert torch.backends.mha.get_fastpath_enabled()


class Remembers(nn.Module):
    """Counts its calls and keeps a table of evaluation, as some of timm's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, 3))
        self.norm = nn.BatchNorm2d(3)
        self.table: dict[str, Tensor] = {}
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3)."""
        self.calls += 1
        if not self.training:
            self.table["scale"] = self.scale * 2
        means: Tensor = self.norm(F.dropout(x, 0.5, self.training)).mean((2, 3))
        return means @ self.scale


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(
        resnet(8, num_classes=10, in_channels=3, image_size=8).layer1, nn.Conv2d(16, 3, 1), Remembers()
    )
    model[0].eval()  # some parts in one mode, others in the other
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = [id(tensor) for tensor in (*model.parameters(), *model.buffers())]
    random = torch.get_rng_state()
    assert count_macs(model, 16, 8) > 0
    assert [module.training for module in model.modules()] == modes
    assert [id(tensor) for tensor in (*model.parameters(), *model.buffers())] == tensors
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad and not parameter.is_inference() for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    last = model[2]
    assert isinstance(last, Remembers)
    assert (last.calls, last.table) == (0, {})
    torch.autograd.backward(model(torch.randn(2, 16, 8, 8)).sum())  # it trains as before


def test_a_failure_leaves_the_switch_of_attention_as_it_was() -> None:
    with pytest.raises(RuntimeError):
        count_macs(resnet(8, num_classes=10, in_channels=3, image_size=8), 1, 8)
    assert torch.backends.mha.get_fastpath_enabled()


def test_counting_does_not_load_torchs_compiler() -> None:
    # Each worker of a sweep counts once, and the import would take longer than a short trial.
    script = (
        "import sys; from raybench.models.macs import count_macs; from raybench.models.vit_small import vit;"
        "model = vit(patch_size=2, dim=8, depth=1, heads=1, num_classes=2, in_channels=1, image_size=8);"
        "assert count_macs(model, 1, 8) > 0; sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
