"""Rows of lists in JSON and JSON Lines."""

import json
import re
import sys
from collections.abc import Collection
from contextlib import suppress
from typing import IO, Any, NoReturn

from datamodules.corpora.csv_rows import Quoting
from datamodules.corpora.row import MAX_DEPTH, MAX_NAMED, RawRows, name_some
from datamodules.corpora.text_lists import MAX_ROW_CHARS, open_list, read_lines
from datamodules.errors import CorpusError

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
_READ_CHARS = 1 << 20
_LAYOUTS = {"sentences": "MSR-VTT", "videos": "MSR-VTT", "database": "ActivityNet", "annotations": "COCO"}  # by a key


def read_json_rows(path: str, columns: Collection[str] | None, quoting: Quoting) -> RawRows:
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
        while text.next() == '"' and len(keys) < MAX_NAMED:
            keys.append(text.value())
            text.expect(":")
            text.value()
            text.expect(",")
    layout = next((f" ({layout}'s layout)" for key, layout in _LAYOUTS.items() if key in keys), "")
    return (
        f": it is an object with {name_some(keys)}{layout}. Write the list of objects in it to "
        "a file of its own, or name it .jsonl if it has an object a line"
    )


def read_jsonl_rows(path: str, columns: Collection[str] | None, quoting: Quoting) -> RawRows:
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
        return f"its values are nested more than {MAX_DEPTH} deep, the limit"
    return f"it has a whole number of more than {sys.get_int_max_str_digits():,} digits, the limit"


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
