"""Photos in folders of classes: layouts, what is wrong with them, and squares as torchvision would make them."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from raybench.data import ImageData, Request, image_folder, load, photos
from raybench.data.image_folder import Listing, arrange
from raybench.errors import DataError

CLASSES = ("ant", "bee", "cat")


def noise(seed: int, width: int = 20, height: int = 14) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(seed: int, width: int = 20, height: int = 14, **options: Any) -> bytes:
    return encoded(Image.fromarray(noise(seed, width, height)), **options)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def members(parts: tuple[str, ...] = ("train", "val"), each: int = 4) -> dict[str, bytes]:
    """Name -> content; no two images are alike."""
    names = [f"{part}/{name}/{number}.png" for part in parts for name in CLASSES for number in range(each)]
    return {name.removeprefix("/"): png(seed) for seed, name in enumerate(names)}


def write(root: Path, content: dict[str, bytes]) -> Path:
    for name, data in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def pack(path: Path, content: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def opened(path: Path, side: int = 8) -> ImageData:
    return load(Request("image_folder", path=str(path), image_size=side), path.parent)


@pytest.fixture(params=["folder", "zip"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Writes members as a folder or as a zip file."""
    if request.param == "folder":
        return lambda content: write(tmp_path / "photos", content)
    return lambda content: pack(tmp_path / "photos.zip", content)


def by_torchvision(content: bytes, side: int) -> npt.NDArray[np.uint8]:
    from torchvision.transforms.v2 import InterpolationMode, functional

    image = Image.open(io.BytesIO(content)).convert("RGB")
    image = functional.resize(image, [side], InterpolationMode.BICUBIC)
    return np.asarray(functional.center_crop(image, [side, side])).transpose(2, 0, 1)


def test_train_and_val_as_squares_of_torchvision(make: Any) -> None:
    content = members()
    data = opened(make(content))
    assert data.classes == CLASSES
    assert data.variant == "unverified"
    assert (data.train_images.shape, data.test_images.shape) == ((12, 3, 8, 8), (12, 3, 8, 8))
    assert data.train_labels.tolist() == data.test_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    for part, images in (("train", data.train_images), ("val", data.test_images)):
        for image, name in zip(images, sorted(name for name in content if name.startswith(part)), strict=True):
            assert np.array_equal(image, by_torchvision(content[name], 8))


@pytest.mark.parametrize(("width", "height"), [(8, 8), (8, 30), (30, 8), (7, 5), (9, 8), (301, 200)])
def test_any_shape_is_cut_where_torchvision_cuts(width: int, height: int) -> None:
    content = png(1, width, height)
    assert np.array_equal(photos.square(content, 8), by_torchvision(content, 8))


