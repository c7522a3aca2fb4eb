"""All that is wrong with a plan is said at once, before anything starts."""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from raybench import models
from raybench.config.load import load_sweep
from raybench.config.plan import Plan, make_plan
from raybench.config.sweep import SweepConfig
from raybench.config.trial import ModelConfig, Option
from raybench.data import load
from raybench.errors import ConfigError, DataError, RaybenchError
from raybench.training.preflight import Checked, check
from raybench.training.recorder import Setup


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Threads only hinder models this small."""
    torch.set_num_threads(1)


def plan(metric: str = "eval_top1", factors: dict[str, Any] | None = None, **base: Any) -> Plan:
    """A sweep on the digits; sections of the base are merged key by key."""
    sections: dict[str, Any] = {
        "dataset": {"name": "digits", "val_size": 100, "train_size": 200, "augment": ["crop1"]},
        "model": {"name": "resnet8"},
    }
    for name, section in base.items():
        sections[name] = sections.get(name, {}) | section if isinstance(section, dict) else section
    return make_plan(
        SweepConfig.model_validate(
            {"name": "a", "preset": "quick", "metric": {"name": metric}, "base": sections, "factors": factors or {}}
        )
    )


TINY = {"name": "vit_tiny_patch16_224"}


def checked(wanted: Plan, data_root: Path | None = None) -> Checked:
    return check(wanted, Setup(data_root=data_root), lambda key: f"a.yaml:{key}")


def problems(wanted: Plan, data_root: Path | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        checked(wanted, data_root)
    return caught.value.problems


def teacher(**changes: Any) -> dict[str, Any]:
    return {"type": "soft", "teacher": {"name": "vit_micro_patch2_8", "weights": "none"} | changes}


def test_a_good_plan_says_what_was_learned() -> None:
    found = checked(plan(distillation=teacher()))
    data = load("digits")
    assert found.fingerprints == {"digits": data.fingerprint}
    assert found.variants == {"digits": "embedded"}
    assert found.images == {"digits": len(data.train_labels)}
    assert found.students == {"resnet8": 75_002}
    assert set(found.teachers) == {"vit_micro_patch2_8"}


def test_parameters_are_counted_without_making_them() -> None:
    # 20,000 wide would be 14 GB of weights.
    start = time.process_time()
    found = checked(plan(model={"name": "vit_base_patch16_224", "options": {"embed_dim": 19_200}}))
    assert found.students["vit_base_patch16_224"] > 10**10
    assert time.process_time() - start < 20


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (lambda: plan(metric="eval_top2"), ["metric.name", '"eval_top2"', "eval_top1"]),
        (lambda: plan(metric="test_top1"), ["metric.name", '"test_top1"', "eval_top1"]),
        (lambda: plan(dataset={"name": "digit"}), ["dataset.name", '"digit"', "digits", "raybench list datasets"]),
        (lambda: plan(model={"name": "resnet9"}), ["model.name", '"resnet9"', "resnet8", "raybench list models"]),
        (lambda: plan(dataset={"train_size": 1198}), ["dataset.train_size", "1198", "1297", "1197"]),
        (lambda: plan(dataset={"val_size": 1297, "train_size": "all"}), ["1297"]),
        (lambda: plan(dataset={"views": 10}), ["dataset.views", "10", "9"]),
        (lambda: plan(model={"options": {"widht": 3}}), ["model", "resnet8", "widht"]),
        (lambda: plan(model={"name": "vit_micro_patch2_8", "image_size": 9}), ["image_size = 9", "patch_size = 2"]),
        (lambda: plan(model=TINY | {"options": {"num_heads": 0}}), ["model.name", TINY["name"], '{"num_heads": 0}']),
        (lambda: plan(model=TINY | {"options": {"patch_size": 0}}), ["model.name", TINY["name"], '{"patch_size": 0}']),
        (
            lambda: plan(model=TINY | {"options": {"norm_layer": "foo"}}),
            ["norm_layer", "KeyError: 'foo'"],
        ),
        (
            lambda: plan(model=TINY | {"options": {"checkpoint_path": "/etc/passwd"}}),
            ["model.name", TINY["name"], "options.checkpoint_path", "leave it out"],
        ),
        (lambda: plan(model=TINY | {"options": {"pretrained": True}}), [TINY["name"], "options.pretrained"]),
        (lambda: plan(model={"weights": "a" * 5000}), ["model.weights", "no weight file"]),
        (lambda: plan(model={"weights": "~nobody-of-this-name/a.pth"}), ["model.weights", "no weight file"]),
        (
            lambda: plan(dataset={"name": "image_folder", "path": "a" * 5000, "image_size": 8}),
            ["dataset.path", "image_folder: File name too long"],
        ),
        (lambda: plan(model={"mean": [0.1, 0.2], "std": [1.0, 1.0]}), ["mean has 2 values", "1 channel"]),
        (lambda: plan(model={"weights": "pretrained"}), ["model.weights", "no weights are published for resnet8"]),
        (lambda: plan(model={"weights": "nowhere.th"}), ["model.weights", "nowhere.th"]),
        (lambda: plan(distillation=teacher(name="vit_micro")), ["distillation.teacher.name", "vit_micro_patch2_8"]),
        (
            lambda: plan(distillation=teacher(name="resnet20", weights="pretrained")),
            ["distillation.teacher.weights", "resnet20"],
        ),
        (lambda: plan(dataset={"fingerprint": "0123456789ab"}), ["digits", "0123456789ab"]),
        (lambda: plan(latents="lazy"), ["latents = lazy", "resnet8 has no frozen encoder", "ci2p_vit"]),
        (
            lambda: plan(
                dataset={"name": "patches", "val_size": 42, "image_size": 64, "augment": ["rrc"]},
                model={"name": "ci2p_vit", "options": {"dim": 24, "heads": 3}},
                latents="lazy",
            ),
            ["latents = lazy", "no end of views", "dataset.views"],
        ),
        (
            lambda: plan(dataset={"augment": ["rrc"]}, distillation=teacher()),
            ["dataset.views", "distillation.cache = prefill", "no end of views", "distillation.cache=off"],
        ),
    ],
)
def test_a_fault_names_the_place_the_value_and_what_is_allowed(wanted: Any, words: list[str], tmp_path: Path) -> None:
    (problem,) = problems(wanted(), tmp_path)
    for word in words:
        assert word in problem
    assert "\0" not in problem
    if "fingerprint" not in problem:
        assert "a.yaml:" in problem


def test_all_faults_together_and_quickly(tmp_path: Path) -> None:
    start = time.process_time()
    found = problems(
        plan(
            metric="top1",
            dataset={"train_size": 5000, "views": 99},
            factors={"model.name": ["resnet8", "resnet9", "vit_micro"]},
            distillation=teacher(name="resnet20", weights="pretrained"),
        ),
        tmp_path,
    )
    assert time.process_time() - start < 10
    for key in ("metric.name", "dataset.train_size", "dataset.views", '"resnet9"', '"vit_micro"', "teacher.weights"):
        assert sum(key in problem for problem in found) == 1, key
    assert len(found) == 6


def test_absent_data_are_an_error_of_data_that_says_where_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str, data_root: Path | None, download: bool = True) -> None:  # noqa: ARG001
        raise DataError(f"{name} is not in {data_root}; --preset quick needs none")

    monkeypatch.setattr("raybench.data.load", absent)
    with pytest.raises(DataError, match="digits is not in") as caught:
        checked(plan(), tmp_path)
    assert "\0" not in str(caught.value)
    # With another fault beside it both are said.
    with pytest.raises(RaybenchError) as both:
        checked(plan(metric="nothing"), tmp_path)
    assert "digits is not in" in str(both.value)
    assert "unknown metric" in str(both.value)
    assert "\0" not in str(both.value)


def test_only_teachers_that_teach_are_checked() -> None:
    found = checked(plan(distillation={"type": "soft", "alpha": 0.0, "teacher": {"name": "no such teacher"}}))
    assert found.teachers == {}


def test_endless_views_go_with_a_live_teacher_with_fixed_views_and_alone() -> None:
    for more in (
        {"distillation": teacher() | {"cache": "off"}},
        {"distillation": teacher() | {"alpha": 0.0}},
        {"dataset": {"augment": ["rrc"], "views": 3}, "distillation": teacher()},
        {},
    ):
        assert checked(plan(**({"dataset": {"augment": ["rrc"]}} | more))).images == {"digits": 1297}
    # Of two trials that differ in their teacher's cache alone both are looked at.
    both = plan(
        dataset={"augment": ["rrc"]},
        distillation=teacher(),
        factors={"distillation.cache": ["off", "prefill"]},
    )
    assert len(problems(both)) == 1


def test_two_folders_under_one_name_are_two_data_sets(tmp_path: Path) -> None:
    for number, folder in enumerate(("a", "b")):
        for name in ("ant", "bee"):
            (tmp_path / folder / name).mkdir(parents=True)
            for image in range(20 + 10 * number):
                pixels = np.random.default_rng([number, image]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / folder / name / f"{image}.png")
    photos = {"name": "image_folder", "path": "a", "image_size": 8, "train_size": 10, "val_size": 10}
    found = checked(plan(dataset=photos, factors={"dataset.path": ["a", "b"]}), tmp_path)
    assert found.images == {"image_folder a 8px": 32, "image_folder b 8px": 48}
    assert len(set(found.fingerprints.values())) == 2
    wanted = plan(dataset=photos, factors={"dataset.path": ["a", "b"]})
    known = make_plan(wanted.sweep.model_copy(update={"fingerprints": found.fingerprints}))
    assert [trial.dataset.fingerprint for trial in known.trials()] == list(found.fingerprints.values())
    with pytest.raises(DataError, match=r"digits takes no dataset\.path"):
        checked(plan(dataset={"path": "a"}), tmp_path)


def test_what_a_translation_needs_at_its_end_is_asked_for_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    wanted = make_plan(load_sweep("multi30k", "quick"))
    with pytest.raises(ConfigError, match=r'BLEU needs sacrebleu .*pip install "raybench\[text\]"'):
        checked(wanted, tmp_path)


def test_two_weight_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        torch.save({}, tmp_path / run / "best.pt")
    paths = [str(tmp_path / run / "best.pt") for run in ("a", "b")]
    (problem,) = [p for p in problems(plan(factors={"model.weights": paths}), tmp_path) if "different files" in p]
    assert all(path in problem for path in paths)


def saved(path: Path, name: str, *, classes: int = 10, channels: int = 1, size: int = 8, **options: Any) -> str:
    """The path of a file with a fresh model's weights."""
    config = ModelConfig(name=name, options=options, image_size=size)
    module = models.build(
        config, num_classes=classes, in_channels=channels, image_size=size, mean=(0.5,), std=(0.5,)
    ).module
    state = {key: value.contiguous() for key, value in module.state_dict().items()}
    save_file(state, path) if path.suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    return str(path)


