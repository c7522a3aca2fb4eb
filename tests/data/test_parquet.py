from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raybench.data import parquet
from raybench.errors import DataError

CLASSES = ("ant", "bee_hive", "cat")
SHAPE = (3, 6, 5)


def pixels(n: int, channels: int = 3) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(n).integers(0, 256, (n, 6, 5, channels), dtype=np.uint8)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pngs(images: npt.NDArray[np.uint8]) -> list[bytes]:
    return [encode(Image.fromarray(image)) for image in images]


def write(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def read_one(path: Path, content: Any) -> npt.NDArray[np.uint8]:
    images = parquet.read(write(path / "one.parquet", image=[content], label=[0]), SHAPE, CLASSES).images
    image: npt.NDArray[np.uint8] = images[0].transpose(1, 2, 0)
    return image


@pytest.mark.parametrize("struct", [False, True])
@pytest.mark.parametrize("names", [("image", "label"), ("img", "fine_label")])
def test_bytes_and_structs_under_both_names(tmp_path: Path, struct: bool, names: tuple[str, str]) -> None:
    expected = pixels(7)
    encoded: list[Any] = [{"bytes": png, "path": None} if struct else png for png in pngs(expected)]
    columns = dict(zip(names, (encoded, [0, 1, 2, 0, 1, 2, 0]), strict=True))
    table = parquet.read(write(tmp_path / "t.parquet", **columns), SHAPE, CLASSES)
    assert np.array_equal(table.images, expected.transpose(0, 3, 1, 2))
    assert table.images.flags.c_contiguous
    assert table.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert (table.images.dtype.name, table.labels.dtype.name) == ("uint8", "int64")
    assert (table.official_split, table.official_index) == (None, None)


def test_grey_becomes_rgb(tmp_path: Path) -> None:
    grey = pixels(1, 1)[0, :, :, 0]
    assert np.array_equal(read_one(tmp_path, encode(Image.fromarray(grey))), np.stack([grey] * 3, axis=-1))


def test_sixteen_bit_grey_keeps_its_upper_bits(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 30).reshape(6, 5).astype(np.uint16)
    assert np.array_equal(read_one(tmp_path, encode(Image.fromarray(deep)))[..., 0], deep >> 8)


def test_alpha_is_dropped(tmp_path: Path) -> None:
    rgba = pixels(1, 4)[0]
    assert np.array_equal(read_one(tmp_path, encode(Image.fromarray(rgba))), rgba[..., :3])


def test_palette_with_transparency(tmp_path: Path) -> None:
    palette = Image.fromarray(pixels(1)[0]).quantize(4)
    encoded = encode(palette, transparency=bytes([0, 255, 255, 255]))
    assert np.array_equal(read_one(tmp_path, encoded), np.asarray(palette.convert("RGB")))


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    encoded = encode(Image.fromarray(pixels(1)[0]).convert("CMYK"), "TIFF")
    assert np.array_equal(read_one(tmp_path, encoded), pixels(1)[0])


def damaged(png: bytes, how: str) -> Any:
    flipped = bytearray(png)
    flipped[-25] ^= 4  # inside the compressed pixels
    return {
        "cut": png[: len(png) // 2],
        "no end": png[:-12] + b"\0\0",
        "bit flip": bytes(flipped),
        "not an image": b"<html>404</html>",
        "empty": b"",
        "null": None,
    }[how]


@pytest.mark.parametrize("how", ["cut", "no end", "bit flip", "not an image", "empty", "null"])
def test_an_undecodable_image_is_named_by_file_and_row(tmp_path: Path, how: str) -> None:
    images = [*pngs(pixels(3)), damaged(pngs(pixels(1))[0], how)]
    path = write(tmp_path / "damaged.parquet", image=images, label=[0, 1, 2, 0])
    with pytest.raises(DataError, match=r"damaged\.parquet, row 3: "):
        parquet.read(path, SHAPE, CLASSES)


def test_every_flipped_bit_is_seen(tmp_path: Path) -> None:
    png = pngs(pixels(1))[0]
    for place in range(8, len(png)):
        broken = bytearray(png)
        broken[place] ^= 1 << (place % 8)
        with pytest.raises(DataError, match="row 0"):
            read_one(tmp_path, bytes(broken))


def test_other_sizes(tmp_path: Path) -> None:
    wide = encode(Image.new("RGB", (9, 6)))
    path = write(tmp_path / "t.parquet", image=[*pngs(pixels(1)), wide], label=[0, 0])
    with pytest.raises(DataError, match=r"t\.parquet, row 1: the image has 9x6 pixels, not 5x6"):
        parquet.read(path, SHAPE, CLASSES)


@pytest.mark.parametrize("label", [3, -1, None])
def test_labels_out_of_range(tmp_path: Path, label: int | None) -> None:
    path = write(tmp_path / "t.parquet", image=pngs(pixels(2)), label=[2, label])
    with pytest.raises(DataError, match=rf"t\.parquet, row 1: label {label} is out of range; allowed are 0 to 2"):
        parquet.read(path, SHAPE, CLASSES)


def test_labels_that_are_no_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", image=pngs(pixels(1)), label=["cat"])
    with pytest.raises(DataError, match="column label holds string; labels are whole numbers from 0 to 2"):
        parquet.read(path, SHAPE, CLASSES)


def test_label_names_must_agree(tmp_path: Path) -> None:
    images = pngs(pixels(2))
    fine = write(tmp_path / "fine.parquet", image=images, label=[0, 1], label_name=["ant", "bee hive"])
    assert parquet.read(fine, SHAPE, CLASSES).labels.tolist() == [0, 1]
    other = write(tmp_path / "other.parquet", image=images, label=[0, 1], label_name=["ant", "cat"])
    with pytest.raises(DataError, match=r'other\.parquet, row 1: label 1 is called "cat" but is "bee_hive"'):
        parquet.read(other, SHAPE, CLASSES)


def test_files_that_are_no_image_tables(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("version https://git-lfs")
    with pytest.raises(DataError, match=r"text\.parquet cannot be read as Parquet"):
        parquet.read(tmp_path / "text.parquet", SHAPE, CLASSES)
    with pytest.raises(DataError, match="no column image or img"):
        parquet.read(write(tmp_path / "a.parquet", picture=pngs(pixels(1)), label=[0]), SHAPE, CLASSES)
    with pytest.raises(DataError, match="no column label or fine_label"):
        parquet.read(write(tmp_path / "b.parquet", image=pngs(pixels(1))), SHAPE, CLASSES)
    with pytest.raises(DataError, match="no rows"):
        parquet.read(
            write(tmp_path / "c.parquet", image=pa.array([], pa.binary()), label=pa.array([], pa.int64())),
            SHAPE,
            CLASSES,
        )


def test_a_truncated_file(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", image=pngs(pixels(50)), label=[0] * 50)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"t\.parquet cannot be read as Parquet"):
        parquet.read(path, SHAPE, CLASSES)