def test_the_order_is_that_of_torchvisions_image_folder(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    names = ("a/2.png", "a/10.png", "a/sub/1.png", "a b/1.png", "B/x.PNG", "B/y.jpeg", "b/1.png", "b/note.txt")
    root = write(tmp_path / "photos", {f"{part}/{name}": png(1) for part in ("train", "val") for name in names})
    theirs = ImageFolder(root / "train")
    found = arrange(image_folder._folder_listing(root), root)
    assert list(found.classes) == theirs.classes
    assert [(str(root / name), label) for name, label in found.train] == theirs.samples


def test_folder_and_zip_are_the_same_data(tmp_path: Path) -> None:
    content = members()
    one, other = opened(write(tmp_path / "photos", content)), opened(pack(tmp_path / "photos.zip", content))
    assert one.fingerprint == other.fingerprint
    assert (one.mean, one.std) == (other.mean, other.std)


def test_mean_and_std_are_those_of_the_training_squares(make: Any) -> None:
    data = opened(make(members()))
    pixels = data.train_images / 255
    assert data.mean == pytest.approx(pixels.mean((0, 2, 3)), abs=5e-5)
    assert data.std == pytest.approx(pixels.std((0, 2, 3)), abs=5e-5)


def test_one_level_of_classes_has_a_fixed_share_cut_for_the_test(make: Any) -> None:
    content = members(("",), each=10)
    data = opened(make(content))
    assert data.variant == "own split (test is a fixed 20% of each class)"
    assert np.bincount(data.test_labels).tolist() == [2, 2, 2]
    assert np.bincount(data.train_labels).tolist() == [8, 8, 8]
    together = {image.tobytes() for image in (*data.train_images, *data.test_images)}
    assert together == {by_torchvision(each, 8).tobytes() for each in content.values()}


def test_another_image_moves_no_other_across_the_cut(tmp_path: Path) -> None:
    names = [f"{name}/{number}.png" for name in CLASSES for number in range(40)]
    before = arrange(Listing(tuple(names), frozenset()), tmp_path)
    after = arrange(Listing((*names, "ant/another.png"), frozenset()), tmp_path)
    # A fifth of 41 is 8 as well, so that at most one image changes sides for the new one.
    assert len(set(before.test) - set(after.test)) <= 1
    skewed = arrange(Listing(("ant/1.png", "ant/2.png", *(f"bee/{n}.png" for n in range(100))), frozenset()), tmp_path)
    assert np.bincount([label for _, label in skewed.test]).tolist() == [1, 20]


def test_train_alone_is_cut_too_and_a_folder_around_is_looked_through(make: Any) -> None:
    content = {f"imagenette2/{name}": data for name, data in members(("train",), each=5).items()}
    data = opened(make(content))
    assert (len(data.train_labels), len(data.test_labels)) == (12, 3)
    assert data.variant.startswith("own split")


def test_a_class_may_be_called_train(make: Any) -> None:
    data = opened(make({f"{name}/{n}.png": png(n) for name in ("bus", "test", "train") for n in range(5)}))
    assert data.classes == ("bus", "test", "train")
    assert data.variant == "own split (test is a fixed 20% of each class)"


@pytest.mark.parametrize("more", [(), ("title.png",)])
def test_parts_without_classes_are_no_classes_themselves(make: Any, more: tuple[str, ...]) -> None:
    names = [f"{part}/cat.{number}.png" for part in ("train", "test") for number in range(5)]
    with pytest.raises(DataError, match="0 folders of classes in train/; at least 2"):
        opened(make({name: png(1) for name in (*names, *more)}))


def test_of_test_and_val_the_labelled_test_counts(make: Any) -> None:
    both = opened(make(members(("train", "val", "test"))))
    assert both.variant == "unverified (val not used)"
    assert np.array_equal(both.test_images[0], by_torchvision(members(("train", "val", "test"))["test/ant/0.png"], 8))


def test_a_test_without_classes_is_left_alone(make: Any) -> None:
    data = opened(make({**members(), "test/1.png": png(5), "test/2.png": png(6)}))
    assert data.variant == "unverified"
    assert len(data.test_labels) == 12


def test_files_that_are_no_images_and_hidden_ones_are_ignored(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    more = {
        "README.md": b"hello",
        "train/ant/notes.txt": b"hello",
        "train/.DS_Store": b"x",
        "__MACOSX/train/ant/._0.png": b"x",
        ".git/train/dog/0.png": b"x",
        "train/ant/.hidden.png": b"x",
        "train/loose.png": png(9),
    }
    with caplog.at_level("INFO"):
        data = opened(make({**members(), **more}))
    assert len(data.train_labels) == 12
    assert "3 files are no images of a class and not used, such as README.md" in caplog.text


MODES = ["L", "CMYK", "RGBA", "P", "LA", "1", "I;16", "RGB"]


@pytest.mark.parametrize("mode", MODES)
def test_every_kind_of_image_becomes_rgb(mode: str) -> None:
    pixels = noise(3, 8, 8)
    if mode == "I;16":
        deep = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
        found = photos.square(encoded(Image.fromarray(deep)), 8)
        assert np.array_equal(found, np.stack([(deep >> 8).astype(np.uint8)] * 3))
        return
    image = Image.fromarray(pixels).convert(mode)
    found = photos.square(encoded(image, "TIFF" if mode == "CMYK" else "PNG"), 8)
    assert np.array_equal(found, np.asarray(image.convert("RGB")).transpose(2, 0, 1))


def test_the_rotation_that_exif_asks_for_is_not_done() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    image = Image.fromarray(noise(3, 8, 8))
    assert np.array_equal(photos.square(encoded(image, exif=exif), 8), np.asarray(image).transpose(2, 0, 1))


def test_few_corrupt_photos_are_left_out_and_said(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    content = members(each=40)
    content["train/bee/7.png"] = content["train/bee/7.png"][:60]
    data = opened(make(content))
    assert data.variant == "unverified without 1 training image (corrupt)"
    assert (len(data.train_labels), len(data.test_labels)) == (119, 120)
    assert data.train_images.shape[0] == 119
    left = [name for name in sorted(content, key=lambda name: name.rpartition("/")[::2]) if name.startswith("train")]
    left.remove("train/bee/7.png")
    for image, name in zip(data.train_images, left, strict=True):
        assert np.array_equal(image, by_torchvision(content[name], 8))
    assert "1 of 120 images are corrupt and left out" in caplog.text
    assert "train/bee/7.png" in caplog.text


def test_more_corrupt_photos_are_an_error_that_names_them(make: Any) -> None:
    content = members(each=40)
    for number in (3, 9, 11, 12, 17, 30):
        content[f"train/bee/{number}.png"] = b"<html>404</html>"
    with pytest.raises(
        DataError, match=r"6 of the first 120 images are corrupt \(.*train/bee/11\.png.*at most 5 of its"
    ):
        opened(make(content))


def test_a_class_that_corruption_emptied(tmp_path: Path) -> None:
    content = {f"{part}/{name}/{n}.png": png(n) for part in ("train", "val") for name in CLASSES for n in range(150)}
    content = {name: data for name, data in content.items() if "train/bee" not in name} | {"train/bee/0.png": b"cut"}
    with pytest.raises(DataError, match="no image of class bee is left in the train part"):
        opened(pack(tmp_path / "photos.zip", content))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _: {"a.txt": b"x"}, r"holds no images; photos \(\.jpg"),
        (lambda _: {"a.png": png(1)}, "0 folders of classes in it; at least 2"),
        (
            lambda c: {n: d for n, d in c.items() if "val/cat" not in n},
            "val has no folder cat, which train",
        ),
        (lambda c: {n: d for n, d in c.items() if "train/ant" not in n}, "train has no folder ant, which val has"),
        (lambda c: {n: d for n, d in c.items() if "ant" in n}, "1 folder of classes in train/; at least 2"),
        (lambda c: {n: d for n, d in c.items() if n.startswith("val")}, "holds val but no train"),
    ],
)
def test_layouts_that_are_none(make: Any, change: Any, words: str) -> None:
    path = make(change(members()))
    with pytest.raises(DataError, match=words):
        opened(path)


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    root = write(tmp_path / "photos", members())
    (root / "train" / "dog").mkdir()
    with pytest.raises(DataError, match="no image in train/dog; each folder of a class needs one"):
        opened(root)
    packed = tmp_path / "photos.zip"
    with zipfile.ZipFile(pack(packed, members()), "a") as archive:
        archive.writestr("train/dog/", b"")
    with pytest.raises(DataError, match="no image in train/dog"):
        opened(packed)