VIT = {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}


@pytest.mark.parametrize("end", ["safetensors", "pt"])
def test_weights_that_load_are_let_through(tmp_path: Path, end: str) -> None:
    own = saved(tmp_path / f"own.{end}", "resnet8", classes=4)  # its head is replaced
    timm = saved(tmp_path / f"timm.{end}", "vit_tiny_patch16_224", size=16, **VIT)  # timm resamples its positions
    names: list[dict[str, Any]] = [
        {"name": "resnet8", "weights": own},
        {"name": "vit_tiny_patch16_224", "weights": timm, "options": VIT, "image_size": 8},
        {"name": "vit_tiny_patch16_224", "weights": timm, "options": {**VIT, "tome_r": 1}, "image_size": 8},
    ]
    found = checked(plan(factors={"model": names}, distillation=teacher(name="resnet8", weights=own)), tmp_path)
    assert set(found.students) == {"resnet8", "vit_tiny_patch16_224"}
    assert set(found.teachers) == {"resnet8"}
    held = {name: hashlib.sha256(Path(name.split()[1]).read_bytes()).hexdigest()[:12] for name in found.digests}
    assert found.digests == held
    assert set(held) == {f"resnet8 {own}", f"vit_tiny_patch16_224 {timm}"}


@pytest.mark.parametrize("end", ["safetensors", "pt"])
def test_weights_that_fit_no_model_are_told_with_all_else(tmp_path: Path, end: str) -> None:
    other = saved(tmp_path / f"other.{end}", "resnet20")
    colour = saved(tmp_path / f"colour.{end}", "resnet8", channels=3)
    tokens = saved(tmp_path / f"tokens.{end}", "vit_micro_patch2_8", size=12)
    narrow = saved(tmp_path / f"narrow.{end}", "vit_tiny_patch16_224", **VIT)
    (tmp_path / f"broken.{end}").write_bytes(b"not weights")
    wider = {**VIT, "embed_dim": 32}
    students: list[dict[str, Any]] = [
        {"name": "resnet8", "weights": other},
        {"name": "resnet8", "weights": colour},
        {"name": "resnet8", "weights": str(tmp_path / f"broken.{end}")},
        {"name": "vit_tiny_patch16_224", "weights": narrow, "options": wider, "image_size": 8},
        # The same fault of the same file and model is one line.
        {"name": "vit_tiny_patch16_224", "weights": narrow, "options": {**wider, "tome_r": 1}, "image_size": 8},
    ]
    wanted = plan(
        metric="nothing",
        dataset={"train_size": 5000},
        factors={"model": students},
        distillation=teacher(weights=tokens),
    )
    found = problems(wanted, tmp_path)
    assert len(found) == 7
    for words in (
        ("metric.name", "unknown metric"),
        ("dataset.train_size", "5000"),
        (f"model.weights = {other}", "model resnet8", "unexpected in the file: layer1.1.bn1.bias", " more"),
        (colour, "conv1.weight (16, 3, 3, 3) where (16, 1, 3, 3) is wanted", "allowed", "head (linear) of another"),
        ("model.weights", f"broken.{end}: "),
        (narrow, "model vit_tiny_patch16_224", "blocks.0.attn.proj.weight (16, 16) where (32, 32) is wanted"),
        (f"distillation.teacher.weights = {tokens}", "vit_micro_patch2_8", "(1, 37, 64) where (1, 17, 64) is wanted"),
    ):
        (line,) = [line for line in found if all(word in line for word in words)]
        assert line.startswith("a.yaml:")
        assert "\n" not in line


