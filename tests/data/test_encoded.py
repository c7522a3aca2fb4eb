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

from raybench.data.encoded import read, tolerated
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
    images = read(write(path / "one.parquet", image=[content], label=[0]), SHAPE, CLASSES[:1]).images
    image: npt.NDArray[np.uint8] = images[0].transpose(1, 2, 0)
    return image


@pytest.mark.parametrize("struct", [False, True])
@pytest.mark.parametrize("names", [("image", "label"), ("img", "fine_label")])
def test_bytes_and_structs_under_both_names(tmp_path: Path, struct: bool, names: tuple[str, str]) -> None:
    expected = pixels(7)
    encoded: list[Any] = [{"bytes": png, "path": None} if struct else png for png in pngs(expected)]
    columns = dict(zip(names, (encoded, [0, 1, 2, 0, 1, 2, 0]), strict=True))
    table = read(write(tmp_path / "t.parquet", **columns), SHAPE, CLASSES)
    assert np.array_equal(table.images, expected.transpose(0, 3, 1, 2))
    assert table.images.flags.c_contiguous
    assert table.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert (table.images.dtype.name, table.labels.dtype.name) == ("uint8", "int64")
    assert (table.official_split, table.official_index) == (None, None)


@pytest.mark.scenario(25)
def test_grey_becomes_rgb(tmp_path: Path) -> None:
    grey = pixels(1, 1)[0, :, :, 0]
    assert np.array_equal(read_one(tmp_path, encode(Image.fromarray(grey))), np.stack([grey] * 3, axis=-1))


def test_sixteen_bit_grey_keeps_its_upper_bits(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 30).reshape(6, 5).astype(np.uint16)
    assert np.array_equal(read_one(tmp_path, encode(Image.fromarray(deep)))[..., 0], deep >> 8)


@pytest.mark.scenario(25)
def test_alpha_is_dropped(tmp_path: Path) -> None:
    rgba = pixels(1, 4)[0]
    assert np.array_equal(read_one(tmp_path, encode(Image.fromarray(rgba))), rgba[..., :3])


def test_palette_with_transparency(tmp_path: Path) -> None:
    palette = Image.fromarray(pixels(1)[0]).quantize(4)
    encoded = encode(palette, transparency=bytes([0, 255, 255, 255]))
    assert np.array_equal(read_one(tmp_path, encoded), np.asarray(palette.convert("RGB")))


@pytest.mark.scenario(25)
def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    cmyk = Image.fromarray(pixels(1)[0]).convert("CMYK")
    assert np.array_equal(read_one(tmp_path, encode(cmyk, "TIFF")), pixels(1)[0])
    # A JPEG stores the inks inverted, and loses some: of one colour it loses least.
    plain = encode(Image.new("RGB", (5, 6), (200, 40, 90)).convert("CMYK"), "JPEG", quality=100)
    assert np.abs(read_one(tmp_path, plain).astype(int) - [200, 40, 90]).max() <= 3


@pytest.mark.scenario(25)
def test_pixels_of_unknown_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"one\.parquet, row 0: .* floating-point numbers"):
        read_one(tmp_path, encode(Image.new("F", (5, 6), 0.5), "TIFF"))


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


HOW = ["cut", "no end", "bit flip", "not an image", "empty", "null"]


@pytest.mark.scenario(25)
@pytest.mark.parametrize("how", HOW)
def test_an_undecodable_image_is_named_by_file_and_row(tmp_path: Path, how: str) -> None:
    images = [*pngs(pixels(2)), damaged(pngs(pixels(1))[0], how)]
    path = write(tmp_path / "damaged.parquet", image=images, label=[0, 1, 2])
    with pytest.raises(DataError, match=r"damaged\.parquet, row 2: "):
        read(path, SHAPE, CLASSES)


