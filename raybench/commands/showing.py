"""What `raybench show` can show of a trial, each by itself, with why a trial has none of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np
import torch
from torch import Tensor

from raybench.commands import model_pictures
from raybench.commands.finished import Finished, channels_last, classifies_nothing, reload_fault
from raybench.commands.reproduce import DECIDE_BITS
from raybench.errors import RaybenchError, ResultsError
from raybench.report.canvas import Pixels, cut
from raybench.report.confusion import confusion_figure, confusion_matrix
from raybench.report.pictures import RIGHT, WRONG, Picture, Row, pictures_figure
from raybench.report.run_files import config_json, metrics_csv
from raybench.results.predictions import read_predictions
from raybench.results.storage import write_atomically

PREDICTED = 12
"""Test images of the figure of predictions where none are named, and at most so many mistakes."""
A_ROW = 6
LONGEST_CLASS = 17
"""Letters of a class that fit beneath an image."""


def _score(shown: Finished) -> list[str]:
    now, _ = shown.scored
    row = shown.found.row
    then = {name: row[name] for name in now if isinstance(row.get(name), float)}
    restored = shown.restored
    threads = torch.get_num_threads()
    how = f"{shown.tests:,} test examples, {restored.device.precision}, {threads} thread{'s' * (threads != 1)}"
    if not then:
        raise ResultsError(f"{shown.found.trial_id}: its row has no numbers of the test set")
    apart = {name: value for name, value in then.items() if not _same(value, now[name])}
    if not apart:
        told = ", ".join(f"{name} {value:.6g}" for name, value in then.items())
        return [f"{told}: equal to the stored numbers to the last bit ({how})"]
    shown.equal = False
    lines = [f"{len(apart)} of {len(then)} numbers are not the stored ones ({how})"]
    for name, value in apart.items():
        lines.append(f"  {name}: {value!r} stored, {now[name]!r} now, {now[name] - value:+.3g}")
    return [*lines, f"what differs: {_changed(shown)}"]


def _same(then: float, now: float) -> bool:
    return then == now or (isnan(then) and isnan(now))


def _changed(shown: Finished) -> str:
    """What may have changed the last bits, or more."""
    from raybench.results.manifest import environment

    row, restored = shown.found.row, shown.restored
    device = {
        "gpu": restored.device.name,
        "precision": restored.device.precision,
        "threads": torch.get_num_threads(),
    }
    here = environment() | device
    changed = [
        f"{name} {row.get(f'env/{name}')} then, {here[name]} now"
        for name in DECIDE_BITS
        if name in here and row.get(f"env/{name}") not in (None, here[name])
    ]
    if shown.kept.best_epoch != row["best_epoch"]:
        changed.insert(0, f"the weights are of epoch {shown.kept.best_epoch}, the row of {row['best_epoch']}")
    return "; ".join(changed) or "nothing that is recorded: the weights or the data are not those that were scored"


def _no_predictions(shown: Finished) -> str | None:
    return classifies_nothing(shown) or reload_fault(shown)


def _predictions(shown: Finished) -> list[str]:
    labels, predictions, shares = shown.scored[1].all()
    classes = shown.restored.data.classes
    places = shown.places(PREDICTED)
    wrong = np.flatnonzero(labels != predictions)
    surest = wrong[np.argsort(-shares[wrong], kind="stable")][:PREDICTED]

    def rows(heading: str, chosen: Sequence[int]) -> list[Row]:
        found = []
        for start in range(0, len(chosen), A_ROW):
            part = list(chosen[start : start + A_ROW])
            pictures = []
            for pixels, place in zip(_pixels(shown, part), part, strict=True):
                right = labels[place] == predictions[place]
                said = f"{_class(classes, predictions[place])}\n{100 * shares[place]:.0f} %, "
                said += "right" if right else f"wrong:\nis {_class(classes, labels[place])}"
                pictures.append(Picture(pixels, said, RIGHT if right else WRONG))
            found.append(Row(heading if start == 0 else "", pictures))
        return found

    named = f"Test images {', '.join(map(str, places))}" if shown.chosen else "Test images, evenly spread"
    drawn = rows(named, places)
    if len(surest) and not shown.chosen:
        drawn += rows("Mistakes, the most confident first", surest.tolist())
    explained = (
        "Beneath each image: the predicted class, its confidence (softmax of the logits), and the true class where it "
        f"is another. n = {len(labels):,} test images, {len(labels) - len(wrong):,} of them right. "
        f"Source: {shown.source}."
    )
    return [str(pictures_figure(drawn, shown.out / "predictions.png", shown.title("Example predictions"), explained))]


def _class(classes: Sequence[str], index: int) -> str:
    return cut(classes[index], LONGEST_CLASS)


def _pixels(shown: Finished, places: Sequence[int]) -> list[Pixels]:
    """Test images as they are scored, (H, W, 3) or (H, W) in [0, 1]."""
    views, _ = shown.restored.images(places)
    return [channels_last(each) for each in views.float() / 255]


def _no_confusion(shown: Finished) -> str | None:
    if (fault := classifies_nothing(shown)) is not None:
        return fault
    try:
        read_predictions(shown.found.store.folder, shown.found.trial_id)
    except ResultsError as error:
        fault = reload_fault(shown)
        return fault and f"{error}; {fault}"
    return None


def _confusion(shown: Finished) -> list[str]:
    try:
        stored = read_predictions(shown.found.store.folder, shown.found.trial_id)
        labels, predictions = stored.label.astype(np.int64), stored.prediction.astype(np.int64)
    except ResultsError:
        labels, predictions, _ = shown.scored[1].all()
    count = 1 + int(max(labels.max(), predictions.max()))
    try:
        classes: Sequence[str] = shown.restored.data.classes
    except RaybenchError:
        classes = [str(index) for index in range(count)]  # neither weights nor data are needed for the counts
    matrix = confusion_matrix(labels, predictions, len(classes))
    title = shown.title("Confusion matrix")
    return [str(confusion_figure(matrix, classes, shown.out / "confusion.png", title, shown.source))]


def _files(shown: Finished) -> list[str]:
    from safetensors.torch import save

    found, out = shown.found, shown.out
    epochs = found.store.epochs([found.trial_id])
    write_atomically(out / "metrics.csv", metrics_csv(epochs).encode())
    write_atomically(out / "config.json", config_json(shown.config).encode())
    lines = [f"{out / 'metrics.csv'}: {epochs.height} epochs", str(out / "config.json")]
    try:
        kept = shown.kept
    except RaybenchError as error:
        return [*lines, f"no best.safetensors, no last.safetensors: {error}"]
    if kept.path is not None:
        write_atomically(out / "best.safetensors", kept.path.read_bytes())
    else:
        write_atomically(out / "best.safetensors", save(_plain(kept.best), _about(shown, kept.best_epoch)))
    lines.append(f"{out / 'best.safetensors'}: weights of epoch {kept.best_epoch}")
    if kept.last is None or kept.last_epoch is None:
        return [*lines, "no last.safetensors: only checkpoints.keep: last keeps the last epoch's weights"]
    write_atomically(out / "last.safetensors", save(_plain(kept.last), _about(shown, kept.last_epoch)))
    return [*lines, f"{out / 'last.safetensors'}: weights of epoch {kept.last_epoch}"]


def _plain(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    # Copies, since safetensors takes no two names of one memory.
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in weights.items()
    }


def _about(shown: Finished, epoch: int) -> dict[str, str]:
    """The header of a weight file, as trials write it; without how the input is made where that is not known."""
    about = {"trial_id": shown.found.trial_id, "config": shown.config.model_dump_json(), "epoch": str(epoch)}
    try:
        return about | (shown.kept.header or shown.restored.made.header) | {"epoch": str(epoch)}
    except RaybenchError:
        return about


@dataclass(frozen=True)
class View:
    """One thing that can be shown."""

    why_not: Callable[[Finished], str | None]
    """Why a trial has none of it, in words; none where it has."""
    show: Callable[[Finished], list[str]]
    """Shows it; returns what is said of it. Raises RaybenchError."""


VIEWS: dict[str, View] = {
    "score": View(reload_fault, _score),
    "predictions": View(_no_predictions, _predictions),
    "confusion": View(_no_confusion, _confusion),
    "attention": View(model_pictures.no_attention, model_pictures.attention),
    "rollout": View(model_pictures.no_flow, model_pictures.rollout),
    "merging": View(model_pictures.no_merging, model_pictures.merging),
    "reconstruction": View(model_pictures.no_reconstruction, model_pictures.reconstruction),
    "files": View(lambda _: None, _files),
}