def test_weights_of_a_codec_and_of_a_translator_are_looked_at_too(tmp_path: Path) -> None:
    pytest.importorskip("compressai", reason="the codec needs CompressAI (extra codec)")
    codec = saved(tmp_path / "codec.safetensors", "bmshj2018_factorized", channels=3, size=32, N=4, M=6)
    wanted = make_plan(load_sweep("ci2p_codec", "quick", [f"model.weights={codec}"]))
    (problem,) = problems(wanted, tmp_path)
    assert f"{codec}: does not fit the model bmshj2018_factorized; " in problem
    options = {"encoder_channels": 4, "latent_channels": 6, "dim": 12, "depth": 2, "heads": 2}
    user: dict[str, Any] = {"name": "ci2p_vit", "weights": codec, "options": options}
    data = {"name": "patches", "image_size": 64, "train_size": 32, "val_size": 42, "augment": []}
    assert checked(plan(dataset=data, model=user), tmp_path).students
    wider = user | {"options": options | {"latent_channels": 12}}
    (problem,) = problems(plan(dataset=data, model=wider), tmp_path)
    assert "its encoder has 4 channels and a code of 6, the model 4 and 12" in problem
    (problem,) = problems(make_plan(load_sweep("multi30k", "quick", [f"model.weights={codec}"])), tmp_path)
    assert f"{codec}: does not fit the model multi30k_transformer; missing in the file" in problem