@pytest.mark.parametrize(
    "name", ["../out.png", "/etc/out.png", "train/ant/../../../out.png", "C:/x.png", "a\\..\\b.png"]
)
def test_members_that_point_out_of_the_archive(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="points out of the archive"):
        opened(pack(tmp_path / "photos.zip", {**members(), name: png(1)}))


def test_a_member_that_would_unpack_to_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_folder, "LARGEST_MEMBER", 2**20)
    packed = tmp_path / "photos.zip"
    with zipfile.ZipFile(pack(packed, members()), "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/ant/bomb.png", b"\0" * (2**20 + 1))
    assert packed.stat().st_size < 2**17
    with pytest.raises(DataError, match=r"train/ant/bomb\.png' would unpack to 1 MiB; a photo has at most 1 MiB"):
        opened(packed)


def test_nothing_of_an_archive_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for method in ("extract", "extractall"):
        monkeypatch.setattr(zipfile.ZipFile, method, None)
    opened(pack(tmp_path / "photos.zip", members()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos.zip"]


def test_a_damaged_or_encrypted_archive(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    packed = pack(tmp_path / "photos.zip", members())
    whole = packed.read_bytes()
    packed.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read as a zip file"):
        opened(packed)
    # A flipped bit inside one member: its checksum tells.
    flipped = bytearray(whole)
    flipped[200] ^= 1
    packed.write_bytes(bytes(flipped))
    assert opened(packed).variant == "unverified without 1 training image (corrupt)"
    assert "train/ant/0.png" in caplog.text
    marked = bytearray(whole)
    start = marked.rindex(b"PK\x01\x02")
    marked[start + 8] |= 1
    locked = tmp_path / "locked.zip"
    locked.write_bytes(bytes(marked))
    with pytest.raises(DataError, match="is encrypted; unpack it"):
        opened(locked)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("cut", [slice(0, 12), slice(12, 60)], ids=["head", "body"])
def test_a_member_that_cannot_be_unpacked_is_left_out_and_said(
    tmp_path: Path, compression: int, cut: slice, caplog: pytest.LogCaptureFixture
) -> None:
    packed = pack(tmp_path / "photos.zip", members(), compression)
    with zipfile.ZipFile(packed) as archive:
        begin = archive.getinfo("train/bee/1.png").header_offset + 30 + len("train/bee/1.png")
    damaged = bytearray(packed.read_bytes())
    damaged[begin + cut.start : begin + cut.stop] = b"\xff" * (cut.stop - cut.start)
    packed.write_bytes(damaged)
    assert opened(packed).variant == "unverified without 1 training image (corrupt)"
    assert "train/bee/1.png" in caplog.text


def test_what_is_asked_for_must_be_there(tmp_path: Path) -> None:
    pack(tmp_path / "imagenette.zip", members())
    with pytest.raises(DataError, match=r"imagenete\.zip is not there; did you mean imagenette\.zip\?"):
        opened(tmp_path / "imagenete.zip")
    with pytest.raises(DataError, match=r"image_folder needs dataset\.path"):
        load(Request("image_folder", image_size=8), tmp_path)
    with pytest.raises(DataError, match=r"photos have no size of their own; set dataset\.image_size"):
        load(Request("image_folder", path="imagenette.zip"), tmp_path)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request("cifar10", path="x"), r"cifar10 takes no dataset\.path \(it is x\).*image_folder, parquet"),
        (Request("digits", decode_size=8), r"digits takes no dataset\.decode_size"),
        (Request("image_folder", path="x", test_path="y"), r"takes no dataset\.test_path \(it is y\).*: parquet"),
        (Request("image_folder", path="x", label_column="y"), r"takes no dataset\.label_column"),
    ],
)
def test_options_that_a_data_set_does_not_take(request_: Request, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        load(request_, tmp_path)


def test_image_size_alone_is_no_option_of_other_data() -> None:
    assert load(Request("digits", image_size=16)) is load("digits")


def test_a_changed_file_of_a_folder_is_decoded_again(tmp_path: Path) -> None:
    root = write(tmp_path / "photos", members())
    before = opened(root)
    (root / "train/ant/0.png").write_bytes(png(999))
    assert opened(root) is before  # a process opens a data set once
    from raybench import data

    data._load.cache_clear()
    after = opened(root)
    assert after.fingerprint != before.fingerprint
    assert opened(root, side=9).train_images.shape[-1] == 9


def test_memory_is_that_of_a_block_and_not_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "BLOCK_BYTES", 2**20)
    content = {f"{part}/{name}/{n}.png": png(n, 4, 4) for part in ("train", "val") for name in "ab" for n in range(100)}
    path = pack(tmp_path / "photos.zip", content)
    opened(path, side=4)  # what is imported and remembered once is no part of it
    tracemalloc.start()
    data = opened(path, side=160)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    whole = data.train_images.nbytes + data.test_images.nbytes
    assert whole == 400 * 3 * 160 * 160  # 29 MiB
    assert peak < whole / 4
    assert isinstance(data.train_images, np.memmap)


