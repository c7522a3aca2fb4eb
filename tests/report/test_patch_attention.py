"""Maps over the patches of an image: a row a layer, a column a head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from raybench.report.patch_attention import patch_attention_figure

PIXELS = np.random.default_rng(0).random((16, 16, 3))


def maps(layers: int = 3, heads: int = 4, side: int = 4) -> list[npt.NDArray[np.float64]]:
    weights = np.random.default_rng(1).random((layers, heads, side, side))
    return list(weights / weights.sum((2, 3), keepdims=True))


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_the_same_each_time_and_as_large_as_its_layers_and_heads(tmp_path: Path) -> None:
    one = patch_attention_figure(PIXELS, maps(), tmp_path / "a" / "one.png", "Title", "n = 1", "somewhere")
    two = patch_attention_figure(PIXELS, maps(), tmp_path / "two.png", "Title", "n = 1", "somewhere")
    assert one.read_bytes() == two.read_bytes()
    deeper = patch_attention_figure(PIXELS, maps(layers=6), tmp_path / "deeper.png", "Title", "n = 1", "somewhere")
    assert size(deeper)[1] > size(one)[1]
    wider = patch_attention_figure(PIXELS, maps(heads=12), tmp_path / "wider.png", "Title", "n = 1", "somewhere")
    assert size(wider)[0] > size(one)[0]
    with pytest.raises(ValueError, match="no layer"):
        patch_attention_figure(PIXELS, [], tmp_path / "none.png", "Title", "n = 1", "somewhere")


def test_layers_may_differ_in_heads_and_patches_and_images_be_grey(tmp_path: Path) -> None:
    mixed = [*maps(layers=1, heads=3, side=8), *maps(layers=1, heads=4, side=2)]
    one = patch_attention_figure(
        PIXELS[:, :, 0], mixed, tmp_path / "one.png", "Title", "n = 1", "somewhere"
    ).read_bytes()
    mixed[0][0] = mixed[0][0].T
    assert (
        patch_attention_figure(PIXELS[:, :, 0], mixed, tmp_path / "two.png", "Title", "n = 1", "somewhere").read_bytes()
        != one
    )


def test_an_equal_share_looks_alike_however_many_patches_there_are(tmp_path: Path) -> None:
    def darkest(side: int) -> float:
        flat = [np.full((1, side, side), 1 / side**2)]
        path = patch_attention_figure(np.ones((8, 8)), flat, tmp_path / "a.png", "T", "n", "somewhere")
        with Image.open(path) as image:
            return float(np.asarray(image.convert("L")).mean())

    assert darkest(2) == darkest(8)
