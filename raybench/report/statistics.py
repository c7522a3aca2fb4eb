"""Means, intervals and tests over a handful of seeds; pure functions on plain numbers.

Student's t throughout, from scipy.special: it loads in a quarter of the time of scipy.stats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
SIGNIFICANCE = 0.05
POWER = 0.8
LARGEST = 1e60
"""Of a number that is measured: what is larger is damage, and its fourth power, which `welch` takes, would be none."""
MAX_SEEDS = 10_000
"""Above so many seeds a difference counts as none: nobody runs them."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds. `sd` is the sample's (n - 1); it and the interval are none where n does not give them."""

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    """95 % t interval of the mean."""


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean, sample sd and 95 % t interval; none of nothing. A spread of 0 gives no interval: t knows none."""
    n = len(values)
    if n == 0:
        return None
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(1, mean, None, None, None)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    if _no_spread(sd, values):
        return Estimate(n, mean, 0.0, None, None)
    half = _t_quantile(n - 1, (1 + CONFIDENCE) / 2) * sd / math.sqrt(n)
    return Estimate(n, mean, sd, mean - half, mean + half)


def p_value(differences: Sequence[float]) -> float | None:
    """Two-sided p of the paired t test; none below two pairs.

    Where all differences are the same number, as accuracies counted on few images can be, t is undefined: the exact
    sign test 2^(1 - n) stands in, which never calls three equal seeds proof; p is 1 where that number is 0.
    """
    found = estimate(differences)
    if found is None or found.sd is None:
        return None
    if found.sd == 0:
        return 1.0 if _no_spread(abs(found.mean), [1.0]) else 2.0 ** (1 - found.n)
    from scipy.special import stdtr

    t = found.mean / (found.sd / math.sqrt(found.n))
    return float(2 * stdtr(found.n - 1, -abs(t)))


@dataclass(frozen=True)
class TwoSamples:
    """The difference of the means of two independent samples."""

    mean: float
    sd: float | None
    """Of a difference between one of each: the root of the sum of both variances."""
    low: float | None
    high: float | None
    """95 % interval, Welch's."""
    p: float | None
    """Two-sided; none below two of each."""


def welch(ours: Sequence[float], theirs: Sequence[float]) -> TwoSamples:
    """Difference of the means of two independent samples of unlike variances (Welch 1947), ours minus theirs.

    Two samples without any spread are unlike or equal for certain as far as they go: no interval, and as p the chance
    that all of one lie on one side of all of the other (exact rank-sum test), or 1 where they are equal.
    """
    one, other = estimate(ours), estimate(theirs)
    assert one is not None, "a sample has values"
    assert other is not None, "a sample has values"
    mean = one.mean - other.mean
    if one.sd is None or other.sd is None:
        return TwoSamples(mean, None, None, None, None)
    shares = one.sd**2 / one.n, other.sd**2 / other.n
    sd, error = math.hypot(one.sd, other.sd), math.sqrt(sum(shares))
    if error == 0:
        p = 1.0 if _no_spread(abs(mean), [1.0]) else 2 / math.comb(one.n + other.n, one.n)
        return TwoSamples(mean, 0.0, None, None, p)
    from scipy.special import stdtr, stdtrit

    degrees = sum(shares) ** 2 / (shares[0] ** 2 / (one.n - 1) + shares[1] ** 2 / (other.n - 1))
    half = float(stdtrit(degrees, (1 + CONFIDENCE) / 2)) * error
    return TwoSamples(mean, sd, mean - half, mean + half, float(2 * stdtr(degrees, -abs(mean / error))))


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for their number, in the order given (Holm 1979, "A simple sequentially rejective test")."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def power(n: int, effect: float, significance: float = SIGNIFICANCE) -> float:
    """Chance that a two-sided paired t test with `n` pairs sees a true difference of `effect` sds."""
    from scipy.special import nctdtr

    critical = _t_quantile(n - 1, 1 - significance / 2)
    shift = abs(effect) * math.sqrt(n)
    seen = float(1 - nctdtr(n - 1, shift, critical))
    # The wrong tail is below 3e-7 from a shift of 5 on, and scipy gives NaN for it further out.
    return seen if shift > 5 else seen + float(nctdtr(n - 1, shift, -critical))


def seeds_needed(difference: float, sd: float, significance: float = SIGNIFICANCE) -> int | None:
    """Seeds that tell `difference` with 80 % power, at least 2; none above `MAX_SEEDS` or where sd is 0."""
    if sd <= 0:
        return None
    effect = abs(difference) / sd
    if power(MAX_SEEDS, effect, significance) < POWER:
        return None
    low, high = 1, 2
    while power(high, effect, significance) < POWER:
        low, high = high, min(2 * high, MAX_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle, effect, significance) >= POWER else (middle, high)
    return high


def detectable_difference(n_seeds: int, sd_of_difference: float) -> float:
    """Smallest true difference that `n_seeds` pairs tell with 80 % power (two-sided 5 %), in the unit of the sd.

    `sd_of_difference` is the standard deviation of the per-seed differences. Infinite below two seeds.
    """
    if n_seeds < 2:
        return math.inf
    if sd_of_difference <= 0:
        return 0.0
    low, high = 0.0, 1.0
    while power(n_seeds, high) < POWER:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if power(n_seeds, middle) >= POWER else (middle, high)
    return high * sd_of_difference


def binomial_interval(top1: float, images: int) -> tuple[float, float]:
    """95 % interval, in %, of an accuracy of `top1` % measured on `images` images (Wilson 1927)."""
    from scipy.special import ndtri

    z = float(ndtri((1 + CONFIDENCE) / 2))
    share = top1 / 100
    centre = (share + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images) * math.sqrt(share * (1 - share) / images + z * z / (4 * images * images))
    return 100 * (centre - half), 100 * (centre + half)


def _t_quantile(degrees: int, share: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, share))


def _no_spread(sd: float, values: Sequence[float]) -> bool:
    # 71.3 - 71.0 and 70.3 - 70.0 differ in the last bit: rounding is not a spread.
    return sd <= 1e-9 * max(1.0, *(abs(value) for value in values))
