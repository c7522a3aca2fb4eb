"""Compact files: what goes in comes out bit for bit, few bytes answer a question, and no damage passes."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from raybench.results import compact
from raybench.results.compact import encode_compact, open_compact
from raybench.results.parquet import UNREADABLE, decode
from raybench.results.schema import epoch_schema, polars_schema, trial_schema
from raybench.results.storage import Folder, read_ranges

EPOCHS = polars_schema(epoch_schema())


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten rows, so that a few trials make many."""
    monkeypatch.setattr(compact, "GROUP_ROWS", 10)


def epochs(lengths: dict[str, int], seed: int = 0) -> pl.DataFrame:
    """Rows of trials of so many epochs, out of order, with losses of 53 random bits and a few accuracies."""
    draw = np.random.default_rng(seed)
    keys = [(trial, epoch) for trial, count in lengths.items() for epoch in range(1, count + 1)]
    draw.shuffle(keys)
    count = len(keys)
    own = {
        "trial_id": [trial for trial, _ in keys],
        "attempt": [1] * count,
        "epoch": [int(epoch) for _, epoch in keys],
        "train_loss": draw.random(count),
        "eval_top1": draw.integers(0, 20, count) / 5,
    }
    return pl.DataFrame({name: own.get(name) for name in EPOCHS}, EPOCHS)


def written(frame: pl.DataFrame, path: Path) -> compact.Compact:
    """The file's index."""
    path.write_bytes(encode_compact(frame, epoch_schema()))
    index = open_compact(path, path.stat().st_size)
    assert index is not None
    return index


MANY = {f"{number:02d}x": 1 + number % 7 for number in range(30)}


def test_every_double_comes_back_with_all_its_bits(tmp_path: Path) -> None:
    odd = [0.0, -0.0, 5e-324, 1.7976931348623157e308, float("inf"), float("-inf"), 0.1, 1 / 3, None]
    bits = [0x7FF8000000000001, 0xFFF0000000000001, 0x7FF0DEADBEEF0001]
    values = [*odd, *(struct.unpack("d", struct.pack("Q", each))[0] for each in bits)]
    frame = epochs({"a": len(values)}).sort("epoch").with_columns(pl.Series("eval_loss", values))
    content = encode_compact(frame, epoch_schema())
    (tmp_path / "x.parquet").write_bytes(content)
    index = open_compact(tmp_path / "x.parquet", len(content))
    assert index is not None
    for found in (decode(content), index.rows(), pl.read_parquet(content)):
        now = found.sort("epoch")["eval_loss"].to_list()
        assert [each if each is None else struct.pack("d", each) for each in now] == [
            each if each is None else struct.pack("d", each) for each in values
        ]


def test_groups_end_between_trials_and_the_last_epochs_stand_by_themselves(tmp_path: Path) -> None:
    frame = epochs(MANY | {"long": 25})
    written(frame, path := tmp_path / "x.parquet")
    file = pq.ParquetFile(path)
    groups = [pl.DataFrame(file.read_row_group(number)) for number in range(file.num_row_groups)]
    assert_frame_equal(pl.concat(groups), frame, check_row_order=False)
    ends = frame.group_by("trial_id").agg(pl.max("epoch")).sort("trial_id")
    last = [group for group in groups if group.join(ends, on=["trial_id", "epoch"]).height == group.height]
    body = groups[: -len(last)]
    assert len(last) == 4, "31 last epochs"
    assert_frame_equal(pl.concat(last).select("trial_id", "epoch"), ends)
    assert pl.concat(body).select("trial_id", "epoch").rows() == sorted(
        (trial, epoch) for trial, count in (MANY | {"long": 25}).items() for epoch in range(1, count)
    )
    for group in body:
        assert group.height <= 10 or group["trial_id"].unique().to_list() == ["long"]
    holders = [trial for group in body for trial in group["trial_id"].unique()]
    assert len(holders) == len(set(holders)), "one group a trial"
    statistics = file.metadata.row_group(0).column(0).statistics
    assert (statistics.min, statistics.max) == (body[0]["trial_id"].min(), body[0]["trial_id"].max())


def test_a_table_without_epochs_has_last_rows_only(tmp_path: Path) -> None:
    schema = polars_schema(trial_schema())
    ids = [f"t{number:02d}" for number in range(25)]
    frame = pl.DataFrame({name: ids[::-1] if name == "trial_id" else None for name in schema}, schema)
    (path := tmp_path / "x.parquet").write_bytes(encode_compact(frame, trial_schema()))
    index = open_compact(path, path.stat().st_size)
    assert index is not None
    assert index.held([*ids, "none"]) == set(ids)
    for last in (False, True):
        assert index.rows(columns=["trial_id"], last=last)["trial_id"].to_list() == ids
    assert index.rows(["t07", "none"])["trial_id"].to_list() == ["t07"]
    assert pq.read_schema(path).field("train_time").metadata[b"unit"] == b"s"


