"""Rows of lists in CSV and TSV."""

import csv
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Literal

from datamodules.corpora.row import RawRows, require_distinct
from datamodules.corpora.text_lists import MAX_ROW_CHARS, open_list, read_lines
from datamodules.errors import CorpusError

Quoting = Literal["auto", "none", "csv"]
_Lines = Iterator[tuple[int, list[str]]]  # the number of a row's last line, and its fields


def read_csv_rows(path: str, columns: Collection[str] | None, quoting: Quoting) -> RawRows:
    with open_list(path) as file:
        header = next(read_lines(file, path), "")
    delimiter = next((sign for sign in ",;\t" if sign in header), ",")
    if quoting == "none":
        return _rows(path, _unquoted(path, delimiter))
    # where blanks follow the separators, they do so before quotes as well
    return _rows(path, _quoted(path, delimiter, asks=quoting == "auto", skips_blanks=f"{delimiter} " in header))


def read_tsv_rows(path: str, columns: Collection[str] | None, quoting: Quoting) -> RawRows:
    if quoting == "csv":
        return _rows(path, _without_breaks(path, _quoted(path, "\t")))
    lines = _unquoted(path, "\t")
    return _rows(path, _surely_unquoted(path, lines) if quoting == "auto" else lines)


def _rows(path: str, lines: _Lines) -> RawRows:
    _, header = next(lines, (0, []))
    header = [name.strip() for name in header]
    if any("\0" in name for name in header):
        raise CorpusError(f"{path} has zero bytes in its header: save it as UTF-8")
    require_distinct(path, header)
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
