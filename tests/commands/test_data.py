"""`raybench data`: what is there, what is fetched, what is damaged, and all of it without a network of one's own."""

from __future__ import annotations

import gzip
import hashlib
import io
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from raybench.__main__ import main as raybench
from raybench.data import fetching, multi30k
from raybench.data.progress import tell, told


def photos(folder: Path, count: int = 20) -> Path:
    """Two classes of photos."""
    draw = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number in range(count):
            pixels = draw.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


def lines(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> list[str]:
    """What a command says, on stdout where it succeeds and on stderr where not."""
    assert raybench(["data", *arguments]) == code
    captured = capsys.readouterr()
    return (captured.err if code else captured.out).splitlines()


def test_embedded_digits(capsys: pytest.CaptureFixture[str], cache_folder: Path) -> None:
    said = lines(capsys, "check", "digits")
    assert said[0] == "digits (embedded): 1,297 training and 500 test images, 8x8, 1 channel, 10 classes"
    assert said[1].startswith("found embedded in a package; fingerprint ")
    assert said[2] == f"decoded in {cache_folder}/data/digits"
    assert lines(capsys, "get", "digits") == said


def test_photos_of_ones_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    photos(tmp_path / "pets")
    arguments = ["image_folder", "path=pets", "dataset.image_size=16", "--data-root", str(tmp_path)]
    said = lines(capsys, "check", *arguments)
    assert said[0].startswith(
        "image_folder pets (own split (test is a fixed 20% of each class)): 32 training and 8 test"
    )
    assert said[0].endswith("16x16, 3 channels, 2 classes")
    assert said[1].startswith(f"found in {tmp_path}/pets; fingerprint ")


def test_how_far_it_is_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from raybench.data import Request, load

    photos(tmp_path / "pets")
    seen: list[tuple[str, int, int]] = []
    with told(lambda *step: seen.append(step)):
        load(Request("image_folder", path="pets", image_size=12), tmp_path, download=False)
    tell("nobody", 1, 2)
    assert seen == [("decoding the train part", 32, 32), ("decoding the test part", 8, 8)]
    assert capsys.readouterr().err == ""


def test_a_bar_is_drawn_on_a_terminal_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos(tmp_path / "pets")
    monkeypatch.setenv("TERM", "xterm")  # a "dumb" one, as of a cron job, gets no bar
    drawn = io.StringIO()
    terminal = Console(file=drawn, force_terminal=True, width=100)
    monkeypatch.setattr("rich.console.Console", lambda **_: terminal)
    assert raybench(["data", "check", "image_folder", "path=pets", "image_size=10", "--data-root", str(tmp_path)]) == 0
    assert "decoding the train part" in drawn.getvalue()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cifar100"], "cifar100 was not found: looked in "),
        (["multi30k"], "multi30k: train.de.gz, train.en.gz, "),
        (["cifar1000"], 'unknown data set "cifar1000"; did you mean cifar100'),
        (["image_folder", "path=gone", "image_size=8"], "gone is not there"),
        (["image_folder", "image_size=8"], "image_folder needs dataset.path"),
        (["digits", "path=x"], "digits takes no dataset.path"),
        (["digits", "size=8", "image_size=big"], "command line: size=8: must be key=value, and key one of path, "),
        (["copy_task", "image_size=8"], "copy_task holds sentence pairs and takes no image_size"),
    ],
)
def test_what_is_wrong_is_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], said: str
) -> None:
    text = "\n".join(lines(capsys, "check", *arguments, "--data-root", str(tmp_path), code=2))
    assert said in text
    assert list(tmp_path.iterdir()) == []


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and its address on a web server of this machine."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def test_sentences_are_fetched_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("spacy")
    folder, address = served
    for name in multi30k._names():
        (folder / name).write_bytes(gzip.compress(b"Ein Hund lacht.\nZwei Hunde lachen.\n"))
    monkeypatch.setattr(multi30k, "ADDRESS", address)
    root = tmp_path / "data"
    said = lines(capsys, "get", "multi30k", "--data-root", str(root))
    assert said[0].startswith("multi30k (unverified): 2 training, 2 validation, 2 test sentence pairs, ")
    assert sorted(path.name for path in (root / "multi30k").iterdir()) == sorted(multi30k._names())
    monkeypatch.setattr(multi30k, "ADDRESS", "http://127.0.0.1:1/")
    assert lines(capsys, "get", "multi30k", "--data-root", str(root)) == said


def test_a_download_that_fails_leaves_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multi30k, "ADDRESS", served[1])
    text = "\n".join(lines(capsys, "get", "multi30k", "--data-root", str(tmp_path / "data"), code=2))
    assert "multi30k: the download failed (HTTP Error 404: File not found)" in text
    assert "with a browser the six files are had from" in text
    assert list((tmp_path / "data" / "multi30k").iterdir()) == []


def test_a_file_arrives_whole_or_not_at_all(tmp_path: Path, served: tuple[Path, str]) -> None:
    folder, address = served
    content = np.random.default_rng(0).bytes(700_000)
    (folder / "file.bin").write_bytes(content)
    seen: list[tuple[int, int]] = []
    with told(lambda _, done, total: seen.append((done, total))):
        fetching.fetch(address + "file.bin", tmp_path / "file.bin")
    assert hashlib.sha256((tmp_path / "file.bin").read_bytes()).digest() == hashlib.sha256(content).digest()
    assert seen[-1] == (700_000, 700_000)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert len(seen) > 1
    with pytest.raises(OSError, match="404"):
        fetching.fetch(address + "gone.bin", tmp_path / "gone.bin")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.bin", "served"]
