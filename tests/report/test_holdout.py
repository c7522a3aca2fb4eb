"""The error on a hidden last third."""

from __future__ import annotations

import numpy as np
import pytest

from raybench.report.fits import LogFit, log_fit_of_runs
from raybench.report.holdout import Holdout, holdout_error, holdout_error_of_runs
from raybench.report.spread import Undetermined
from tests.report.made_curves import (
    EPOCHS,
    NOISE,
    RISING,
    TREND,
    logs_of,
    runs_of,
)


@pytest.mark.parametrize(("count", "hidden"), [(6, 2), (10, 3), (150, 50)])
def test_the_last_third_is_hidden(count: int, hidden: int) -> None:
    values = TREND + np.random.default_rng(15).normal(0, NOISE, 150)
    found = holdout_error(EPOCHS[:count].tolist(), values[:count].tolist())
    assert isinstance(found, Holdout)
    assert found.epochs == tuple(range(count - hidden + 1, count + 1))
    assert found.fit == logs_of(EPOCHS[: count - hidden], values[: count - hidden])
    predicted = (
        found.fit.a + found.fit.b * np.log(EPOCHS[count - hidden : count]) if isinstance(found.fit, LogFit) else 0
    )
    errors = predicted - values[count - hidden : count]
    # Rounding only.
    assert found.errors == pytest.approx(errors, abs=1e-12)
    assert found.mean_absolute == pytest.approx(np.abs(errors).mean())
    assert found.bias == pytest.approx(errors.mean())
    assert found.largest == pytest.approx(np.abs(errors).max())


def test_the_right_formula_predicts_and_the_wrong_one_promises_too_much() -> None:
    values = RISING + np.random.default_rng(16).normal(0, 0.005, 150)
    right, wrong = (holdout_error(EPOCHS.tolist(), values.tolist(), fit) for fit in ("power", "log"))
    assert isinstance(right, Holdout)
    assert isinstance(wrong, Holdout)
    # Mean error of 0.004 for noise of sd 0.005, and a fit that is a little off.
    assert right.mean_absolute < 0.006
    assert abs(right.bias) < 0.003
    # 50 points: 0.95 less four standard errors.
    assert right.inside > 0.82
    # A logarithm goes on rising where the curve bends to its ceiling.
    assert wrong.bias > 0.02


def test_holding_out_of_runs_is_of_their_mean() -> None:
    rows = TREND + np.random.default_rng(17).normal(0, NOISE, (4, 150))
    found = holdout_error_of_runs(runs_of(EPOCHS, rows))
    assert isinstance(found, Holdout)
    assert found.fit == log_fit_of_runs(runs_of(EPOCHS[:100], rows[:, :100]))
    # Rounding only: both errors are linear in the values.
    one = holdout_error(EPOCHS.tolist(), rows.mean(0).tolist())
    assert isinstance(one, Holdout)
    assert found.errors == pytest.approx(one.errors, abs=1e-12)


def test_holding_out_says_what_is_too_short() -> None:
    found = holdout_error([1, 2, 3, 4], [0.1, 0.2, 0.3, 0.35], "power")
    assert isinstance(found, Undetermined)
    assert found.reason == "with the last 1 of 4 epochs hidden: 3 distinct epochs, at least 4 are needed"
    assert isinstance(holdout_error([1, 2], [0.1, 0.2]), Undetermined)