def test_a_model_is_looked_at_once_and_no_tensor_is_read(tmp_path: Path) -> None:
    # A file of 9 GB that takes nothing on the disk but its header.
    options: dict[str, Option] = {"embed_dim": 3840}
    with torch.device("meta"):
        module = models.build(
            ModelConfig(name="vit_base_patch16_224", options=options),
            num_classes=10,
            in_channels=1,
            image_size=8,
            mean=(0.5,),
            std=(0.5,),
        ).module
    header, end = {}, 0
    for key, tensor in module.state_dict().items():
        header[key] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [end, end + 4 * tensor.numel()]}
        end += 4 * tensor.numel()
    text = json.dumps(header).encode()
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    assert end > 8e9
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
    model = {"name": "vit_base_patch16_224", "options": options, "weights": str(path)}
    found = checked(plan(model=model, factors={"dataset.train_size": [60, 120, 200], "batch_size": [8, 16]}))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024**2
    assert [look.parameters for look in found.looks.values()] == [found.students["vit_base_patch16_224"]]


def test_weights_without_a_trial_yet_are_told_with_other_faults_or_left_to_the_caller() -> None:
    lent = {"name": "resnet8", "weights": "sweep:other/best"}

    def look(**changes: Any) -> Checked:
        unlent = {"sweep:other/best": "run other first"}
        return check(plan(model=lent, **changes), Setup(), lambda key: f"a.yaml:{key}", unlent=unlent)

    assert look().students == {"resnet8": 75_002}
    with pytest.raises(ConfigError) as caught:
        look(dataset={"train_size": 5000})
    assert caught.value.problems[0] == "run other first"
    assert len(caught.value.problems) == 2
    # Nobody has told of these.
    (problem,) = problems(plan(model=lent))
    assert "weights of sweep other" in problem


def test_a_sweep_has_one_kind_of_task() -> None:
    with pytest.raises(ValueError, match="a sweep has one kind of task"):
        plan(factors={"task": ["image_classification", "translation"]})
