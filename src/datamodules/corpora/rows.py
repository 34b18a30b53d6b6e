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
import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import IO, Any, Literal, NamedTuple, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.corpora.listing import MAX_ROW_CHARS, open_list, read_lines
from datamodules.corpus import JSON_FILES
from datamodules.errors import ConfigError, CorpusError
from datamodules.regular import open_regular

Quoting = Literal["auto", "none", "csv"]

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
_READ_CHARS = 1 << 20
_MAX_DEPTH = 100  # of lists and objects in a value: Python's own functions call themselves for each
_BATCH_ROWS = 1024
_CLOCK = re.compile(r"(?:([0-9]+):(?=[0-5]?[0-9]:))?([0-9]+):([0-5]?[0-9](?:[.,][0-9]+)?)")
_NAN = ("nan", "NaN")
_MAX_NAMED_KEYS = 8
_LAYOUTS = {"sentences": "MSR-VTT", "videos": "MSR-VTT", "database": "ActivityNet", "annotations": "COCO"}  # by a key


class Row(NamedTuple):
    """A row of a list.

    Attributes:
        where: it stands, as in `list.csv, line 12`.
        values: by column.
        problem: why the row is malformed, where the rows after it can be read all the same; it has no values then.
    """

    where: str
    values: dict[str, Any]
    problem: str | None = None

    def require(self, *columns: str, hint: str = "") -> None:
        """Raise CorpusError if the row is malformed or lacks one of `columns`; `hint` ends the latter message."""
        if self.problem is not None:
            raise CorpusError(self.problem)
        for name in columns:
            if name not in self.values:
                raise CorpusError(f"it has no {name!r}, but {_listed(self.values)}{hint}")


def _listed(names: Iterable[str]) -> str:
    """Return the first of `names` for a message."""
    first = [f"{name!r:.80}" for name in islice(names, _MAX_NAMED_KEYS + 1)]
    return ", ".join([*first[:_MAX_NAMED_KEYS], *(["…"] if len(first) > _MAX_NAMED_KEYS else [])]) or "nothing"


Rows = Iterator[Row]
_Read = Iterator[tuple[str, Any]]  # where a row stands, and its value, or CorpusError if only the row is malformed


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


def as_meta(values: dict[str, Any]) -> dict[str, Any]:
    """Return `values`, of a row, as the meta of an item.

    Raises:
        CorpusError: one has the name under which items keep where their JSON files are, so a list could name any file;
            or a name that UTF-8 cannot hold.
    """
    if JSON_FILES in values:
        raise CorpusError(f"it has the field {JSON_FILES!r}, a name that no field of a list can have: rename it")
    if wrong := next((name for name in values if re.search("[\ud800-\udfff]", name)), None):
        raise CorpusError(f"its field {wrong!r:.80} has a lone surrogate in its name: rename it")
    return values


def as_name(column: str, value: Any) -> str:
    """Return `value`, of a row's `column`, as text that can name something.

    Raises:
        CorpusError: it is neither text nor a whole number, or is missing.
    """
    if not isinstance(value, (str, int)) or isinstance(value, bool) or value in ("", *_NAN):
        raise CorpusError(f"{column!r} is {value!r:.80}: give text or a whole number")
    return str(value)


def as_text(column: str, value: Any) -> str:
    """Return `value`, of a row's `column`, as text; "" where it is missing as pandas writes that.

    Raises:
        CorpusError: it is no text.
    """
    if not isinstance(value, str):
        raise CorpusError(f"{column!r} is {value!r:.80}, and not text")
    return "" if value in _NAN else value


def as_seconds(column: str, value: Any) -> float | None:
    """Return `value`, of a row's `column`, in seconds; None where it is missing.

    It is a number, or a time as `[HH:]MM:SS`, with decimals after `.` or, as in SRT, `,`.

    Raises:
        CorpusError: it is none of these, or below 0.
    """
    if value is None or value in ("", *_NAN):
        return None
    seconds = math.nan
    if isinstance(value, str) and (clock := _CLOCK.fullmatch(value.strip())):
        hours, minutes, rest = clock.groups(default="0")
        seconds = float(hours) * 3600 + float(minutes) * 60 + float(rest.replace(",", "."))
    elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            seconds = math.nan if "_" in str(value) else float(value)  # Python reads 1_5 as 15
    if not 0 <= seconds < math.inf:
        raise CorpusError(f"{column!r} is {value!r:.80}: give seconds from 0 on, as a number or HH:MM:SS.mmm")
    return seconds


def _read_json(path: str, columns: Collection[str] | None, quoting: Quoting) -> _Read:
    with open_list(path) as file:
        text = _JsonText(path, file)
        text.expect("[", hint=_hint(path) if text.next() == "{" else ": give a list of objects")
        if text.next() == "]":
            text.expect("]")
        else:
            number = 0
            while number == 0 or text.expect(",]") == ",":
                number += 1
                yield f"{path}, row {number}", text.value()
        if text.next():
            text.fail("there is more after the list")


