"""Lists of any length, read row by row: what is in memory does not grow with the list.

| ending            | what                                                  | named in errors by |
|-------------------|-------------------------------------------------------|--------------------|
| `.json`           | a list of objects                                     | row, from 1        |
| `.jsonl` `.ndjson` | an object a line                                     | line               |
| `.csv` `.tsv`     | a header, then the rows: see below                    | line               |
| `.parquet`        |                                                       | row, from 1        |

Text is UTF-8, with or without a byte order mark, or UTF-16 with one. NaN and infinite numbers become null, as JSON has
neither.

A `.tsv` is separated by tabs, a `.csv` by the first of `,` `;` and tab that its header has. Blanks around the names in
the header are left out. Whether quotes mark fields or are text is up to `Quoting`:

| quoting | fields                                                                                                |
|---------|-------------------------------------------------------------------------------------------------------|
| `csv`   | may be in quotes, and then contain separators and line breaks; quotes in them are doubled (RFC 4180).  |
|         | Between tabs they cannot contain line breaks                                                           |
| `none`  | are what stands between the separators, quotes included; a row is a line                              |
| `auto`  | `.csv`: csv; `.tsv`: none. Rows that both could mean, with different values, are an error             |

In a text, an id and a time, `nan` and `NaN` are no value, as pandas writes a missing one.
"""

import csv
import math
import os
from collections.abc import Callable, Collection
from typing import Any

import pyarrow as pa

from datamodules.corpora.csv_rows import Quoting, read_csv_rows, read_tsv_rows
from datamodules.corpora.json_rows import read_json_rows, read_jsonl_rows
from datamodules.corpora.parquet_rows import read_parquet_rows
from datamodules.corpora.row import MAX_DEPTH, RawRows, Row, Rows
from datamodules.errors import ConfigError, CorpusError


def read_rows(path: str, columns: Collection[str] | None = None, quoting: Quoting = "auto") -> Rows:
    """Read the rows of the list `path`, in order.

    A row that is malformed by itself has a `problem`: a line of JSON Lines that is not JSON, an element that is not an
    object, a row with more or fewer fields than the header. But one that may be part of another row (it has one field,
    a line break or a quote) is an error, since the values of that one would be wrong.

    Args:
        path: of the list; its ending says what it is.
        columns: those that are needed, where leaving out the others saves something (Parquet); None: all.
        quoting: of `.csv` and `.tsv`; see the module.

    Raises:
        ConfigError: its ending is none of those above.
        CorpusError: it cannot be read, or is malformed so that the rows after that place cannot be read; the message
            says where.
    """
    read = _READERS.get(os.path.splitext(path)[1].lower())
    if read is None:
        raise ConfigError(f"{path}: its ending says nothing of what it is; it can be {', '.join(_READERS)}")
    where = f"the beginning of {path}"
    try:
        for where, values in read(path, columns, quoting):
            yield _row(where, values)
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"what comes after {where} is not {error.encoding.upper()}: {error.reason}") from error
    except csv.Error as error:
        hint = "if quotes are text in it, set --data.quoting none"
        raise CorpusError(f"what comes after {where} is malformed: {error}; {hint}") from error
    except pa.ArrowException as error:
        raise CorpusError(f"what comes after {where} is malformed: {error}") from error


def _row(where: str, values: Any) -> Row:
    if isinstance(values, CorpusError):
        return Row(where, {}, str(values))
    if not isinstance(values, dict):
        return Row(where, {}, f"it is not an object {{…}}: {values!r:.80}")
    try:
        return Row(where, {name: _finite(value) for name, value in values.items()})
    except CorpusError as error:
        return Row(where, {}, str(error))


_READERS: dict[str, Callable[[str, Collection[str] | None, Quoting], RawRows]] = {
    ".json": read_json_rows,
    ".jsonl": read_jsonl_rows,
    ".ndjson": read_jsonl_rows,
    ".csv": read_csv_rows,
    ".tsv": read_tsv_rows,
    ".parquet": read_parquet_rows,
}


def _finite(value: Any, depth: int = 0) -> Any:
    """Return `value` with null in place of what JSON cannot hold; CorpusError if it is nested too deeply."""
    if depth > MAX_DEPTH:
        raise CorpusError(f"its values are nested more than {MAX_DEPTH} deep, the limit")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):  # Arrow's maps have tuples
        return [_finite(element, depth + 1) for element in value]
    if isinstance(value, dict):
        return {name: _finite(element, depth + 1) for name, element in value.items()}
    return value
