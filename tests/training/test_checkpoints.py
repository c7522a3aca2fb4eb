"""Checkpoints: whole or absent, the newest that can be read, and never code."""

from __future__ import annotations

import io
import logging
import pickle
import random
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import safe_open

from raybench.errors import ResultsError
from raybench.training.checkpoints import Checkpoints, latest_epoch, seal

if TYPE_CHECKING:
    from conftest import Processes  # type: ignore[import-not-found]


def state(epoch: int, floats: int = 10) -> dict[str, Any]:
    return {"epoch": epoch, "model": {"weight": torch.full((floats,), float(epoch))}, "rng": torch.get_rng_state()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def epoch_of(found: dict[str, Any] | None) -> int | None:
    return None if found is None else found["epoch"]


def test_gives_back_what_was_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "new" / "folder")
    assert checkpoints.newest() is None
    checkpoints.save(state(3))
    found = checkpoints.newest()
    assert found is not None
    assert torch.equal(found["model"]["weight"], torch.full((10,), 3.0))
    assert torch.equal(found["rng"], state(3)["rng"])


def test_keeps_the_last_two(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for epoch in (1, 2, 9, 10):
        checkpoints.save(state(epoch))
    assert names(tmp_path) == ["a1-epoch-000009.pt", "a1-epoch-000010.pt"]
    assert epoch_of(checkpoints.newest()) == 10
    assert latest_epoch(tmp_path) == 10
    assert latest_epoch(tmp_path / "none") == 0


@pytest.mark.scenario(13)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_newest_falls_back_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, share: float
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    newest = tmp_path / "a1-epoch-000002.pt"
    content = newest.read_bytes()
    newest.write_bytes(content[: int(len(content) * share)])
    with caplog.at_level(logging.WARNING):
        assert epoch_of(checkpoints.newest()) == 1
    assert str(newest) in caplog.text
    assert len(checkpoints.skipped) == 1


@pytest.mark.scenario(13)
def test_flipped_bytes_in_the_newest_are_noticed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1, 5000))
    checkpoints.save(state(2, 5000))
    newest = tmp_path / "a1-epoch-000002.pt"
    with zipfile.ZipFile(newest) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
    content = bytearray(newest.read_bytes())
    content[largest.header_offset + 4000] ^= 0xFF
    newest.write_bytes(content)
    assert epoch_of(checkpoints.newest()) == 1


@pytest.mark.scenario(13)
@pytest.mark.parametrize("apart", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_damage_to_any_byte_is_noticed(tmp_path: Path, apart: int) -> None:
    """Those of the archive's directory too, which torch follows to whatever memory they name."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    newest = tmp_path / "a1-epoch-000002.pt"
    whole = newest.read_bytes()
    draw = random.Random(0)
    for place in range(draw.randrange(apart), len(whole), apart):
        content = bytearray(whole)
        content[place] ^= 1 << draw.randrange(8)
        newest.write_bytes(content)
        found = checkpoints.newest()
        assert found is not None
        assert found["epoch"] == 1, place
        assert torch.equal(found["model"]["weight"], torch.full((10,), 1.0))


def test_a_checkpoint_is_a_file_that_torch_loads(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(state(3))
    assert epoch_of(torch.load(tmp_path / "a1-epoch-000003.pt", weights_only=True)) == 3


def test_none_readable_is_none(tmp_path: Path) -> None:
    (tmp_path / "a1-epoch-000001.pt").write_bytes(b"")
    assert Checkpoints(tmp_path).newest() is None


def sealed(path: Path, content: bytes) -> None:
    """Write a file whose checksum fits, as anybody may."""
    path.write_bytes(content + seal(content))


class Malicious:
    """Runs code when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.scenario(28)
@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_malicious_checkpoint_is_refused_and_runs_nothing(tmp_path: Path, writer: str) -> None:
    folder, target = tmp_path / "checkpoints", tmp_path / "was here"
    checkpoints = Checkpoints(folder)
    checkpoints.save(state(1))
    content = {"epoch": 2, "model": Malicious(target)}
    if writer == "torch":
        checkpoints.save(content)
    else:
        sealed(folder / "a1-epoch-000002.pt", pickle.dumps(content))
    assert epoch_of(checkpoints.newest()) == 1
    assert not target.exists()


def test_something_else_than_a_checkpoint_is_passed_over(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1))
    other = io.BytesIO()
    torch.save([1, 2], other)
    sealed(tmp_path / "a1-epoch-000002.pt", other.getvalue())
    torch.save(state(8), tmp_path / "a1-epoch-000008.pt")
    torch.save(state(9), tmp_path / "notes.pt")
    assert epoch_of(checkpoints.newest()) == 1


@pytest.mark.scenario(6)
def test_late_writes_of_an_earlier_attempt_change_nothing(tmp_path: Path) -> None:
    cut_off, current = Checkpoints(tmp_path, attempt=1), Checkpoints(tmp_path, attempt=2)
    cut_off.save(state(3))
    assert epoch_of(current.newest()) == 3
    current.save(state(4))
    for epoch in (8, 9):
        cut_off.save(state(epoch))
    assert epoch_of(current.newest()) == 4
    current.save(state(5))
    assert epoch_of(current.newest()) == 5
    assert latest_epoch(tmp_path) == 5