def _hint(path: str) -> str:
    """What to do with the `.json` file `path`, which holds an object: it may wrap the list."""
    keys: list[str] = []
    with open_list(path) as file, suppress(CorpusError):  # long or malformed: the keys before that say enough
        text = _JsonText(path, file)
        text.expect("{")
        while text.next() == '"' and len(keys) < _MAX_NAMED_KEYS:
            keys.append(text.value())
            text.expect(":")
            text.value()
            text.expect(",")
    layout = next((f" ({layout}'s layout)" for key, layout in _LAYOUTS.items() if key in keys), "")
    return (
        f": it is an object with {_listed(keys)}{layout}. Write the list of objects in it to "
        "a file of its own, or name it .jsonl if it has an object a line"
    )


def _read_json_lines(path: str, columns: Collection[str] | None, quoting: Quoting) -> _Read:
    with open_list(path) as file:
        for number, line in enumerate(read_lines(file, path), 1):
            if not line.isspace():
                yield f"{path}, line {number}", _decoded(line)


def _decoded(line: str) -> Any:
    """The value that a line has as JSON; CorpusError, returned, if it has none."""
    try:
        return _DECODER.decode(line)
    except json.JSONDecodeError as error:
        return CorpusError(f"malformed JSON at column {error.colno}: {error.msg}")
    except (RecursionError, ValueError) as error:
        return CorpusError(_refused_by_python(error))


def _refused_by_python(error: RecursionError | ValueError) -> str:
    """Why Python's parser gives up on JSON that is not malformed."""
    if isinstance(error, RecursionError):
        return f"its values are nested more than {_MAX_DEPTH} deep, the limit"
    return f"it has a whole number of more than {sys.get_int_max_str_digits():,} digits, the limit"


def _read_csv(path: str, columns: Collection[str] | None, quoting: Quoting) -> _Read:
    with open_list(path) as file:
        header = next(read_lines(file, path), "")
    delimiter = next((sign for sign in ",;\t" if sign in header), ",")
    if quoting == "none":
        return _rows(path, _unquoted(path, delimiter))
    # where blanks follow the separators, they do so before quotes as well
    return _rows(path, _quoted(path, delimiter, asks=quoting == "auto", skips_blanks=f"{delimiter} " in header))


def _read_tsv(path: str, columns: Collection[str] | None, quoting: Quoting) -> _Read:
    if quoting == "csv":
        return _rows(path, _without_breaks(path, _quoted(path, "\t")))
    lines = _unquoted(path, "\t")
    return _rows(path, _surely_unquoted(path, lines) if quoting == "auto" else lines)


_Lines = Iterator[tuple[int, list[str]]]  # the number of a row's last line, and its fields


def _rows(path: str, lines: _Lines) -> _Read:
    _, header = next(lines, (0, []))
    header = [name.strip() for name in header]
    if any("\0" in name for name in header):
        raise CorpusError(f"{path} has zero bytes in its header: save it as UTF-8")
    _refuse_doubled(path, header)
    for number, fields in lines:
        where = f"{path}, line {number}"
        if len(fields) == len(header):
            yield where, dict(zip(header, fields, strict=True))
            continue
        problem = f"it has {len(fields)} fields, and the header {len(header)}"
        if len(fields) == 1 or any(sign in field for sign in '"\n' for field in fields):
            raise CorpusError(f"{where}: {problem}: is it part of another row, by a line break or a quote in a field?")
        yield where, CorpusError(f"{problem}: does a field contain a separator?")


def _unquoted(path: str, delimiter: str) -> _Lines:
    with open_list(path, newline="\n") as file:
        for number, line in enumerate(read_lines(file, path), 1):
            text = line.removesuffix("\n").removesuffix("\r")
            if "\r" in text:
                raise CorpusError(
                    f"{path}, line {number}: it has a carriage return in it: end each row by one line break"
                )
            if text:
                yield number, text.split(delimiter)


def _surely_unquoted(path: str, lines: _Lines) -> _Lines:
    """`lines`, as long as no field is quoted as CSV writers do where they have to, and no name in the header at all."""
    for row, (number, fields) in enumerate(lines):
        for field in fields:
            inner = field[1:-1]
            is_quoted = field[:1] == field[-1:] == '"' and '"' not in inner.replace('""', "")
            if is_quoted and inner and (row == 0 or '""' in inner):
                raise CorpusError(
                    f"{path}, line {number}: {field!r:.80} looks quoted as in CSV: set --data.quoting csv, or none if "
                    "it is to stay as it is"
                )
        yield number, fields


