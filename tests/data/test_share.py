"""Data that lie on one machine of a cluster: the others copy them, decoded, from the depot, once each."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raybench.data import Request, load, share
from raybench.errors import DataError
from raybench.results.depot import Depot


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve images of two classes."""
    for number in range(12):
        part, name = ("train", "val")[number % 3 == 2], ("ant", "bee")[number % 2]
        path = tmp_path / "data" / "photos" / part / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(path)
    return tmp_path / "data"


def test_a_machine_without_the_files_copies_the_decoded_data(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request("image_folder", path="photos", image_size=8)
    monkeypatch.setenv("RAYBENCH_DEPOT", str(tmp_path / "depot"))
    monkeypatch.setenv("RAYBENCH_CACHE", str(tmp_path / "first"))
    here = load(request, photos)
    share(request, photos)
    share(request, photos)  # again, to no effect
    shutil.rmtree(photos)

    monkeypatch.setenv("RAYBENCH_CACHE", str(tmp_path / "second"))
    with pytest.raises(DataError):
        load(request, photos)
    with pytest.raises(DataError):
        load(request, photos, fingerprint="0" * 12)
    copied: list[str] = []
    fetch = Depot.fetch

    def counted(depot: Depot, name: str, folder: Path) -> bool:
        copied.append(name)
        return fetch(depot, name, folder)

    monkeypatch.setattr(Depot, "fetch", counted)
    with ThreadPoolExecutor(4) as threads:  # trials that begin at once
        found = list(
            threads.map(lambda place: load(request, tmp_path / place, fingerprint=here.fingerprint), ["a", "b", "c"])
        )
    assert len(copied) == 1
    for there in found:
        assert (there.name, there.classes, there.fingerprint) == (here.name, here.classes, here.fingerprint)
        assert (there.mean, there.std, there.variant) == (here.mean, here.std, here.variant)
        for name in ("train_images", "train_labels", "test_images", "test_labels"):
            assert np.array_equal(getattr(there, name), getattr(here, name))


def test_what_is_embedded_is_not_brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYBENCH_DEPOT", str(tmp_path / "depot"))
    monkeypatch.setenv("RAYBENCH_CACHE", str(tmp_path / "first"))
    share(Request("digits"), None)
    assert not (tmp_path / "depot").exists()


def test_a_copy_of_other_data_is_refused(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request("image_folder", path="photos", image_size=8)
    monkeypatch.setenv("RAYBENCH_DEPOT", str(tmp_path / "depot"))
    monkeypatch.setenv("RAYBENCH_CACHE", str(tmp_path / "first"))
    share(request, photos)
    data = tmp_path / "depot" / "data"
    (brought,) = data.iterdir()
    brought.rename(data / f"image_folder-{'0' * 12}")
    shutil.rmtree(photos)
    monkeypatch.setenv("RAYBENCH_CACHE", str(tmp_path / "second"))
    with pytest.raises(DataError, match="holds other data than its name says"):
        load(request, photos, fingerprint="0" * 12)
