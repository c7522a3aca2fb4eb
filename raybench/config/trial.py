"""What a trial is: one fully resolved configuration with its seed, and its identity.

The dotted names of these fields are the keys of a sweep file, of the command line and, behind `config/`, of the result
tables.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, Strict, field_validator, model_validator

from raybench.config import augmentation, inert
from raybench.config.keys import flatten, put
from raybench.config.names import NAME

RECIPE_VERSION = 2
"""Raised when a default below or the maths of training changes: rows made before are then other trials."""

PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]
"""What a column of a table holds, too."""
Count = Annotated[int, Field(ge=0, lt=2**31)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What every generator of random numbers takes, NumPy's being the narrowest."""
Channels = Annotated[tuple[float, ...], Strict(False), Field(min_length=1, max_length=4)]
OF_A_SWEEP = "sweep:"
OF_ITS_TRIALS = re.compile("(best|[0-9a-f]{12})?")
Option = int | float | bool | str | list[int | float]
"""What a model's constructor may be given."""


class Section(BaseModel):
    """A part of a configuration: no unknown keys, no silent conversions, no NaN, unchangeable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DatasetConfig(Section):
    """Which images, which split of them, and how they are varied."""

    name: str
    path: str | None = None
    """Of photos: a file, folder or pattern, below the data root or absolute. It says where they lie, not what they
    are, so that it is no part of a trial's identity once the fingerprint is known."""
    test_path: str | None = None
    """Of the test images, where they do not lie beside the others."""
    label_column: str | None = None
    decode_size: PositiveInt | None = None
    """Side in pixels of the squares kept of photos (short edge resized to it, centre crop); none takes `image_size`."""
    train_size: PositiveInt | Literal["all"] = "all"
    """Images in the nested, class-balanced training subset; `all` is what validation leaves."""
    val_size: PositiveInt = 5000
    """Images cut from the training set for validation, before any training subset."""
    image_size: PositiveInt | None = None
    """Side in pixels at which the model sees the images; none keeps the data set's own."""
    augment: Annotated[tuple[str, ...], Strict(False)] = ()
    """`cropN` (zero-pad by N pixels, crop back at random), `hflip`, `rrc`, `rand-…`, `randaugment-…`, `erasing…`."""
    views: PositiveInt | Literal["all"] = "all"
    """How many fixed views of each image training draws from: `all` that `augment` allows (a fresh one in every epoch,
    where they cannot be numbered), or so many of them."""
    fingerprint: str = ""
    """First 12 hex digits of the SHA-256 of the decoded data; filled in by the plan, so other data are other trials."""

    @field_validator("augment")
    @classmethod
    def _known_augmentations(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        augmentation.parse(value)
        # Images are cropped first and flipped then, in whatever order it is written.
        return tuple(sorted(value))

    @model_validator(mode="after")
    def _crops_fit(self) -> DatasetConfig:
        if self.decode_size is not None and self.decode_size < (self.image_size or 0):
            raise ValueError(
                f"decode_size = {self.decode_size} must be at least image_size = {self.image_size}, for that is cut "
                "from its middle"
            )
        return self

    @property
    def data_key(self) -> str:
        """Names the decoded data within a sweep: two trials with the same share them."""
        said = [self.name, self.path, self.test_path, self.label_column]
        if side := self.decode_size or (self.image_size if self.path else None):
            said.append(f"{side}px")
        return " ".join(part for part in said if part)


class ModelConfig(Section):
    """A model: one of raybench's own or any timm name."""

    name: str
    weights: str = "none"
    """`none` (from scratch), `pretrained` (those published for the name), the path of a file, or {sweep, trial}: those
    a trial of another sweep has kept, `trial` being its 12 digits or `best` on validation (kept as `sweep:NAME/TRIAL`).
    """
    digest: str = ""
    """First 12 hex digits of the SHA-256 of the weight file; filled in by the plan, so that another file under the name
    of `weights: PATH` is another trial. Weights that are named otherwise keep the identity of their name."""
    image_size: PositiveInt | None = None
    """Side in pixels to which views are resized for this model; none takes the data set's."""
    options: dict[str, Option] = {}
    """Keyword arguments of the model's constructor, such as img_size, patch_size, drop_path_rate, window_sizes."""
    code: str = ""
    """Identity of the code of a model from outside the repository; filled in by the plan, so other code is another
    trial."""
    mean: Channels | None = None
    std: Channels | None = None
    """Normalisation of the input in [0, 1]; none takes that of the pretrained weights, else that of the data set."""

    @field_validator("weights", mode="before")
    @classmethod
    def _of_a_sweep(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        sweep, trial = value.get("sweep"), value.get("trial", "best")
        if value.keys() - {"sweep", "trial"} or not isinstance(sweep, str) or not isinstance(trial, str):
            raise ValueError("must be none, pretrained, the path of a file, or {sweep: NAME, trial: best | 12 digits}")
        return f"{OF_A_SWEEP}{sweep}/{trial}"

    @field_validator("weights")
    @classmethod
    def _of_a_trial(cls, weights: str) -> str:
        if weights.startswith(OF_A_SWEEP):
            sweep, _, trial = weights.removeprefix(OF_A_SWEEP).partition("/")
            if not NAME.fullmatch(sweep):  # it becomes part of a path
                raise ValueError(f"{weights!r}: a sweep's name has letters, digits, _ and - only")
            if not OF_ITS_TRIALS.fullmatch(trial):
                raise ValueError(f"trial {trial!r} of sweep {sweep}: must be best, or a trial's 12 digits")
        return weights

    @field_validator("std")
    @classmethod
    def _divides(cls, std: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if std is not None and min(std) <= 0:
            raise ValueError(f"{list(std)}: each must be greater than 0")
        return std

    @property
    def from_file(self) -> bool:
        """Whether `weights` is the path of a file."""
        return self.weights not in ("none", "pretrained") and self.of_sweep is None

    @property
    def of_sweep(self) -> tuple[str, str] | None:
        """(sweep, trial) where the weights are those of a trial of another sweep."""
        if not self.weights.startswith(OF_A_SWEEP):
            return None
        sweep, _, trial = self.weights.removeprefix(OF_A_SWEEP).partition("/")
        return sweep, trial or "best"


class OptimizerConfig(Section):
    """Optimizer and its hyperparameters."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.1
    """Peak learning rate."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    nesterov: bool = False
    betas: Annotated[tuple[Beta, Beta], Strict(False)] = (0.9, 0.999)
    """Of Adam and AdamW."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Of Adam and AdamW."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Gradients of a step are scaled down to this norm where theirs is larger."""

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> OptimizerConfig:
        if self.name == "sgd" and self.nesterov and self.momentum == 0:
            raise ValueError("nesterov = true needs a momentum greater than 0")
        return self


class ScheduleConfig(Section):
    """Learning rate over the epochs, stepped every batch."""

    name: Literal["cosine", "constant", "noam"] = "cosine"
    """`noam`: lr * d_model^-0.5 * min(step^-0.5, step * warmup_steps^-1.5), that of the Transformer."""
    epochs: PositiveInt = 10
    """Epochs trained."""
    patience: PositiveInt | None = None
    """Epochs without a better validation metric after which training stops."""
    warmup_steps: PositiveInt = 4000
    """Of `noam`, in batches."""
    d_model: PositiveInt = 512
    """Of `noam`."""
    horizon_epochs: PositiveInt | None = None
    """Epochs the cosine is meant for; none means `epochs`. A run may stop before its horizon."""
    warmup_epochs: Count = 0
    """Epochs of linear warm-up from 0."""
    min_lr: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> ScheduleConfig:
        if self.horizon_epochs is not None and self.horizon_epochs < self.epochs:
            raise ValueError(f"horizon_epochs = {self.horizon_epochs} must be at least epochs = {self.epochs}")
        if self.name == "noam":
            return self
        # A constant rate has no horizon, so that a warm-up must end while it trains.
        length = self.epochs if self.name == "constant" else self.horizon_epochs or self.epochs
        if self.warmup_epochs >= length:
            raise ValueError(f"warmup_epochs = {self.warmup_epochs} must be below the schedule's length, {length}")
        return self


class TeacherConfig(ModelConfig):
    """A teacher and how it is made ready on the whole training part, once for all trials that share it."""

    prepare: Literal["none", "head", "finetune"] = "finetune"
    """`none`: a fresh head, untrained; `head`: only the head is trained; `finetune`: everything is."""
    epochs: PositiveInt = 10
    batch_size: PositiveInt = 128
    optimizer: OptimizerConfig = OptimizerConfig()
    warmup_epochs: Count = 0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    seed: Seed = 0
    gate: Literal["warn", "stop"] = "warn"
    """What happens when the teacher is near chance or not better than the student alone."""

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> TeacherConfig:
        if self.prepare != "none" and self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs = {self.warmup_epochs} must be below epochs = {self.epochs}")
        return self


class DistillationConfig(Section):
    """loss = (1 - alpha) * CE(student, label) + alpha * distillation; alpha weights the distillation term, always."""

    type: Annotated[str, Field(min_length=1)] = "none"
    """`none`, or `hard`: CE with the teacher's argmax; `soft`: KL at temperature tau, times tau^2; `both`: their mean;
    or a kind from outside the repository. Whether there is one of that name is asked where a sweep is loaded."""
    code: str = ""
    """Identity of the code of a kind from outside, as of a model's."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    tau: Annotated[float, Field(gt=0)] = 1.0
    reduction: Literal["batchmean", "deit"] = "batchmean"
    """Of the soft term: KL a sample, or divided by batch x classes as DeiT's code does (weaker by that number)."""
    teacher: TeacherConfig | None = None
    cache: Literal["prefill", "lazy", "off"] = "prefill"
    """Teacher logits computed once for all trials (16-bit): before the first, or when an epoch first needs them; or a
    live teacher in every step. `lazy` and `prefill` are the same numbers and the same trial."""

    @model_validator(mode="after")
    def _has_teacher(self) -> DistillationConfig:
        if self.type != "none" and self.alpha > 0 and self.teacher is None:
            raise ValueError(
                f"type = {self.type} with alpha = {self.alpha} needs a teacher (distillation.teacher.name)"
            )
        return self


class MixConfig(Section):
    """Mixup and CutMix: each batch is mixed with itself in reverse order, labels too."""

    mixup: Annotated[float, Field(ge=0)] = 0.0
    """alpha of the Beta distribution from which the share of each image is drawn; 0: off."""
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    """The same for the area of a box cut out of the other image; 0: off."""
    prob: Annotated[float, Field(gt=0, le=1)] = 1.0
    """With which a batch is mixed."""
    switch_prob: Annotated[float, Field(ge=0, le=1)] = 0.5
    """With which it is CutMix where both are on."""

    @property
    def on(self) -> bool:
        """Whether anything is mixed."""
        return self.mixup > 0 or self.cutmix > 0


class CodecConfig(Section):
    """What an image codec is trained for: loss = lmbda * 255^2 * MSE + bits per pixel."""

    lmbda: Annotated[float, Field(gt=0)] = 0.025
    """Weight of the distortion; CompressAI's qualities 1 to 8 are 0.0018 to 0.18, 5 is 0.025."""
    aux_lr: Annotated[float, Field(gt=0)] = 0.001
    """Learning rate of the entropy model's quantiles, which have a loss of their own."""


Task = Literal["image_classification", "translation", "compression"]


class TrialConfig(Section):
    """Everything that decides a trial's numbers. Paths, resources, workers and logging do not belong here."""

    task: Task = "image_classification"
    dataset: DatasetConfig
    model: ModelConfig
    distillation: DistillationConfig = DistillationConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    batch_size: PositiveInt = 128
    accumulate: PositiveInt = 1
    """Batches whose gradients are summed for one step of the optimizer."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    mix: MixConfig = MixConfig()
    codec: CodecConfig = CodecConfig()
    """For `task: compression`."""
    precision: Literal["auto", "amp", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """`auto`: bf16 where the GPU has it, else fp16 on a GPU, fp32 on a CPU; `amp`: the same, but bf16 on a CPU that
    multiplies it in hardware (AMX or AVX512_BF16), where it is up to three times as fast; `tf32`: fp32 whose products a
    GPU makes of 19 bits. The row says what was really used."""
    latents: Literal["off", "lazy"] = "off"
    """Whether the code of a frozen encoder (ci2p_vit) is kept in 16 bits for all trials, computed when an epoch first
    shows a view, or made anew in every step."""
    compile: bool = False
    """Compile the student's training step (torch.compile), where that works; the row says whether it did."""
    seed: Seed = 0

    @model_validator(mode="after")
    def _parts_fit(self) -> TrialConfig:
        distilled = self.distillation.type != "none" and self.distillation.alpha > 0
        if distilled and self.task != "image_classification":
            raise ValueError(f"task = {self.task} has no distillation (distillation.type = none)")
        if self.latents != "off" and self.mix.on:
            raise ValueError("mix: the encoder must see the mixed images, so latents must be off")
        if self.latents != "off" and distilled and self.distillation.cache == "off":
            raise ValueError("distillation.cache: a teacher in every step must see the images, so latents must be off")
        if distilled and self.mix.on and self.distillation.cache != "off":
            raise ValueError("mix: the teacher must see the mixed images too, so distillation.cache must be off")
        return self

    def inert(self) -> frozenset[str]:
        """Dotted names (of settings or whole sections) that cannot change this trial's numbers."""
        keys = inert.of_task(self.task)
        distillation = self.distillation
        if self.task != "image_classification" or distillation.type == "none" or distillation.alpha == 0:
            keys |= {f"distillation.{name}" for name in DistillationConfig.model_fields if name != "alpha"}
        elif distillation.type == "hard":
            keys |= {"distillation.tau", "distillation.reduction"}
        if distillation.cache == "lazy":
            keys.add("distillation.cache")
        teacher = distillation.teacher
        if teacher is not None:
            keys.add("distillation.teacher.gate")
            if teacher.prepare == "none":
                keys |= {f"distillation.teacher.{name}" for name in TEACHER_TRAINING}
            keys |= {f"distillation.teacher.{key}" for key in inert.of_optimizer(teacher.optimizer)}
        keys |= inert.of_optimizer(self.optimizer) | inert.of_schedule(self.schedule)
        if not self.mix.on:
            keys |= {"mix.prob", "mix.switch_prob"}
        return frozenset(keys)

    def canonical(self) -> TrialConfig:
        """The same trial with every inert setting at its default, so that equal trials compare equal."""
        return self._canonical

    @cached_property
    def trial_id(self) -> str:
        """First 12 hex digits of the SHA-256 of the canonical JSON of what differs from its default."""
        return _digest(self._deciding)

    @cached_property
    def setting_id(self) -> str:
        """The trial's identity without its seed: trials of one setting are averaged over seeds."""
        return _digest({"setting": {key: value for key, value in self._deciding.items() if key != "seed"}})

    def ids_of_seeds(self, seeds: Iterable[int], recipe: int = RECIPE_VERSION) -> list[str]:
        """What `trial_id` is of this trial with each of the seeds, by the recipe of that version."""
        without = {key: value for key, value in self._deciding.items() if key != "seed"}
        # One text for all seeds: of a large sweep they are most of what differs.
        at_default, mark = _text(without, recipe), "\0"
        before, _, after = _text({**without, "seed": mark}, recipe).partition(json.dumps(mark))
        default = type(self).model_fields["seed"].default
        return [_hash(at_default if seed == default else f"{before}{seed}{after}") for seed in seeds]

    def at_defaults(self, keys: Iterable[str]) -> TrialConfig:
        """The same trial with these settings, all inert, at their defaults."""
        content = self.model_dump()
        for key in keys:
            put(content, key, _default(key))
        if content["distillation"]["type"] == "none":
            content["distillation"]["alpha"] = 0.0
        return TrialConfig.model_validate(content)

    @cached_property
    def _canonical(self) -> TrialConfig:
        return self.at_defaults(self.inert())

    @cached_property
    def _deciding(self) -> dict[str, Any]:
        """What decides this trial's numbers and differs from its default."""
        content = self._canonical.model_dump(mode="json", exclude_defaults=True)
        for model in (self.model, self._canonical.distillation.teacher):
            if model is None:
                continue
            section = content["model"] if model is self.model else content["distillation"]["teacher"]
            # A path says where a file lies, and a sweep's name where a trial's are; neither which weights they are.
            if model.weights not in ("none", "pretrained"):
                section["weights"] = Path(model.weights).name
            if not model.from_file:
                section.pop("digest", None)
        dataset = content["dataset"]
        for key in ("path", "test_path", "label_column", "decode_size"):
            if key in dataset and self.dataset.fingerprint:
                del dataset[key]  # the fingerprint is that of what they lead to
            elif key.endswith("path") and key in dataset:
                dataset[key] = Path(dataset[key]).name
        return content

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A changed copy. It finds its own identity: what this one remembers of its own stays here."""
        copy = super().model_copy(update=update, deep=deep)
        for name in ("trial_id", "setting_id", "_canonical", "_deciding"):
            copy.__dict__.pop(name, None)
        return copy

    def flat(self) -> dict[str, Any]:
        """Every hyperparameter under its dotted name; a nested `none` stays one entry."""
        return flatten(self.model_dump(mode="json"))

    def teacher_trial(self) -> TrialConfig | None:
        """The trial that prepares this trial's teacher: same data and split, all training images, no distillation."""
        teacher = self.canonical().distillation.teacher
        if teacher is None:
            return None
        model = ModelConfig(**{name: getattr(teacher, name) for name in ModelConfig.model_fields})
        return TrialConfig(
            dataset=self.dataset.model_copy(update={"train_size": "all"}),
            model=model,
            optimizer=teacher.optimizer,
            schedule=ScheduleConfig(epochs=teacher.epochs, warmup_epochs=teacher.warmup_epochs),
            batch_size=teacher.batch_size,
            label_smoothing=teacher.label_smoothing,
            precision=self.precision,
            seed=teacher.seed,
        )


def _digest(content: dict[str, Any]) -> str:
    return _hash(_text(content, RECIPE_VERSION))


def _text(content: dict[str, Any], recipe: int) -> str:
    return json.dumps({"recipe_version": recipe, **content}, sort_keys=True, separators=(",", ":"))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


TEACHER_TRAINING = ("epochs", "batch_size", "optimizer", "warmup_epochs", "label_smoothing")


@cache
def sections(model: type[BaseModel], prefix: str = "") -> dict[str, type[BaseModel]]:
    """Every nested section below `model` by its dotted name."""
    found: dict[str, type[BaseModel]] = {}
    for name, field in model.model_fields.items():
        for candidate in (field.annotation, *get_args(field.annotation)):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                found[f"{prefix}{name}"] = candidate
                found |= sections(candidate, f"{prefix}{name}.")
    return found


@cache
def trial_keys() -> tuple[str, ...]:
    """Every dotted key a trial's configuration knows, sections included, in the order of definition."""
    keys = list(TrialConfig.model_fields)
    for name, section in sections(TrialConfig).items():
        keys += [f"{name}.{field}" for field in section.model_fields]
    return tuple(keys)


def _default(key: str) -> Any:
    section, _, name = key.rpartition(".")
    owner = sections(TrialConfig)[section] if section else TrialConfig
    default = owner.model_fields[name].default
    return default.model_dump() if isinstance(default, BaseModel) else default
