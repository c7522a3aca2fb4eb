"""A finished trial for commands that look at its weights: loaded, scored and asked for examples when first needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torch import Tensor

from raybench.commands.comparing import sweep_as_run
from raybench.commands.one_trial import OneTrial
from raybench.config.trial import TrialConfig
from raybench.errors import ConfigError, RaybenchError, ResultsError
from raybench.models.ci2p import CI2P
from raybench.report.canvas import Pixels
from raybench.results.schema import Status
from raybench.training.codecs import Codec, codec_of
from raybench.training.recorder import Setup
from raybench.training.scoring import Confidences, KeptWeights, Restored, kept_weights, rescore, restore


@dataclass(eq=False)
class Finished:
    """A trial with what is shown of it; its weights are loaded and scored when they are first needed, once."""

    found: OneTrial
    out: Path
    data_root: Path | None = None
    chosen: tuple[int, ...] = ()
    """Test examples that were named; empty: some."""
    weights_root: Path | None = None
    """Where weight files are looked for, which only the codec of a frozen encoder needs; none: where the data are."""
    equal: bool = field(default=True, init=False)
    """Whether what was scored again is what is stored, as far as it was."""

    @property
    def config(self) -> TrialConfig:
        """The trial's configuration."""
        return self.found.config

    @property
    def setup(self) -> Setup:
        """Where it ran, as far as that decides numbers."""
        row = self.found.row
        return Setup(
            sweep=self.found.sweep,
            preset=str(row["preset"]),
            results=self.found.store.folder,
            data_root=self.data_root,
            weights_root=self.weights_root,
            cpu=float(row.get("env/threads") or 1),
            gpu=1.0 if row.get("env/gpu") else 0.0,
        )

    @cached_property
    def kept(self) -> KeptWeights:
        """Its weights. Raises ResultsError, saying why, where there are none."""
        row, folder, trial_id = self.found.row, self.found.store.folder, self.found.trial_id
        if row["status"] != Status.COMPLETE:
            raise ResultsError(f"{trial_id} is {row['status']}: only complete trials have best weights")
        kept = kept_weights(folder, trial_id)
        if kept is not None:
            return kept
        sweep = sweep_as_run(self.found.store, self.found.sweep, str(row["preset"]))
        keep = sweep.checkpoints.keep if sweep is not None else "unknown"
        again = f"raybench sweep {self.found.sweep} --preset {row['preset']} --rerun {trial_id} checkpoints.keep=best"
        raise ResultsError(
            f"no weights in {folder / 'weights'} (checkpoints.keep: {keep}); to train it again and keep them:  {again}"
        )

    @cached_property
    def restored(self) -> Restored:
        """Its best weights in its model. Raises RaybenchError, saying why, where they cannot be."""
        return restore(self.config, self.setup, self.kept, self.found.row.get("micro_batch"))

    @cached_property
    def scored(self) -> tuple[dict[str, float], Confidences]:
        """What its best weights score now."""
        confidences = Confidences()
        classifies = self.config.task == "image_classification"
        return rescore(self.restored, confidences.add if classifies else lambda *_: None), confidences

    @cached_property
    def codec(self) -> Codec:
        """The codec that its frozen encoder came from. Raises RaybenchError."""
        module = self.restored.made.task.module
        assert isinstance(module, CI2P)
        return codec_of(self.config.model, module.encoder.state_dict(), self.setup, self.restored.image_size)

    @property
    def tests(self) -> int:
        """Test examples."""
        return self.restored.made.sizes.test

    def check_chosen(self) -> None:
        """Raise ConfigError where a test example was named that there is not; nothing where that cannot be told."""
        if not self.chosen or reload_fault(self) is not None:
            return
        if beyond := [each for each in self.chosen if not 0 <= each < self.tests]:
            raise ConfigError([f"--image {each}: there are test examples 0 to {self.tests - 1}" for each in beyond])

    def places(self, count: int) -> tuple[int, ...]:
        """The test examples that were named, else so many evenly spread ones."""
        count = min(count, self.tests)
        return self.chosen or tuple(place * self.tests // count for place in range(count))

    @property
    def source(self) -> str:
        """Where pictures come from, in words."""
        row = self.found.row
        data = f"{self.data_name} ({row['dataset_variant']}), test set"
        return f"{data}; sweep {self.found.sweep}, trial {self.found.trial_id}, weights of epoch {row['best_epoch']}"

    def title(self, what: str) -> str:
        """A figure's title."""
        return f"{what}: {self.config.model.name} on {self.data_name}"

    @property
    def data_name(self) -> str:
        """The data set, by its file or folder where it is one of the user's own."""
        dataset = self.config.dataset
        return dataset.name if dataset.path is None else Path(dataset.path).name


def reload_fault(shown: Finished) -> str | None:
    """Why its weights cannot be put into its model again, in words; none where they can."""
    try:
        _ = shown.restored
    except RaybenchError as error:
        return str(error)
    return None


def classifies_nothing(shown: Finished) -> str | None:
    """Why there are no classes to be shown, in words; none where there are."""
    task = shown.config.task
    return None if task == "image_classification" else f"this is a trial of {task}, which predicts no classes"


def channels_last(image: Tensor) -> Pixels:
    """(C, H, W) in [0, 1] -> pixels (H, W, C), or (H, W) of one channel."""
    pixels: Pixels = image.clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    return pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
