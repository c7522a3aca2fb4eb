"""The image codec: CompressAI's own, our analysis transform beside its g_a, its files, and its loss."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from raybench import models
from raybench.config.trial import ModelConfig
from raybench.errors import ConfigError, WeightsError
from raybench.models.analysis_transform import GDN, AnalysisTransform
from raybench.models.codec import auxiliary_parameters, bmshj2018_factorized, encoder_state, rate_distortion
from raybench.models.macs import measure

torch.set_num_threads(1)


def codec(n: int = 8, m: int = 12, *, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return bmshj2018_factorized(num_classes=10, in_channels=3, image_size=32, N=n, M=m)


def unsettled(module: nn.Module) -> nn.Module:
    """The same module with every parameter moved, some of GDN's below their bounds."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return module


def test_listing_and_building_models_does_not_import_compressai() -> None:
    script = (
        "import sys; from raybench import models; from raybench.models.ci2p import MODELS; models.names();"
        "MODELS['ci2p_vit'](num_classes=2, in_channels=3, image_size=32, dim=8, depth=1, heads=1, encoder_channels=4,"
        "latent_channels=4); assert 'torch' in sys.modules; sys.exit('compressai' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(("n", "m"), [(8, 12), (128, 192)])
def test_our_encoder_is_compressais_bit_for_bit(n: int, m: int) -> None:
    theirs = unsettled(codec(n, m).g_a)  # type: ignore[arg-type]
    ours = AnalysisTransform(n, m)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 3, 32, 48)
    codes = [module(images) for module in (ours, theirs)]
    assert torch.equal(*codes)
    assert codes[0].shape == (2, m, 2, 3)
    for code in codes:
        torch.autograd.backward(code.square().sum())
    for (name, one), two in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        assert torch.equal(one.grad, two.grad), name
    assert any((p < 0).any() for name, p in ours.named_parameters() if name.endswith("gamma"))


def test_a_fresh_gdn_is_compressais() -> None:
    theirs = codec().g_a[1].state_dict()  # type: ignore[index,union-attr]
    ours = GDN(8).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_gdn_is_its_formula_and_survives_16_bits() -> None:
    layer, x = GDN(4), 300 * torch.randn(2, 4, 3, 3)
    beta, gamma = layer.beta_reparam(layer.beta), layer.gamma_reparam(layer.gamma)
    torch.testing.assert_close(beta, torch.ones(4))  # a square root and its square in float32
    torch.testing.assert_close(gamma, 0.1 * torch.eye(4))
    expected = x / (beta.view(4, 1, 1) + torch.einsum("ij,bjhw->bihw", gamma, x.square())).sqrt()
    torch.testing.assert_close(layer(x), expected)  # another order of the same float32 sums
    # 300^2 is more than 16 bits hold; they hold 11 binary digits.
    halved = layer(x.half())
    assert halved.dtype == torch.float16
    torch.testing.assert_close(halved.float(), expected, rtol=2e-3, atol=2e-3)
    # So is the whole module; its numbers lose as many digits as x does.
    halved = layer.half()(x.half())
    assert halved.dtype == torch.float16
    torch.testing.assert_close(halved.float(), expected, rtol=4e-3, atol=4e-3)


def test_output_of_the_codec() -> None:
    config = ModelConfig(name="bmshj2018_factorized", options={"N": 8, "M": 12})
    torch.manual_seed(0)
    model = models.build(config, num_classes=10, in_channels=3, image_size=32, mean=(0.4,) * 3, std=(0.2,) * 3)
    assert (model.mean, model.std) == ((0.0,) * 3, (1.0,) * 3)
    images = torch.rand(2, 3, 32, 32)
    module = model.module.eval()
    output = module(images)
    assert output["x_hat"].shape == images.shape
    assert output["likelihoods"]["y"].shape == (2, 12, 2, 2)
    assert ((output["likelihoods"]["y"] > 0) & (output["likelihoods"]["y"] <= 1)).all()
    assert torch.equal(module(images)["x_hat"], output["x_hat"])
    module.train()
    assert not torch.equal(module(images)["x_hat"], module(images)["x_hat"])  # noise instead of rounding
    assert all(torch.equal(one, two) for one, two in zip(codec().parameters(), module.parameters(), strict=True))


def test_the_two_losses_share_out_the_parameters() -> None:
    module, images = codec().train(), torch.rand(2, 3, 32, 32)
    auxiliary = {id(parameter) for parameter in auxiliary_parameters(module)}
    assert len(auxiliary) == 1
    torch.autograd.backward(rate_distortion(module(images), images, 0.025)["loss"])
    for name, parameter in module.named_parameters():
        has = parameter.grad is not None and bool(parameter.grad.any())
        # The median is among the quantiles, but only rounding uses it, and training adds noise instead.
        assert has == (id(parameter) not in auxiliary), name
    module.zero_grad()
    torch.autograd.backward(module.aux_loss())  # type: ignore[operator]
    assert {id(p) for p in module.parameters() if p.grad is not None and p.grad.any()} == auxiliary


def test_the_loss_is_compressais() -> None:
    from compressai.losses import RateDistortionLoss

    module, images = codec().eval(), torch.rand(2, 3, 32, 48)
    output = module(images)
    theirs = RateDistortionLoss(lmbda=0.025)(output, images)
    ours = rate_distortion(output, images, 0.025)
    assert torch.equal(ours["loss"], theirs["loss"])
    assert torch.equal(ours["bpp"], theirs["bpp_loss"])
    assert torch.equal(ours["mse"], theirs["mse_loss"])


