"""The two CIFARs: real files of the data folder, and small generated ones in each layout."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raybench.data import cifar10, cifar100, load
from raybench.data.cifar import Cifar, variant
from raybench.data.encoded import ImageTable
from raybench.errors import DataError

BOTH = [cifar10.CIFAR, cifar100.CIFAR]
ROWS = {"train": 120, "test": 100}


def generated(part: str, classes: int) -> tuple[Any, list[int]]:
    """Noise images uint8 (N, 32, 32, 3) and labels 0, 1, 2, ..."""
    rows = ROWS[part]
    images = np.random.default_rng(rows).integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)
    return images, [row % classes for row in range(rows)]


def classes_of(name: str) -> int:
    return {"cifar10": 10, "cifar100": 100}[name]


def png(image: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def write_parquet(root: Path, name: str, parts: tuple[str, ...] = ("train", "test"), corrupt: int = 0) -> None:
    """The first `corrupt` images of each part are cut short."""
    for part in parts:
        images, labels = generated(part, classes_of(name))
        encoded = [png(image)[: 100 if row < corrupt else None] for row, image in enumerate(images)]
        columns = {"image": encoded, "label": labels, "official_index": list(range(len(labels)))}
        pq.write_table(pa.table(columns), root / f"{name}_{part}.parquet")


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def write_torchvision(root: Path, cifar: Cifar, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny folder in torchvision's layout; the class is told its checksums, the reading stays torchvision's own."""
    import torchvision.datasets

    data_set = getattr(torchvision.datasets, cifar.torchvision_class)
    folder = root / cifar.folder
    folder.mkdir(parents=True)
    key = "labels" if cifar.name == "cifar10" else "fine_labels"
    for part, files in (("train", data_set.train_list), ("test", data_set.test_list)):
        images, labels = generated(part, len(cifar.classes))
        sums = []
        for number, (file, _) in enumerate(files):
            rows = slice(number * len(labels) // len(files), (number + 1) * len(labels) // len(files))
            flat = images[rows].transpose(0, 3, 1, 2).reshape(-1, 3072)
            (folder / file).write_bytes(pickle.dumps({"data": flat, key: labels[rows]}))
            sums.append([file, md5(folder / file)])
        monkeypatch.setattr(data_set, f"{part}_list", sums)
    meta = folder / data_set.meta["filename"]
    meta.write_bytes(pickle.dumps({data_set.meta["key"]: list(cifar.classes)}))
    monkeypatch.setattr(data_set, "meta", {**data_set.meta, "md5": md5(meta)})
    return folder


def check_generated(name: str, root: Path, expected_variant: str) -> None:
    data = load(name, root, download=False)
    for part, images, labels in (
        ("train", data.train_images, data.train_labels),
        ("test", data.test_images, data.test_labels),
    ):
        expected_images, expected_labels = generated(part, classes_of(name))
        assert np.array_equal(images, expected_images.transpose(0, 3, 1, 2))
        assert labels.tolist() == expected_labels
    assert data.variant == expected_variant


@pytest.mark.parametrize("cifar", BOTH, ids=lambda cifar: cifar.name)
def test_parquet(tmp_path: Path, cifar: Cifar) -> None:
    write_parquet(tmp_path, cifar.name)
    check_generated(cifar.name, tmp_path, "subset of official")


@pytest.mark.parametrize("cifar", BOTH, ids=lambda cifar: cifar.name)
def test_torchvision_layout(tmp_path: Path, cifar: Cifar, monkeypatch: pytest.MonkeyPatch) -> None:
    write_torchvision(tmp_path, cifar, monkeypatch)
    check_generated(cifar.name, tmp_path, "official")


def test_half_a_parquet_pair_falls_back_to_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path, "cifar10", parts=("train",))
    with pytest.raises(DataError, match=r"only cifar10_train\.parquet is there"):
        load("cifar10", tmp_path)
    write_torchvision(tmp_path, cifar10.CIFAR, monkeypatch)
    check_generated("cifar10", tmp_path, "official")


@pytest.mark.scenario(25)
def test_images_left_out_are_counted_in_the_variant(tmp_path: Path) -> None:
    write_parquet(tmp_path, "cifar10", corrupt=1)
    data = load("cifar10", tmp_path, download=False)
    assert (len(data.train_labels), len(data.test_labels)) == (ROWS["train"] - 1, ROWS["test"] - 1)
    assert data.variant == "subset of official without 1 training and 1 test images (corrupt)"
    (tmp_path / "whole").mkdir()
    write_parquet(tmp_path / "whole", "cifar10")
    whole = load("cifar10", tmp_path / "whole", download=False)
    assert whole.variant == "subset of official"
    assert whole.fingerprint != data.fingerprint  # trials on the one are not trials on the other
    (tmp_path / "worse").mkdir()
    write_parquet(tmp_path / "worse", "cifar10", corrupt=6)
    with pytest.raises(DataError, match=r"cifar10_train\.parquet: 6 of the first 6 images are corrupt \(rows 0, 1, 2"):
        load("cifar10", tmp_path / "worse", download=False)


@pytest.mark.scenario(28)
@pytest.mark.parametrize("damage", ["changed", "absent"])
def test_a_damaged_torchvision_folder_is_never_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    folder = write_torchvision(tmp_path, cifar10.CIFAR, monkeypatch)
    bomb = tmp_path / "unpickled"
    if damage == "changed":
        (folder / "data_batch_3").write_bytes(
            b"cbuiltins\nopen\n(X" + len(str(bomb)).to_bytes(4, "little") + str(bomb).encode() + b"X\x01\0\0\0wtR."
        )
    else:
        (folder / "data_batch_3").unlink()
    with pytest.raises(DataError, match=r"cifar-10-batches-py is incomplete or not the official release.*--data-root"):
        load("cifar10", tmp_path, download=False)
    assert not bomb.exists()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and its address on a web server of this machine."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def pack(tmp_path: Path, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive such as torchvision downloads."""
    import torchvision.datasets

    write_torchvision(tmp_path / "made", cifar100.CIFAR, monkeypatch)
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(tmp_path / "made" / "cifar-100-python", "cifar-100-python")
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "tgz_md5", md5(packed))


