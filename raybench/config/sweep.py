"""What a sweep is: a question put as factors (compared), tuning (selected inside each cell) and seeds (repeated)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from raybench.config.keys import get
from raybench.config.trial import Count, PositiveInt, Section, Seed

Axis = Annotated[list[Any], Field(min_length=1)]
DISTRIBUTIONS = ("loguniform", "uniform", "randint", "choice")
LARGEST = 1e300
"""Bounds of a distribution lie within this, so that their difference is a number too."""


LOWER_IS_BETTER = ("loss", "bpp", "mse")
"""Ends of the names of metrics of which less is better."""


def better(metric: str) -> Literal["max", "min"]:
    """Which way a metric is better, by its name."""
    return "min" if metric.endswith(LOWER_IS_BETTER) else "max"


class MetricConfig(Section):
    """The validation metric by which settings are selected, and the test metric that is reported."""

    name: str = "eval_top1"
    mode: Literal["max", "min"] = "max"
    """Which way is better; left out, it follows from the name."""
    reported: str | None = None
    """The test metric of the tables, such as test_bleu; none: the one that is selected by, on the test set."""

    @property
    def shown(self) -> str:
        """The test metric of the tables."""
        return self.reported or self.name.replace("eval_", "test_")

    @model_validator(mode="before")
    @classmethod
    def _mode_of_name(cls, content: Any) -> Any:
        if isinstance(content, dict) and "mode" not in content:
            return {**content, "mode": better(str(content.get("name", "")))}
        return content

    @field_validator("reported")
    @classmethod
    def _of_the_test_set(cls, reported: str | None) -> str | None:
        if reported is not None and not reported.startswith("test_"):
            raise ValueError(f"must be a metric of the test set, such as test_top1, not {reported}")
        return reported

    @model_validator(mode="after")
    def _mode_fits(self) -> MetricConfig:
        if self.mode != (right := better(self.name)):
            raise ValueError(
                f"mode = {self.mode} would select the worst {self.name}; use mode: {right}, or leave it out"
            )
        return self


class TuneConfig(Section):
    """What is merely tuned, inside each cell, with the same budget for every cell."""

    algorithm: Literal["grid", "random", "tpe"] = "grid"
    num_samples: PositiveInt | None = None
    """Settings a cell; for `random` and `tpe` only, since a grid has as many as it has points."""
    seeds: Literal["every", "first"] = "every"
    """Seeds a setting is tuned on: every one, or the first; then the selected setting alone is repeated on the rest."""
    space: dict[str, Any] = {}
    """Dotted key -> list of values, or one of {loguniform: [low, high]}, {uniform: …}, {randint: …}, {choice: […]}."""

    @field_validator("space")
    @classmethod
    def _known_shape(cls, space: dict[str, Any]) -> dict[str, Any]:
        faults = [f"{key}: {fault}" for key, values in space.items() if (fault := space_fault(values))]
        if faults:
            raise ValueError("; ".join(faults))
        return space

    @model_validator(mode="after")
    def _samples_fit(self) -> TuneConfig:
        if self.algorithm == "grid":
            if self.num_samples is not None:
                raise ValueError(
                    "num_samples means nothing for a grid, which has as many settings as points; "
                    "use algorithm: random or tpe"
                )
            drawn = [key for key, values in self.space.items() if isinstance(values, dict) and "choice" not in values]
            if drawn:
                raise ValueError(
                    f"a grid needs lists, but {', '.join(drawn)} is a distribution; use algorithm: random or tpe"
                )
        elif self.num_samples is None:
            raise ValueError(f"algorithm = {self.algorithm} needs num_samples (settings a cell)")
        elif not self.space:
            raise ValueError(f"algorithm = {self.algorithm} needs a space")
        if self.algorithm == "tpe" and self.seeds == "first":
            raise ValueError("seeds = first goes with grid or random")
        return self


def space_fault(values: Any) -> str | None:
    """What is wrong with a tuned axis as it is written; none for a list of values or a distribution."""
    if isinstance(values, list):
        return None if values else "must not be empty"
    if not isinstance(values, dict):
        return f"{values!r}: must be a list of values or one of {', '.join(DISTRIBUTIONS)}"
    if len(values) != 1 or next(iter(values)) not in DISTRIBUTIONS:
        return f"{{{', '.join(f'{kind}: …' for kind in values)}}}: must be one of {', '.join(DISTRIBUTIONS)}"
    kind, bounds = next(iter(values.items()))
    if not isinstance(bounds, list):
        return f"{kind}: must be a list"
    if kind == "choice":
        return None if bounds else "choice: must not be empty"
    return _bounds_fault(kind, bounds)


def _bounds_fault(kind: str, bounds: list[Any]) -> str | None:
    if len(bounds) != 2 or any(isinstance(b, bool) or not isinstance(b, int | float) for b in bounds):
        return f"{kind}: must be [low, high]"
    if kind == "randint" and any(not isinstance(b, int) for b in bounds):
        return f"{kind}: low and high must be whole numbers"
    if not all(abs(b) <= LARGEST for b in bounds):  # NaN is not, either
        return f"{kind}: low and high must be finite numbers"
    if not bounds[0] < bounds[1]:
        return f"{kind}: low = {bounds[0]} must be below high = {bounds[1]}"
    if kind == "loguniform" and bounds[0] <= 0:
        return f"{kind}: low = {bounds[0]} must be greater than 0"
    return None


class SchedulerConfig(Section):
    """How settings are stopped early, within their cell and judged on all their seeds."""

    name: Literal["none", "halving", "asha"] = "none"
    grace_epochs: PositiveInt = 1
    """Epochs of the first rung."""
    reduction_factor: Annotated[int, Field(ge=2, lt=2**31)] = 3
    """At each rung one setting in so many goes on, to so many times the epochs."""

    def rungs(self, epochs: int) -> tuple[int, ...]:
        """Epochs at which settings are judged, the last being `epochs` itself."""
        if self.name == "none":
            return (epochs,)
        rungs = []
        rung = self.grace_epochs
        while rung < epochs:
            rungs.append(rung)
            rung *= self.reduction_factor
        return (*rungs, epochs)


class ResourcesConfig(Section):
    """What one worker of a trial occupies, and how many workers a trial has; fractions of a GPU share it.

    No part of a trial's identity: workers share each batch, so that the maths is that of one (docs/sweeps.md).
    """

    cpu: Annotated[float, Field(gt=0)] = 1.0
    """CPUs of a worker; so many threads it computes with."""
    gpu: Annotated[float, Field(ge=0)] | Literal["auto"] = 0.0
    """Share of a GPU; 0 computes on the CPU. `auto` is the share of as many trials as fit in a GPU's memory by a
    measured step, or the CPU where there is no GPU."""
    accelerator_type: str | None = None
    """Ray's name of the kind of GPU that a worker must have, such as A100; means nothing on the CPU."""
    workers: PositiveInt = 1
    """Processes that train one trial together, each on its share of every batch."""

    @model_validator(mode="after")
    def _a_process_has_one_gpu(self) -> ResourcesConfig:
        if isinstance(self.gpu, float) and self.gpu > 1:
            raise ValueError(
                f"gpu = {self.gpu:g}: a process trains on one GPU, and the others would idle; use gpu: 1 with "
                f"workers: {max(2, round(min(self.gpu * self.workers, 2**31 - 1)))} for a trial on several"
            )
        if self.workers > 1 and self.gpu not in (0, 1):
            raise ValueError(
                f"gpu = {self.gpu if self.gpu == 'auto' else f'{self.gpu:g}'} with workers = {self.workers}: each "
                "worker of a trial over several needs a whole GPU (gpu: 1), or none (gpu: 0)"
            )
        return self


