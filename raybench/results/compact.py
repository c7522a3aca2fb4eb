"""Compact files: the rows of many trials in one Parquet file, laid out so that a question touches few of its bytes.

The last epoch of each trial stands in row groups of its own at the end of the file, all other epochs before, both in
order of trial and epoch; no group ends within a trial. So a curve lies in one group and one at the end, and the last
epochs of all trials in the latter alone. A table without epochs has only last rows. To any other reader the file is a
plain table.

A double is kept bit for bit. Each column has the encoding that takes fewer bytes: few different values (learning rates,
accuracies) a dictionary, many (losses) their bytes in planes, of which zstd shortens those that are alike.

Before the footer stands a directory of whose rows are here. The footer holds a CRC-32 of itself, of the directory and
of each column of each group, so that a reading of a few of them notices damage in what it read; that of the whole file
is there as in every other.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from raybench.results.parquet import CHECKSUM, DAMAGED, UNREADABLE, ZEROS, place_of, put
from raybench.results.schema import to_arrow
from raybench.results.storage import Folder, read_range, read_ranges

GROUP_ROWS = 131_072
"""Most rows of a group, but for a trial that has more: what a curve reads against what a group costs on disk."""
ZSTD_LEVEL = 3
TAIL_BYTES = 3 << 15
"""First guess at the size of footer and directory, so that one request is enough for most."""
MANY_IDS = 100
"""Asked for at once, from which on looking through the whole directory takes less time than a search for each."""
THREADS_FROM_BYTES = 1 << 22
"""Below this, waiting for other threads takes longer than their help saves."""

CHUNKS = b"raybench.chunks"
"""Key of the CRC-32 of each column of each group, eight digits each, group by group."""
FOOTER = b"raybench.footer"
"""Key of the CRC-32 of the footer, counted with zeros in its own place and in the whole file's."""
LAYOUT = b"raybench.layout"
"""Key of four numbers of eight digits: the first group of last epochs, all trials, all rows, and the CRC-32 of the
directory. That is the CRC-32 of each trial's id in order, four bytes each, between the last group and the footer."""


# --- writing ---


def encode_compact(frame: pl.DataFrame, schema: pa.Schema) -> bytes:
    """The rows as a compact file. `frame` has the columns of `schema` first, at least one row, no row twice."""
    body, last = _laid_out(frame)
    first, groups = len(body), [*body, *last]
    kinds = _encodings(to_arrow(frame[groups[0]], schema))
    plain = [name for name, kind in kinds.items() if kind == DICTIONARY]
    split = {name: kind for name, kind in kinds.items() if kind not in (DICTIONARY, PLAIN)}
    directory = b"".join(sorted(_sum_of(trial_id) for trial_id in frame["trial_id"].unique()))
    layout = (first, len(directory) // 4, frame.height, zlib.crc32(directory))
    about = {
        CHUNKS: ZEROS * (len(groups) * len(frame.columns)),
        LAYOUT: b"%08x%08x%08x%08x" % layout,
        FOOTER: ZEROS,
        CHECKSUM: ZEROS,
    }
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        to_arrow(frame.clear(), schema).schema.with_metadata(about),
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        use_dictionary=plain,
        column_encoding=split,
    ) as writer:
        for rows in groups:
            writer.write_table(to_arrow(frame[rows], schema), row_group_size=len(rows))
        sink.write(directory)
    content = bytearray(sink.getvalue())
    del sink
    return _sealed(content, len(directory))


def _sum_of(trial_id: str) -> bytes:
    return zlib.crc32(trial_id.encode()).to_bytes(4, "big")


def _laid_out(frame: pl.DataFrame) -> tuple[list[pl.Series], list[pl.Series]]:
    """Row numbers of the groups of all but the last epochs, and of those of the last epochs.

    Numbers rather than rows, so that no more than one group is in memory twice.
    """
    order = ["trial_id", *(["epoch"] if "epoch" in frame.columns else [])]
    keys = frame.select(order).with_row_index("row").sort(order, maintain_order=True)
    if "epoch" not in order:
        return [], [*_groups(keys)]
    last = keys["trial_id"].ne_missing(keys["trial_id"].shift(-1))  # the next row is another trial's
    return [*_groups(keys.filter(~last))], [*_groups(keys.filter(last))]


def _groups(keys: pl.DataFrame) -> Iterator[pl.Series]:
    """Slices of at most GROUP_ROWS row numbers that end between trials."""
    start = end = 0
    for count in keys["trial_id"].rle().struct.field("len"):
        if start < end and end + count - start > GROUP_ROWS:
            yield keys["row"][start:end]
            start = end
        end += count
    if start < end:
        yield keys["row"][start:end]


