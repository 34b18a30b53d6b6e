"""The table of a shard: one row per planned item, in planned order, as Parquet.

| column         | type   | meaning                                                                       |
|----------------|--------|-------------------------------------------------------------------------------|
| key            | string | of the planned item                                                           |
| status         | string | `failed`; else `ok`, or another status of the sample, such as `truncated`     |
| reason         | string | of the failure; null when ok                                                  |
| reason_class   | string | see `datamodules.errors`; null when ok                                        |
| attempts       | int32  | number of attempts at the item                                                |
| num_frames     | int64  | frames in the sample; 0 when failed                                           |
| seconds        | double | time spent on reading and computing the item                                  |
| split_to       | int32  | frames in the smallest batch that its frames were in, where memory, a crash   |
|                |        | or another item's failure forced smaller ones than planned; else null         |
| decoder        | string | what decoded the video: one backend, or several after fallbacks; else null    |
| tar_offset     | int64  | first byte of the sample in the tar; null when failed                         |
| tar_bytes      | int64  | bytes of the sample in the tar, headers included; null when failed            |
| supersedes     | string | the shard whose row of this key a retry's row replaces; else null             |
| device         | string | model of the device of the rank that gave the result; null: not recorded      |
| metrics        | map    | numbers of the sample by name (`datamodules.samples.metrics`); empty when     |
|                |        | failed; null: not recorded                                                    |
"""

from collections.abc import Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datamodules.object_store import StoreUnavailableError
from datamodules.run.plan_summary import check_shard_name
from datamodules.stored_file import StoredFile

TABLE_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        ("reason", pa.string()),
        ("reason_class", pa.string()),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("num_frames", pa.int64(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        ("split_to", pa.int32()),
        ("decoder", pa.string()),
        ("tar_offset", pa.int64()),
        ("tar_bytes", pa.int64()),
        ("supersedes", pa.string()),
        ("device", pa.string()),
        ("metrics", pa.map_(pa.string(), pa.float64())),
    ]
)
_LATER = ("device", "metrics")  # columns that older tables lack
_MAX_ROW_BYTES = 1 << 20  # limit for all texts of a row; reasons have some 100 bytes


def read_table(file: BinaryIO | StoredFile, keys: Any, columns: Sequence[str] | None = None) -> Any:
    """Read and check the table of a shard, which may come from someone else.

    Args:
        file: the table, open.
        keys: a pyarrow array of the planned keys of the shard, in order.
        columns: of `TABLE_SCHEMA`; None: all.

    Returns:
        A pyarrow Table with these columns, in planned order.

    Raises:
        ValueError: the table is damaged, has other columns or keys, or a value that no run writes.
        StoreUnavailableError: its store does not answer, or refuses the credentials.
    """
    requested = list(columns or TABLE_SCHEMA.names)
    try:
        parquet = pq.ParquetFile(file)
        _check_size(parquet, len(keys))
        stored = [name for name in requested if name not in _LATER or name in parquet.schema_arrow.names]
        read = dict.fromkeys(["key", *stored])
        for name in read:
            _check_column(parquet.schema_arrow, name)
        # without threads: a table is small, and Arrow's pool may abort a process that ends soon after
        table = parquet.read(columns=list(read), use_threads=False)
        table.validate(full=True)
    except StoreUnavailableError:
        raise
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ValueError(str(error)) from error
    if not table["key"].combine_chunks().equals(keys):
        raise ValueError("its keys are not those of the plan")
    for name in stored:
        _check_values(table[name], TABLE_SCHEMA.field(name))
    for name in set(requested) - set(stored):
        table = table.append_column(name, pa.nulls(len(keys), TABLE_SCHEMA.field(name).type))
    return table.select(requested)


def _check_size(parquet: Any, num_rows: int) -> None:
    """Raise ValueError unless the metadata of a Parquet file states `num_rows` rows and a plausible size.

    Comes before reading, because a small file may unfold into more than memory holds.
    """
    metadata = parquet.metadata
    if metadata.num_rows != num_rows:
        raise ValueError(f"it has {metadata.num_rows:,} rows, but the plan has {num_rows:,}")
    num_bytes = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    if not 0 <= num_bytes <= _MAX_ROW_BYTES * (num_rows + 1):
        raise ValueError(f"it has {num_bytes:,} bytes; the limit is {_MAX_ROW_BYTES:,} per row")


def _check_column(schema: Any, name: str) -> None:
    """Raise ValueError unless an Arrow schema has exactly one column `name`, of the right type."""
    index = schema.get_field_index(name)  # -1: it is missing, or there are several
    if index < 0 or schema.field(index).type != TABLE_SCHEMA.field(name).type:
        raise ValueError(f"its column {name} is missing, or is not of {TABLE_SCHEMA.field(name).type}")


def _check_values(column: Any, field: Any) -> None:
    """Raise ValueError if a column has nulls, numbers or names that no run writes."""
    if column.null_count and not field.nullable:
        raise ValueError(f"its column {field.name} has nulls")
    if pa.types.is_integer(field.type) and (pc.min(column).as_py() or 0) < 0:
        raise ValueError(f"its column {field.name} has a negative number")
    numbers = pa.chunked_array([part.items for part in column.chunks]) if pa.types.is_map(field.type) else column
    if pa.types.is_floating(numbers.type) and not pc.all(pc.is_finite(numbers), min_count=0).as_py():
        raise ValueError(f"its column {field.name} has a number that is not finite")
    if field.name == "supersedes":
        for name in column.unique().drop_null().to_pylist():
            check_shard_name(name)