def test_due_by_the_clock_or_by_epochs(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path, every_s=0).due(1)
    assert not Checkpoints(tmp_path, every_s=60).due(1)
    third = Checkpoints(tmp_path, every_s=0, every_epochs=3)
    assert [epoch for epoch in range(1, 10) if third.due(epoch)] == [3, 6, 9]


def test_saving_takes_a_fiftieth_of_the_time_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    slow, each = Checkpoints(tmp_path / "slow", every_s=5), Checkpoints(tmp_path / "each", every_s=0)

    def written(_path: Path, _content: object) -> None:
        nonlocal now
        now += 0.4

    monkeypatch.setattr("raybench.training.checkpoints.write_atomically", written)
    now = 5.0
    assert slow.due(1)
    for kept in (slow, each):
        kept.save(state(1))
    now = 25.0
    assert not slow.due(2)
    assert each.due(2)
    now = 25.5
    assert slow.due(3)


def test_time_and_size_are_accounted(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    begun = time.perf_counter()
    for epoch in (1, 2):
        checkpoints.save(state(epoch, 2**18))
    assert 0 < checkpoints.seconds < time.perf_counter() - begun
    assert checkpoints.mib == pytest.approx(1, rel=0.05)  # 2^18 floats of 4 bytes


def test_clear_removes_all_and_twice_is_harmless(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "trial")
    checkpoints.save(state(1))
    (tmp_path / "trial" / ".a1-epoch-000002.pt.77-abcd.tmp").write_bytes(b"of a writer that was killed")
    checkpoints.clear()
    checkpoints.clear()
    assert not (tmp_path / "trial").exists()


@pytest.mark.scenario(6)
def test_clear_leaves_those_of_later_attempts(tmp_path: Path) -> None:
    cut_off, current = Checkpoints(tmp_path, attempt=9), Checkpoints(tmp_path, attempt=10)
    cut_off.save(state(3))
    current.save(state(4))
    cut_off.clear()
    assert names(tmp_path) == ["a10-epoch-000004.pt"]


SAVE = """
import sys, torch
from pathlib import Path
from raybench.training.checkpoints import Checkpoints

checkpoints = Checkpoints(Path(sys.argv[1]))
for epoch in range(1, 100_000):
    checkpoints.save({"epoch": epoch, "model": {"weight": torch.full((50_000,), float(epoch))}})
    print(epoch, flush=True)
"""


@pytest.mark.scenario(15)
def test_a_process_killed_while_it_saves_leaves_the_one_before(tmp_path: Path, processes: Processes) -> None:
    draw = random.Random(0)
    for number in range(2):
        folder = tmp_path / str(number)
        process = processes.start(SAVE, folder)
        while int(process.stdout.readline()) < 5:
            pass
        time.sleep(draw.uniform(0, 0.02))
        process.kill()
        last = int(["5", *process.communicate()[0].split()][-1])
        checkpoints = Checkpoints(folder, attempt=2)
        found = checkpoints.newest()
        assert found is not None
        assert found["epoch"] in (last, last + 1)
        assert torch.equal(found["model"]["weight"], torch.full((50_000,), float(found["epoch"])))
        assert checkpoints.skipped == []
        checkpoints.clear()
        assert not folder.exists()


def test_weights_are_kept_with_what_is_said_of_them(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints" / "abc")
    weight = torch.arange(6.0).reshape(2, 3).t()  # not contiguous
    for number in (1.0, 2.0):
        checkpoints.save_weights({"weight": weight, "bias": torch.tensor(number)}, {"model": "resnet8"})
    assert names(tmp_path / "weights") == ["abc.safetensors"]
    with safe_open(tmp_path / "weights" / "abc.safetensors", "pt") as file:
        assert file.metadata() == {"model": "resnet8"}
        assert torch.equal(file.get_tensor("weight"), weight)
        assert file.get_tensor("bias") == 2.0


@pytest.mark.scenario(12)
def test_weights_on_a_full_disk(small_disk: Path) -> None:
    checkpoints = Checkpoints(small_disk / "checkpoints" / "abc")
    checkpoints.save_weights({"weight": torch.zeros(100_000)}, {})
    before = (small_disk / "weights" / "abc.safetensors").read_bytes()
    with pytest.raises(ResultsError, match="disk full"):
        checkpoints.save_weights({"weight": torch.ones(200_000)}, {})
    assert names(small_disk / "weights") == ["abc.safetensors"]
    assert (small_disk / "weights" / "abc.safetensors").read_bytes() == before


@pytest.mark.scenario(12)
def test_a_full_disk_is_named_and_the_old_checkpoint_stays(small_disk: Path) -> None:
    checkpoints = Checkpoints(small_disk)
    checkpoints.save(state(1, 100_000))  # 400 kB
    with pytest.raises(ResultsError, match="disk full"):
        checkpoints.save(state(2, 200_000))
    assert names(small_disk) == ["a1-epoch-000001.pt"]
    assert epoch_of(checkpoints.newest()) == 1
    checkpoints.save(state(2, 100_000))
    assert epoch_of(checkpoints.newest()) == 2


def test_other_faults_are_not_called_a_full_disk(tmp_path: Path) -> None:
    class Unpicklable:
        def __reduce__(self) -> str:
            raise RuntimeError("cannot be kept")

    with pytest.raises(RuntimeError, match="cannot be kept"):
        Checkpoints(tmp_path).save({"epoch": 1, "model": Unpicklable()})
    assert names(tmp_path) == []