DICTIONARY, PLAIN = "dictionary", "PLAIN"
ENCODINGS = {
    pa.float64(): (DICTIONARY, "BYTE_STREAM_SPLIT"),
    pa.int64(): (DICTIONARY, "DELTA_BINARY_PACKED"),
    pa.timestamp("us", tz="UTC"): (DICTIONARY, "DELTA_BINARY_PACKED"),
    pa.bool_(): (PLAIN,),
}
"""What is tried of each type. Text is a dictionary where it repeats, which is quicker to read whatever it takes."""


def _encodings(sample: pa.Table) -> dict[str, str]:
    """Column -> the encoding in which the sample takes fewest bytes."""

    def size(name: str, kind: str) -> int:
        sink = pa.BufferOutputStream()
        how: dict[str, Any] = {"use_dictionary": True}
        if kind != DICTIONARY:
            how = {"use_dictionary": False, "column_encoding": {name: kind}}
        column = sample.select([name])
        pq.write_table(column, sink, compression="zstd", compression_level=ZSTD_LEVEL, store_schema=False, **how)
        found: int = sink.tell()
        return found

    chosen = {}
    for field in sample.schema:
        repeats = pa.types.is_string(field.type) and 2 * len(sample[field.name].unique()) <= sample.num_rows
        kinds = ENCODINGS.get(field.type, (DICTIONARY if repeats else PLAIN,))
        chosen[field.name] = kinds[0] if len(kinds) == 1 else min(kinds, key=lambda kind: size(field.name, kind))
    return chosen


def _sealed(content: bytearray, directory: int) -> bytes:
    """With every checksum in its place; the directory takes so many bytes."""
    start = _footer_start(content[-8:], len(content))
    metadata = pq.read_metadata(pa.BufferReader(content))
    spans = _spans(metadata)
    assert all(before[1] == after[0] for before, after in pairwise(spans)), "every byte before the footer is summed"
    assert (spans[0][0], spans[-1][1]) == (4, start - directory)
    view = memoryview(content)
    sums = b"".join(b"%08x" % zlib.crc32(view[begin:end]) for begin, end in spans)
    view.release()
    put(content, CHUNKS, sums)
    put(content, FOOTER, b"%08x" % zlib.crc32(content[start:]))
    put(content, CHECKSUM, b"%08x" % zlib.crc32(content))
    return bytes(content)


def _spans(metadata: pq.FileMetaData) -> list[tuple[int, int]]:
    """Where the bytes of each column of each group stand, group by group."""
    return [
        _span(group.column(number))
        for group in map(metadata.row_group, range(metadata.num_row_groups))
        for number in range(metadata.num_columns)
    ]


def _span(chunk: pq.ColumnChunkMetaData) -> tuple[int, int]:
    start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
    return start, start + chunk.total_compressed_size


def _footer_start(end: bytes | bytearray | memoryview, size: int) -> int:
    """Where the footer begins, from the last eight bytes of a file of `size` bytes."""
    return size - 8 - int.from_bytes(end[:4], "little")


# --- reading ---


def open_compact(path: Folder, size: int) -> Compact | None:
    """The file's index; none for one that is not laid out so, or whose footer is damaged.

    `size` is that of the file, bytes.
    """
    try:
        start = max(0, size - TAIL_BYTES)
        tail = read_range(path, start, size)
        if (begin := _footer_start(tail[-8:], size)) < start:
            tail = read_range(path, start := max(0, begin), size)
        footer = bytearray(tail[begin - start :])
        own, whole = (place_of(footer, key, len(ZEROS)) for key in (FOOTER, CHECKSUM))
        layout = place_of(footer, LAYOUT, 4 * 8)
        if own is None or whole is None or layout is None:
            return None
        expected = bytes(footer[own])
        footer[own] = footer[whole] = ZEROS
        if b"%08x" % zlib.crc32(footer) != expected:
            return None
        return Compact(path, size, bytes(footer), bytes(footer[layout]), tail[: begin - start])
    except UNREADABLE:
        return None


def as_text(rows: pl.DataFrame) -> pl.DataFrame:
    """Categories as the text they stand for."""
    return rows.with_columns(pl.col(pl.Categorical).cast(pl.String))


