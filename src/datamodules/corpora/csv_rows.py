"""Rows of lists in CSV and TSV.

A `.tsv` is separated by tabs, a `.csv` by the first of `,` `;` tab and `|` that its header has. Blanks around the
names in the header are dropped. `Quoting` decides whether quotes enclose fields or are text:

| quoting | fields                                                                                                  |
|---------|---------------------------------------------------------------------------------------------------------|
| `csv`   | may be quoted, and then contain separators and line breaks; quotes within are doubled (RFC 4180). Quoted |
|         | fields of a `.tsv` may not contain line breaks                                                          |
| `none`  | are the text between separators, quotes included; a row is a line                                       |
| `auto`  | `.csv`: as `csv`; `.tsv`: as `none`. Rows that read differently in the two ways are an error            |

Refused is whatever could silently merge two rows or split one: the texts would belong to other videos.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from datamodules.corpora.row import RawRows, require_distinct
from datamodules.corpora.text_lists import MAX_ROW_CHARS, open_list, read_lines
from datamodules.errors import CorpusError

Quoting = Literal["auto", "none", "csv"]
_Lines = Iterator[tuple[int, list[str]]]  # the number of a row's last line, and its fields


def read_csv_rows(path: str, quoting: Quoting) -> RawRows:
    """Read the rows of a `.csv`, see `read_rows`."""
    with open_list(path) as file:
        header = next(read_lines(file, path), "")
    delimiter = next((sign for sign in ",;\t|" if sign in header), ",")
    if quoting == "none":
        return _rows(path, _unquoted(path, delimiter))
    # in a list whose separators are followed by blanks, quotes are preceded by them: `a, "b, c"`
    return _rows(path, _quoted(path, delimiter, asks=quoting == "auto", skips_blanks=f"{delimiter} " in header))


def read_tsv_rows(path: str, quoting: Quoting) -> RawRows:
    """Read the rows of a `.tsv`, see `read_rows`."""
    if quoting == "csv":
        return _rows(path, _without_breaks(path, _quoted(path, "\t")))
    lines = _unquoted(path, "\t")
    return _rows(path, _surely_unquoted(path, lines) if quoting == "auto" else lines)


def _rows(path: str, lines: _Lines) -> RawRows:
    """Yield (location, values by column) for each row after the header."""
    _, header = next(lines, (0, []))
    header = [name.strip() for name in header]
    if any("\0" in name for name in header):  # UTF-16 without its byte order mark
        raise CorpusError(f"{path} has zero bytes in its header: save it as UTF-8")
    require_distinct(path, header)
    for number, fields in lines:
        where = f"{path}, line {number}"
        if len(fields) == len(header):
            yield where, dict(zip(header, fields, strict=True))
            continue
        problem = f"it has {len(fields)} fields, and the header {len(header)}"
        # such a row may be the rest of another one, whose values would be wrong; any other affects only itself
        if len(fields) == 1 or any(sign in field for sign in '"\n' for field in fields):
            raise CorpusError(
                f"{where}: {problem}. It may be part of another row: look for a line break or a quote within a field"
            )
        yield where, CorpusError(f"{problem}: does a field contain a separator?")


def _unquoted(path: str, delimiter: str) -> _Lines:
    """Yield the rows of a list whose quotes are text."""
    with open_list(path, newline="\n") as file:
        for number, line in enumerate(read_lines(file, path), 1):
            text = line.removesuffix("\n").removesuffix("\r")
            if "\r" in text:
                raise CorpusError(f"{path}, line {number} has a carriage return within: end each row by one line break")
            if text:
                yield number, text.split(delimiter)


def _surely_unquoted(path: str, lines: _Lines) -> _Lines:
    """Yield `lines`; raise CorpusError at a field that a CSV writer has quoted.

    A text may be in quotes, so a quoted field alone proves nothing. Doubled quotes within it do, and quotes around a
    name in the header.
    """
    for row, (number, fields) in enumerate(lines):
        for field in fields:
            inner = field[1:-1]
            is_quoted = field[:1] == field[-1:] == '"' and '"' not in inner.replace('""', "")
            if is_quoted and inner and (row == 0 or '""' in inner):
                raise CorpusError(
                    f"{path}, line {number}: {field!r:.80} looks quoted as in CSV. Set --data.quoting csv, or none to "
                    "keep the quotes as text"
                )
        yield number, fields


def _quoted(path: str, delimiter: str, asks: bool = False, skips_blanks: bool = False) -> _Lines:
    """Yield the rows of a list whose quotes enclose fields.

    Args:
        path: of the list.
        delimiter: between fields.
        asks: raise CorpusError at a quoted field whose lines could each be a row, if the quotes were text.
        skips_blanks: ignore blanks after a delimiter.
    """
    lines: list[str] = []  # of the row that is being read
    num_fields = 0  # of the header
    ends: set[str] = set()  # last characters of the rows
    with open_list(path, newline="") as file:
        rows = csv.reader(
            _recorded(read_lines(file, path), lines),
            delimiter=delimiter,
            skipinitialspace=skips_blanks,
            strict=True,  # else a stray quote would swallow the rows up to the next quote
        )
        for fields in rows:
            num_fields = num_fields or len(fields)
            if asks and len(lines) > 1 and _are_rows(lines, delimiter, num_fields):
                raise CorpusError(
                    f"{path}, line {rows.line_num}: its field in quotes has {len(lines)} lines, each of which could be "
                    "a row. Set --data.quoting csv if it is one field, or none if the quotes are text"
                )
            ends.update(lines[-1][-1] if fields else "")  # blank lines, as between `\r` and `\r\n`, prove nothing
            if ends >= {"\r", "\n"}:
                raise CorpusError(
                    f"{path}, line {rows.line_num}: some rows end by a carriage return, others by a line feed, so a "
                    "carriage return may belong to a field. End each row by the same line break"
                )
            lines.clear()
            if fields:
                yield rows.line_num, fields


def _recorded(lines: Iterable[str], row: list[str]) -> Iterator[str]:
    """Yield `lines`, and append each to `row`, which the caller empties after each row.

    Raises:
        csv.Error: the lines of one row have more than `MAX_ROW_CHARS` characters.
    """
    num_chars = 0
    for line in lines:
        num_chars = len(line) + (num_chars if row else 0)
        if num_chars > MAX_ROW_CHARS:
            raise csv.Error(f"a row has more than {MAX_ROW_CHARS:,} characters, the limit")
        row.append(line)
        yield line


def _are_rows(lines: Sequence[str], delimiter: str, num_fields: int) -> bool:
    """Whether each line is blank or has the fields of a row, if quotes are text.

    A line with doubled quotes is not such a row, because only a CSV writer doubles them.
    """
    return all(line.count(delimiter) == num_fields - 1 and '""' not in line for line in lines if line.strip("\r\n"))


def _without_breaks(path: str, lines: _Lines) -> _Lines:
    """Yield `lines`; raise CorpusError at a field with a line break."""
    for number, fields in lines:
        if broken := next((field for field in fields if "\n" in field or "\r" in field), None):
            raise CorpusError(
                f"{path}, line {number}: {broken!r:.80} has a line break, which a field of a .tsv cannot have"
            )
        yield number, fields
