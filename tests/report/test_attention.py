"""Attention figures: the layers asked for, at the sizes the words need, the same each time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from raybench.report.attention import CELL_INCHES, GAP_INCHES, attention_figure
from raybench.report.figures import DPI

WORDS = ["<s>", "Zwei", "junge", "Männer", "sind", "im", "Freien", ".", "</s>"]


def maps(layers: int = 6, heads: int = 8, looking: int = 9, looked_at: int = 9) -> list[npt.NDArray[np.float32]]:
    generator = np.random.default_rng(0)
    weights = np.exp(3 * generator.normal(size=(layers, heads, looking, looked_at))).astype(np.float32)
    return list(weights / weights.sum(-1, keepdims=True))


def pixels(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_a_png_is_written_the_same_each_time(tmp_path: Path) -> None:
    one = attention_figure(maps(), WORDS, tmp_path / "new" / "one.png")
    two = attention_figure(maps(), WORDS, tmp_path / "two.png")
    assert one.read_bytes() == two.read_bytes()
    other = attention_figure(maps(), WORDS, tmp_path / "other.png", layers=(2, 3, 5))
    assert other.read_bytes() != one.read_bytes()


def test_a_layer_is_a_row_and_a_head_a_column(tmp_path: Path) -> None:
    def size(path: Path) -> tuple[int, int]:
        height, width, _ = pixels(path).shape
        return width, height

    whole = size(attention_figure(maps(), WORDS, tmp_path / "a.png"))
    one_layer = size(attention_figure(maps(), WORDS, tmp_path / "b.png", layers=(4,)))
    one_head = size(attention_figure(maps(heads=1), WORDS, tmp_path / "c.png"))
    step = DPI * (CELL_INCHES * len(WORDS) + GAP_INCHES)
    # matplotlib cuts to whole pixels.
    assert whole[1] - one_layer[1] == pytest.approx(2 * step, abs=1)
    assert whole[0] - one_head[0] == pytest.approx(7 * step, abs=1)


def test_only_the_layers_asked_for_are_drawn(tmp_path: Path) -> None:
    some, changed = maps(), maps()
    changed[1][:] = changed[3][:] = 0
    figure = attention_figure(some, WORDS, tmp_path / "a.png").read_bytes()
    assert attention_figure(changed, WORDS, tmp_path / "b.png").read_bytes() == figure
    changed[2][0, 0] = np.eye(9)[3]
    assert attention_figure(changed, WORDS, tmp_path / "c.png").read_bytes() != figure
    shallow = attention_figure(some[:2], WORDS, tmp_path / "d.png", layers=(1, 3, 5))
    assert shallow.read_bytes() == attention_figure(some, WORDS, tmp_path / "e.png", layers=(1,)).read_bytes()


def test_more_weight_is_darker(tmp_path: Path) -> None:
    def ink(weight: float) -> float:
        flat = [np.full((2, 9, 9), weight)]
        return 255 - float(pixels(attention_figure(flat, WORDS, tmp_path / "a.png", layers=(1,))).mean())

    assert ink(0.0) < ink(0.2) < ink(0.6) < ink(1.0)


def test_attention_to_a_source_and_other_formats(tmp_path: Path) -> None:
    looking = ["<s>", "Two", "men"]
    path = attention_figure(
        maps(looking=3), looking, tmp_path / "cross.svg", looked_at=WORDS, title="Attention to the source"
    )
    assert path.read_text().startswith("<?xml")


def test_many_words_stay_within_a_page(tmp_path: Path) -> None:
    words = [f"ein_sehr_langes_Wort_{number}" for number in range(72)]
    path = attention_figure(maps(2, 8, 72, 72), words, tmp_path / "long.png", layers=(1,))
    assert pixels(path).shape[1] < 24 * DPI


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none of the layers \[7\] is among the 6"):
        attention_figure(maps(), WORDS, tmp_path / "a.png", layers=(7,))
    with pytest.raises(ValueError, match=r"maps must be \(heads, 8, 8\), as many as there are words: \(8, 9, 9\)"):
        attention_figure(maps(), WORDS[1:], tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_no_torch_is_needed() -> None:
    code = "import sys, raybench.report.attention; print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
