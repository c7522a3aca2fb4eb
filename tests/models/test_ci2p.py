"""CI2P-ViT: the paper's counts, the frozen encoder and where its weights come from, and identities of its parts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from raybench import models
from raybench.config.trial import ModelConfig, Option
from raybench.errors import ConfigError, WeightsError
from raybench.models.analysis_transform import AnalysisTransform
from raybench.models.builder import BuiltModel
from raybench.models.ci2p import CI2P, InvertedResidual, SqueezeExcitation

torch.set_num_threads(1)

Options = dict[str, Option]
SMALL: Options = {"dim": 16, "depth": 2, "heads": 2, "encoder_channels": 8, "latent_channels": 12}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.2, 0.2)
PUBLISHED_FILE = "bmshj2018-factorized-prior-5-866ba797.pth.tar"


def built(
    name: str = "ci2p_vit",
    *,
    weights: str = "none",
    root: Path | None = None,
    size: int = 64,
    in_channels: int = 3,
    mean: tuple[float, ...] | None = None,
    **options: int | float | bool | str,
) -> BuiltModel:
    torch.manual_seed(1)
    settings = {key: value for key, value in SMALL.items() if name != "vit_b16_gap" or "channels" not in key}
    config = ModelConfig(name=name, weights=weights, mean=mean, options={**settings, **options})
    return models.build(
        config, num_classes=5, in_channels=in_channels, image_size=size, mean=MEAN, std=STD, weights_root=root
    )


def small(name: str = "ci2p_vit", **options: int) -> CI2P:
    module = built(name, **options).module  # type: ignore[arg-type]
    assert isinstance(module, CI2P)
    return module


def whole(name: str, size: int = 256) -> nn.Module:
    """The paper's model with 10 classes, without memory."""
    with torch.device("meta"):
        return models.build(
            ModelConfig(name=name), num_classes=10, in_channels=3, image_size=size, mean=MEAN, std=STD
        ).module


# Counts of arXiv 2502.10120's architecture: the paper prints 88.96 M and 49.7 M, without the head.
@pytest.mark.parametrize(
    ("name", "without_head", "trainable", "with_ten_classes"),
    [
        ("ci2p_vit", 88_956_320, 87_463_008, 88_964_010),
        ("ci2p_vit_ds", 49_699_424, 48_206_112, 49_707_114),
        # The control freezes nothing. ViT-B/16 by hand: 590,592 for patches, 196,608 for positions, 12 x 7,087,872, and
        # 1,536 for the last norm.
        ("cnn_vit", 88_956_320, 88_956_320, 88_964_010),
        ("vit_b16_gap", 85_843_200, 85_843_200, 85_850_890),
    ],
)
def test_parameters_are_the_papers(name: str, without_head: int, trainable: int, with_ten_classes: int) -> None:
    module = whole(name)
    head = sum(parameter.numel() for parameter in models.head_parameters(module))
    learns = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    assert models.count_parameters(module) - head == without_head
    assert learns - head == trainable
    assert models.count_parameters(module) == with_ten_classes


def test_the_parts_of_the_papers_model() -> None:
    # Counted from the layers the paper names (arXiv 2502.10120, figure of PatchReshape).
    module = whole("ci2p_vit")
    assert isinstance(module, CI2P)
    assert models.count_parameters(module.encoder) == 1_493_312
    assert models.count_parameters(module.refine) == 601_152
    assert models.count_parameters(module.merge) == 1_805_856
    with torch.no_grad():
        code = module.encoder(torch.empty(1, 3, 256, 256, device="meta"))
        assert code.shape == (1, 192, 16, 16)
        assert module.merge(module.refine(code)).shape == (1, 768, 8, 8)  # 64 tokens of 768
    assert len(module.blocks) == 12
    dual = whole("ci2p_vit_ds")
    assert isinstance(dual, CI2P)
    assert models.count_parameters(dual.refine) == 2 * 601_152
    assert (len(dual.latent_blocks), len(dual.blocks)) == (6, 6)


@pytest.mark.parametrize("name", ["ci2p_vit", "ci2p_vit_ds"])
def test_a_frozen_encoder_stays_as_it_is(name: str) -> None:
    module = small(name).train()
    assert module.training
    assert module.merge.training
    assert not any(part.training for part in module.encoder.modules())
    assert not any(parameter.requires_grad for parameter in module.encoder.parameters())
    recorded: list[tuple[bool, bool]] = []
    module.encoder.register_forward_hook(
        lambda _module, _images, code: recorded.append((torch.is_grad_enabled(), code.requires_grad))
    )
    before = {key: value.clone() for key, value in module.state_dict().items()}
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)  # passes over what has no gradient
    torch.autograd.backward(module(torch.rand(2, 3, 64, 64)).square().sum())
    optimizer.step()
    assert recorded == [(False, False)]
    same = {key for key, value in module.state_dict().items() if torch.equal(value, before[key])}
    assert {key for key in before if key.startswith("encoder.")} <= same
    assert {"head.weight", "merge.expand.0.weight", "refine.0.expand.0.weight"}.isdisjoint(same)
    assert not module.eval().merge.training


