"""The embedded patches of photos."""

from __future__ import annotations

import numpy as np

from raybench.data import load
from raybench.data.patches import MEAN, SIDE, STD, STEP, TRAINING_ROWS


def test_patches_are_pieces_of_the_photos_and_the_test_rows_are_apart() -> None:
    from sklearn.datasets import load_sample_images

    data = load("patches")
    photos = load_sample_images().images
    across = (640 - SIDE) // STEP + 1
    for index, photo in enumerate(photos):
        train = data.train_images[data.train_labels == index]
        test = data.test_images[data.test_labels == index]
        assert len(train) == 9 * across
        assert len(test) == 2 * across
        # The last training patch of the second row of patches, and the first test patch.
        last = photo[STEP : STEP + SIDE, STEP * (across - 1) : STEP * (across - 1) + SIDE]
        assert np.array_equal(train[2 * across - 1].transpose(1, 2, 0), last)
        assert np.array_equal(test[0].transpose(1, 2, 0), photo[TRAINING_ROWS : TRAINING_ROWS + SIDE, :SIDE])
    assert data.variant == "embedded"


def test_mean_and_std_are_those_of_the_training_patches() -> None:
    data = load("patches")
    pixels = data.train_images / 255
    # Written with four decimals.
    np.testing.assert_allclose(pixels.mean((0, 2, 3)), MEAN, atol=5e-5)
    np.testing.assert_allclose(pixels.std((0, 2, 3)), STD, atol=5e-5)
