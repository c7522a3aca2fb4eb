"""The confusion matrix: against counting in loops and scikit-learn, and its figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raybench.report.confusion import confused, confusion_figure, confusion_matrix

GENERATOR = np.random.default_rng(0)
LABELS, PREDICTIONS = GENERATOR.integers(0, 5, 300), GENERATOR.integers(0, 5, 300)


def test_it_is_scikit_learns() -> None:
    from sklearn.metrics import confusion_matrix as theirs

    ours = confusion_matrix(LABELS, PREDICTIONS, 5)
    np.testing.assert_array_equal(ours, theirs(LABELS, PREDICTIONS))
    assert ours.sum() == 300
    assert np.trace(ours) == (LABELS == PREDICTIONS).sum()


def test_what_is_right_lies_on_the_diagonal() -> None:
    np.testing.assert_array_equal(confusion_matrix(LABELS, LABELS, 5), np.diag(np.bincount(LABELS)))
    assert confusion_matrix([], [], 3).tolist() == [[0] * 3] * 3
    # A class that no image has keeps its row and column.
    assert confusion_matrix([0], [1], 3).tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    with pytest.raises(ValueError, match="class 3 where there are 3"):
        confusion_matrix([0], [3], 3)


def test_unsigned_16_bits_do_not_overflow() -> None:
    many = np.array([999, 999], dtype=np.uint16)
    assert confusion_matrix(many, many, 1000)[999, 999] == 2


def test_the_most_frequent_confusions_come_first() -> None:
    matrix = np.array([[9, 1, 0], [4, 0, 2], [0, 0, 9]])
    assert confused(matrix) == [(1, 0, 4), (1, 2, 2), (0, 1, 1)]
    assert confused(matrix, most=1) == [(1, 0, 4)]
    assert confused(np.diag([3, 3])) == []


@pytest.mark.parametrize("classes", [1, 2, 10, 100, 300])
def test_figures_of_few_and_many_classes(classes: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    labels = generator.integers(0, classes, 5 * classes)
    taken = np.where(generator.random(len(labels)) < 0.8, labels, generator.integers(0, classes, len(labels)))
    matrix = confusion_matrix(labels, taken, classes)
    names = [f"a class of number {index}" for index in range(classes)]
    one = confusion_figure(matrix, names, tmp_path / "one.png", "Confusion matrix", "somewhere").read_bytes()
    assert one == confusion_figure(matrix, names, tmp_path / "two.png", "Confusion matrix", "somewhere").read_bytes()