def test_the_control_trains_its_encoder() -> None:
    module = small("cnn_vit").train()
    assert all(part.training for part in module.encoder.modules())
    torch.autograd.backward(module(torch.rand(2, 3, 64, 64)).square().sum())
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all() for parameter in module.encoder.parameters()
    )
    with torch.no_grad():
        assert not module(torch.rand(2, 3, 64, 64)).requires_grad
    # But for what is frozen the two are one model.
    frozen, images = small().eval(), torch.rand(2, 3, 64, 64)
    assert torch.equal(frozen(images), small("cnn_vit").eval()(images))


@pytest.mark.parametrize("name", ["ci2p_vit_ds", "vit_b16_gap"])
def test_fused_and_plain_attention_give_the_same(name: str) -> None:
    fused, plain = (built(name, fused_attention=switch).module.eval() for switch in (True, False))
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(fused(images), plain(images))  # another order of the same float32 sums
    assert not torch.equal(fused(images), fused(images.flip(0)))


def test_squeeze_excitation_without_an_excitation_halves() -> None:
    layer, x = SqueezeExcitation(8), torch.randn(2, 8, 3, 3)
    nn.init.zeros_(layer.expand.weight)
    assert layer.expand.bias is not None
    nn.init.zeros_(layer.expand.bias)
    assert torch.equal(layer(x), x / 2)  # (0 + 3) / 6
    nn.init.constant_(layer.expand.bias, 3.0)
    torch.testing.assert_close(layer(x), x)  # clipped at 1


@pytest.mark.parametrize(("stride", "width_out", "residual"), [(1, 6, True), (2, 6, False), (1, 8, False)])
def test_a_residual_only_where_shapes_agree(stride: int, width_out: int, residual: bool) -> None:
    block = InvertedResidual(6, 24, width_out, kernel=5, stride=stride).eval()
    norm = block.project[1]
    assert isinstance(norm, nn.BatchNorm2d)
    nn.init.zeros_(norm.weight)
    x = torch.randn(2, 6, 4, 4)
    out = block(x)
    assert out.shape == (2, width_out, 4 // stride, 4 // stride)
    assert torch.equal(out, x) if residual else not out.any()


def test_tokens_of_the_code_go_back_to_their_places() -> None:
    module = small("ci2p_vit_ds", latent_heads=3).eval()
    for name, parameter in module.latent_blocks.named_parameters():
        if name.split(".", 1)[1].startswith(("attn.proj", "mlp.fc2")):
            nn.init.zeros_(parameter)  # such blocks are the identity
    seen: list[Tensor] = []
    module.merge.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    images = torch.rand(2, 3, 64, 96)  # another height than width
    with torch.no_grad():
        module(images)
        assert torch.equal(seen[0], module.refine(module.encoder(images)))
    assert seen[0].shape == (2, 12, 4, 6)


def test_the_input_is_not_normalised() -> None:
    for name in ("ci2p_vit", "ci2p_vit_ds", "cnn_vit"):
        model = built(name)
        assert (model.mean, model.std) == ((0.0,) * 3, (1.0,) * 3)
    assert built(mean=(0.1, 0.2, 0.3)).mean == (0.1, 0.2, 0.3)
    assert built(mean=(0.1, 0.2, 0.3)).std == (1.0,) * 3
    gap = built("vit_b16_gap")
    assert (gap.mean, gap.std) == (MEAN, STD)


def test_numbers_that_do_not_fit_are_refused_together() -> None:
    with pytest.raises(ConfigError) as caught:
        built("ci2p_vit_ds", size=48, in_channels=1, heads=3, depth=3, latent_heads=5, drop_path_rate=1.0)
    text = str(caught.value)
    assert "model ci2p_vit_ds: the image codec takes RGB images, the data set has 1 channel(s) instead of 3" in text
    assert "model ci2p_vit_ds: image_size = 48 must be a multiple of 32: PatchReshape halves the code" in text
    assert "dim = 16 must be a multiple of heads = 3" in text
    assert "latent_channels = 12 must be a multiple of latent_heads = 5" in text
    assert "depth = 3 must be even" in text
    assert "drop_path_rate = 1.0 must lie in [0, 1)" in text
    with pytest.raises(
        ConfigError, match="vit_b16_gap: image_size = 40 must be a multiple of 16: a patch is 16 pixels"
    ):
        built("vit_b16_gap", size=40)
    with pytest.raises(ConfigError, match="at least 1"):
        built("ci2p_vit", encoder_channels=0)
    with pytest.raises(ConfigError, match="model ci2p_vit: unknown option frozen; allowed: dim, depth, heads"):
        built("ci2p_vit", frozen=False)


def encoder(channels: int = 8, latent_channels: int = 12) -> dict[str, Tensor]:
    torch.manual_seed(7)
    return AnalysisTransform(channels, latent_channels).state_dict()


def as_codec(state: dict[str, Tensor]) -> dict[str, Tensor]:
    other = {"g_s.0.weight": torch.zeros(1), "entropy_bottleneck.quantiles": torch.zeros(12, 1, 3)}
    return {f"g_a.{key}": value for key, value in state.items()} | other


@pytest.mark.parametrize("name", ["ci2p_vit", "ci2p_vit_ds", "cnn_vit"])
@pytest.mark.parametrize("form", ["codec", "encoder", "checkpoint"])
def test_the_encoder_of_a_file_and_the_rest_fresh(tmp_path: Path, name: str, form: str) -> None:
    state, path = encoder(), tmp_path / "mine.safetensors"
    if form == "checkpoint":
        path = tmp_path / "mine.pth.tar"
        torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in as_codec(state).items()}}, path)
    else:
        save_file(as_codec(state) if form == "codec" else state, path)
    models.weights_available(ModelConfig(name=name, weights=str(path)))
    model = built(name, weights=str(path))
    fresh, loaded = built(name).module.state_dict(), model.module.state_dict()
    assert (model.mean, model.std) == ((0.0,) * 3, (1.0,) * 3)
    for key, value in loaded.items():
        part, _, inner = key.partition(".")
        assert torch.equal(value, state[inner] if part == "encoder" else fresh[key]), key
    assert not torch.equal(loaded["encoder.0.weight"], fresh["encoder.0.weight"])


