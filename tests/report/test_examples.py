"""Two models over test images: McNemar and the interval of paired differences."""

from __future__ import annotations

import numpy as np
import pytest

from raybench.errors import ResultsError
from raybench.report.examples import examples_sheet, over_examples
from raybench.report.tables import sheet_lines
from raybench.results.predictions import Predictions


def predictions(right: list[bool]) -> Predictions:
    """Right where asked for, wrong elsewhere."""
    label = (np.arange(len(right)) % 10).astype(np.uint16)
    wrong = np.where(right, label, (label + 1) % 10).astype(np.uint16)
    return Predictions(label, wrong)


def sampled(seed: int, n: int, one: float, other: float) -> tuple[Predictions, Predictions]:
    draws = np.random.default_rng(seed).random((2, n))
    return predictions((draws[0] < one).tolist()), predictions((draws[1] < other).tolist())


def test_a_model_and_itself_do_not_differ() -> None:
    one, _ = sampled(0, 500, 0.7, 0.7)
    found = over_examples(one, one)
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert found.one == found.other == pytest.approx(one.top1)


def test_p_is_scipys_exact_binomial_test() -> None:
    from scipy import stats

    one, other = sampled(1, 400, 0.75, 0.68)
    found = over_examples(one, other)
    test = stats.binomtest(found.only_one, found.only_one + found.only_other)
    assert found.p == pytest.approx(test.pvalue, rel=1e-9)
    assert found.difference == pytest.approx(one.top1 - other.top1)
    assert found.difference == pytest.approx(100 * (found.only_one - found.only_other) / 400)


def test_the_interval_covers_the_truth_95_times_in_100() -> None:
    found = [over_examples(*sampled(seed, 1000, 0.72, 0.70)) for seed in range(600)]
    covered = np.mean([each.low <= 2 <= each.high for each in found])
    # 600 draws of 95 %: a standard error of 0.9 points, three of them.
    assert 0.923 < covered < 0.977


def test_other_images_are_refused() -> None:
    one, _ = sampled(0, 100, 0.5, 0.5)
    for other in (predictions([True] * 99), Predictions(one.label[::-1].copy(), one.prediction)):
        with pytest.raises(ResultsError, match="not tested on the same images"):
            over_examples(one, other)


def test_the_table_says_what_it_is_not() -> None:
    text = "\n".join(sheet_lines(examples_sheet(over_examples(*sampled(2, 300, 0.8, 0.7)), "a1", "b2")))
    assert "a1 against b2, over test images" in text
    assert "other seeds may come out otherwise" in text
