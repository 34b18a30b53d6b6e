"""Lists of any length, read row by row: what is in memory does not grow with the list.

| ending            | what                                                  | named in errors by |
|-------------------|-------------------------------------------------------|--------------------|
| `.json`           | a list of objects                                     | row, from 1        |
| `.jsonl` `.ndjson` | an object a line                                     | line               |
| `.csv` `.tsv`     | a header, then a row a line, separated by `,` or tabs | line               |
| `.parquet`        |                                                       | row, from 1        |

Text is UTF-8, with or without a byte order mark. Numbers that are none, or infinite, become null: JSON knows neither.
"""

import csv
import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterator
from typing import IO, Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.errors import ConfigError, CorpusError

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
_READ_CHARS = 1 << 20
_MAX_ROW_CHARS = 1 << 24  # what is malformed is read on for so long, as if its end were still to come
_BATCH_ROWS = 1024

Rows = Iterator[tuple[str, dict[str, Any]]]


def read_rows(path: str, columns: Collection[str] | None = None) -> Rows:
    """(where it stands, for errors; its values by column) of each row of the list `path`, in order.

    Args:
        path: of the list; its ending says what it is.
        columns: those that are needed, where leaving out the others saves something (Parquet); None: all.

    Raises:
        ConfigError: its ending is none of those above.
        CorpusError: it cannot be read, or is malformed; the message says where.
    """
    read = _READERS.get(os.path.splitext(path)[1].lower())
    if read is None:
        raise ConfigError(f"{path}: its ending says nothing of what it is; it can be {', '.join(_READERS)}")
    where = f"the beginning of {path}"
    try:
        for where, values in read(path, columns):
            if not isinstance(values, dict):
                raise CorpusError(f"{where} is no object {{…}}: {values!r:.80}")
            yield where, {name: _finite(value) for name, value in values.items()}
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"what comes after {where} is not UTF-8: {error.reason}") from error
    except (csv.Error, pa.ArrowException) as error:
        raise CorpusError(f"what comes after {where} is malformed: {error}") from error


def as_name(column: str, value: Any) -> str:
    """`value`, what a row has in `column`, as text that can name something.

    Raises:
        CorpusError: it is neither text nor a whole number, or is empty.
    """
    if not isinstance(value, (str, int)) or isinstance(value, bool) or value == "":
        raise CorpusError(f"{column!r} is {value!r:.80}: give text or a whole number")
    return str(value)


def as_text(column: str, value: Any) -> str:
    """`value`, what a row has in `column`, if it is text; else CorpusError."""
    if not isinstance(value, str):
        raise CorpusError(f"{column!r} is {value!r:.80}, and not text")
    return value


def as_seconds(column: str, value: Any) -> float | None:
    """`value`, what a row has in `column`, as seconds; None for null and "".

    Raises:
        CorpusError: it is no number from 0 on.
    """
    if value is None or value == "":
        return None
    try:
        seconds = float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise CorpusError(f"{column!r} is {value!r:.80}: give seconds from 0 on, as a number")
    return seconds


def _read_json(path: str, columns: Collection[str] | None) -> Iterator[tuple[str, Any]]:
    with open(path, encoding="utf-8-sig") as file:
        text = _JsonText(path, file)
        text.expect("[", hint=": give a list of objects, or name it .jsonl if it has an object a line")
        if text.next() == "]":
            text.expect("]")
        else:
            number = 0
            while number == 0 or text.expect(",]") == ",":
                number += 1
                yield f"{path}, row {number}", text.value()
        if text.next():
            text.fail("there is more after the list")


def _read_json_lines(path: str, columns: Collection[str] | None) -> Iterator[tuple[str, Any]]:
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.isspace():
                try:
                    yield f"{path}, line {number}", _DECODER.decode(line)
                except json.JSONDecodeError as error:
                    where = f"{path}, line {number}, column {error.colno}"
                    raise CorpusError(f"{where}: malformed JSON: {error.msg}") from error
                except (RecursionError, ValueError) as error:  # too deep; a number of thousands of digits
                    raise CorpusError(f"{path}, line {number}: {error}") from error


def _read_csv(path: str, columns: Collection[str] | None) -> Rows:
    return _read_table(path, ",")


def _read_tsv(path: str, columns: Collection[str] | None) -> Rows:
    return _read_table(path, "\t")


