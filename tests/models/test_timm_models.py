"""timm's models, passed through: sizes, options, heads, and pretrained weights that are not there."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from raybench import models
from raybench.config.trial import ModelConfig, Option
from raybench.errors import ConfigError, WeightsError
from raybench.models import timm_models
from raybench.models.builder import BuiltModel

torch.set_num_threads(1)
MEAN = (0.4, 0.4, 0.4)


def built(config: ModelConfig, *, num_classes: int = 10, in_channels: int = 3) -> BuiltModel:
    torch.manual_seed(0)
    own = (0.4,) * in_channels
    return models.build(config, num_classes=num_classes, in_channels=in_channels, image_size=32, mean=own, std=own)


# Counts of shared facts, section 4: timm's models with a 10-class head.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("deit_base_patch16_224", 85_806_346),
        ("vit_base_patch16_224", 85_806_346),
        ("deit_base_distilled_patch16_224", 85_815_572),
        ("regnety_160", 80_595_390),
        ("tiny_vit_5m_224.dist_in22k_ft_in1k", 5_074_974),
        ("resnet18", 11_181_642),
        ("resnet50", 23_528_522),
        ("vit_base_patch32_224", 87_462_922),
    ],
)
def test_parameters_with_ten_classes(name: str, parameters: int) -> None:
    with torch.device("meta"):
        assert models.count_parameters(built(ModelConfig(name=name)).module) == parameters


def test_a_vit_at_32_px() -> None:
    model = built(ModelConfig(name="test_vit", options={"img_size": 32, "patch_size": 4}), in_channels=1)
    assert (model.image_size, model.mean, model.std) == (32, (0.4,), (0.4,))
    assert model.module(torch.randn(2, 1, 32, 32)).shape == (2, 10)


def test_image_size_of_the_configuration_rebuilds_a_model_of_fixed_size() -> None:
    model = built(ModelConfig(name="test_vit", image_size=64))
    assert model.image_size == 64
    assert model.module(torch.randn(2, 3, 64, 64)).shape == (2, 10)


def test_a_model_of_fixed_size_gets_that_size_and_a_cnn_the_data_sets() -> None:
    assert built(ModelConfig(name="test_vit")).image_size == 160
    cnn = built(ModelConfig(name="test_resnet"))
    assert cnn.image_size == 32
    assert cnn.module(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_options_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"model test_resnet: timm refuses these options .*'colour'"):
        built(ModelConfig(name="test_resnet", options={"colour": 3}))
    with pytest.raises(ConfigError, match=r"image_size = 64 contradicts options\.img_size = 32"):
        built(ModelConfig(name="test_vit", image_size=64, options={"img_size": 32}))
    with pytest.raises(ConfigError, match="model resnet8: unknown option depth; it takes none"):
        built(ModelConfig(name="resnet8", options={"depth": 20}))
    with pytest.raises(ConfigError, match="model vit_micro_patch2_8: unknown option dim; allowed: drop_path_rate"):
        built(ModelConfig(name="vit_micro_patch2_8", options={"dim": 20}))


def test_normalisation_of_the_configuration_comes_first() -> None:
    model = built(ModelConfig(name="test_resnet", mean=(0.1, 0.2, 0.3)))
    assert (model.mean, model.std) == ((0.1, 0.2, 0.3), MEAN)
    with pytest.raises(ConfigError, match="mean has 2 values, the data set 3 channels"):
        built(ModelConfig(name="test_resnet", mean=(0.1, 0.2)))


def test_heads_of_one_and_of_two_tokens() -> None:
    with torch.device("meta"):
        one = models.head_parameters(built(ModelConfig(name="resnet18")).module)
        two = models.head_parameters(built(ModelConfig(name="deit_tiny_distilled_patch16_224")).module)
    assert [tuple(parameter.shape) for parameter in one] == [(10, 512), (10,)]
    assert [tuple(parameter.shape) for parameter in two] == [(10, 192), (10,), (10, 192), (10,)]


def test_a_model_without_a_head_cannot_be_probed() -> None:
    with pytest.raises(ConfigError, match="Flatten has no head"):
        models.head_parameters(nn.Flatten())


def test_a_file_of_another_size_and_other_classes(tmp_path: Path) -> None:
    options: dict[str, Option] = {"patch_size": 4}
    trained = built(ModelConfig(name="test_vit", image_size=16, options=options), num_classes=3).module
    save_file(trained.state_dict(), tmp_path / "small.safetensors")
    config = ModelConfig(name="test_vit", image_size=32, options=options, weights=str(tmp_path / "small.safetensors"))
    module = built(config).module  # timm's own translation resamples the positions
    assert torch.equal(
        module.state_dict()["blocks.0.attn.qkv.weight"], trained.state_dict()["blocks.0.attn.qkv.weight"]
    )
    assert module(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_file_for_rgb_is_fitted_to_grey_images_as_published_weights_are(hub: Path, name: str) -> None:
    trained = built(ModelConfig(name=name), num_classes=3).module
    save_file(trained.state_dict(), file := hub / f"{name}.safetensors")  # also where published weights are looked for
    path, published = (
        models.build(
            ModelConfig(name=name, weights=weights),
            num_classes=3,
            in_channels=1,
            image_size=32,
            mean=(0.4,),
            std=(0.4,),
            weights_root=hub,
        )
        for weights in (str(file), "pretrained")
    )
    assert path.mean == published.mean == (0.5,)
    for (key, one), other in zip(path.module.state_dict().items(), published.module.state_dict().values(), strict=True):
        assert torch.equal(one, other) or key.startswith(("fc", "head")), key
    with torch.device("meta"):
        bare = built(ModelConfig(name=name), num_classes=3, in_channels=1).module
    models.check_weights(ModelConfig(name=name, weights=str(file)), bare)


@pytest.mark.parametrize(("theirs", "ours"), [(1, 3), (6, 4), (6, 2)])
def test_a_file_for_other_channels_than_rgb_is_refused(tmp_path: Path, theirs: int, ours: int) -> None:
    save_file(
        built(ModelConfig(name="test_resnet"), in_channels=theirs).module.state_dict(), tmp_path / "a.safetensors"
    )
    shapes = rf"of another shape: conv1\.0\.weight \(\d+, {theirs}, 3, 3\) where \(\d+, {ours}, 3, 3\)"
    with pytest.raises(WeightsError, match=shapes):
        built(ModelConfig(name="test_resnet", weights=str(tmp_path / "a.safetensors")), in_channels=ours)


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(
        WeightsError, match=r"other\.safetensors: does not fit the model test_resnet; missing in the file"
    ):
        built(ModelConfig(name="test_resnet", weights=str(tmp_path / "other.safetensors")))


ADDRESS = "/{repo_id}/resolve/{revision}/{filename}"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache, and a hub on this machine at a port that nobody listens to."""
    import huggingface_hub

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + ADDRESS)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path


