"""Two trained models on the same test images.

That is another question than which setting is better: it tells how sure the difference of these two is over images, and
nothing of how another seed would have come out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from raybench.errors import ResultsError
from raybench.report.sheet import Column, Sheet, signed_text
from raybench.report.statistics import CONFIDENCE
from raybench.results.predictions import Predictions


@dataclass(frozen=True)
class OverExamples:
    """One model's accuracy minus another's, in points of top-1."""

    n: int
    one: float
    other: float
    """Accuracy of each, %."""
    difference: float
    low: float
    high: float
    """95 % interval over test images."""
    only_one: int
    only_other: int
    """Images that only the one, or only the other, has right."""
    p: float
    """Exact McNemar test, two-sided."""


def over_examples(one: Predictions, other: Predictions) -> OverExamples:
    """Compare two models image by image.

    The interval is the normal one of the mean of paired differences (1, 0 or -1 an image); p is McNemar's exact
    two-sided binomial test of the images on which they differ (McNemar 1947). Raises ResultsError where the two were
    not tested on the same images.
    """
    if len(one.label) != len(other.label) or (one.label != other.label).any():
        raise ResultsError("the two trials were not tested on the same images, so that they cannot be compared by them")
    from scipy.special import bdtr, ndtri

    n = len(one.label)
    ours, theirs = one.prediction == one.label, other.prediction == other.label
    only_one, only_other = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    mean = (only_one - only_other) / n
    variance = ((only_one + only_other) / n - mean**2) * n / max(1, n - 1)
    half = float(ndtri((1 + CONFIDENCE) / 2)) * math.sqrt(variance / n)
    unlike = only_one + only_other
    p = min(1.0, 2 * float(bdtr(min(only_one, only_other), unlike, 0.5))) if unlike else 1.0
    return OverExamples(
        n=n,
        one=one.top1,
        other=other.top1,
        difference=100 * mean,
        low=100 * (mean - half),
        high=100 * (mean + half),
        only_one=only_one,
        only_other=only_other,
        p=p,
    )


def examples_sheet(found: OverExamples, one: str, other: str) -> Sheet:
    """The same as a table of one row."""
    return Sheet.plain(
        title=f"{one} against {other}, over test images",
        subtitle="these two trained models only: other seeds may come out otherwise",
        keys=[Column("\ntest images", (f"{found.n:,}",), right=True)],
        columns=[
            Column(f"top-1 (%)\n{one}", (f"{found.one:.2f}",), right=True),
            Column(f"top-1 (%)\n{other}", (f"{found.other:.2f}",), right=True),
            Column(
                "difference\n95 % interval over images",
                (f"{signed_text(found.difference, 2)} [{signed_text(found.low, 2)}, {signed_text(found.high, 2)}]",),
            ),
            Column("right only\nby the one", (f"{found.only_one:,}",), right=True),
            Column("right only\nby the other", (f"{found.only_other:,}",), right=True),
            Column("\np", (f"{found.p:.3g}",), right=True),
        ],
        labels=[f"{one} against {other}"],
        footnotes=["p: McNemar's exact test, two-sided. Which setting is better is told by seeds, not by images."],
    )
