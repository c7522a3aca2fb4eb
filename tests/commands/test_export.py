"""`raybench export`: what is written loads elsewhere and answers the same, and what cannot be written says why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from raybench.__main__ import main
from raybench.commands.finished import Finished
from raybench.commands.one_trial import find_trial
from raybench.config.recorded import recorded_trial
from raybench.config.trial import TrialConfig
from raybench.data.views import normalise
from raybench.report.statistics import binomial_interval
from raybench.results.schema import Status
from raybench.results.store import Store
from raybench.training import onnx_file
from raybench.training.recorder import Setup
from raybench.training.trial import run_trial

DIGITS = {"name": "digits", "train_size": 60, "val_size": 100, "image_size": 8, "augment": ["crop1"]}
TINY = {"img_size": 8, "patch_size": 2, "embed_dim": 24, "depth": 2, "num_heads": 3}
TEACHER = {"name": "resnet8", "prepare": "none"}
TRIALS: dict[str, dict[str, Any]] = {
    "resnet": {"model": {"name": "resnet8"}},
    "vit": {"model": {"name": "vit_micro_patch2_8"}},
    "timm": {
        "model": {"name": "vit_tiny_patch16_224", "options": {**TINY, "class_token": False, "global_pool": "avg"}}
    },
    "deit": {
        "model": {"name": "deit_tiny_distilled_patch16_224", "options": TINY},
        "distillation": {"type": "hard", "teacher": TEACHER},
    },
    "one_head": {"model": {"name": "deit_tiny_distilled_patch16_224", "options": TINY}},
    "tome": {"model": {"name": "vit_tiny_patch16_224", "options": {**TINY, "tome_r": 4}}},
    "words": {
        "task": "translation",
        "dataset": {"name": "copy_task", "train_size": 64},
        "model": {
            "name": "multi30k_transformer",
            "options": {"layers": 1, "d_model": 16, "d_ff": 32, "heads": 2, "dropout": 0.0},
        },
        "optimizer": {"name": "adam", "lr": 0.01},
    },
}
needs_onnx = pytest.mark.skipif(onnx_file.lacking() is not None, reason=f"{onnx_file.lacking()}")


def trial(kind: str, seed: int = 0) -> TrialConfig:
    content: dict[str, Any] = {
        "dataset": DIGITS,
        "optimizer": {"name": "adamw", "lr": 0.002},
        "schedule": {"epochs": 2},
        "batch_size": 32,
        "seed": seed,
    }
    return TrialConfig.model_validate(content | TRIALS[kind])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root with a sweep of a trial of each kind, of one also a second seed, and what was run."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        (cache := tmp_path_factory.getbasetemp() / "cache").mkdir(exist_ok=True)
        patch.setenv("RAYBENCH_CACHE", str(cache))
        root = tmp_path_factory.mktemp("results")
        for kind, seed in (*((kind, 0) for kind in TRIALS), ("resnet", 1)):
            metric = {"metric": "eval_loss", "mode": "min"} if kind == "words" else {}
            setup = Setup(sweep="s", preset="quick", results=root / "s", **metric)  # type: ignore[arg-type]
            assert run_trial(trial(kind, seed), setup, "a cell").status == Status.COMPLETE
        content = {"name": "s", "preset": "quick", "question": "?", "base": trial("resnet").model_dump(mode="json")}
        (root / "s" / "sweep.yaml").write_text(yaml.safe_dump(content))
        yield root


def export(root: Path, kind: str, out: Path, *arguments: str) -> int:
    return main(["export", trial(kind).trial_id, "--results", str(root), "--out", str(out), *arguments])


@pytest.fixture
def without_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the extra is not installed; writing such a file takes seconds."""
    monkeypatch.setattr(onnx_file, "PACKAGES", ("no_such_package",))