def test_download(tmp_path: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    folder, address = served
    pack(tmp_path, folder / "packed.tar.gz", monkeypatch)
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "url", f"{address}/packed.tar.gz")
    root = tmp_path / "new" / "data"
    assert load("cifar100", root).variant == "official"
    assert [path.name for path in root.iterdir()] == ["cifar-100-python"]
    check_generated("cifar100", root, "official")


def test_an_archive_that_lies_in_the_data_root_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.datasets

    root = tmp_path / "data"
    root.mkdir()
    archive = root / torchvision.datasets.CIFAR100.filename
    pack(tmp_path, archive, monkeypatch)
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "url", "http://127.0.0.1:1/packed.tar.gz")
    content = archive.read_bytes()
    archive.write_bytes(content[:-9])
    with pytest.raises(DataError, match=f"{archive} is damaged or another file .*; fetch it again"):
        load("cifar100", root)
    archive.write_bytes(content)
    assert load("cifar100", root).variant == "official"
    assert sorted(path.name for path in root.iterdir()) == ["cifar-100-python", archive.name]
    assert archive.read_bytes() == content
    check_generated("cifar100", root, "official")


@pytest.mark.parametrize("sent", ["nothing", "other bytes"])
def test_what_was_looked_for_is_said(
    tmp_path: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, sent: str
) -> None:
    import torchvision.datasets

    folder, address = served
    if sent == "other bytes":
        (folder / "packed.tar.gz").write_text("<html>Please log in</html>")
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "url", f"{address}/packed.tar.gz")
    with pytest.raises(DataError) as caught:
        load("cifar100", tmp_path / "data")
    text = str(caught.value)
    for part in (str(tmp_path / "data"), "cifar100_train.parquet", "cifar100_test.parquet", "cifar-100-python"):
        assert part in text
    assert "the download failed" in text
    assert "--data-root DIR" in text
    assert text.endswith("--preset quick")
    assert list((tmp_path / "data").iterdir()) == []


def test_without_a_data_root_it_is_looked_for_in_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    write_parquet(tmp_path / "data", "cifar10")
    assert len(load("cifar10", None, download=False).train_images) == ROWS["train"]


@pytest.mark.parametrize("cifar", BOTH, ids=lambda cifar: cifar.name)
def test_folder_is_what_torchvision_calls_it(cifar: Cifar) -> None:
    import torchvision.datasets

    assert getattr(torchvision.datasets, cifar.torchvision_class).base_folder == cifar.folder


def table(rows: Any, split: Any = None) -> ImageTable:
    nothing = np.empty(0)
    index = None if rows is None else tuple(rows)
    return ImageTable(nothing, nothing, None if split is None else tuple(split), index, corrupt=0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        (table(range(50_000)), table(range(10_000)), "official"),
        (table(range(50_000)), table(range(9_999)), "subset of official"),
        (table([0, 4]), table([1]), "subset of official"),
        (table([0, 4], ["train"] * 2), table([1], ["test"]), "subset of official"),
        (table([0, 4], ["train", "test"]), table([1], ["test"]), "own split"),
        (table([0, -1], ["train", "unknown"]), table([1], ["test"]), "own split"),
        (table([0, 4]), table([1], [None]), "own split"),
        (table(None), table(None), "unverified"),
        (table([0, 0]), table([1]), "unverified"),
        (table([0, 50_000]), table([1]), "unverified"),
        (table([0, None]), table([1]), "unverified"),
    ],
)
def test_variant(train: ImageTable, test: ImageTable, expected: str) -> None:
    assert variant({"train": train, "test": test}) == expected


@pytest.mark.parametrize(
    ("cifar", "expected"), [(BOTH[0], "subset of official"), (BOTH[1], "own split")], ids=["10", "100"]
)
def test_real_files(data_root: Path, cifar: Cifar, expected: str) -> None:
    paths = {part: data_root / f"{cifar.name}_{part}.parquet" for part in ROWS}
    if not all(path.is_file() for path in paths.values()):
        pytest.skip(f"no {cifar.name}_*.parquet in {data_root}")
    data = load(cifar.name, data_root, download=False)
    assert data.variant == expected
    assert (data.train_images.shape, data.test_images.shape) == ((20_000, 3, 32, 32), (5_000, 3, 32, 32))
    each = 20_000 // len(cifar.classes)
    assert np.bincount(data.train_labels).tolist() == [each] * len(cifar.classes)
    for part, images, labels in (
        ("train", data.train_images, data.train_labels),
        ("test", data.test_images, data.test_labels),
    ):
        rows = next(pq.ParquetFile(paths[part]).iter_batches(batch_size=5)).to_pydict()
        for row in range(5):
            expected_pixels = np.asarray(Image.open(io.BytesIO(rows["image"][row])))
            assert np.array_equal(images[row].transpose(1, 2, 0), expected_pixels)
            assert labels[row] == rows["label"][row]
            assert data.classes[labels[row]] == rows["label_name"][row]
    pixels = data.train_images[::5].astype(np.float64) / 255
    # The constants are of 50,000 images, these are 4,000: means of images spread by 0.12, so 0.008 is four errors.
    assert np.allclose(pixels.mean((0, 2, 3)), data.mean, rtol=0, atol=0.008)
    assert np.allclose(pixels.std((0, 2, 3)), data.std, rtol=0, atol=0.008)