def _quoted(path: str, delimiter: str, asks: bool = False, skips_blanks: bool = False) -> _Lines:
    """The rows of a list with CSV's quotes; if it `asks`, none of whose lines could be rows by themselves."""
    lines: list[str] = []  # of one row
    num_fields = 0  # of the header
    ends: set[str] = set()  # of the rows
    with open_list(path, newline="") as file:
        # strict: a stray quote swallows no rows
        rows = csv.reader(
            _noted(read_lines(file, path), lines), delimiter=delimiter, skipinitialspace=skips_blanks, strict=True
        )
        for fields in rows:
            num_fields = num_fields or len(fields)
            if asks and len(lines) > 1 and _are_rows(lines, delimiter, num_fields):
                raise CorpusError(
                    f"{path}, line {rows.line_num}: its field in quotes has {len(lines)} lines, each of which could be "
                    "a row: set --data.quoting csv if it is one field, or none if the quotes are text"
                )
            ends.update(lines[-1][-1] if fields else "")  # blank lines, as between `\r` and `\r\n`, say nothing
            if ends >= {"\r", "\n"}:
                raise CorpusError(
                    f"{path}, line {rows.line_num}: rows end by a carriage return and by a line feed, so one of the "
                    "former may be in a field: end each row by the same line break"
                )
            lines.clear()
            if fields:
                yield rows.line_num, fields


def _noted(lines: Iterable[str], row: list[str]) -> Iterator[str]:
    """Yield `lines`, each added to `row`, which the reader empties after each row.

    Raises:
        csv.Error: those of one row have more than `MAX_ROW_CHARS` characters.
    """
    num_chars = 0
    for line in lines:
        num_chars = len(line) + (num_chars if row else 0)
        if num_chars > MAX_ROW_CHARS:
            raise csv.Error(f"a row has more than {MAX_ROW_CHARS:,} characters, the limit")
        row.append(line)
        yield line


def _are_rows(lines: Sequence[str], delimiter: str, num_fields: int) -> bool:
    """Whether each line has the fields of a row, or is blank between rows, if quotes are text.

    A line with doubled quotes is no such row: only a CSV writer doubles them.
    """
    return all(line.count(delimiter) == num_fields - 1 and '""' not in line for line in lines if line.strip("\r\n"))


def _without_breaks(path: str, lines: _Lines) -> _Lines:
    for number, fields in lines:
        if broken := next((field for field in fields if "\n" in field or "\r" in field), None):
            raise CorpusError(
                f"{path}, line {number}: {broken!r:.80} has a line break, which no field of a .tsv can have"
            )
        yield number, fields


def _read_parquet(path: str, columns: Collection[str] | None, quoting: Quoting) -> _Read:
    with open_regular(path) as opened, pq.ParquetFile(opened) as file:
        schema = file.schema_arrow
        _refuse_doubled(path, schema.names)
        wanted = [name for name in schema.names if columns is None or name in columns]
        for name in wanted:
            if not _fits_json(schema.field(name).type):
                raise CorpusError(
                    f"{path}: the column {name!r:.80} is {str(schema.field(name).type)[:80]}, which JSON cannot hold: "
                    "leave it out by naming others in --data.columns.meta"
                )
        rows = (row for batch in file.iter_batches(_BATCH_ROWS, columns=wanted) for row in batch.to_pylist())
        for number, row in enumerate(rows, 1):
            yield f"{path}, row {number}", row


_READERS: dict[str, Callable[[str, Collection[str] | None, Quoting], _Read]] = {
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}


def _finite(value: Any, depth: int = 0) -> Any:
    """Return `value` with null in place of what JSON cannot hold; CorpusError if it is nested too deeply."""
    if depth > _MAX_DEPTH:
        raise CorpusError(f"its values are nested more than {_MAX_DEPTH} deep, the limit")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):  # Arrow's maps have tuples
        return [_finite(element, depth + 1) for element in value]
    if isinstance(value, dict):
        return {name: _finite(element, depth + 1) for name, element in value.items()}
    return value


def _refuse_doubled(path: str, header: list[str]) -> None:
    name, count = next(iter(Counter(header).most_common(1)), ("", 0))
    if count > 1:
        raise CorpusError(f"{path} has several columns {name!r:.80}: rename all but one")


def _fits_json(kind: Any, depth: int = 0) -> bool:
    """Whether values of an Arrow type can be written as JSON, and are not nested too deeply."""
    if pa.types.is_dictionary(kind):
        return _fits_json(kind.value_type, depth + 1)
    if kind.num_fields:
        fields = [kind.field(index) for index in range(kind.num_fields)]
        is_clear = len({field.name for field in fields}) == len(fields)  # an object has each name once
        return is_clear and depth < _MAX_DEPTH and all(_fits_json(field.type, depth + 1) for field in fields)
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
                if len(self._text) - self._place > MAX_ROW_CHARS:
                    self.fail(f"{error.msg}, or its row has more than {MAX_ROW_CHARS:,} characters, the limit", beyond)
                if not self._read():
                    self.fail(error.msg, beyond)
            except (RecursionError, ValueError) as error:
                self.fail(_refused_by_python(error))

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
