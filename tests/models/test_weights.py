"""Weight files: nothing in them is run, their hashes hold, and what does not fit is listed."""

from __future__ import annotations

import argparse
import hashlib
import io
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from raybench import models
from raybench.config.trial import ModelConfig
from raybench.errors import ConfigError, WeightsError
from raybench.models.builder import BuiltModel
from raybench.models.weights import IMAGENET_MEAN, IMAGENET_STD, read_shapes, read_state_dict

torch.set_num_threads(1)
HALF = (0.5, 0.5, 0.5)


def built(weights: str, *, num_classes: int = 10, name: str = "resnet8", root: Path | None = None) -> BuiltModel:
    torch.manual_seed(1)
    return models.build(
        ModelConfig(name=name, weights=weights),
        num_classes=num_classes,
        in_channels=3,
        image_size=32,
        mean=HALF,
        std=HALF,
        weights_root=root,
    )


@pytest.fixture
def trained() -> nn.Module:
    return models.build(
        ModelConfig(name="resnet8"), num_classes=10, in_channels=3, image_size=32, mean=HALF, std=HALF
    ).module


def same(one: nn.Module, two: nn.Module) -> bool:
    first, second = one.state_dict(), two.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_safetensors(trained: nn.Module, tmp_path: Path) -> None:
    save_file(trained.state_dict(), tmp_path / "trained.safetensors")
    assert same(built(str(tmp_path / "trained.safetensors")).module, trained)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_torch_files(trained: nn.Module, tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    state = {prefix + key: value for key, value in trained.state_dict().items()}
    torch.save({wrapper: state, "best_prec1": 91.0} if wrapper else state, tmp_path / "trained.th")
    assert same(built(str(tmp_path / "trained.th")).module, trained)


@pytest.mark.parametrize("average", ["state_dict_ema", "model_ema"])
@pytest.mark.parametrize("last", ["state_dict", "model"])
def test_an_average_of_the_weights_comes_before_the_last_ones(
    trained: nn.Module, tmp_path: Path, average: str, last: str
) -> None:
    from timm.models import load_state_dict

    latest = {key: value + 1 for key, value in trained.state_dict().items()}
    content = {last: latest, average: trained.state_dict(), "args": argparse.Namespace(lr=0.1, sched="cosine")}
    torch.save(content, tmp_path / "checkpoint.pth.tar")
    assert same(built(str(tmp_path / "checkpoint.pth.tar")).module, trained)
    theirs = load_state_dict(str(tmp_path / "checkpoint.pth.tar"))
    assert all(torch.equal(theirs[key], value) for key, value in trained.state_dict().items())
    assert read_shapes(tmp_path / "checkpoint.pth.tar").keys() == theirs.keys()
    torch.save({last: latest, average: None}, tmp_path / "none.pth.tar")
    assert not same(built(str(tmp_path / "none.pth.tar")).module, trained)


def test_a_path_below_the_weights_root(trained: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    torch.save(trained.state_dict(), tmp_path / "weights" / "mine.pt")
    assert same(built("mine.pt", root=tmp_path).module, trained)


class Attack:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.scenario(28)
@pytest.mark.parametrize("form", ["torch", "pickle", "legacy"])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path, form: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / "weights.pth"
    content = {"state_dict": Attack(trace)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "torch")
    for read in (lambda: built(str(path)), lambda: read_shapes(path)):
        with pytest.raises(WeightsError, match=r"weights\.pth: refused, .*could run code"):
            read()
    assert not trace.exists()
    torch.load(path, weights_only=False) if form != "pickle" else pickle.loads(path.read_bytes())
    assert trace.exists()  # the file would have done it


@pytest.mark.parametrize("name", ["broken.pt", "broken.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 cut short"])
@pytest.mark.parametrize("reader", [read_state_dict, read_shapes])
def test_a_broken_file_is_named(
    tmp_path: Path, reader: Callable[[Path], dict[str, Tensor]], name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name.replace(".", r"\.")):
        reader(tmp_path / name)


def test_a_file_cut_short_is_refused(trained: nn.Module, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(trained.state_dict(), buffer)
    (tmp_path / "cut.pt").write_bytes(buffer.getvalue()[:-1000])
    with pytest.raises(WeightsError, match=r"cut\.pt: cannot be read as weights"):
        read_state_dict(tmp_path / "cut.pt")


@pytest.mark.scenario(28)
@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, torch.zeros(2)])
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(WeightsError, match=r"odd\.pt: .*no(t a)? state dict"):
        read_state_dict(tmp_path / "odd.pt")


@pytest.mark.scenario(28)
@pytest.mark.parametrize("extension", [".pt", ".pth.tar", ".safetensors"])
def test_the_hash_in_a_name_is_checked(trained: nn.Module, tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"plain{extension}"
    save_file(trained.state_dict(), path) if extension == ".safetensors" else torch.save(trained.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    right = path.rename(tmp_path / f"resnet8-{digest}{extension}")
    assert same(built(str(right)).module, trained)
    wrong = right.rename(tmp_path / f"resnet8-0123abcd{extension}")
    with pytest.raises(WeightsError, match=f"promises a SHA-256 that begins with 0123abcd, the content has {digest}"):
        built(str(wrong))
    with pytest.raises(WeightsError, match="0123abcd"):
        models.weights_available(ModelConfig(name="resnet8", weights=str(wrong)))


def test_a_head_for_other_classes_is_replaced_and_logged(
    trained: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(trained.state_dict(), tmp_path / "ten.pt")
    with caplog.at_level(logging.WARNING):
        module = built(str(tmp_path / "ten.pt"), num_classes=4).module
    assert "linear.bias, linear.weight" in caplog.text
    assert "ten.pt" in caplog.text
    assert [tuple(parameter.shape) for parameter in models.head_parameters(module)] == [(4, 64), (4,)]
    torch.manual_seed(1)  # as in `built`: the head is the one the seed gives
    fresh = models.build(ModelConfig(name="resnet8"), num_classes=4, in_channels=3, image_size=32, mean=HALF, std=HALF)
    assert torch.equal(module.state_dict()["linear.weight"], fresh.module.state_dict()["linear.weight"])
    assert torch.equal(module.state_dict()["conv1.weight"], trained.state_dict()["conv1.weight"])


def test_keys_that_do_not_fit_are_listed(trained: nn.Module, tmp_path: Path) -> None:
    state = trained.state_dict()
    del state["layer1.0.conv1.weight"], state["linear.bias"]
    state["extra.weight"] = torch.zeros(1)
    state["conv1.weight"] = torch.zeros(16, 1, 3, 3)
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(WeightsError) as caught:
        built(str(tmp_path / "other.pt"))
    text = str(caught.value)
    assert "other.pt: does not fit the model resnet8; " in text
    assert "missing in the file: layer1.0.conv1.weight, linear.bias" in text
    assert "unexpected in the file: extra.weight" in text
    assert "of another shape: conv1.weight (16, 1, 3, 3) where (16, 3, 3, 3) is wanted" in text
    assert "but for a head (linear) of another number of classes" in text


def without(state: dict[str, Tensor], end: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.endswith(end)}


VARIANTS: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "its own": lambda state: state,
    "of data-parallel training": lambda state: {f"module.{key}": value for key, value in state.items()},
    "without counters": lambda state: without(state, "num_batches_tracked"),
    "with a head of more classes": lambda state: (
        state | {"linear.weight": torch.zeros(12, 64), "linear.bias": torch.zeros(12)}
    ),
    "with a wider head": lambda state: state | {"linear.weight": torch.zeros(10, 32)},
    "without its bias": lambda state: without(state, "linear.bias"),
    "with more": lambda state: state | {"extra.weight": torch.zeros(1)},
    "of other widths": lambda state: {
        key: torch.cat([value, value]) if value.dim() else value for key, value in state.items()
    },
}
FIT = ("its own", "of data-parallel training", "without counters", "with a head of more classes")


def refusal(act: Callable[[], object]) -> str:
    """What an act is refused with; empty where it is not."""
    try:
        act()
    except WeightsError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("form", ["safetensors", "torch", "legacy"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_said_to_fit_loads_and_nothing_else(
    trained: nn.Module, tmp_path: Path, variant: str, form: str
) -> None:
    path = tmp_path / f"file.{'safetensors' if form == 'safetensors' else 'pt'}"
    state = VARIANTS[variant](trained.state_dict())
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "torch")
    said = refusal(lambda: models.check_weights(ModelConfig(name="resnet8", weights=str(path)), trained))
    assert said == refusal(lambda: built(str(path)))
    assert (said == "") == (variant in FIT), said


@pytest.mark.parametrize("name", ["trained.safetensors", "trained.pt"])
def test_shapes_are_those_of_the_file(trained: nn.Module, tmp_path: Path, name: str) -> None:
    path, state = tmp_path / name, trained.state_dict()
    save_file(state, path) if path.suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    assert {key: value.shape for key, value in read_shapes(path).items()} == {
        key: value.shape for key, value in state.items()
    }


def test_many_keys_are_counted(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "tiny.safetensors")
    with pytest.raises(WeightsError, match=r"bn1\.bias, .* and \d+ more"):
        built(str(tmp_path / "tiny.safetensors"))


@pytest.mark.scenario(23)
def test_absent_files_say_where_they_were_looked_for(tmp_path: Path) -> None:
    for call in (
        built,
        lambda weights, root: models.weights_available(ModelConfig(name="resnet8", weights=weights), root),
    ):
        with pytest.raises(WeightsError, match=r"Allowed for model\.weights: none, pretrained, or the path") as caught:
            call("nowhere.pt", root=tmp_path)
        assert str(tmp_path / "weights" / "nowhere.pt") in str(caught.value)


@pytest.mark.scenario(23)
def test_absent_published_weights_of_our_own(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        models.weights_available(ModelConfig(name="resnet20", weights="pretrained"), tmp_path)
    text = str(caught.value)
    assert "no file resnet20-????????.th in" in text
    assert str(tmp_path / "weights") in text
    assert "model.weights: PATH" in text
    with pytest.raises(WeightsError, match=r"no weights are published for resnet8; there are for .*resnet20"):
        models.weights_available(ModelConfig(name="resnet8", weights="pretrained"), tmp_path)


def test_no_weights_are_always_available() -> None:
    models.weights_available(ModelConfig(name="resnet8"))


@pytest.mark.scenario(22)
def test_an_unknown_model_names_its_nearest() -> None:
    with pytest.raises(ConfigError, match=r'unknown model "resnet20x"; nearest known: .*resnet20'):
        built("none", name="resnet20x")


# Top-1 of shared data's README, on the 5,000 images of cifar10_test.parquet; forward passes of float32 on another
# machine may turn an image at a tie, hence one image (0.02 %).
PUBLISHED_TOP1 = [("resnet20", 91.38), pytest.param("resnet56", 92.90, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("name", "top1"), PUBLISHED_TOP1)
def test_published_weights_reach_their_published_accuracy(data_root: Path, name: str, top1: float) -> None:
    import numpy as np
    import pyarrow.parquet as pq
    from PIL import Image

    parquet = data_root / "cifar10_test.parquet"
    if not parquet.is_file() or not list((data_root / "weights").glob(f"{name}-*.th")):
        pytest.skip(f"{parquet.name} or the weights of {name} are not in RAYBENCH_DATA")
    config = ModelConfig(name=name, weights="pretrained")
    models.weights_available(config, data_root)
    model = built("pretrained", name=name, root=data_root)
    assert (model.mean, model.std, model.image_size) == (IMAGENET_MEAN, IMAGENET_STD, 32)
    table = pq.read_table(parquet, columns=["image", "label"])
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(image))) for image in table["image"].to_pylist()])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # (5000, 3, 32, 32)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.mean, model.std))
    module = model.module.eval().to(memory_format=torch.channels_last)  # twice as fast
    with torch.inference_mode():
        answers = torch.cat([module((part / 255 - mean) / std).argmax(1) for part in torch.split(images, 250)])
    correct = (answers == torch.tensor(table["label"].to_pylist())).sum().item()
    assert len(images) == 5000
    assert 100 * correct / 5000 == pytest.approx(top1, abs=0.02 + 1e-9)
