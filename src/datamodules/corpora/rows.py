"""Lists of any length, read row by row: memory does not grow with the list.

| ending             | content                            | a row in messages |
|--------------------|------------------------------------|-------------------|
| `.json`            | a list of objects                  | row, from 1       |
| `.jsonl` `.ndjson` | an object a line                   | line              |
| `.csv` `.tsv`      | a header, then rows: see `csv_rows` | line             |
| `.parquet`         | a table                            | row, from 1       |

Text is UTF-8, with or without a byte order mark, or UTF-16 with one. NaN and infinite numbers become null, because JSON
has neither.
"""

import csv
import math
import os
from collections.abc import Collection
from typing import Any

import pyarrow as pa

from datamodules.corpora.csv_rows import Quoting, read_csv_rows, read_tsv_rows
from datamodules.corpora.json_rows import read_json_rows, read_jsonl_rows
from datamodules.corpora.parquet_rows import read_parquet_rows
from datamodules.corpora.paths import require_available
from datamodules.corpora.row import MAX_DEPTH, RawRows, Row, Rows
from datamodules.errors import ConfigError, CorpusError

_ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


def read_rows(path: str, columns: Collection[str] | None = None, quoting: Quoting = "auto") -> Rows:
    """Read the rows of a list, in order.

    A row that is malformed by itself has a `problem`: a line of JSON Lines that is not JSON, an element that is not an
    object, a row with more or fewer fields than the header. A malformed row that may be part of another row (it has
    one field, a line break or a quote) is an error instead, because the values of the other row would be wrong.

    Args:
        path: of the list; its ending determines the format.
        columns: the columns that are needed, where leaving out others saves time (Parquet); None: all.
        quoting: of `.csv` and `.tsv`: see `csv_rows`.

    Yields:
        One `Row` for each row of the list.

    Raises:
        ConfigError: the ending is not one of the above.
        CorpusError: the list cannot be read, or is malformed such that the following rows cannot be read; the message
            names the place.
    """
    where = f"the beginning of {path}"
    try:
        for where, values in _read(path, columns, quoting):
            yield _row(where, values)
    except OSError as error:
        require_available(path, error)
        raise CorpusError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"what comes after {where} is not {error.encoding.upper()}: {error.reason}") from error
    except csv.Error as error:
        hint = "if quotes are text in it, set --data.quoting none"
        raise CorpusError(f"what comes after {where} is malformed: {error}; {hint}") from error
    except pa.ArrowException as error:
        raise CorpusError(f"what comes after {where} is malformed: {error}") from error


def _read(path: str, columns: Collection[str] | None, quoting: Quoting) -> RawRows:
    match os.path.splitext(path)[1].lower():
        case ".json":
            return read_json_rows(path)
        case ".jsonl" | ".ndjson":
            return read_jsonl_rows(path)
        case ".csv":
            return read_csv_rows(path, quoting)
        case ".tsv":
            return read_tsv_rows(path, quoting)
        case ".parquet":
            return read_parquet_rows(path, columns)
        case ending:
            raise ConfigError(f"{path} has the ending {ending!r}: give a list in one of {', '.join(_ENDINGS)}")


def _row(where: str, values: Any) -> Row:
    if isinstance(values, CorpusError):
        return Row(where, {}, str(values))
    if not isinstance(values, dict):
        return Row(where, {}, f"it is not an object {{…}}: {values!r:.80}")
    try:
        return Row(where, {name: _finite(value) for name, value in values.items()})
    except CorpusError as error:
        return Row(where, {}, str(error))


def _finite(value: Any, depth: int = 0) -> Any:
    """Return `value` with null in place of what JSON cannot hold.

    Raises:
        CorpusError: it is nested too deeply.
    """
    if depth > MAX_DEPTH:
        raise CorpusError(f"its values are nested more than {MAX_DEPTH} deep, the limit")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):  # Arrow's maps have tuples
        return [_finite(element, depth + 1) for element in value]
    if isinstance(value, dict):
        return {name: _finite(element, depth + 1) for name, element in value.items()}
    return value