def test_a_whole_model_of_a_file(tmp_path: Path) -> None:
    torch.manual_seed(5)
    trained = small("ci2p_vit").state_dict()
    changed = {key: value + 1 if value.is_floating_point() else value for key, value in trained.items()}
    save_file(changed, tmp_path / "trained.safetensors")
    loaded = built(weights=str(tmp_path / "trained.safetensors")).module.state_dict()
    assert all(torch.equal(value, changed[key]) for key, value in loaded.items())


def test_an_encoder_of_another_width_or_none(tmp_path: Path) -> None:
    save_file(as_codec(encoder(4, 6)), tmp_path / "narrow.safetensors")
    with pytest.raises(WeightsError) as caught:
        built(weights=str(tmp_path / "narrow.safetensors"))
    assert "narrow.safetensors: its encoder has 4 channels and a code of 6, the model 8 and 12" in str(caught.value)
    assert "encoder_channels: 4 and latent_channels: 6" in str(caught.value)
    part = {key: value for key, value in encoder().items() if not key.startswith("6.")}
    save_file(as_codec(part), tmp_path / "part.safetensors")
    with pytest.raises(
        WeightsError, match=r"part\.safetensors: .* missing in the file: encoder\.6\.bias, encoder\.6\.w"
    ):
        built(weights=str(tmp_path / "part.safetensors"))


@pytest.mark.parametrize("name", ["ci2p_vit", "ci2p_vit_ds"])
def test_the_published_encoder_where_it_is_absent(tmp_path: Path, name: str) -> None:
    config = ModelConfig(name=name, weights="pretrained")
    for call in (
        lambda: models.weights_available(config, tmp_path),
        lambda: built(name, weights="pretrained", root=tmp_path),
    ):
        with pytest.raises(WeightsError) as caught:
            call()
        text = str(caught.value)
        assert f"pretrained weights of {name} not found: no file {PUBLISHED_FILE} in" in text
        assert str(tmp_path / "weights") in text
        assert "Put the file there, or name it in the sweep (model.weights: PATH)" in text
        assert "`python -m raybench.sweep ci2p_codec` trains a codec" in text


def test_the_published_file_is_checked_by_its_hash(tmp_path: Path) -> None:
    torch.save(as_codec(encoder()), tmp_path / PUBLISHED_FILE)
    for call in (
        lambda: models.weights_available(ModelConfig(name="ci2p_vit", weights="pretrained"), tmp_path),
        lambda: built(weights="pretrained", root=tmp_path),
    ):
        with pytest.raises(WeightsError, match="promises a SHA-256 that begins with 866ba797"):
            call()