@pytest.mark.parametrize("seed", range(5))
def test_what_is_asked_for_is_what_the_whole_file_holds(tmp_path: Path, seed: int) -> None:
    frame = epochs(MANY, seed)
    index = written(frame, tmp_path / "x.parquet")
    draw = random.Random(seed)
    ids = draw.sample([*MANY, "none", "zz", ""], 4)
    columns = draw.sample([*EPOCHS, "none"], 5)
    asked = frame.filter(pl.col("trial_id").is_in(ids))
    assert_frame_equal(index.rows(ids), asked, check_row_order=False)
    with_id = ["trial_id", *(name for name in columns if name != "trial_id")]
    found = index.rows(ids, with_id)
    assert set(found.columns) == {*with_id} - {"none"}
    assert_frame_equal(found, asked.select(found.columns), check_row_order=False)
    ends = frame.filter(pl.col("epoch") == pl.col("epoch").max().over("trial_id"))
    assert_frame_equal(index.rows(last=True), ends, check_row_order=False)


def test_a_curve_takes_few_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = epochs({f"{number:03d}": 9 for number in range(200)})
    size = len(encode_compact(frame, epoch_schema()))
    read = 0

    def counted(path: Folder, size: int, ranges: Iterable[tuple[int, int]]) -> memoryview:
        nonlocal read
        ranges = list(ranges)
        read += sum(end - start for start, end in ranges)
        return read_ranges(path, size, ranges)

    index = written(frame, tmp_path / "x.parquet")
    assert index.height == 1800
    monkeypatch.setattr(compact, "read_ranges", counted)
    assert index.rows(["042"], ["trial_id", "epoch", "train_loss"])["epoch"].sort().to_list() == [*range(1, 10)]
    assert 0 < read < size / 100


def test_a_name_that_begins_another_column(tmp_path: Path) -> None:
    """To arrow `a.b` may be a field of `a`."""
    frame = epochs(MANY).with_columns(pl.lit(1.0).alias("part/a"), pl.lit(2.0).alias("part/a.b"))
    index = written(frame, tmp_path / "x.parquet")
    assert index.rows(columns=["part/a"]).columns == ["part/a"]
    assert index.rows(columns=["part/a.b"])["part/a.b"].unique().to_list() == [2.0]


def test_encodings_follow_what_a_column_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "GROUP_ROWS", 10_000)
    frame = epochs({f"{number:03d}": 50 for number in range(40)})
    written(frame, path := tmp_path / "x.parquet")
    group = pq.read_metadata(path).row_group(0)
    kinds = {group.column(number).path_in_schema: group.column(number).encodings for number in range(19)}
    assert "BYTE_STREAM_SPLIT" in kinds["train_loss"]
    assert "RLE_DICTIONARY" in kinds["eval_top1"]
    assert "RLE_DICTIONARY" in kinds["trial_id"]


def test_damage_anywhere_is_noticed_where_it_is_read(tmp_path: Path) -> None:
    """Single bits flipped: the whole file is refused, and a reading of some of it is right or refused."""
    frame = epochs(MANY)
    whole = encode_compact(frame, epoch_schema())
    path = tmp_path / "x.parquet"
    asked = frame.filter(pl.col("trial_id") == "11x").sort("epoch")
    columns = ["trial_id", "epoch", "eval_top1"]
    draw = random.Random(0)
    refused = 0
    for _ in range(300):
        content = bytearray(whole)
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        with pytest.raises(UNREADABLE):
            decode(bytes(content))
        path.write_bytes(content)
        index = open_compact(path, len(content))
        try:
            found = None if index is None else index.rows(["11x"], columns)
        except UNREADABLE:
            found = None
        refused += found is None
        if found is not None:
            assert_frame_equal(found.sort("epoch"), asked.select(columns))
    assert 100 < refused < 300, "the footer, or what was asked for, but not all else"


def test_a_damaged_directory_hides_no_trial(tmp_path: Path) -> None:
    """One that is hidden, and begins again, would take a number of which there are rows."""
    frame = epochs(MANY)
    content = bytearray(encode_compact(frame, epoch_schema()))
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    content[footer - 4 * len(MANY) : footer] = bytes(4 * len(MANY))
    (path := tmp_path / "x.parquet").write_bytes(content)
    index = open_compact(path, len(content))
    assert index is not None
    for trial_id in [*MANY, "none"]:
        wanted = frame.filter(pl.col("trial_id") == trial_id)
        assert_frame_equal(index.rows([trial_id]), wanted, check_row_order=False)


def test_truncations_have_no_index(tmp_path: Path) -> None:
    whole = encode_compact(epochs(MANY), epoch_schema())
    path = tmp_path / "x.parquet"
    for length in [0, 1, 7, 8, *range(50, len(whole), 499), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert open_compact(path, length) is None
    assert open_compact(tmp_path / "none.parquet", 100) is None


def test_files_of_other_layouts_have_no_index(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(epochs(MANY).to_arrow(), path)
    assert open_compact(path, path.stat().st_size) is None


def test_a_footer_larger_than_the_first_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "TAIL_BYTES", 100)
    index = written(epochs(MANY), tmp_path / "x.parquet")
    assert index.held([*MANY, "none"]) == MANY.keys()


def test_many_are_found_as_each_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = written(epochs(MANY), tmp_path / "x.parquet")
    asked = [*list(MANY)[::3], "none", "zz"]
    few = index.held(asked)
    monkeypatch.setattr(compact, "MANY_IDS", 3)
    assert index.held(iter(asked)) == few == {*list(MANY)[::3]}


def test_the_schema_is_that_of_a_part(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(encode_compact(epochs(MANY), epoch_schema()))
    assert pq.read_schema(path).remove_metadata().equals(epoch_schema().remove_metadata(), check_metadata=True)
    assert pa.types.is_string(pq.read_schema(path).field("trial_id").type)