@pytest.mark.scenario(25)
def test_few_corrupt_images_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images, labels = pixels(600), [row % 3 for row in range(600)]
    encoded = pngs(images)
    lost = [17 + 90 * number for number in range(len(HOW))]
    for row, how in zip(lost, HOW, strict=True):
        encoded[row] = damaged(encoded[row], how)
    columns = {"label": labels, "official_index": list(range(600)), "official_split": ["train"] * 600}
    path = write(tmp_path / "some.parquet", image=encoded, **columns)
    table = read(path, SHAPE, CLASSES)  # 6 of 600: 1 %, as many as may be
    kept = [row for row in range(600) if row not in lost]
    assert table.corrupt == len(lost)
    assert np.array_equal(table.images, images[kept].transpose(0, 3, 1, 2))
    assert table.labels.tolist() == [labels[row] for row in kept]
    assert (table.official_index, table.official_split) == (tuple(kept), ("train",) * len(kept))
    assert f"{path}: 6 of 600 images are corrupt and left out: rows 17, 107, 197, 287, 377 and 1 more" in caplog.text

    encoded[599] = damaged(encoded[599], "cut")
    write(path, image=encoded, **columns)
    with pytest.raises(DataError) as refused:
        read(path, SHAPE, CLASSES)
    said = f"{path}: 7 of the first 600 images are corrupt (rows 17, 107, 197, 287, 377 and 2 more; row 17: the image "
    assert str(refused.value).startswith(said)
    assert "at most 6 of its 600 images may be" in str(refused.value)


@pytest.mark.scenario(25)
def test_a_class_without_an_image_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", image=pngs(pixels(4)), label=[0, 2, 0, 2])
    with pytest.raises(DataError, match=r"t\.parquet: no image of class 1 \(bee_hive\); each of the 3 classes must"):
        read(path, SHAPE, CLASSES)
    # Also where its only image is corrupt.
    images = [damaged(png, "cut") if row == 7 else png for row, png in enumerate(pngs(pixels(200)))]
    write(path, image=images, label=[1 if row == 7 else 2 * (row % 2) for row in range(200)])
    with pytest.raises(DataError, match=r"no image of class 1 \(bee_hive\)"):
        read(path, SHAPE, CLASSES)


# Up to a quarter of a small set, at most five; then 1 %.
@pytest.mark.parametrize(
    ("count", "may_be"),
    [(1, 0), (3, 0), (4, 1), (16, 4), (20, 5), (40, 5), (500, 5), (599, 5), (600, 6), (50_000, 500)],
)
def test_how_many_may_be_corrupt(count: int, may_be: int) -> None:
    assert tolerated(count) == may_be


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
        read(path, SHAPE, CLASSES)


@pytest.mark.parametrize("label", [3, -1, None])
def test_labels_out_of_range(tmp_path: Path, label: int | None) -> None:
    path = write(tmp_path / "t.parquet", image=pngs(pixels(2)), label=[2, label])
    with pytest.raises(DataError, match=rf"t\.parquet, row 1: label {label} is out of range; allowed are 0 to 2"):
        read(path, SHAPE, CLASSES)


def test_labels_that_are_no_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", image=pngs(pixels(1)), label=["cat"])
    with pytest.raises(DataError, match="column label holds string; labels are whole numbers from 0 to 2"):
        read(path, SHAPE, CLASSES)


def test_label_names_must_agree(tmp_path: Path) -> None:
    images = pngs(pixels(2))
    fine = write(tmp_path / "fine.parquet", image=images, label=[0, 1], label_name=["ant", "bee hive"])
    assert read(fine, SHAPE, CLASSES[:2]).labels.tolist() == [0, 1]
    other = write(tmp_path / "other.parquet", image=images, label=[0, 1], label_name=["ant", "cat"])
    with pytest.raises(DataError, match=r'other\.parquet, row 1: label 1 is called "cat" but is "bee_hive"'):
        read(other, SHAPE, CLASSES)


def test_files_that_are_no_image_tables(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("version https://git-lfs")
    with pytest.raises(DataError, match=r"text\.parquet cannot be read as Parquet"):
        read(tmp_path / "text.parquet", SHAPE, CLASSES)
    with pytest.raises(DataError, match="no column image or img"):
        read(write(tmp_path / "a.parquet", picture=pngs(pixels(1)), label=[0]), SHAPE, CLASSES)
    with pytest.raises(DataError, match="no column label or fine_label"):
        read(write(tmp_path / "b.parquet", image=pngs(pixels(1))), SHAPE, CLASSES)
    with pytest.raises(DataError, match="no rows"):
        read(
            write(tmp_path / "c.parquet", image=pa.array([], pa.binary()), label=pa.array([], pa.int64())),
            SHAPE,
            CLASSES,
        )


def test_a_truncated_file(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", image=pngs(pixels(50)), label=[0] * 50)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"t\.parquet cannot be read as Parquet"):
        read(path, SHAPE, CLASSES)