def test_a_link_to_itself_ends(tmp_path: Path) -> None:
    root = write(tmp_path / "photos", members())
    (root / "train" / "ant" / "again").symlink_to(root)
    assert len(opened(root).train_labels) == 12


def test_real_photos(data_root: Path) -> None:
    path = data_root / "imagenette224_subset.zip"
    if not path.is_file():
        pytest.skip(f"no {path.name} in {data_root}")
    data = load(Request("image_folder", path=path.name, image_size=224), data_root)
    # As the archive's README says: 150 and 50 a class of ten, 36 of the 2,000 greyscale, all of 224x224.
    assert data.classes == (
        "cassette_player",
        "chain_saw",
        "church",
        "english_springer",
        "french_horn",
        "garbage_truck",
        "gas_pump",
        "golf_ball",
        "parachute",
        "tench",
    )
    assert (data.train_images.shape, data.test_images.shape) == ((1500, 3, 224, 224), (500, 3, 224, 224))
    assert np.bincount(data.train_labels).tolist() == [150] * 10
    assert np.bincount(data.test_labels).tolist() == [50] * 10
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.startswith("train/") and name.endswith(".jpg"))
        grey = sum(Image.open(archive.open(name)).mode == "L" for name in archive.namelist() if name.endswith(".jpg"))
        for row in (0, 700, 1499):
            expected = np.asarray(Image.open(archive.open(names[row])).convert("RGB")).transpose(2, 0, 1)
            assert np.array_equal(data.train_images[row], expected)
    assert grey == 36
    same = [(x[0] == x[1]).all() and (x[1] == x[2]).all() for x in (*data.train_images, *data.test_images)]
    assert sum(same) >= grey  # a photo of greys may be stored in colour
    # ImageNet's are (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225), of photos of all kinds.
    assert data.mean == pytest.approx((0.485, 0.456, 0.406), abs=0.04)
    assert data.std == pytest.approx((0.229, 0.224, 0.225), abs=0.08)