@pytest.fixture
def silent_hub(hub: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same with a hub that takes connections and never answers."""
    import huggingface_hub

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + ADDRESS)
        yield hub


PRETRAINED = ModelConfig(name="test_resnet.r160_in1k", weights="pretrained")


@pytest.mark.scenario(23)
def test_absent_weights_without_a_network(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYBENCH_DATA", raising=False)
    for call in (models.weights_available, built):
        with pytest.raises(WeightsError) as caught:
            call(PRETRAINED)
        text = str(caught.value)
        assert "pretrained weights of test_resnet.r160_in1k are not here and cannot be fetched" in text
        assert f"the Hugging Face cache ({hub}) for timm/test_resnet.r160_in1k" in text
        assert "(model.safetensors of timm/test_resnet.r160_in1k)" in text
        assert "put them into data or data/weights as test_resnet.r160_in1k.safetensors" in text
        assert "weights: PATH" in text
        assert "127.0.0.1" in text
        assert "refused" in text


@pytest.mark.scenario(23)
def test_absent_weights_with_a_silent_network_fail_within_seconds(silent_hub: Path) -> None:
    import timm  # noqa: F401  # its import is not what is timed

    start = time.monotonic()
    with pytest.raises(WeightsError, match=r"does not give them \((no answer in 3 s|timed out)\)"):
        models.weights_available(PRETRAINED)
    assert time.monotonic() - start < 6  # the 3 s asked for, and a busy machine
    assert silent_hub.is_dir()


def test_cached_weights_need_no_network(hub: Path) -> None:
    trained = built(ModelConfig(name="test_resnet"), num_classes=1000).module
    repository = hub / "models--timm--test_resnet.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    save_file(trained.state_dict(), repository / "snapshots" / "abc" / "model.safetensors")
    models.weights_available(PRETRAINED)
    model = built(PRETRAINED)
    assert (model.mean, model.std, model.image_size) == ((0.5,) * 3, (0.5,) * 3, 160)  # not the data set's 0.4
    assert torch.equal(model.module.state_dict()["conv1.0.weight"], trained.state_dict()["conv1.0.weight"])
    assert [len(parameter) for parameter in models.head_parameters(model.module)] == [10, 10]
    grey = built(PRETRAINED, in_channels=1)
    assert (grey.mean, grey.std) == ((0.5,), (0.5,))
    assert grey.module(torch.randn(1, 1, 160, 160)).shape == (1, 10)


@pytest.mark.parametrize("file", ["test_resnet.r160_in1k.safetensors", "weights/test_resnet.r160_in1k.pth"])
def test_published_weights_in_a_folder_of_the_users_need_no_network(hub: Path, tmp_path: Path, file: str) -> None:
    assert not list(hub.iterdir())
    trained = built(ModelConfig(name="test_resnet"), num_classes=1000).module.state_dict()
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    (save_file if path.suffix == ".safetensors" else torch.save)(trained, path)
    for name in ("test_resnet.r160_in1k", "test_resnet"):  # the tag that timm takes where none is named
        config = ModelConfig(name=name, weights="pretrained")
        models.weights_available(config, tmp_path)
        torch.manual_seed(0)
        own = (0.4,) * 3
        model = models.build(
            config, num_classes=10, in_channels=3, image_size=32, mean=own, std=own, weights_root=tmp_path
        )
        assert (model.mean, model.std, model.image_size) == ((0.5,) * 3, (0.5,) * 3, 160)
        assert torch.equal(model.module.state_dict()["conv1.0.weight"], trained["conv1.0.weight"])


def test_a_file_of_another_tag_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "resnet18.safetensors").touch()  # may be of any tag
    (tmp_path / "resnet18.tv_in1k.safetensors").touch()
    for name, found in (("resnet18", "resnet18.safetensors"), ("resnet18.a1_in1k", None)):
        assert timm_models.local_file(name, tmp_path) == (found and tmp_path / found)


def test_a_file_named_by_its_path_is_normalised_as_it_was_trained(tmp_path: Path) -> None:
    trained = built(ModelConfig(name="test_resnet"), num_classes=10).module.state_dict()
    save_file(trained, tmp_path / "published.safetensors")  # says nothing of it, as timm's files
    save_file(trained, tmp_path / "own.safetensors", {"mean": "[0.1, 0.2, 0.3]", "std": "[1, 2, 3]"})
    published = built(ModelConfig(name="test_resnet", weights=str(tmp_path / "published.safetensors")))
    assert (published.mean, published.std) == ((0.5,) * 3, (0.5,) * 3)  # those that timm publishes for the name
    own = built(ModelConfig(name="test_resnet", weights=str(tmp_path / "own.safetensors")))
    assert (own.mean, own.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    stated = ModelConfig(name="test_resnet", weights=str(tmp_path / "published.safetensors"), mean=MEAN, std=MEAN)
    assert (built(stated).mean, built(stated).std) == (MEAN, MEAN)


def test_a_model_without_published_weights() -> None:
    with pytest.raises(
        WeightsError, match=r"no weights are published for vit_huge_patch14_224\.untrained; there are vit_huge_"
    ):
        models.weights_available(ModelConfig(name="vit_huge_patch14_224.untrained", weights="pretrained"))
    with pytest.raises(WeightsError, match="no weights are published for test_vit4; none for test_vit4 at all"):
        models.weights_available(ModelConfig(name="test_vit4", weights="pretrained"))
