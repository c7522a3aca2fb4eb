"""Photos in Parquet files of any name, and folders as the Hugging Face hub keeps them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raybench.data import ImageData, Request, load, photos
from raybench.errors import DataError

NAMES = ("ant", "bee", "cat")


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def write(
    path: Path, labels: list[Any], start: int = 0, label: str = "label", struct: bool = True, **more: Any
) -> Path:
    """A file with a photo for each label; `hub` in `more` names the classes as the hub does."""
    hub = more.pop("hub", None)
    encoded = [png(start + row) for row in range(len(labels))]
    images: list[Any] = [{"bytes": each, "path": None} for each in encoded] if struct else encoded
    table = pa.table({"image": images, label: labels, **more})
    if hub:
        about = {"info": {"features": {label: {"names": list(hub), "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=4)
    return path


def opened(root: Path, path: str, **options: Any) -> ImageData:
    return load(Request("parquet", path=path, image_size=8, **options), root)


def squares(start: int, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.stack([photos.square(png(start + row), 8) for row in range(count)])


@pytest.mark.parametrize("struct", [True, False])
@pytest.mark.parametrize("label", ["label", "labels", "fine_label", "class", "target"])
def test_a_file_for_each_part(tmp_path: Path, struct: bool, label: str) -> None:
    write(tmp_path / "some_train.parquet", [2, 0, 1, 1], label=label, struct=struct)
    write(tmp_path / "some_test.parquet", [1, 2, 0], start=50, label=label, struct=struct)
    data = opened(tmp_path, "some_train.parquet", test_path="some_test.parquet")
    assert np.array_equal(data.train_images, squares(0, 4))
    assert np.array_equal(data.test_images, squares(50, 3))
    assert (data.train_labels.tolist(), data.test_labels.tolist()) == ([2, 0, 1, 1], [1, 2, 0])
    assert (data.classes, data.variant) == (("0", "1", "2"), "unverified")


def test_a_pattern_of_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "sub" / f"some_train-{number}.parquet", [0, 1], start=2 * number)
    write(tmp_path / "test.parquet", [0, 1], start=50)
    relative = opened(tmp_path, "sub/some_train*.parquet", test_path="test.parquet")
    assert np.array_equal(relative.train_images, squares(0, 6))
    absolute = opened(tmp_path, str(tmp_path / "sub/some_train*.parquet"), test_path="test.parquet")
    assert absolute.fingerprint == relative.fingerprint


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("data/train-0000{}-of-00002.parquet", "data/validation-00000-of-00001.parquet"),
        ("train-0000{}-of-00002.parquet", "test-00000-of-00001.parquet"),
        ("default/train/000{}.parquet", "default/test/0000.parquet"),
        ("animals{}_train.parquet", "animals_test.parquet"),
    ],
)
def test_folders_as_the_hub_keeps_them(tmp_path: Path, train: str, test: str) -> None:
    for number in range(2):
        write(tmp_path / "hub" / train.format(number), [0, 1, 2], start=3 * number, hub=NAMES)
    write(tmp_path / "hub" / test, [2, 1, 0], start=50, hub=NAMES)
    data = opened(tmp_path, "hub")
    assert data.classes == NAMES
    assert np.array_equal(data.train_images, squares(0, 6))
    assert np.array_equal(data.test_images, squares(50, 3))


def test_a_test_set_without_labels_gives_way_to_validation(tmp_path: Path) -> None:
    # As ImageNet's on the hub, whose test labels are all -1.
    write(tmp_path / "hub/train-0.parquet", [0, 1, 2], hub=NAMES)
    write(tmp_path / "hub/test-0.parquet", [-1, -1], start=30, hub=NAMES)
    write(tmp_path / "hub/validation-0.parquet", [2, 1, 0], start=50, hub=NAMES)
    assert opened(tmp_path, "hub").test_labels.tolist() == [2, 1, 0]


def test_without_test_images_a_fixed_share_is_cut(tmp_path: Path) -> None:
    labels = [row % 3 for row in range(60)]
    write(tmp_path / "some.parquet", labels)
    data = opened(tmp_path, "some.parquet")
    assert data.variant == "own split (test is a fixed 20% of each class)"
    assert np.bincount(data.test_labels).tolist() == [4, 4, 4]
    everything = {image.tobytes(): label for image, label in zip(squares(0, 60), labels, strict=True)}
    for images, own in ((data.train_images, data.train_labels), (data.test_images, data.test_labels)):
        assert [everything.pop(image.tobytes()) for image in images] == own.tolist()
    assert not everything


def test_labels_of_text_and_of_any_numbers(tmp_path: Path) -> None:
    write(tmp_path / "text.parquet", ["dog", "ant", "dog", "ant"])
    write(tmp_path / "test.parquet", ["ant", "dog"])
    text = opened(tmp_path, "text.parquet", test_path="test.parquet")
    assert (text.classes, text.train_labels.tolist()) == (("ant", "dog"), [1, 0, 1, 0])
    write(tmp_path / "numbers.parquet", [7, 3, 7, 12])
    write(tmp_path / "others.parquet", [12, 7, 3])
    numbers = opened(tmp_path, "numbers.parquet", test_path="others.parquet")
    assert (numbers.classes, numbers.train_labels.tolist()) == (("3", "7", "12"), [1, 0, 1, 2])
    dictionary = pa.table({"image": [png(n) for n in range(4)], "label": pa.array(list("abab")).dictionary_encode()})
    pq.write_table(dictionary, tmp_path / "dictionary.parquet")
    assert opened(tmp_path, "dictionary.parquet").classes == ("a", "b")


def test_names_beside_the_numbers(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [1, 0, 2, 1, 0, 2], label_name=["bee", "ant", "cat", "bee", "ant", "cat"])
    assert opened(tmp_path, "a.parquet").classes == NAMES


def test_the_label_column_may_be_named(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [0, 1] * 5, coarse=["x", "y"] * 5)
    assert opened(tmp_path, "a.parquet", label_column="coarse").classes == ("x", "y")
    with pytest.raises(DataError, match=r"no column fine for the label, or name .*there are image, label, coarse"):
        opened(tmp_path, "a.parquet", label_column="fine")


def test_few_corrupt_rows_are_left_out_and_more_are_named(tmp_path: Path) -> None:
    encoded = [png(row) for row in range(200)]
    labels = [row % 2 for row in range(200)]
    write(tmp_path / "test.parquet", [0, 1])
    for lost, path in (((7, 150), "few.parquet"), ((7, *range(150, 155)), "many.parquet")):
        damaged: list[Any] = [None if row in lost else each for row, each in enumerate(encoded)]
        pq.write_table(pa.table({"image": damaged, "label": labels}), tmp_path / path)
    data = opened(tmp_path, "few.parquet", test_path="test.parquet")
    assert data.variant == "unverified without 2 training images (corrupt)"
    kept = [row for row in range(200) if row not in (7, 150)]
    assert data.train_labels.tolist() == [labels[row] for row in kept]
    assert np.array_equal(data.train_images, squares(0, 200)[kept])
    with pytest.raises(DataError, match=r"6 of the first 200 images are corrupt \(many\.parquet, row 7, many"):
        opened(tmp_path, "many.parquet", test_path="test.parquet")


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        ([0, 1, None], [0, 1], r"row 2: label None is no class of the training images \(0, 1\)"),
        ([0, 1], [0, 2], r"test\.parquet, row 1: label 2 is no class"),
        ([0, 1, 1], [1, 1], "no image of class 0 is left in the test part"),
        ([0, 0], [0], "1 class; at least 2 are needed"),
        ([0.5, 1.0], [0.5], "column label holds double; labels are whole numbers or text"),
        ([], [0], "has no rows|holds null"),
    ],
)
def test_labels_that_are_none(tmp_path: Path, train: list[Any], test: list[Any], words: str) -> None:
    write(tmp_path / "train.parquet", train)
    write(tmp_path / "test.parquet", test, start=50)
    with pytest.raises(DataError, match=words):
        opened(tmp_path, "train.parquet", test_path="test.parquet")


def test_classes_named_in_another_order(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [0, 1, 2], hub=NAMES)
    write(tmp_path / "test.parquet", [0, 1, 2], start=50, hub=NAMES[::-1])
    with pytest.raises(DataError, match="named or ordered in another way"):
        opened(tmp_path, "train.parquet", test_path="test.parquet")


def test_files_that_are_not_there_or_no_tables(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [0, 1])
    with pytest.raises(DataError, match=r"trian\.parquet is not there; did you mean train\.parquet"):
        opened(tmp_path, "trian.parquet")
    with pytest.raises(DataError, match=r"no file matches .*other_\*\.parquet"):
        opened(tmp_path, "other_*.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no train-\*\.parquet"):
        opened(tmp_path, "empty")
    (tmp_path / "text.parquet").write_text("version https://git-lfs")
    with pytest.raises(DataError, match=r"text\.parquet cannot be read as Parquet"):
        opened(tmp_path, "text.parquet")
    with pytest.raises(DataError, match=r"train\.parquet is in dataset\.path and in dataset\.test_path"):
        opened(tmp_path, "train.parquet", test_path="t*.parquet")
    pq.write_table(pa.table({"picture": ["0.png"], "label": [0]}), tmp_path / "named.parquet")
    with pytest.raises(DataError, match="no column image or img or jpg or jpeg or png for the image"):
        opened(tmp_path, "named.parquet")


def test_the_real_cifar_files_read_as_any_others(data_root: Path) -> None:
    path = data_root / "cifar10_test.parquet"
    if not path.is_file():
        pytest.skip(f"no {path.name} in {data_root}")
    data = load(Request("parquet", path=path.name, image_size=32), data_root)
    official = load("cifar10", data_root, download=False)
    assert data.classes == official.classes
    assert np.bincount(data.test_labels).tolist() == [100] * 10
    # Photos of the very size keep their pixels.
    theirs = {image.tobytes() for image in official.test_images}
    assert {image.tobytes() for image in (*data.train_images, *data.test_images)} == theirs


@pytest.mark.parametrize("struct", [True, False])
def test_the_only_column_of_bytes_is_the_image_whatever_its_name(tmp_path: Path, struct: bool) -> None:
    path = write(tmp_path / "a.parquet", [0, 1] * 5, struct=struct, id=[str(row) for row in range(10)])
    table = pq.read_table(path)
    renamed = table.rename_columns(["scan" if name == "image" else name for name in table.column_names])
    pq.write_table(renamed, path)
    assert len(opened(tmp_path, "a.parquet").train_images) == 8
    pq.write_table(renamed.append_column("mask", pa.array([b"x"] * 10)), tmp_path / "two.parquet")
    with pytest.raises(
        DataError, match=r"2 columns of bytes \(scan, mask\) \(there are scan, label, id, mask\); rename"
    ):
        opened(tmp_path, "two.parquet")


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (pa.array([False, True] * 5), ("0", "1")),
        (pa.array(["cat", "dog"] * 5, pa.string_view()), ("cat", "dog")),
        (pa.array(["cat", "dog"] * 5, pa.large_string()), ("cat", "dog")),
    ],
)
def test_labels_of_other_types(tmp_path: Path, labels: Any, classes: tuple[str, ...]) -> None:
    write(tmp_path / "a.parquet", labels)
    data = opened(tmp_path, "a.parquet")
    assert data.classes == classes
    assert sorted(data.train_labels.tolist()) == [0] * 4 + [1] * 4