class Compact:
    """A compact file of which groups and columns are read by themselves, each checked against its own checksum."""

    def __init__(self, path: Folder, size: int, footer: bytes, layout: bytes, before: bytes) -> None:
        """`footer` fits its checksum, `layout` is the value of LAYOUT there; `before` are some bytes before it."""
        self.path = path
        self.size = size
        self._footer = footer
        self._first, self._trials, self.height, self._sum = (int(layout[at : at + 8], 16) for at in range(0, 32, 8))
        self._before = before[-4 * self._trials :]
        self._within: dict[tuple[Any, ...], bool] = {}

    def held(self, trial_ids: Iterable[str]) -> set[str]:
        """Those of which there are rows here, rarely one more; all of them where the directory is damaged.

        Raises one of UNREADABLE where it cannot be read.
        """
        directory, ids = self._directory, [*trial_ids]
        if directory is None:
            return {*ids}  # the rows themselves will tell, and have checksums of their own
        if len(ids) > MANY_IDS:
            here = {directory[at : at + 4] for at in range(0, len(directory), 4)}
            return {trial_id for trial_id in ids if _sum_of(trial_id) in here}
        found, places = set(), range(self._trials)
        for trial_id in ids:
            wanted = _sum_of(trial_id)
            place = bisect_left(places, wanted, key=lambda at: directory[4 * at : 4 * at + 4])
            if directory[4 * place : 4 * place + 4] == wanted:
                found.add(trial_id)
        return found

    @cached_property
    def _directory(self) -> bytes | None:
        found, length = self._before, 4 * self._trials
        if len(found) < length:
            end = self.size - len(self._footer)
            found = read_range(self.path, end - length, end)
        return found if zlib.crc32(found) == self._sum else None

    def rows(
        self, trial_ids: Iterable[str] | None = None, columns: Collection[str] | None = None, *, last: bool = False
    ) -> pl.DataFrame:
        """Rows of all trials or of those named, all columns or those named that are here; `last` epochs only or all.

        Raises one of UNREADABLE where what is asked for is damaged.
        """
        groups = range(self._first if last else 0, self._metadata.num_row_groups)
        if trial_ids is None:
            rows = self._read(groups, columns)
        else:
            held = sorted(self.held(trial_ids))
            rows = self._read([group for group in groups if self._may_hold(group, held)], columns)
            rows = rows.filter(pl.col("trial_id").is_in(held))
        return as_text(rows)

    def within(self, name: str, least: Any, most: Any) -> bool:
        """Whether every value of a column is there and from `least` to `most`, as far as the footer tells."""
        if (name, least, most) not in self._within:
            self._within[name, least, most] = name in self._names and self._is_within(name, least, most)
        return self._within[name, least, most]

    def _is_within(self, name: str, least: Any, most: Any) -> bool:
        place = self._names.index(name)
        groups = map(self._metadata.row_group, range(self._metadata.num_row_groups))
        found = [group.column(place).statistics for group in groups]
        return all(
            each is not None
            and (each.has_null_count and each.null_count == 0)
            and (isinstance(each.min, type(least)) and least <= each.min and each.max <= most)
            for each in found
        )

    def categories(self, columns: Collection[str]) -> pl.DataFrame:
        """All rows of these columns, text that repeats as categories. Raises as `rows` does."""
        return self._read(range(self._metadata.num_row_groups), columns)

    @cached_property
    def _metadata(self) -> pq.FileMetaData:
        # The places that it names are in the whole file, but to be understood it needs no more than to look like one.
        return pq.read_metadata(pa.BufferReader(b"PAR1" + self._footer))

    @cached_property
    def _names(self) -> list[str]:
        names: list[str] = self._metadata.schema.names
        return names

    def _may_hold(self, group: int, trial_ids: Sequence[str]) -> bool:
        """Whether one of them, in order, lies between the first and the last trial of a group."""
        least, most = self._bounds[group]
        place = bisect_left(trial_ids, least)
        return place < len(trial_ids) and trial_ids[place] <= most

    @cached_property
    def _bounds(self) -> list[tuple[str, str]]:
        """The first and the last trial of each group."""
        place = self._names.index("trial_id")
        groups = map(self._metadata.row_group, range(self._metadata.num_row_groups))
        found = [group.column(place).statistics for group in groups]
        return [(each.min, each.max) for each in found]

    def _read(self, groups: Sequence[int], columns: Collection[str] | None) -> pl.DataFrame:
        wanted = self._names if columns is None else [name for name in self._names if name in columns]
        # To arrow a.b is also a field of a, so whoever asks for a is given both.
        fields = tuple(f"{name}." for name in wanted)
        given = [name for name in self._names if name in wanted or name.startswith(fields)]
        places = [self._names.index(name) for name in given]
        spans = {}
        for group in groups:
            chunks = self._metadata.row_group(group)
            for place in places:
                spans[group * len(self._names) + place] = _span(chunks.column(place))
        content = read_ranges(self.path, self.size, [*spans.values()])
        sums = self._metadata.metadata[CHUNKS]
        for number, (start, end) in spans.items():
            if b"%08x" % zlib.crc32(content[start:end]) != sums[8 * number : 8 * number + 8]:
                raise ValueError(DAMAGED)
        file = pq.ParquetFile(
            pa.BufferReader(pa.py_buffer(content)),
            metadata=self._metadata,
            # Only what is left of it becomes text, which is where most of the time would go.
            read_dictionary=[name for name in given if self._is_dictionary(name)],
            pre_buffer=False,
        )
        together = sum(end - start for start, end in spans.values()) > THREADS_FROM_BYTES
        return pl.DataFrame(file.read_row_groups([*groups], columns=given, use_threads=together)).select(wanted)

    def _is_dictionary(self, name: str) -> bool:
        column = self._metadata.row_group(0).column(self._names.index(name))
        return bool(column.physical_type == "BYTE_ARRAY" and column.has_dictionary_page)