def _read_table(path: str, delimiter: str) -> Rows:
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter=delimiter, strict=True)  # strict: a stray quote swallows no rows
        header = next(rows, [])
        _refuse_doubled(path, header)
        for fields in filter(None, rows):
            where = f"{path}, line {rows.line_num}"
            if len(fields) != len(header):
                raise CorpusError(f"{where}: it has {len(fields)} fields, and the header {len(header)}")
            yield where, dict(zip(header, fields, strict=True))


def _read_parquet(path: str, columns: Collection[str] | None) -> Rows:
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        _refuse_doubled(path, schema.names)
        wanted = [name for name in schema.names if columns is None or name in columns]
        for name in wanted:
            if not _fits_json(schema.field(name).type):
                raise CorpusError(
                    f"{path}: the column {name!r} is {schema.field(name).type}, which JSON cannot hold: "
                    "leave it out by naming others in --data.columns.meta"
                )
        rows = (row for batch in file.iter_batches(_BATCH_ROWS, columns=wanted) for row in batch.to_pylist())
        for number, row in enumerate(rows, 1):
            yield f"{path}, row {number}", row


_READERS: dict[str, Callable[[str, Collection[str] | None], Iterator[tuple[str, Any]]]] = {
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_finite(each) for each in value]
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    return value


def _refuse_doubled(path: str, header: list[str]) -> None:
    if doubled := [name for name in dict.fromkeys(header) if header.count(name) > 1]:
        raise CorpusError(f"{path} has several columns {doubled[0]!r}: rename all but one")


def _fits_json(kind: Any) -> bool:
    """Whether values of an Arrow type can be written as JSON."""
    if pa.types.is_dictionary(kind):
        return _fits_json(kind.value_type)
    if kind.num_fields:
        return all(_fits_json(kind.field(index).type) for index in range(kind.num_fields))
    is_one = pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null
    is_text = pa.types.is_string, pa.types.is_large_string
    return any(test(kind) for test in (*is_one, *is_text))


class _JsonText:
    """JSON that is parsed value by value: holds the piece of it that was read last, and what a value needs more.

    Python's own parser does the work, because it is fast and knows where something is malformed.
    """

    def __init__(self, path: str, file: IO[str]) -> None:
        self._path, self._file = path, file
        self._text, self._place = "", 0
        self._lines, self._column = 0, 0  # line breaks before `_text`, and characters since the last of them

    def next(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            self._place = _SPACE.match(self._text, self._place).end()  # type: ignore[union-attr]  # it matches anything
            if self._place < len(self._text) or not self._read():
                return self._text[self._place : self._place + 1]

    def expect(self, characters: str, hint: str = "") -> str:
        """Take the next character, which must be one of these."""
        found = self.next()
        if not found or found not in characters:
            self.fail(f"{' or '.join(map(repr, characters))} expected, not {repr(found) if found else 'the end'}{hint}")
        self._place += 1
        return found

    def value(self) -> Any:
        """Take the next value."""
        self.next()
        while True:
            try:
                value, self._place = _DECODER.raw_decode(self._text, self._place)
                return value
            except json.JSONDecodeError as error:
                beyond = error.pos - self._place
                if len(self._text) - self._place > _MAX_ROW_CHARS or not self._read():
                    self.fail(error.msg, beyond)
            except (RecursionError, ValueError) as error:  # too deep; a number of thousands of digits
                self.fail(str(error))

    def fail(self, problem: str, beyond: int = 0) -> NoReturn:
        """Raise CorpusError with the line and column of what stands `beyond` characters after the next one."""
        before = self._text[: self._place + beyond]
        lines = before.count("\n")
        column = len(before) - before.rfind("\n") - 1 if lines else self._column + len(before)
        where = f"{self._path}, line {self._lines + lines + 1}, column {column + 1}"
        raise CorpusError(f"{where}: malformed JSON: {problem}")

    def _read(self) -> bool:
        """Read on, at least as much as is pending; False at the end."""
        pending = self._text[self._place :]
        more = self._file.read(max(_READ_CHARS, len(pending)))
        if not more:
            return False
        done = self._text[: self._place]
        lines = done.count("\n")
        self._column = len(done) - done.rfind("\n") - 1 if lines else self._column + len(done)
        self._lines += lines
        self._text, self._place = pending + more, 0
        return True