@pytest.mark.usefixtures("without_onnx")
def test_the_weights_are_those_of_the_trial_and_the_card_says_what_they_are(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert export(results, "resnet", out) == 0
    said = capsys.readouterr().out
    assert f"{out / 'model.safetensors'}: " in said
    assert "no timm: resnet8 is a model that timm does not have" in said
    exported = load_file(out / "model.safetensors")
    kept = load_file(results / "s" / "weights" / f"{trial('resnet').trial_id}.safetensors")
    assert exported.keys() == kept.keys()
    assert all(torch.equal(exported[name], kept[name]) for name in kept)
    with safe_open(out / "model.safetensors", "pt") as file:
        header = file.metadata()
    assert header["trial_id"] == trial("resnet").trial_id
    assert json.loads(header["classes"]) == [str(digit) for digit in range(10)]
    written = TrialConfig.model_validate_json((out / "trial.json").read_text())
    assert written.trial_id == trial("resnet").trial_id

    card = (out / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front == {"pipeline_tag": "image-classification", "tags": ["raybench", "image-classification"]}
    row = find_trial(results, trial("resnet").trial_id).row
    low, high = binomial_interval(row["test_top1"], 500)
    assert f"| test top-1 (%) | {row['test_top1']:.6g} | {low:.2f} to {high:.2f} |" in card
    assert "(2)" in card  # two seeds of the setting
    assert "60 examples to train on, 100 for validation, cut from the training part first, and 500 to test on" in card
    assert f"raybench reproduce {trial('resnet').trial_id}" in card
    assert "resnet8 was trained from scratch" in card
    assert "BSD-3-Clause" in card
    assert "Apache License 2.0" in card
    assert str(results) not in card


def logits(results: Path, kind: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Test images as pixels in [0, 1] and normalised, and what the trial's model answers, by raybench's own code."""
    restored = Finished(find_trial(results, trial(kind).trial_id), Path("nowhere")).restored
    views, _ = restored.images(range(40))
    student = restored.student
    with torch.no_grad():
        answer = student.predict(views)
    pixels = normalise(views, (0.0,), (1.0,), student.image_size)
    return pixels, normalise(views, student.mean, student.std, student.image_size), answer


@pytest.mark.parametrize("kind", ["timm", "deit"])
def test_timm_loads_a_timm_model_and_it_answers_the_same(
    kind: str, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import timm

    out = tmp_path / "out"
    assert export(results, kind, out, "--form", "timm") == 0
    assert "loaded again, " in capsys.readouterr().out
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    _, images, answer = logits(results, kind)
    with torch.no_grad():
        # The layout of the tensors is another one, and with it the order of sums.
        torch.testing.assert_close(model(images), answer, rtol=1e-5, atol=1e-5)
    config = json.loads((out / "config.json").read_text())
    assert config["pretrained_cfg"]["input_size"] == [1, 8, 8]
    assert "in1k" not in json.dumps(config)  # these are not the weights that timm has under that name
    assert (out / "model.safetensors").stat().st_mode & 0o777 == (out / "README.md").stat().st_mode & 0o777
    assert yaml.safe_load((out / "README.md").read_text().split("---")[1])["library_name"] == "timm"
    # And as weights of the plain architecture.
    options: dict[str, Any] = {**trial(kind).model.options, "checkpoint_path": out / "model.safetensors"}
    plain = timm.create_model(trial(kind).model.name, in_chans=1, num_classes=10, **options)
    with torch.no_grad():
        assert torch.equal(plain.eval()(images), model(images))


REFUSED = {
    ("resnet", "timm"): "resnet8 is a model that timm does not have",
    ("one_head", "timm"): "timm answers with the mean of both heads, of which one was never trained here",
    ("tome", "timm"): "timm merges no tokens (options.tome_r)",
    ("words", "timm"): "this is a trial of translation, and timm classifies images",
    ("words", "onnx"): "a translation is a loop of passes",
}


@pytest.mark.parametrize(("kind", "form"), REFUSED)
def test_a_form_that_would_not_be_honest_is_refused(
    kind: str, form: str, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(results, kind, tmp_path / "out", "--form", form) == 2
    heard = capsys.readouterr().err
    assert heard.startswith("1 error, nothing started:")
    assert f"no {form}: {REFUSED[kind, form]}" in heard
    assert list(tmp_path.iterdir()) == []


def test_a_transformer_has_weights_its_words_and_a_card(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert export(results, "words", out) == 0
    said = capsys.readouterr().out
    assert "no onnx: a translation is a loop" in said
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "README.md", "trial.json", "vocabulary.json"}
    words = json.loads((out / "vocabulary.json").read_text())
    weights = load_file(out / "model.safetensors")
    assert len(words["source"]) == len(weights["source_embedding.weight"])
    assert len(words["target"]) == len(weights["generator.weight"])
    assert "no data at all" in (out / "README.md").read_text()


@pytest.mark.usefixtures("without_onnx")
def test_without_the_extra_it_says_what_to_install(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(results, "resnet", tmp_path / "one", "--form", "onnx") == 2
    assert 'no onnx: no_such_package not installed: pip install "raybench[onnx]"' in capsys.readouterr().err
    assert export(results, "resnet", tmp_path / "two") == 0
    assert 'pip install "raybench[onnx]"' in capsys.readouterr().out


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["resnet", "vit", "deit", "one_head"])
def test_onnxruntime_answers_what_pytorch_does(kind: str, results: Path, tmp_path: Path) -> None:
    import onnxruntime

    assert export(results, kind, tmp_path / "out", "--form", "onnx") == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    (taken,) = session.get_inputs()
    assert (taken.name, taken.shape) == ("images", ["batch", 1, 8, 8])
    about = session.get_modelmeta().custom_metadata_map
    assert about["trial_id"] == trial(kind).trial_id
    assert json.loads(about["classes"])[3] == "3"
    pixels, _, answer = logits(results, kind)
    for size in (1, 2, 40):
        (found,) = session.run(None, {"images": pixels[:size].numpy()})
        # Sums in another order, in float32.
        np.testing.assert_allclose(found, answer[:size].numpy(), rtol=0, atol=1e-4 * float(answer.abs().max()))


@needs_onnx
@pytest.mark.slow
def test_what_onnx_cannot_say_is_said_in_a_line_and_the_rest_is_written(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(results, "tome", tmp_path / "out") == 0
    said = capsys.readouterr().out.splitlines()
    (line,) = [line for line in said if line.startswith("no onnx: ")]
    assert line.startswith("no onnx: torch cannot write this model as ONNX: ")
    assert "sort" in line
    assert not (tmp_path / "out" / "model.onnx").exists()
    assert "No onnx: torch cannot" in (tmp_path / "out" / "README.md").read_text()
    assert export(results, "tome", tmp_path / "named", "--form", "onnx") == 2
    assert not (tmp_path / "named").exists()


@needs_onnx
@pytest.mark.slow
def test_a_file_that_answers_otherwise_is_not_kept(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = onnx_file.write_onnx

    def harmed(student: Any, path: Path, about: Any) -> None:
        with torch.no_grad():
            bias = next(parameter for name, parameter in student.module.named_parameters() if name.endswith("bias"))
            bias += 0.5
            whole(student, path, about)
            bias -= 0.5

    monkeypatch.setattr(onnx_file, "write_onnx", harmed)
    assert export(results, "resnet", tmp_path / "out", "--form", "onnx") == 2
    assert "onnxruntime answers otherwise: logits differ by " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("far", [0.2, float("nan")])
def test_close_is_a_share_of_the_largest_logit(far: float) -> None:
    onnx_file.check_close(0.9e-3, 10.0, "x")
    with pytest.raises(Exception, match="x answers otherwise"):
        onnx_file.check_close(far, 10.0, "x")


@pytest.mark.usefixtures("without_onnx")
def test_the_best_of_a_sweep_is_that_on_validation(results: Path, tmp_path: Path) -> None:
    rows = Store(results / "s").trials()
    scored = rows.filter(rows["eval_top1"].is_not_null())
    assert scored.height > 1
    best = max(scored.iter_rows(named=True), key=lambda row: row["eval_top1"])
    out = tmp_path / "out"
    assert main(["export", "--best", "s", "--results", str(results), "--out", str(out)]) == 0
    with safe_open(out / "model.safetensors", "pt") as file:
        assert file.metadata()["trial_id"] == best["trial_id"]
    card = (out / "README.md").read_text()
    assert "number 1 of" in card
    assert recorded_trial(best).model.name in card


def test_all_faults_of_a_command_line_are_told_at_once(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert main(["export", "--preset", "quick", "--out", str(tmp_path / "full"), "--results", str(results)]) == 2
    heard = capsys.readouterr().err
    assert heard.startswith("3 errors, nothing started:")
    assert "name one trial: TRIAL_ID, or --best SWEEP" in heard
    assert "goes with --best SWEEP" in heard
    assert "is not empty, and nothing is overwritten" in heard
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fffffffffff0"], "no such trial below"),
        (["--best", "other"], "other: no rows of such a sweep"),
        (["--best", "s", "--preset", "paper"], "no complete trial of preset paper"),
    ],
)
def test_what_is_not_there_is_said(
    arguments: list[str], said: str, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", *arguments, "--results", str(results), "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_trial_that_kept_no_weights_says_how_to_get_some(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(results, tmp_path / "results")
    name = trial("resnet").trial_id
    (tmp_path / "results" / "s" / "weights" / f"{name}.safetensors").unlink()
    assert export(tmp_path / "results", "resnet", tmp_path / "out") == 2
    assert f"raybench sweep s --preset quick --rerun {name} checkpoints.keep=best" in capsys.readouterr().err


def test_paths_of_the_machine_are_not_given_away() -> None:
    from raybench.report.model_card import shared

    content = trial("resnet").model_dump(mode="json")
    content["dataset"] |= {"name": "image_folder", "path": "/home/ann/pets"}
    content["model"] |= {"weights": "/home/ann/secret/net.safetensors"}
    seen = shared(TrialConfig.model_validate(content))
    assert seen.dataset.path == "pets"
    assert seen.model.weights == "net.safetensors"
    assert seen.trial_id == TrialConfig.model_validate(content).trial_id
