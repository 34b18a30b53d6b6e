"""Rows of Parquet files."""

from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.corpora.row import MAX_DEPTH, RawRows, require_distinct
from datamodules.errors import CorpusError
from datamodules.objects import open_input

_BATCH_ROWS = 1024


def read_parquet_rows(path: str, columns: Collection[str] | None) -> RawRows:
    """Read the rows of a Parquet file; of all columns, or of those of `columns` that it has.

    Raises:
        CorpusError: a column that is read has values that JSON cannot hold, or two columns have the same name.
        OSError, ArrowException: the file cannot be read.
    """
    with open_input(path) as opened, pq.ParquetFile(opened) as file:
        schema = file.schema_arrow
        require_distinct(path, schema.names)
        read_columns = [name for name in schema.names if columns is None or name in columns]
        for name in read_columns:
            if not _fits_json(schema.field(name).type):
                raise CorpusError(
                    f"{path}: the column {name!r:.80} is {str(schema.field(name).type)[:80]}, which JSON cannot hold: "
                    "leave it out by naming others in --data.columns.meta"
                )
        rows = (row for batch in file.iter_batches(_BATCH_ROWS, columns=read_columns) for row in batch.to_pylist())
        for number, row in enumerate(rows, 1):
            yield f"{path}, row {number}", row


def _fits_json(kind: Any, depth: int = 0) -> bool:
    """Whether values of the Arrow type `kind` can be written as JSON, and are not nested too deeply."""
    if pa.types.is_dictionary(kind):
        return _fits_json(kind.value_type, depth + 1)
    if kind.num_fields:
        fields = [kind.field(index) for index in range(kind.num_fields)]
        is_distinct = len({field.name for field in fields}) == len(fields)  # an object has each name once
        return is_distinct and depth < MAX_DEPTH and all(_fits_json(field.type, depth + 1) for field in fields)
    is_number = pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null
    is_text = pa.types.is_string, pa.types.is_large_string
    return any(test(kind) for test in (*is_number, *is_text))
