"""The rows of a plan: the items of its shards, one packed segment per shard.

| column                      | type         | remarks                                        |
|-----------------------------|--------------|------------------------------------------------|
| key                         | string       | unique in the run                              |
| split                       | string       | constant within a shard                        |
| path                        | string       | relative to the corpus root                    |
| frames                      | list<string> | names of image files; empty for a video        |
| fps                         | double       | null: every frame                              |
| start_seconds, stop_seconds | double       | null: from the first frame, to the last        |
| start_byte                  | int64        | null: the file is not in a tar                 |
| cost                        | int64        | bytes                                          |
| modified                    | double       | seconds since the epoch; null: not compared    |
| version                     | string       | ETag; null: of files, or not compared          |
| meta                        | string       | JSON                                           |
| problem                     | string       | null: the listing noticed none                 |

A segment is compressed by zstd. Decompressed, it has the columns one after another, little-endian:

| type         | content, for n rows                                                                               |
|--------------|---------------------------------------------------------------------------------------------------|
| all          | uint8 [n], 0: null; then                                                                          |
| int64, double| their values [n]; 0 for null                                                                      |
| string       | lengths in bytes, int32 [n], 0 for null; then UTF-8                                               |
| list<string> | lengths in strings, int32 [n]; then the column of all strings                                     |

Why not Arrow's own format: it stores offsets, which hardly compress, where the lengths of names that are alike are all
the same (396 bytes per item of PHOENIX-2014-T, of which these columns need 40). And a segment may come from someone
else: nothing here unfolds into more than `MAX_SEGMENT_BYTES`, while a small Arrow or Parquet file may.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from datamodules.corpus import JSON_FILES, Item, check_key, check_split
from datamodules.run.typed_json import load

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("path", pa.string()),
        ("frames", pa.list_(pa.string())),
        ("fps", pa.float64()),
        ("start_seconds", pa.float64()),
        ("stop_seconds", pa.float64()),
        ("start_byte", pa.int64()),
        ("cost", pa.int64()),
        ("modified", pa.float64()),
        ("version", pa.string()),
        ("meta", pa.string()),
        ("problem", pa.string()),
    ]
)
MAX_SEGMENT_BYTES = 128 << 20  # limit for a segment, packed and unpacked; a usual one has some 200 KB
_NOT_NULL = ("key", "split", "path", "frames", "cost", "meta")
_ASCII_KEY = r"^[0-9A-Za-z_%-]+(?:/[0-9A-Za-z_%-]+)*$"  # ASCII that `check_key` allows; 14 times as fast in Arrow
_ZSTD = pa.Codec("zstd", compression_level=3)  # level 9 saves 1 % and takes 3 times as long


def pack(batch: Any) -> tuple[bytes, int]:
    """Return (the segment of a shard, its size in bytes before compression).

    Args:
        batch: a pyarrow RecordBatch with the columns of `SCHEMA`: the rows of the shard.

    Raises:
        ValueError: the segment has more than `MAX_SEGMENT_BYTES`.
    """
    raw = b"".join(part for column in batch.columns for part in _encoded(column))
    segment = _ZSTD.compress(raw, asbytes=True)
    if (size := max(len(raw), len(segment))) > MAX_SEGMENT_BYTES:
        raise ValueError(f"the rows have {size:,} bytes; the limit is {MAX_SEGMENT_BYTES:,}")
    return segment, len(raw)


def unpack(segment: bytes, num_rows: int, raw_bytes: int) -> Any:
    """Return the rows of a shard as a pyarrow RecordBatch with the columns of `SCHEMA`, checked.

    Args:
        segment: what `pack` returned. It may come from someone else.
        num_rows: number of rows, 1 or more.
        raw_bytes: size before compression, at most `MAX_SEGMENT_BYTES`.

    Raises:
        ValueError, CorpusError, OSError, pyarrow.ArrowException: these are not rows that `planning` writes.
    """
    raw = _Raw(_ZSTD.decompress(segment, raw_bytes))
    columns = [raw.column(field.type, num_rows) for field in SCHEMA]
    if raw.left:
        raise ValueError(f"{raw.left:,} bytes follow its rows")
    batch = pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
    batch.validate(full=True)
    _check_rows(batch)
    return batch


def read_item(row: dict[str, Any]) -> Item:
    """Return the item in a row of a plan.

    Raises:
        ValueError: its `meta` is not such as a plan has.
    """
    meta = load(row["meta"])
    if not isinstance(meta, dict):
        raise ValueError("its meta is not an object")
    _check_json_files(meta.get(JSON_FILES, []))
    return Item(**{**row, "frames": tuple(row["frames"]), "meta": meta})


def _encoded(column: Any) -> Iterator[Any]:
    """Yield the parts of a column, as this module's table says."""
    yield column.is_valid().to_numpy(zero_copy_only=False).astype(np.uint8)
    if pa.types.is_list(column.type):
        yield _values(pc.list_value_length(column)).astype("<i4")
        yield from _encoded(column.flatten())
    elif pa.types.is_string(column.type):
        yield _values(pc.binary_length(column)).astype("<i4")
        _, offsets, content = column.buffers()
        first, last = np.frombuffer(offsets, np.int32)[[column.offset, column.offset + len(column)]]
        yield content[first:last] if content else b""
    else:
        yield _values(column)