class LimitsConfig(Section):
    """When a trial is given up."""

    max_failures: Count = 2
    """Times a trial is started again after its worker died."""
    trial_time_s: Annotated[float, Field(gt=0)] | None = None
    """Seconds a trial may train, those of the epochs it went on from included; looked at in every step."""
    memory_mib: Annotated[float, Field(gt=0)] | None = None
    """Resident memory of a trial's process, MiB; on a GPU what torch may allocate there."""
    stall_s: Annotated[float, Field(gt=0)] | None = 1800.0
    """Seconds within which a step of training or evaluation must end. A hang would else hold its worker for ever; no
    step that is worth waiting for takes half an hour."""


class CheckpointsConfig(Section):
    """When a trial keeps the state it goes on from after a fault, and what stays once it is settled."""

    every_s: Annotated[float, Field(ge=0)] = 5.0
    """Seconds after which the next epoch's end is kept: what a fault costs at most, beside the epoch it falls in."""
    every_epochs: PositiveInt | None = None
    """Each so many epochs one is kept; given, it counts instead of `every_s`."""
    keep: Literal["none", "best", "last"] = "best"
    """What stays: nothing, the best epoch's weights, or the last whole state."""


class SweepConfig(Section):
    """A sweep with its preset and overrides applied."""

    name: str
    question: str = ""
    preset: str
    metric: MetricConfig = MetricConfig()
    base: dict[str, Any]
    """A trial's configuration before any axis is applied; valid as a `TrialConfig` with any value of the axes."""
    assumed: list[str] = []
    """What the source leaves open and this file decided."""
    factors: dict[str, Axis] = {}
    tune: TuneConfig = TuneConfig()
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    scheduler: SchedulerConfig = SchedulerConfig()
    resources: ResourcesConfig = ResourcesConfig()
    limits: LimitsConfig = LimitsConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    fingerprints: dict[str, str] = {}
    """Data set -> fingerprint of its decoded content, known once the data were seen; part of every trial's identity."""
    codes: dict[str, str] = {}
    """`model NAME` or `loss NAME` from outside the repository -> identity of its code; part of the identity of every
    trial that uses it."""
    digests: dict[str, str] = {}
    """`NAME WEIGHTS` of a model -> digest of the weight file, known once it was seen; see `ModelConfig.digest`."""

    places: dict[str, str] = Field(default={}, exclude=True)
    """Dotted key -> where it was set (`command line`, or file and line), for errors found later."""

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("seeds must be distinct")
        return seeds

    @model_validator(mode="after")
    def _axes_apart(self) -> SweepConfig:
        both = sorted(set(self.factors) & set(self.tune.space))
        if both:
            raise ValueError(f"{', '.join(both)}: either a factor (compared) or tuned (selected), not both")
        if "task" in (*self.factors, *self.tune.space):
            raise ValueError("task: a sweep has one kind of task; results of two cannot be compared")
        if self.scheduler.name == "none":
            return self
        axes = {**self.factors, **self.tune.space}
        if get(self.base, "schedule.patience") is not None or {"schedule", "schedule.patience"} & axes.keys():
            raise ValueError("schedule.patience ends trials by themselves; it goes with scheduler none")
        if self.tune.seeds == "first":
            raise ValueError(
                "a scheduler judges settings on all their seeds; tune.seeds = first goes with scheduler none"
            )
        if self.tune.algorithm == "tpe":
            raise ValueError(f"{self.scheduler.name} goes with grid or random; tpe goes with scheduler none")
        if uneven := sorted({"schedule", "schedule.epochs"} & set(self.tune.space)):
            raise ValueError(
                f"{', '.join(uneven)}: a scheduler judges settings at the same epochs; compare lengths as factors"
            )
        return self


TOP_KEYS = tuple(
    name
    for name in SweepConfig.model_fields
    if name not in ("name", "question", "preset", "fingerprints", "codes", "digests", "places")
)
"""What a sweep file may hold beside `presets`, and a preset too."""
