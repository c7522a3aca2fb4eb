from __future__ import annotations

import numpy as np
import torch

from raybench.data import load


def test_the_digits_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    digits, data = load_digits(), load("digits")
    assert (data.train_images.shape, data.test_images.shape) == ((1297, 1, 8, 8), (500, 1, 8, 8))
    assert (data.variant, len(data.classes)) == ("embedded", 10)
    # Both parts together are the original, each image once: scaling by 16/255 and rounding gives the old values back.
    together = np.concatenate([data.train_images, data.test_images])[:, 0]
    labels = np.concatenate([data.train_labels, data.test_labels])
    back = np.rint(together.astype(np.float64) * 16 / 255).reshape(len(labels), -1)
    found = sorted((*row.tolist(), label) for row, label in zip(back, labels, strict=True))
    assert found == sorted(
        (*row, label) for row, label in zip(digits.data.tolist(), digits.target.tolist(), strict=True)
    )
    assert (int(together.min()), int(together.max())) == (0, 255)


def test_the_test_cut_is_balanced() -> None:
    assert np.bincount(load("digits").test_labels).tolist() == [50] * 10


def test_constants_are_those_of_the_training_images() -> None:
    data = load("digits")
    pixels = data.train_images / 255
    # Printed with four decimals.
    assert np.isclose(pixels.mean(), data.mean[0], rtol=0, atol=5e-5)
    assert np.isclose(pixels.std(), data.std[0], rtol=0, atol=5e-5)


def test_the_cut_never_changes() -> None:
    # Golden: another cut makes other trials of everyone's stored rows.
    assert load("digits").fingerprint == "6d211be94125"


def test_tensors_without_a_copy() -> None:
    data = load("digits")
    tensor = torch.from_numpy(data.train_images)
    assert tensor.data_ptr() == data.train_images.ctypes.data
