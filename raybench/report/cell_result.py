"""What was measured of a cell, by the selected one of its settings, and how it differs from another cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from raybench.report.selection import Mode
from raybench.report.statistics import Estimate

if TYPE_CHECKING:
    from raybench.config.trial import TrialConfig

Verdict = Literal["better", "worse", "not distinguishable", "too few seeds"]
Against = Literal["student alone", "best on validation"]


@dataclass(frozen=True)
class Counts:
    """Trials of a cell, all its settings and seeds together. `due`: running or not begun."""

    complete: int = 0
    deviating: int = 0
    """Complete, but not what the configuration says."""
    failed: int = 0
    diverged: int = 0
    pruned: int = 0
    due: int = 0
    without_metric: int = 0
    """Of the complete ones those without a number for the test metric or for the one that selects."""


@dataclass(frozen=True)
class PassedOver:
    """A setting that scored better than the selected one, with fewer seeds than were asked for."""

    tuned: Mapping[str, Any]
    seeds: int
    """That have a score."""
    asked: int
    mean: float
    """Of the scores on validation."""


@dataclass(frozen=True)
class Difference:
    """The cell minus its baseline, in the test metric's unit."""

    to: Against
    by_seed: tuple[tuple[int, float], ...]
    """Pairs; none where the two cells have no split in common, or no seed."""
    n: int
    """Pairs; where there are none, the seeds of the cell that has fewer."""
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    """95 % t interval; none below two pairs or without spread."""
    p: float | None
    """t test, two-sided, paired or Welch's; none below three seeds."""
    p_holm: float | None
    """The same, corrected for all `compared`."""
    compared: int
    """Comparisons corrected for: those tested, or with the best on validation all pairs."""
    verdict: Verdict
    seeds_needed: int | None
    """Pairs, or of two samples seeds of each, that would tell the observed difference with 80 % power at 5 % over
    `compared`; none below two seeds, without a spread, or when out of reach."""

    @property
    def paired(self) -> bool:
        """Whether it is a mean of differences, seed by seed."""
        return bool(self.by_seed)


@dataclass(frozen=True)
class CellResult:
    """One cell. Numbers are those of the selected setting; none where nothing was measured, never zero."""

    label: str
    factors: Mapping[str, Any]
    baseline: str | None
    tuned: Mapping[str, Any]
    """Selected values of what was tuned; empty without a complete trial."""
    selected: tuple[TrialConfig, ...]
    """The selected setting's complete trials, in the order of the plan."""
    by_seed: tuple[tuple[int, float], ...]
    """Test metric of each complete seed."""
    test: Estimate | None
    validation: Estimate | None
    difference: Difference | None
    """None for the baseline itself, without a baseline, or without a common seed."""
    counts: Counts
    train_time: float | None
    """Median over the selected trials, s."""
    epoch_time: float | None
    """Median over the selected trials of training time an epoch, s."""
    peak_memory: float | None
    """Highest over the selected trials, MiB."""
    device_hours: float | None
    """Of all trials of the cell, its tuning included; none where a complete one has none."""
    param_count: float | None
    """Median, millions."""
    gmacs: float | None
    """Median multiply-adds of one forward pass, 1e9."""
    infer_samples_per_sec: float | None
    """Median over the selected trials."""
    teacher_top1: tuple[float, float] | None
    """Lowest and highest over the selected trials, %."""
    presets: tuple[str, ...]
    variants: tuple[str, ...]
    """Presets and data set variants of the selected trials, sorted; more than one is a mixture and must be said."""
    metric: str
    test_metric: str
    test_mode: Mode
    baseline_chosen: bool = False
    """Whether the baseline is the best on validation, chosen by looking, and not the student alone."""
    tied: int = 1
    """Where the baseline was chosen: cells that are as good on validation as it, itself among them."""
    hardware: tuple[str, ...] = ()
    """GPUs, or CPUs where there was none, of the selected trials, sorted."""
    commits: Mapping[str, str] = field(default_factory=dict)
    """Selected trial -> git commit that made its row, 8 digits, `+changes` when dirty; without those not known."""
    precisions: Mapping[str, str] = field(default_factory=dict)
    """Selected trial -> precision that was really used; without those not known."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Complete trial of any setting -> how its maths departs from its configuration."""
    energy: float | None = None
    """Wh that the devices drew during all trials of the cell, its tuning included; none where one of them has none."""
    best: bool = False
    """Whether it is really better than every other cell that is compared with the same one, and than that."""
    without: Mapping[str, str] = field(default_factory=dict)
    """Complete trial of any setting -> the metric of which it has no number."""
    passed_over: tuple[PassedOver, ...] = ()
    """Settings that were not selected for want of seeds alone."""
    test_bpp: Estimate | None = None
    """Bits a pixel of the test images, of a codec: its PSNR says nothing without. None where there are none, or where
    they are the test metric itself."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Trial of any setting -> the share of a device that it occupied; without those of which it is not known."""
    unpriced: int = 0
    """Complete trials without device hours, where others of the cell have some: a sum would leave them out."""

    @property
    def teacher(self) -> str | None:
        """Name of the selected setting's teacher; none without one, or where nothing is complete."""
        teacher = self.selected[0].canonical().distillation.teacher if self.selected else None
        return teacher.name if teacher else None