def _values(column: Any) -> NDArray[Any]:
    """Return the values of a column of numbers; 0 for null."""
    values: NDArray[Any] = column.fill_null(pa.scalar(0, column.type)).to_numpy()
    return values


class _Raw:
    """A decompressed segment, read from its begin to its end.

    Args:
        content: pyarrow Buffer.

    Attributes:
        left: number of bytes that are not read yet.
    """

    def __init__(self, content: Any) -> None:
        self._content, self._position = content, 0

    @property
    def left(self) -> int:
        return int(self._content.size) - self._position

    def column(self, kind: Any, num_rows: int) -> Any:
        """Return the next column, a pyarrow Array of the type `kind`.

        Raises:
            ValueError: the segment ends before the column does, or a length is negative.
        """
        is_valid = np.frombuffer(self._bytes(num_rows), np.uint8) != 0
        validity = None if is_valid.all() else pa.py_buffer(np.packbits(is_valid, bitorder="little"))
        if not (pa.types.is_list(kind) or pa.types.is_string(kind)):
            values = self._bytes(num_rows * kind.bit_width // 8).to_pybytes()  # a copy: the segment's are not aligned
            return pa.Array.from_buffers(kind, num_rows, [validity, pa.py_buffer(values)])
        offsets = np.zeros(num_rows + 1, np.int64)
        np.cumsum(self._lengths(num_rows), out=offsets[1:])
        buffers = [validity, pa.py_buffer(offsets.astype(np.int32))]
        if pa.types.is_string(kind):
            return pa.Array.from_buffers(kind, num_rows, [*buffers, self._bytes(int(offsets[-1]))])
        strings = self.column(kind.value_type, int(offsets[-1]))
        return pa.Array.from_buffers(kind, num_rows, buffers, children=[strings])

    def _lengths(self, count: int) -> NDArray[np.int32]:
        lengths = np.frombuffer(self._bytes(4 * count), np.dtype("<i4"))
        if (lengths < 0).any():
            raise ValueError("it has a negative length")
        return lengths

    def _bytes(self, count: int) -> Any:
        """Return the next `count` bytes as a pyarrow Buffer."""
        if count > self.left:
            raise ValueError(f"it ends {count - self.left:,} bytes too early")
        self._position += count
        return self._content.slice(self._position - count, count)


def _check_rows(batch: Any) -> None:
    """Raise ValueError or CorpusError unless the rows of a shard are such as `planning` writes."""
    for name in _NOT_NULL:
        if batch[name].null_count:
            raise ValueError(f"{name} is null")
    if batch["frames"].flatten().null_count:
        raise ValueError("a frame is null")
    # an item with a problem may have an impossible path, as its list gave it; it is never opened
    usable = batch.filter(pc.is_null(batch["problem"]))
    for names in (usable["path"], usable["frames"].flatten()):
        if pc.any(pc.match_substring(names, "\0")).as_py():
            raise ValueError("the path of a file has a null character")
    check_split(batch["split"][0].as_py())
    # compared with an Arrow scalar, because a Python str makes Arrow import pandas
    if not pc.all(pc.equal(batch["split"], batch["split"][0])).as_py():
        raise ValueError("it has items of several splits")
    keys = batch["key"]
    for key in keys.filter(pc.invert(pc.match_substring_regex(keys, _ASCII_KEY))).to_pylist():
        check_key(key)
    for name in ("cost", "start_byte"):
        if (pc.min(batch[name]).as_py() or 0) < 0:
            raise ValueError("it has a negative number of bytes")
    for column in (column for column in batch.columns if pa.types.is_floating(column.type)):
        if pc.any(pc.invert(pc.is_finite(column))).as_py():
            raise ValueError("it has a number that is not finite")


def _check_json_files(files: Any) -> None:
    """Raise ValueError unless `files` is what `corpus.JSON_FILES` describes."""
    for file in files if isinstance(files, list) else [files]:
        path, *part = file if isinstance(file, list) else [file]
        is_part = all(number is None or (type(number) is int and number >= 0) for number in part)
        if not (isinstance(path, str) and len(part) == 2 and is_part):
            raise ValueError(f"its meta has the {JSON_FILES} {files!r:.100}")