def test_the_loss_of_outputs_known_by_heart() -> None:
    images = torch.rand(2, 3, 4, 8)
    half = {"y": torch.full((2, 6, 1, 1), 0.5), "z": torch.full((2, 4), 0.25)}
    # 12 symbols of 1 bit and 8 of 2 bits in 64 pixels; an error of 1 / 255 everywhere.
    found = rate_distortion({"x_hat": images + 1 / 255, "likelihoods": half}, images, 0.5)
    assert found["bpp"].item() == pytest.approx(28 / 64)
    assert found["mse"].item() == pytest.approx(255**-2, rel=1e-4)  # of float32 differences of 0.004
    assert found["loss"].item() == pytest.approx(0.5 + 28 / 64, rel=1e-4)
    assert found["psnr"].item() == pytest.approx(20 * math.log10(255), rel=1e-4)
    free = rate_distortion({"x_hat": images, "likelihoods": {"y": torch.ones(2, 6, 1, 1)}}, images, 0.5)
    assert (free["loss"].item(), free["psnr"].item()) == (0, math.inf)


def as_release(state: dict[str, Tensor], form: str) -> dict[str, Tensor]:
    """A codec's state dict under the names of an older CompressAI."""
    names = {
        "list": ("_matrices.", "_biases.", "_factors."),
        "single": ("_matrix", "_bias", "_factor"),
        "now": ("matrices.", "biases.", "factors."),
    }[form]
    renamed = {}
    for key, value in state.items():
        for now, then in zip(("matrices.", "biases.", "factors."), names, strict=True):
            key = key.replace(f"entropy_bottleneck.{now}", f"entropy_bottleneck.{then}")
        renamed[key] = value
    return renamed


@pytest.mark.parametrize("form", ["list", "single", "now"])
def test_files_of_every_release_load(tmp_path: Path, form: str) -> None:
    trained = unsettled(codec(seed=4)).eval()
    trained.update()  # type: ignore[operator]
    state = as_release(trained.state_dict(), form)
    assert state["entropy_bottleneck._quantized_cdf"].numel() > 0  # the tables of a codec that can code
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "codec.pth.tar")
    config = ModelConfig(
        name="bmshj2018_factorized", weights=str(tmp_path / "codec.pth.tar"), options={"N": 8, "M": 12}
    )
    models.weights_available(config)
    model = models.build(config, num_classes=10, in_channels=3, image_size=32, mean=(0.4,) * 3, std=(0.2,) * 3)
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        ours, theirs = model.module.eval()(images), trained(images)
    assert torch.equal(ours["x_hat"], theirs["x_hat"])
    assert torch.equal(ours["likelihoods"]["y"], theirs["likelihoods"]["y"])
    assert (model.mean, model.std) == ((0.0,) * 3, (1.0,) * 3)


def test_ci2p_reads_the_encoder_of_a_codec_we_trained(tmp_path: Path) -> None:
    trained = unsettled(codec())
    save_file(trained.state_dict(), tmp_path / "codec.safetensors")
    assert load_file(tmp_path / "codec.safetensors").keys() == trained.state_dict().keys()
    config = ModelConfig(
        name="ci2p_vit",
        weights=str(tmp_path / "codec.safetensors"),
        options={"dim": 16, "depth": 1, "heads": 2, "encoder_channels": 8, "latent_channels": 12},
    )
    module = models.build(config, num_classes=2, in_channels=3, image_size=32, mean=(0.4,) * 3, std=(0.2,) * 3).module
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(module.encoder(images), trained.g_a(images))  # type: ignore[operator]


def test_what_is_no_codec() -> None:
    with pytest.raises(WeightsError, match=r"x\.pt: is no image codec: none of its keys begins with g_a\."):
        encoder_state({"conv.weight": torch.zeros(1)}, "x.pt")


def test_the_published_codec_where_it_is_absent(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no file bmshj2018-factorized-prior-5-866ba797\.pth\.tar in"):
        models.weights_available(ModelConfig(name="bmshj2018_factorized", weights="pretrained"), tmp_path)


def test_data_the_codec_does_not_take() -> None:
    with pytest.raises(ConfigError) as caught:
        bmshj2018_factorized(num_classes=2, in_channels=1, image_size=28, N=0)
    assert "bmshj2018_factorized: the image codec takes RGB images, the data set has 1 channel(s)" in str(caught.value)
    assert "image_size = 28 must be a multiple of 16" in str(caught.value)
    assert "N = 0 must be at least 1" in str(caught.value)


def test_without_compressai(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("compressai", "compressai.models"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r'needs CompressAI .*pip install "raybench\[codec\]"'):
        codec()


def test_multiply_adds_of_the_codec() -> None:
    n, m = 8, 12
    # Stride-2 convolutions and their mirror images cost the same; GDN is a 1x1 convolution.
    encoder = 16**2 * 3 * n * 25 + (8**2 + 4**2) * n * n * 25 + 2**2 * n * m * 25 + (16**2 + 8**2 + 4**2) * n * n
    # Two cumulative distributions a symbol, through layers of 1, 3, 3, 3, 3 and 1.
    entropy = 2 * m * 2**2 * (3 + 9 + 9 + 9 + 3)
    assert measure(codec(n, m), torch.rand(1, 3, 32, 32)).total() == 2 * encoder + entropy
