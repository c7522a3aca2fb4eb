"""What `raybench export` writes: weights, a card, and the forms that a model has, each checked before it is kept."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import torch

from raybench import data as data_sets
from raybench.commands.comparing import sweep_as_run
from raybench.commands.finished import Finished
from raybench.data.views import normalise
from raybench.errors import ConfigError, RaybenchError
from raybench.models import registry, terms, timm_models, tome_vit
from raybench.models.two_heads import has_two_heads
from raybench.report.model_card import Card, Input, shared
from raybench.report.run_files import config_json
from raybench.results.schema import Status
from raybench.results.storage import write_atomically
from raybench.training import onnx_file
from raybench.training.scoring import Restored, restore
from raybench.training.tasks import Classification

COMPARED = 64
"""Test images by whose logits a written form is compared with the model."""
SUMS = {
    "translation": "a translation is a loop of passes over the words said so far, and an ONNX file holds one pass; "
    "load model.safetensors",
    "compression": "an image codec writes bits by an entropy coder, which is no part of its network; load "
    "model.safetensors",
}
"""Task -> why a file of its network alone would be no whole answer."""


@dataclass(frozen=True)
class Draft:
    """A trial's model on the CPU, and the folder in which its files are made before anyone sees them."""

    finished: Finished
    restored: Restored
    folder: Path

    @property
    def student(self) -> Classification:
        """The model that classifies."""
        return self.restored.student

    @property
    def views(self) -> torch.Tensor:
        """Test images, evenly spread, as they are scored: uint8 (n, C, H, W)."""
        tests = self.restored.made.sizes.test
        count = min(COMPARED, tests)
        return self.restored.images([place * tests // count for place in range(count)])[0]


@dataclass(frozen=True)
class Form:
    """One form of a model: why it has none of it, and how it is written, which gives each file with what it is."""

    why_not: Callable[[Restored], str | None]
    write: Callable[[Draft], dict[str, str]]
    leaves: tuple[str, ...]
    """Files that a writing that failed may leave."""

    def drop(self, folder: Path) -> None:
        """Remove them."""
        for name in self.leaves:
            (folder / name).unlink(missing_ok=True)


def export(finished: Finished, forms: Sequence[str], *, named: bool) -> Iterator[str]:
    """Write the trial into `finished.out`, and say what, and where nothing was named, what not and why.

    The folder is there when everything in it is. Raises RaybenchError, and leaves nothing, where the weights are not
    there or a form that was named cannot be written.
    """
    restored = restore(
        finished.config, replace(finished.setup, gpu=0.0), finished.kept, finished.found.row.get("micro_batch")
    )
    absent = {name: fault for name in forms if (fault := FORMS[name].why_not(restored)) is not None}
    if named and absent:
        raise ConfigError([f"{finished.found.trial_id}: no {name}: {fault}" for name, fault in absent.items()])
    out = finished.out
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as name:
        draft = Draft(finished, restored, Path(name) / "made")
        draft.folder.mkdir()
        files: dict[str, str] = {}
        for form in (form for form in forms if form not in absent):
            try:
                files |= FORMS[form].write(draft)
            except RaybenchError as error:
                if named:
                    raise
                absent[form] = str(error)
                FORMS[form].drop(draft.folder)
        files = _weights(draft) | files
        (draft.folder / "README.md").write_text(card(draft, files, absent).text(), encoding="utf-8")
        if out.exists():
            out.rmdir()  # it is empty
        shutil.move(draft.folder, out)
    for file, what in {**files, "README.md": "the model card"}.items():
        yield f"{out / file}: {what}"
    yield from (f"no {form}: {fault}" for form, fault in absent.items())


def _weights(draft: Draft) -> dict[str, str]:
    from safetensors.torch import save

    finished, made = draft.finished, draft.restored.made
    config = shared(finished.config)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in made.task.module.state_dict().items()}
    about = {"trial_id": finished.found.trial_id, "config": config.model_dump_json(), "format": "pt"}
    about |= {"epoch": str(finished.kept.best_epoch)}
    write_atomically(draft.folder / "model.safetensors", save(tensors, about | made.header))
    (draft.folder / "trial.json").write_text(config_json(config), encoding="utf-8")
    files = {
        "model.safetensors": f"{len(tensors)} tensors, no code; its header has the configuration and the normalisation",
        "trial.json": "every key of the trial's configuration",
    }
    if finished.config.task != "translation":
        return files
    text = data_sets.load_text(finished.config.dataset.name, finished.data_root)
    words = {"source": list(text.source_vocabulary.words), "target": list(text.target_vocabulary.words)}
    (draft.folder / "vocabulary.json").write_text(json.dumps(words, ensure_ascii=False, indent=0) + "\n", "utf-8")
    return files | {"vocabulary.json": "the words of both languages, in the order of their ids"}


def _no_timm(restored: Restored) -> str | None:
    config = restored.config
    if config.task != "image_classification":
        return f"this is a trial of {config.task}, and timm classifies images"
    if config.model.name in registry.names():
        return f"{config.model.name} is a model that timm does not have"
    if config.model.options.get(tome_vit.OPTION, 0):
        return f"timm merges no tokens (options.{tome_vit.OPTION}): it would load the weights and answer otherwise"
    if has_two_heads(restored.student.module) and restored.student.asked != (0.5, 0.5):
        return "timm answers with the mean of both heads, of which one was never trained here"
    return None


@torch.no_grad()
def _timm(draft: Draft) -> dict[str, str]:
    student = draft.student
    timm_models.write_local(
        student.module,
        draft.folder,
        mean=student.mean,
        std=student.std,
        size=student.image_size,
        classes=draft.restored.data.classes,
    )
    loaded = timm_models.load_local(draft.folder)
    here, there = (
        student.predict(draft.views),
        loaded(normalise(draft.views, student.mean, student.std, student.image_size)),
    )
    far = float((here - there).abs().max())
    onnx_file.check_close(far, float(here.abs().max()), "timm")
    said = "equal logits" if far == 0 else f"logits within {far:.2g}"
    return {
        "config.json": f"for timm.create_model('local-dir:…', pretrained=True); loaded again, {said} on test images"
    }


def _no_onnx(restored: Restored) -> str | None:
    return SUMS.get(restored.config.task) or onnx_file.lacking()


def _onnx(draft: Draft) -> dict[str, str]:
    path, student = draft.folder / "model.onnx", draft.student
    about = {"trial_id": draft.finished.found.trial_id, "classes": json.dumps(draft.restored.data.classes)}
    onnx_file.write_onnx(student, path, about)
    views = draft.views
    far = onnx_file.compare_onnx(path, student, views)
    files = {
        "model.onnx": f"pixels in [0, 1] to logits, any batch; on {len(views)} test images onnxruntime's are within "
        f"{far:.2g} of PyTorch's (allowed: {onnx_file.TOLERANCE:g} of the largest logit; sums are in another order)"
    }
    if path.with_name("model.onnx.data").exists():
        files["model.onnx.data"] = "weights of model.onnx, which must lie beside it"
    return files


FORMS = {
    "timm": Form(_no_timm, _timm, ("config.json", "model.safetensors")),
    "onnx": Form(_no_onnx, _onnx, ("model.onnx", "model.onnx.data")),
}


def card(draft: Draft, files: dict[str, str], absent: dict[str, str]) -> Card:
    """The model card of what was written."""
    finished, restored = draft.finished, draft.restored
    found, config, sizes = finished.found, finished.config, restored.made.sizes
    teacher = config.canonical().distillation.teacher
    sources = [data_sets.terms(config.dataset.name), terms.terms(config.model)]
    if teacher is not None:
        sources.append(f"The teacher, whose answers these weights learned from: {terms.terms(teacher)}")
    sources.append(
        "raybench, which trained them, is under the Apache License 2.0 and claims nothing of what it trains."
    )
    return Card(
        sweep=found.sweep,
        row=found.row,
        config=config,
        data_name=finished.data_name,
        sizes=(sizes.train, sizes.validation, sizes.test),
        seeds=_seeds(finished),
        input=_input(restored),
        terms=sources,
        files=files,
        absent=absent,
        chosen=_chosen(finished),
    )


def _input(restored: Restored) -> Input | None:
    task = restored.config.task
    if task == "translation":
        return None
    channels, size = restored.data.test_images.shape[1], restored.image_size
    if task == "compression":
        return Input(channels, size, (0.0,) * channels, (1.0,) * channels)
    student = restored.student
    return Input(channels, size, student.mean, student.std, tuple(restored.data.classes))


def _alike(finished: Finished) -> pl.DataFrame:
    """Complete trials that may stand beside this one: of its sweep and preset, their maths as configured."""
    rows = finished.found.store.trials()
    same = (pl.col("preset") == finished.found.row["preset"]) & (pl.col("status") == Status.COMPLETE.value)
    return rows.filter(same & pl.col("deviation").is_null())


def _seeds(finished: Finished) -> dict[str, list[float]]:
    row = finished.found.row
    rows = _alike(finished).filter(pl.col("setting_id") == row["setting_id"])
    names = [name for name in rows.columns if name.startswith(("test_", "eval_")) and isinstance(row.get(name), float)]
    return {name: rows[name].drop_nulls().to_list() for name in names}


def _chosen(finished: Finished) -> str:
    """Among how many trials this one stands, and where."""
    row = finished.found.row
    sweep = sweep_as_run(finished.found.store, finished.found.sweep, str(row["preset"]))
    metric, mode = (sweep.metric.name, sweep.metric.mode) if sweep is not None else ("eval_top1", "max")
    rows = _alike(finished)
    if metric not in rows.columns or row.get(metric) is None:
        return ""
    better = rows.filter(pl.col(metric) > row[metric] if mode == "max" else pl.col(metric) < row[metric]).height
    return f"By {metric} it is number {better + 1} of {rows.height} complete trials of that sweep and preset."
