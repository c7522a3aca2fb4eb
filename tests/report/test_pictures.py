"""Pictures: mean colours and outlines of merged patches, and figures that are the same each time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from raybench.report.figures import DPI
from raybench.report.pictures import (
    GAP_INCHES,
    LEAST_INCHES,
    SIDE_INCHES,
    Picture,
    Row,
    merged_pixels,
    outlines,
    pictures_figure,
)


def pixels(seed: int = 0, side: int = 8) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).random((side, side, 3))


def shape(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_patches_of_their_own_have_their_mean_and_one_token_the_mean_of_all() -> None:
    image = pixels()
    apart = np.arange(4).reshape(2, 2)
    merged = merged_pixels(image, apart)
    np.testing.assert_allclose(merged[0, 0], image[:4, :4].mean((0, 1)))
    np.testing.assert_allclose(merged[7, 7], image[4:, 4:].mean((0, 1)))
    # One pixel a patch: nothing is averaged.
    np.testing.assert_array_equal(merged_pixels(image, np.arange(64).reshape(8, 8)), image)
    whole = merged_pixels(image, np.zeros((2, 2), dtype=np.int64))
    np.testing.assert_allclose(whole, np.broadcast_to(image.mean((0, 1)), image.shape))
    # However they are merged, the mean of the image stays.
    torn = np.array([[5, 9], [9, 5]])
    np.testing.assert_allclose(merged_pixels(image, torn).mean((0, 1)), image.mean((0, 1)))
    np.testing.assert_allclose(merged_pixels(image, torn)[0, 0], merged_pixels(image, torn)[7, 7])
    assert merged_pixels(image[:, :, 0], torn).shape == (8, 8)
    with pytest.raises(ValueError, match="do not divide"):
        merged_pixels(image, np.zeros((3, 3), dtype=np.int64))


def test_lines_run_between_tokens_alone() -> None:
    assert outlines(np.zeros((3, 3), dtype=np.int64)) == []
    assert outlines(np.array([[1, 2]])) == [((1, 0), (1, 1))]
    assert outlines(np.array([[1], [2]])) == [((0, 1), (1, 1))]
    # Every patch apart: all inner edges of the grid.
    assert len(outlines(np.arange(12).reshape(3, 4))) == 3 * 3 + 2 * 4
    # What is one token in two places is outlined in both.
    assert len(outlines(np.array([[7, 1, 7]]))) == 2


def test_a_figure_is_written_the_same_each_time_and_grows_with_its_rows(tmp_path: Path) -> None:
    row = Row("some", [Picture(pixels(each), f"{each}") for each in range(3)])
    one = pictures_figure([row], tmp_path / "new" / "one.png", "Title", "n = 3")
    two = pictures_figure([row], tmp_path / "two.png", "Title", "n = 3")
    assert one.read_bytes() == two.read_bytes()
    assert shape(one)[0] == round(LEAST_INCHES * DPI)
    more = pictures_figure([row, Row("", [Picture(pixels())])], tmp_path / "more.png", "Title", "n = 4")
    # matplotlib cuts to whole pixels.
    assert shape(more)[1] - shape(one)[1] == pytest.approx((SIDE_INCHES + GAP_INCHES) * DPI, abs=1)
    wide = pictures_figure([Row("", [*row.pictures] * 4)], tmp_path / "wide.png", "Title", "n = 12")
    assert shape(wide)[0] > shape(one)[0]
    with pytest.raises(ValueError, match="no image"):
        pictures_figure([Row("none", [])], tmp_path / "none.png", "Title", "n = 0")


def test_measures_and_outlines(tmp_path: Path) -> None:
    def drawn(*pictures: Picture) -> bytes:
        return pictures_figure([Row("", pictures)], tmp_path / "a.png", "Title", "n = 1", "unit").read_bytes()

    image, one, other = pixels(), np.array([[0.0, 2.0], [1.0, 1.0]]), np.array([[0.0, 4.0], [1.0, 1.0]])
    several = {
        drawn(Picture(image)),
        drawn(Picture(image[:, :, 0])),
        drawn(Picture(image, owners=np.array([[0, 1], [0, 1]]))),
        drawn(Picture(image, owners=np.array([[0, 0], [1, 1]]))),
        drawn(Picture(one, measured=True)),
        drawn(Picture(one.T, measured=True)),
        # One scale for both.
        drawn(Picture(one, measured=True), Picture(one, measured=True)),
        drawn(Picture(one, measured=True), Picture(other, measured=True)),
    }
    assert len(several) == 8
    assert drawn(Picture(image, owners=np.zeros((2, 2), dtype=np.int64))) == drawn(Picture(image))


def test_torch_is_not_needed() -> None:
    code = "import raybench.report.pictures, raybench.report.patch_attention, raybench.report.confusion, sys"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print('torch' in sys.modules)"], capture_output=True, text=True
    )
    assert done.stdout.strip() == "False", done.stderr
