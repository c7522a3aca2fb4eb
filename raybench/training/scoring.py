"""The weights that a trial has kept, in its model again, and scored by the code that scored them.

No teacher and no first weights are needed for it: a file of kept weights is whole and says how its input is made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raybench.config.folders import cache_root
from raybench.config.trial import DistillationConfig, MixConfig, TrialConfig
from raybench.data import ImageData
from raybench.errors import ResultsError
from raybench.models import weights
from raybench.results.storage import Folder, local_copy
from raybench.training.batches import Batch, PlainImages, plain_size
from raybench.training.checkpoints import Checkpoints
from raybench.training.compressing import Compression
from raybench.training.device import Device, choose_device
from raybench.training.ingredients import load_data
from raybench.training.kinds import Made, kind_of
from raybench.training.loop import Seen, eval_batch, evaluate
from raybench.training.recorder import Setup
from raybench.training.tasks import Classification, Distillation


@dataclass(frozen=True, eq=False)
class KeptWeights:
    """What a trial has left of its weights."""

    best: dict[str, Tensor]
    header: dict[str, str]
    """How the best ones are used; empty where they come from a checkpoint."""
    path: Path | None
    """The file of the best ones; none where they come from a checkpoint."""
    best_epoch: int
    last: dict[str, Tensor] | None = None
    """Those of the last epoch, where a checkpoint of it was kept."""
    last_epoch: int | None = None


def kept_weights(folder: Folder, trial_id: str) -> KeptWeights | None:
    """A trial's weights in its sweep's `folder`: `weights/<trial_id>.safetensors`, and its last checkpoint; or none.

    Raises ResultsError where the storage does not answer, WeightsError for a file that is damaged.
    """
    state = Checkpoints(folder / "checkpoints" / trial_id).newest()
    last, last_epoch = (state["model"], state["epoch"]) if state is not None else (None, None)
    try:
        path = local_copy(folder / "weights" / f"{trial_id}.safetensors", cache_root() / "weights")
    except FileNotFoundError:
        if state is None or not state.get("best_weights"):
            return None
        return KeptWeights(state["best_weights"], {}, None, state["best_epoch"], last, last_epoch)
    except OSError as error:
        raise ResultsError(f"weights of {trial_id} cannot be read: {error}; mend them or take them away") from error
    best, header = weights.read_state_dict(path), _header(path)
    return KeptWeights(best, header, path, int(header.get("epoch", 0)), last, last_epoch)


def _header(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


class AbsentTeacher:
    """Stands for the teacher where nothing is trained."""

    def begin(self, *_: Any) -> None:
        """Never asked for."""
        raise NotImplementedError

    def __call__(self, batch: Batch) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Restored:
    """A trial's best weights in its model, in eval mode, with what it is tested on."""

    config: TrialConfig
    setup: Setup
    made: Made
    device: Device
    micro_batch: int | None
    """Most images of a forward pass in its training, where memory ran out."""

    @property
    def student(self) -> Classification:
        """The model that classifies. Only for trials of classification."""
        task = self.made.task
        student = task.student if isinstance(task, Distillation) else task
        assert isinstance(student, Classification)
        return student

    @property
    def image_size(self) -> int:
        """Side in pixels at which the model sees images. Only for trials that have some."""
        task = self.made.task
        return task.image_size if isinstance(task, Compression) else self.student.image_size

    @property
    def data(self) -> ImageData:
        """The images. Only for trials that have some."""
        return load_data(self.config.dataset, self.setup)

    def images(self, places: npt.ArrayLike) -> tuple[Tensor, Tensor]:
        """Test images at these places (n,), as they are scored: uint8 (n, C, H, W) and labels (n,)."""
        chosen = np.asarray(places, dtype=np.int64)
        data, side = self.data, plain_size(self.config.dataset)
        found = PlainImages(data.test_images, data.test_labels, chosen, self.device.device, side)
        return next(iter(found.batches(max(1, len(chosen)))))


def restore(config: TrialConfig, setup: Setup, kept: KeptWeights, micro_batch: int | None = None) -> Restored:
    """The trial's best weights in its model, on so many threads as it had (`setup.threads`).

    Raises DataError where its data are not there or are others, ResultsError where the weights do not fit the model of
    this version, WeightsError where a checkpoint's model needs its first weights to be made and they are gone.
    """
    torch.set_num_threads(setup.threads)
    device = choose_device(config.precision, setup.gpu)
    device.set_products()
    made = kind_of(config.task).make(_bare(config, kept.header), setup, device)
    wanted = config.canonical().distillation
    if wanted.teacher is not None:
        assert isinstance(made.task, Classification)
        # It says which of two heads are asked.
        made = replace(made, task=Distillation(made.task, wanted, AbsentTeacher()))
    try:
        made.task.module.load_state_dict(kept.best)
    except RuntimeError as error:
        fault = str(error).partition("\n")[2].strip() or str(error)
        raise ResultsError(
            f"{config.trial_id}: its weights do not fit the model that this version makes of its configuration: {fault}"
        ) from error
    made.task.module.eval()
    return Restored(config, setup, made, device, micro_batch)


def _bare(config: TrialConfig, header: Mapping[str, str]) -> TrialConfig:
    """The trial without what only its training needs, and without first weights where the header tells the rest."""
    model = config.model
    if "image_size" in header:
        known = {name: json.loads(header[name]) for name in ("mean", "std", "image_size")}
        known = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
        model = model.model_copy(update={"weights": "none", **known})
    elif config.task == "translation":
        model = model.model_copy(update={"weights": "none"})
    update = {"model": model, "distillation": DistillationConfig(), "latents": "off", "mix": MixConfig()}
    return config.model_copy(update={**update, "compile": False})


def rescore(restored: Restored, seen: Seen = lambda *_: None) -> dict[str, float]:
    """What the trial's row says of its best weights on the test set, by column name, measured now.

    Of a kind that asks its best weights for more (BLEU), that too, on validation as well. `seen` is shown each batch's
    outputs and targets.
    """
    task, batch = restored.made.task, eval_batch(restored.micro_batch)
    test = evaluate(task, restored.made.test, restored.device, batch, seen=seen)
    metrics = {f"test_{name}": value for name, value in test.items()}
    return metrics | (restored.made.finish([]).metrics if task.measures.final else {})


class Confidences:
    """Class and confidence of each test image, collected from the batches that are scored."""

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """One batch: (B, classes) and (B,). The confidence is the softmax of the logits at their largest."""
        predictions = logits.argmax(dim=1)
        shares = logits.float().softmax(dim=1).gather(1, predictions[:, None])[:, 0]
        self._batches.append((labels, predictions, shares))

    def all(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Labels, predicted classes and confidences in [0, 1], each (n,), in the order of the test set."""
        labels, predictions, shares = (torch.cat(each).cpu().numpy() for each in zip(*self._batches, strict=True))
        return labels, predictions, shares
