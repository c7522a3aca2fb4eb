"""A table as the bytes of a Parquet file that vouches for itself, and back."""

from __future__ import annotations

import functools
import zlib

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

CHECKSUM = b"raybench.crc32"
"""Key in a file's footer of the CRC-32 of all its bytes, counted with zeros in its own place."""
ZEROS = b"00000000"

UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException, OSError, ValueError)
"""What reading a file raises that is damaged, or not ours."""
KNOWN = (
    *(pa.types.is_null, pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal128),
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary),
    *(pa.types.is_date, pa.types.is_time, pa.types.is_timestamp, pa.types.is_duration),
)
"""The types of arrow that a column of a foreign file may have, and below them those made of others."""
NESTED = (pa.types.is_struct, pa.types.is_map, pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
DAMAGED = "its checksum does not fit: damaged, or changed by something else"


def encode(table: pa.Table, *, compress: bool = False) -> bytes:
    """The table as Parquet: plain and quick, as a part that is written anew after every epoch, or in zstd."""
    table = table.replace_schema_metadata({CHECKSUM: ZEROS})
    sink = pa.BufferOutputStream()
    compression = "zstd" if compress else "none"
    pq.write_table(table, sink, compression=compression, use_dictionary=compress, write_statistics=False)
    content = bytearray(sink.getvalue())
    put(content, CHECKSUM, b"%08x" % zlib.crc32(content))
    return bytes(content)


def decode(content: bytes) -> pl.DataFrame:
    """The rows of a file. Raises one of UNREADABLE, also for a single byte that is not as it was written."""
    if (place := place_of(content, CHECKSUM, len(ZEROS))) is None:
        # Not written here. polars ends the process over some damaged files, so what nobody vouches for is arrow's.
        table = pq.ParquetFile(pa.BufferReader(content)).read()
        table.validate(full=True)
        if odd := [each for each in table.schema if not _plain(each.type)]:
            raise ValueError(f"column {odd[0].name} holds {odd[0].type}")
        return pl.DataFrame(table)
    parts = (content[: place.start], ZEROS, content[place.stop :])
    if b"%08x" % functools.reduce(lambda crc, part: zlib.crc32(part, crc), parts, 0) != content[place]:
        raise ValueError(DAMAGED)
    return pl.read_parquet(content)


def _plain(kind: pa.DataType) -> bool:
    """Whether polars knows this type: it panics, on stderr, over those of which it knows nothing."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if any(known(kind) for known in NESTED):
        return all(_plain(kind.field(place).type) for place in range(kind.num_fields))
    return any(known(kind) for known in KNOWN)


def place_of(content: bytes | bytearray, key: bytes, length: int) -> slice | None:
    """Where the value of `length` bytes of a key in the footer stands; none where there is no such key."""
    found = content.rfind(key)
    header = 1 + max(1, -(-length.bit_length() // 7))  # a byte says that the value follows, then its length in sevens
    start = found + len(key) + header
    return None if found < 0 else slice(start, start + length)


def put(content: bytearray, key: bytes, value: bytes) -> None:
    """Set the value of a key in the footer, which was written as zeros."""
    place = place_of(content, key, len(value))
    assert place is not None
    assert content[place] == b"0" * len(value)
    content[place] = value
