"""Training images with each batch mixed (Mixup, CutMix); which way is a function of seed, epoch and step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from raybench.config.trial import MixConfig
from raybench.data.mixing import draw, mixed, soft_targets
from raybench.training.batches import EVERYTHING, Batch, Share, TrainingImages
from raybench.training.metrics import Measures


class MixedImages:
    """Batches whose `targets` are soft. A teacher that runs in every step sees the mixed images too."""

    def __init__(self, training: TrainingImages, config: MixConfig, classes: int, smoothing: float) -> None:
        """`smoothing`: share of each label that is spread over all classes, before labels are mixed."""
        self.training = training
        self.config = config
        self.classes = classes
        self.smoothing = smoothing

    def __len__(self) -> int:
        return len(self.training)

    def measured(self, measures: Measures) -> tuple[str, ...]:  # noqa: ARG002
        """None: an image that is two has no right label."""
        return ()

    def steps(self, batch_size: int) -> int:
        """Batches of one epoch."""
        return self.training.steps(batch_size)

    def epoch(self, epoch: int, seed: int, batch_size: int, share: Share = EVERYTHING) -> Iterator[Batch]:
        """One pass in the order of (seed, epoch). Batches are mixed whole: a share's images may come from others."""
        for step, batch in enumerate(self.training.epoch(epoch, seed, batch_size)):
            height, width = batch.views.shape[-2:]
            mix = draw(
                seed,
                epoch,
                step,
                size=(height, width),
                mixup_alpha=self.config.mixup,
                cutmix_alpha=self.config.cutmix,
                prob=self.config.prob,
                switch_prob=self.config.switch_prob,
            )
            targets = soft_targets(batch.labels, mix, self.classes, self.smoothing)
            yield replace(batch, views=mixed(batch.views, mix), targets=targets).cut(share)
