from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import raybench
from raybench.data import cache, load, names
from raybench.data.source import Decoded, Source
from raybench.errors import DataError

DECODING = """
import sys, time
from pathlib import Path
import numpy as np
from raybench.data.cache import open_decoded
from raybench.data.source import Decoded, Source

log, seconds = Path(sys.argv[1]), float(sys.argv[2])
def decode(folder):
    with log.open("a") as file:
        file.write("decoded ")
    time.sleep(seconds)
    images = np.arange(3 * 48, dtype=np.uint8).reshape(3, 3, 4, 4)
    return Decoded(images, np.arange(3), images[:1], np.arange(1), "official")

print(open_decoded(Source("shared", ("a", "b", "c"), (0.0,), (1.0,), (), "test", decode)).fingerprint)
"""


def decoded(value: int = 0) -> Decoded:
    images = np.full((4, 1, 2, 2), value, dtype=np.uint8)
    return Decoded(images, np.arange(4), images[:2], np.arange(2), "official")


class Counted:
    """A decoder that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, _folder: Path) -> Decoded:
        self.calls += 1
        return decoded(self.calls)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def source(decode: Callable[[Path], Decoded], *files: Path, layout: str = "test") -> Source:
    return Source("made", ("a", "b", "c", "d"), (0.5,), (0.5,), files, layout, decode)


def processes(own_cache: Path, log: Path, seconds: float, count: int) -> list[subprocess.Popen[str]]:
    environment = {
        **os.environ,
        "RAYBENCH_CACHE": str(own_cache),
        "PYTHONPATH": str(Path(raybench.__file__).parents[1]),
    }
    command = [sys.executable, "-W", "error", "-c", DECODING, str(log), str(seconds)]
    return [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(count)]


def test_decoded_once_then_opened(own_cache: Path) -> None:
    decode = Counted()
    first, second = (cache.open_decoded(source(decode)) for _ in range(2))
    assert decode.calls == 1
    assert np.array_equal(second.train_images, np.full((4, 1, 2, 2), 1))
    assert isinstance(second.train_images, np.memmap)
    assert first.fingerprint == second.fingerprint
    assert (own_cache / "data" / "made").is_dir()


@pytest.mark.usefixtures("own_cache")
def test_another_content_is_decoded_again_and_the_same_elsewhere_is_not(tmp_path: Path) -> None:
    decode, file = Counted(), tmp_path / "file.bin"
    file.write_bytes(b"one")
    cache.open_decoded(source(decode, file))
    moved = tmp_path / "elsewhere" / "file.bin"
    moved.parent.mkdir()
    file.rename(moved)
    cache.open_decoded(source(decode, moved))
    assert decode.calls == 1
    moved.write_bytes(b"two")
    cache.open_decoded(source(decode, moved))
    assert decode.calls == 2
    cache.open_decoded(source(decode, moved, layout="another"))
    assert decode.calls == 3


@pytest.mark.usefixtures("own_cache")
def test_an_unchanged_file_is_hashed_once(tmp_path: Path) -> None:
    decode, file = Counted(), tmp_path / "file.bin"
    file.write_bytes(b"one")
    long_ago = time.time_ns() - 10 * cache.SETTLED_NS
    os.utime(file, ns=(long_ago, long_ago))
    cache.open_decoded(source(decode, file))
    file.write_bytes(b"two")
    os.utime(file, ns=(long_ago, long_ago))  # what nobody does by accident: shows that the file was not read
    cache.open_decoded(source(decode, file))
    assert decode.calls == 1


@pytest.mark.usefixtures("own_cache")
def test_a_fresh_file_changed_within_a_tick_of_the_clock_is_noticed(tmp_path: Path) -> None:
    decode, file = Counted(), tmp_path / "file.bin"
    file.write_bytes(b"one")
    state = file.stat()
    cache.open_decoded(source(decode, file))
    file.write_bytes(b"two")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    cache.open_decoded(source(decode, file))
    assert decode.calls == 2


@pytest.mark.parametrize("damage", ["cut", "absent", "no about"])
def test_a_damaged_folder_is_made_again(own_cache: Path, damage: str) -> None:
    decode = Counted()
    cache.open_decoded(source(decode))
    (images,) = own_cache.glob("data/made/*/train_images.npy")
    if damage == "cut":
        images.write_bytes(images.read_bytes()[:-5])
    elif damage == "absent":
        images.unlink()
    else:
        (images.parent / "about.json").write_text("{")
    assert np.array_equal(cache.open_decoded(source(decode)).train_images, np.full((4, 1, 2, 2), 2))
    assert decode.calls == 2


def test_a_write_reaches_no_other_reader(own_cache: Path) -> None:
    first = cache.open_decoded(source(Counted()))
    first.train_images[:] = 77
    assert int(cache.open_decoded(source(Counted())).train_images.max()) == 1
    assert own_cache.is_dir()


def test_of_two_processes_one_decodes(own_cache: Path, tmp_path: Path) -> None:
    both = processes(own_cache, tmp_path / "log", seconds=1.0, count=2)
    answers = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len(set(answers)) == 1
    assert len(answers[0].strip()) == 12
    assert (tmp_path / "log").read_text() == "decoded "


def test_a_killed_process_blocks_nobody(own_cache: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    (hanging,) = processes(own_cache, log, seconds=600, count=1)
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    hanging.send_signal(signal.SIGKILL)
    hanging.communicate(timeout=60)
    (next_one,) = processes(own_cache, log, seconds=0, count=1)
    assert len(next_one.communicate(timeout=60)[0].strip()) == 12
    assert log.read_text() == "decoded decoded "


def test_leftovers_of_a_killed_process_are_cleared(own_cache: Path) -> None:
    cache.open_decoded(source(Counted()))
    (target,) = (path.parent for path in own_cache.glob("data/made/*/about.json"))
    partial = target.with_name(f".{target.name}.partial")
    target.rename(partial)
    cache.open_decoded(source(Counted()))
    assert target.is_dir()
    assert not partial.exists()


@pytest.mark.usefixtures("own_cache")
def test_a_failing_decoder_leaves_its_own_error(tmp_path: Path) -> None:
    def decode(_folder: Path) -> Decoded:
        raise DataError("row 3 is broken")

    with pytest.raises(DataError, match="row 3 is broken"):
        cache.open_decoded(source(decode))
    with pytest.raises(DataError, match=r"absent\.bin cannot be read: No such file"):
        cache.open_decoded(source(decode, tmp_path / "absent.bin"))


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAYBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot be kept in .*RAYBENCH_CACHE"):
        cache.open_decoded(source(Counted()))


def test_fingerprint_sees_values_labels_shapes_and_order() -> None:
    plain = decoded(3)
    others = [
        replace(plain, train_images=plain.train_images + np.uint8(1)),
        replace(plain, train_images=plain.train_images.reshape(4, 1, 1, 4)),
        replace(plain, train_labels=plain.train_labels[::-1]),
        replace(plain, test_labels=plain.test_labels + 1),
        replace(plain, train_images=plain.train_images[:3], train_labels=plain.train_labels[:3]),
    ]
    prints = {cache.fingerprint(one) for one in [plain, *others]}
    assert len(prints) == 6
    assert cache.fingerprint(decoded(3)) in prints
    assert cache.fingerprint(replace(plain, variant="own split")) == cache.fingerprint(plain)


def test_within_a_process_a_data_set_is_opened_once() -> None:
    assert load("digits") is load("digits")


def test_names_are_the_modules_that_load() -> None:
    assert names("image") == ("cifar10", "cifar100", "digits", "image_folder", "parquet", "patches")
    assert names("text") == ("copy_task", "multi30k")


def test_an_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(DataError, match='unknown data set "cifar-10"; did you mean cifar10'):
        load("cifar-10")


def test_importing_the_registry_needs_no_torch() -> None:
    code = "import sys, raybench.data as d; d.names(); sys.exit('torch' in sys.modules or 'PIL' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(raybench.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
